"""Do samples give training patients away? Copies, authenticity and membership, with a positive control."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from anatodiff.autoencoders import ImageDataset
from anatodiff.engines.pictures import save_grid
from anatodiff.files import replaced_when_whole
from anatodiff.metrics import (
    Authenticity,
    CopyDetector,
    CopySearch,
    DomainFeatures,
    FeatureNetwork,
    Measure,
    Membership,
    authenticity,
    copy_rate,
    membership_inference,
    membership_scores,
    pixel_features,
    planted_copies,
    share_measure,
)

Describe = Callable[[torch.Tensor], torch.Tensor]
CONTROLS = 100  # training images that are planted, in each of the ways
CAUGHT = 0.95  # of each way, or the report proves nothing
PAIRS = 8  # in the picture and in the list
QUANTILES = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)


@dataclass(frozen=True)
class Privacy:
    """What was found about the samples.

    Args:
        found: copies among the samples.
        held_out: the same of the reference images in their place.
        largest: threshold of a copy by view.
        high: threshold of a suspicion by view.
        caught: share of the planted copies that were found, by way.
        authentic: of the samples.
        authentic_real: of the reference images in their place.
        membership: what an attacker learns from the samples.
        features: by view, of the synthetic, the training and the real (reference) images, (n, D), to be measured.
        by_model: what an attacker learns from the network itself; None where it was not given.
    """

    found: CopySearch
    held_out: CopySearch
    largest: dict[str, float]
    high: dict[str, float]
    caught: dict[str, float]
    authentic: Authenticity
    authentic_real: Authenticity
    membership: Membership
    features: dict[str, dict[str, torch.Tensor]]
    by_model: Membership | None = None

    @property
    def proves(self) -> bool:
        """Whether the positive control was caught, without which finding nothing says nothing."""
        return not missed_ways(self.caught)

    def measures(self) -> tuple[dict[str, Measure], dict[str, Measure]]:
        """Return the numbers of the samples, and by name those that real images in their place have, too."""
        n, m = len(self.found.copied), len(self.held_out.copied)
        ours = {
            "copy_rate": _rate(self.found.copied),
            "suspicious_rate": _rate(self.found.suspicious),
            "authenticity": share_measure(self.authentic.value, n),
            "membership_auc": Measure(self.membership.auc, self.membership.stderr),
            "membership_tpr": Measure(self.membership.true_positives),
        }
        if self.by_model is not None:
            ours["model_membership_auc"] = Measure(self.by_model.auc, self.by_model.stderr)
            ours["model_membership_tpr"] = Measure(self.by_model.true_positives)
        real = {
            "copy_rate": _rate(self.held_out.copied),
            "suspicious_rate": _rate(self.held_out.suspicious),
            "authenticity": share_measure(self.authentic_real.value, m),
        }
        return ours, real

    def worst(self) -> list[tuple[int, str]]:
        """Return the samples that are nearest to a training image, in units of the thresholds, and by which view."""
        excess = torch.stack([self.found.similarity[view] - limit for view, limit in self.largest.items()])  # (V, N)
        best = excess.max(dim=0)
        order = best.values.argsort(descending=True)[:PAIRS].tolist()
        return [(k, list(self.largest)[int(best.indices[k])]) for k in order]

    @property
    def by_chance(self) -> float:
        """Share of new images that would pass for copies: in each view, any of held-out and new may be the nearest."""
        return min(len(self.largest) / (len(self.held_out.copied) + 1), 1.0)

    @property
    def clean(self) -> bool:
        """Whether the planted copies were found and no more samples than chance would have."""
        return self.proves and copy_rate(self.found.copied).low <= self.by_chance

    def verdict(self) -> str:
        """Say in one line what to think of the samples."""
        missed = missed_ways(self.caught)
        if missed:
            return f"THIS PROVES NOTHING: planted copies ({', '.join(missed)}) were not found"
        rate, count = copy_rate(self.found.copied), int(self.found.copied.sum())
        share = f"{count} of {len(self.found.copied)} samples ({100 * rate.low:.1f} to {100 * rate.high:.1f} %)"
        if not self.clean:
            return f"COPIES: {share} are nearer to a training image than any held-out one; see worst_pairs.png"
        if count:
            chance = f"chance alone makes {100 * self.by_chance:.1f} % with {len(self.held_out.copied)} held-out images"
            return f"{share} are nearer to a training image than any held-out one; {chance}; look at worst_pairs.png"
        return f"no copies: {share}; each kind of planted copy was found"


def controlled_detector(
    features: FeatureNetwork,
    training: torch.Tensor,
    held_out: torch.Tensor,
    seed: int = 0,
) -> tuple[CopyDetector, dict[str, float]]:
    """Build the detector of copies, and plant copies that it must find.

    Its views are the pixels, the given features and those of the network that was trained to know radiographs again.

    Args:
        features: describes the images.
        training: (M, 1, H, W) in [0, 1].
        held_out: (K, 1, H, W) in [0, 1], of other patients.
        seed: of the noise of the planted copies.

    Returns:
        the detector, and the share of the planted copies that it found, by way.

    Raises:
        ValueError: there are no images of one kind.
    """
    views: dict[str, Describe] = {"pixels": pixel_features, "features": features, "radiographs": DomainFeatures()}
    detector = CopyDetector(training.float(), held_out.float(), views)
    planted = planted_copies(training[:: max(1, len(training) // CONTROLS)].float(), seed)
    return detector, {way: float(detector(images).copied.float().mean()) for way, images in planted.items()}


def missed_ways(caught: dict[str, float]) -> list[str]:
    """Return the ways of planting copies of which too few were found: with one of them, finding nothing says nothing.

    Args:
        caught: share of the planted copies that were found, by way.
    """
    return [way for way, share in caught.items() if share < CAUGHT]


def examine(
    features: FeatureNetwork,
    samples: torch.Tensor,
    training: torch.Tensor,
    reference: torch.Tensor,
    seed: int = 0,
) -> Privacy:
    """Search samples for copies of training images, and measure what else they give away.

    Args:
        features: describes the images, as one of the views of `controlled_detector`.
        samples: (N, 1, H, W) in [0, 1].
        training: (M, 1, H, W), all that the network was trained on.
        reference: (K, 1, H, W), of other patients.
        seed: of the noise of the planted copies.

    Returns:
        what was found.

    Raises:
        ValueError: too few images of one kind.
    """
    detector, caught = controlled_detector(features, training, reference, seed)
    described = detector.describe(samples.float())
    views = {
        view: {
            "synthetic": described[view],
            "training": detector.known[view][: len(training)],
            "real": detector.of_held_out[view],
        }
        for view in described
    }  # (N, D), (M, D), (K, D) each
    of_samples, of_training, of_reference = views["features"].values()
    scores = [membership_scores(real, of_samples) for real in (of_training, of_reference)]
    return Privacy(
        detector.search(described),
        detector.held_out,
        detector.largest,
        detector.high,
        caught,
        authenticity(of_training, of_samples),
        authenticity(of_training, of_reference),
        membership_inference(*scores),
        views,
    )


def write_privacy(privacy: Privacy, folder: Path, samples: ImageDataset, training: ImageDataset) -> None:
    """Write `privacy.json`, and `worst_pairs.png`, which shows patients and is not for release.

    Args:
        privacy: what was found.
        folder: where to write.
        samples: the images that were examined.
        training: the images that they may be copies of.
    """
    pairs = [(k, int(privacy.found.index[view][k]), view) for k, view in privacy.worst()]
    copied, suspicious = (copy_rate(flags) for flags in (privacy.found.copied, privacy.found.suspicious))
    record: dict[str, Any] = {
        "verdict": privacy.verdict(),
        "proves_something": privacy.proves,
        "clean": privacy.clean,
        "copies_by_chance": privacy.by_chance,
        "thresholds": {"copy": privacy.largest, "suspicious": privacy.high},
        "copies": asdict(copied),
        "suspicious": asdict(suspicious),
        "suspicious_held_out": asdict(copy_rate(privacy.held_out.suspicious)),
        "planted_copies_found": privacy.caught,
        "authenticity": _ends(privacy.authentic),
        "authenticity_held_out": _ends(privacy.authentic_real),
        "nearest_to_second_nearest": privacy.authentic.ratio.quantile(
            torch.tensor([0.05, 0.5, 0.95]).double()
        ).tolist(),
        "membership": asdict(privacy.membership),
        "model_membership": None if privacy.by_model is None else asdict(privacy.by_model),
        "nearest_pairs": [
            {
                "sample": Path(samples.items[k]["image"]).name,
                "training_image": Path(training.items[j]["image"]).name,
                "view": view,
                "similarity": float(privacy.found.similarity[view][k]),
                "mirrored": bool(privacy.found.mirrored[view][k]),
                "copy": bool(privacy.found.copied[k]),
            }
            for k, j, view in pairs
        ],
    }
    with replaced_when_whole(folder / "privacy.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1))
    rows = [[samples.images[k] for k, _, _ in pairs], [training.images[j] for _, j, _ in pairs]]
    save_grid(folder / "worst_pairs.png", rows, ["samples nearest to a training image", "that image: patients"])


def _rate(flags: torch.Tensor) -> Measure:
    return share_measure(float(flags.double().mean()), len(flags))


def _ends(found: Authenticity) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}
