"""Measures of CT samples, each beside what real slices reach in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import normalize

from anatodiff.diffusion.draws import generator
from anatodiff.engines.ct_samples import CTSamples, CTSlices
from anatodiff.engines.workflow import OptionError
from anatodiff.metrics import (
    LPIPS,
    CopyDetector,
    DoseResponse,
    FeatureNetwork,
    Measure,
    cmmd,
    dose_response,
    frechet_distance,
    kernel_distance,
    mask_measures,
    mean_measure,
    noise_level,
    pixel_features,
    share_measure,
)

LPIPS_BATCH = 4
MASK_MEASURES = ("dice", "iou", "hausdorff", "recall", "precision")
HAUSDORFF_MM = "hausdorff_mm"


@dataclass(frozen=True)
class Compared:
    """One number of the samples, and what to read it beside.

    Args:
        value: of the samples.
        images: how many it is of.
        real: the same of real slices in their place; None where there are none.
        floor: the same of samples and the request of another sample; None where there is no such thing.
    """

    value: Measure
    images: int
    real: Measure | None = None
    floor: Measure | None = None


def fidelity(
    features: FeatureNetwork,
    samples: CTSamples,
    train: CTSlices,
    test: CTSlices,
    seed: int = 0,
    lpips: LPIPS | None = None,
) -> dict[str, Compared]:
    """Measure how far samples, and as many training slices in their place, are from the held-back slices.

    Args:
        features: describes the images; it resizes them with antialiasing, so that its Frechet distance is a clean one.
        samples: at least 3.
        train: real slices, at least 3.
        test: held-back slices, at least 3.
        seed: of the draw of training slices.
        lpips: compares each sample with its own reference slice, and the training slice in its place, too.

    Returns:
        "cfid", "kid", "cmmd" (of features of length 1), and "lpips" (or not).
    """
    order = torch.randperm(len(train), generator=generator(seed, 0, "evaluated training images"))
    drawn = order[torch.arange(len(samples)) % len(train)]  # (n,)
    reference = features(test.images)  # (m, D)
    of_samples = features(samples.images)  # (n, D)
    of_real = features(train.images[order[: len(samples)].sort().values])  # (at most n, D)
    sets = [_distances(reference, found) for found in (of_samples, of_real)]
    compared = {name: Compared(value, len(samples), sets[1][name]) for name, value in sets[0].items()}
    at = samples.references >= 0  # (n,)
    if lpips is not None and bool(at.any()):
        own = test.images[samples.references[at]]  # (k, 1, S, S)
        found = [_lpips(lpips, images[at], own) for images in (samples.images, train.images[drawn])]
        compared["lpips"] = Compared(found[0], int(at.sum()), found[1])
    return compared


def _distances(reference: torch.Tensor, features: torch.Tensor) -> dict[str, Measure]:
    kernel = kernel_distance(reference, features)
    gaussian = cmmd(normalize(reference.double(), dim=1), normalize(features.double(), dim=1))
    return {
        "cfid": Measure(frechet_distance(reference, features)),
        "kid": Measure(kernel.value, kernel.stderr),
        "cmmd": Measure(gaussian.value, gaussian.stderr),
    }


@torch.inference_mode()
def _lpips(network: LPIPS, images: torch.Tensor, others: torch.Tensor) -> Measure:
    pairs = zip(images.split(LPIPS_BATCH), others.split(LPIPS_BATCH), strict=True)
    return mean_measure(torch.cat([network(a.float(), b.float()).cpu() for a, b in pairs]).numpy())


def organ_measures(
    found: torch.Tensor, target: torch.Tensor, organs: list[str], pixel_spacing: float | None = None
) -> dict[str, dict[str, Measure]]:
    """Compare label maps with those that they should be, over the images where the organ is in the target.

    Args:
        found: (N, S, S) labels.
        target: (N, S, S) labels.
        organs: names of the labels from 1 on.
        pixel_spacing: mm; None is not known.

    Returns:
        organ -> measure -> mean and standard error; NaN where there is no image. A Hausdorff distance, the largest, is
        of the images where the organ was found at all.
    """
    if len(found) == 0:
        return {}
    labels = torch.arange(1, len(organs) + 1)[None, :, None, None]  # (1, K, 1, 1)
    masks = [(given[:, None] == labels).float() for given in (found, target)]  # (N, K, S, S) each
    measures = mask_measures(masks[0], masks[1], percentile=None)
    there = masks[1].flatten(2).any(dim=2)  # (N, K)
    result: dict[str, dict[str, Measure]] = {}
    for k, organ in enumerate(organs):
        values = {name: getattr(measures, name)[there[:, k], k].numpy() for name in MASK_MEASURES}
        if pixel_spacing is not None:
            values[HAUSDORFF_MM] = values["hausdorff"] * pixel_spacing
        result[organ] = {name: mean_measure(value) for name, value in values.items()}
    return result


def anatomy(
    found: torch.Tensor,
    samples: CTSamples,
    found_real: torch.Tensor,
    mask_real: torch.Tensor,
    organs: list[str],
    pixel_spacing: float | None = None,
) -> dict[str, dict[str, Compared]]:
    """Compare what a segmentation finds in samples with the masks that were requested.

    Args:
        found: (N, S, S) labels that were found in the samples.
        samples: all with a mask.
        found_real: (M, S, S) labels that were found in real slices: with `mask_real` the ceiling.
        mask_real: (M, S, S) their masks.
        organs: names of the labels from 1 on.
        pixel_spacing: mm; None is not known.

    Returns:
        organ -> measure -> of the samples, of real slices, and of samples and the mask of another request.
    """
    own = organ_measures(found, samples.mask, organs, pixel_spacing)
    ceiling = organ_measures(found_real, mask_real, organs, pixel_spacing)
    here, other = other_requests(samples.mask)
    floor = organ_measures(found[here], samples.mask[other], organs, pixel_spacing)
    return {
        organ: {
            name: Compared(
                value,
                int((samples.mask == k).flatten(1).any(dim=1).sum()),
                ceiling.get(organ, {}).get(name),
                floor.get(organ, {}).get(name),
            )
            for name, value in own[organ].items()
        }
        for k, organ in enumerate(organs, 1)
        if own
    }


def other_requests(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find for each mask the next one that differs, around the end.

    Args:
        mask: (N, S, S).

    Returns:
        the rows (M,) that have such a partner, and these (M,).
    """
    _, kind = torch.unique(mask.flatten(1), dim=0, return_inverse=True)  # (N,)
    pairs = []
    for row in range(len(kind)):
        differ = (kind.roll(-row) != kind[row]).nonzero()  # steps ahead, from the nearest
        if len(differ):
            pairs.append((row, (row + int(differ[0])) % len(kind)))
    here, other = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T  # (M,) each
    return here, other


def noise_response(rows: Any, hu: torch.Tensor, found: torch.Tensor, label: int) -> DoseResponse:
    """Compare measured with requested noise where an organ was found and, if a mask was requested, where it should be.

    Args:
        rows: `CTSamples` or `CTSlices`: noise, has_noise, mask, has_mask and doses.
        hu: (N, 1, S, S) the images.
        found: (N, S, S) labels that were found in them.
        label: of the organ.

    Returns:
        measured against requested.
    """
    region = (found == label) & ((rows.mask == label) | ~rows.has_mask[:, None, None])  # (N, S, S)
    measured, requested = noise_level(hu, region, requested=rows.noise.float())  # (N,), (N,)
    requested[~rows.has_noise] = torch.nan
    return dose_response(requested, measured, rows.doses)


def quality_scores(
    network: FeatureNetwork, samples: CTSamples, real_images: torch.Tensor, real_doses: torch.Tensor
) -> dict[str, Compared]:
    """Score samples, and real slices beside them, by a network that rates the quality of CT images (tables 2 and 4).

    Args:
        network: a score for each image.
        samples: with or without known doses.
        real_images: (M, 1, S, S) the slices that the requests are of.
        real_doses: (M,) their doses.

    Returns:
        "score" of all, and "score_at_D" of each dose.

    Raises:
        OptionError: the network makes more than one number of an image.
    """
    found, beside = network(samples.images), network(real_images)  # (N, 1), (M, 1)
    if found.shape[1] != 1:
        raise OptionError(f"iqa_network makes {found.shape[1]} numbers of an image; give one that makes a score")
    scores, real = found[:, 0].numpy(), beside[:, 0].numpy()
    compared = {"score": Compared(mean_measure(scores), len(scores), mean_measure(real))}
    for dose in samples.doses[~samples.doses.isnan()].unique().tolist():
        at, there = (samples.doses == dose).numpy(), (real_doses == dose).numpy()
        compared[f"score_at_{dose:g}"] = Compared(mean_measure(scores[at]), int(at.sum()), mean_measure(real[there]))
    return compared


def copies(
    features: FeatureNetwork, samples: CTSamples, train: CTSlices, test: CTSlices
) -> tuple[dict[str, Compared], list[dict[str, Any]]]:
    """Search the samples for copies of training slices.

    Args:
        features: one view of the images; the other one is their pixels.
        samples: searched.
        train: all that the network was trained on.
        test: of other patients, whose nearness sets the thresholds.

    Returns:
        "copied" (nearer than any held-back slice) and "suspicious" (nearer than 95 % of them) as shares; and for each
        sample its nearest training slice by features.
    """
    detector = CopyDetector(train.images.float(), test.images.float(), {"pixels": pixel_features, "features": features})
    found = detector(samples.images)
    shares = {
        name: Compared(_share(getattr(found, name)), len(samples), _share(getattr(detector.held_out, name)))
        for name in ("copied", "suspicious")
    }
    nearest = [
        {"sample": name, "training_row": int(row), "similarity": float(similarity), "copied": bool(copied)}
        for name, row, similarity, copied in zip(
            samples.names, found.index["features"], found.similarity["features"], found.copied, strict=True
        )
    ]
    return shares, nearest


def _share(flags: torch.Tensor) -> Measure:
    return share_measure(float(flags.double().mean()), len(flags))
