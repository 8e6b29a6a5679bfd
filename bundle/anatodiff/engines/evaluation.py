"""Measure samples that are there already against reference radiographs, and real ones in their place beside them."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from anatodiff.autoencoders import ImageDataset
from anatodiff.data import pseudonyms, write_rejected
from anatodiff.data.identity import SALT_VARIABLE
from anatodiff.data.rejected import REJECTED_FILE
from anatodiff.diffusion.draws import generator
from anatodiff.engines.evaluation_inputs import RealImages
from anatodiff.engines.manifest import image_set, write_manifest
from anatodiff.engines.membership import ModelMembership
from anatodiff.engines.privacy import examine, write_privacy
from anatodiff.engines.report import TITLES, Evaluated, write_report
from anatodiff.files import replaced_when_whole
from anatodiff.metrics import (
    LPIPS,
    DomainFeatures,
    FeatureNetwork,
    Measure,
    feature_measures,
    image_measures,
    kernel_distance,
)

logger = logging.getLogger(__name__)

MIN_IMAGES = 3  # the kernel distance's jackknife leaves two
REJECTED_NAME = f"evaluation_{REJECTED_FILE}"  # beside that of a training, which may have read another folder
EVALUATION_MANIFEST = "evaluation.manifest.json"
LISTING_NAME = "datalist.json"  # what a training leaves beside its samples


class Evaluation:
    """Measure samples, and as many training images in their place, against the reference images.

    The second says what real images reach: a distance of the samples means little without it. Then search the samples
    for copies of training images; there, the reference images take their place.

    Args:
        features: describes the images.
        samples: synthetic images.
        real: training and reference images.
        output_dir: where the numbers go.
        nearest_k: k of precision, recall, density and coverage.
        seed: of the draw of as many training images as there are samples, of subsets and of pairs.
        lpips: measures the diversity of either kind, too; None leaves it out.
        token_size: side of the network's tokens, pixels, for the seam index.
        model: the network that made the samples, for membership inference; None is not known.

    Raises:
        ValueError: there are too few images of one kind, or held-back patients were trained on.
    """

    def __init__(
        self,
        features: FeatureNetwork,
        samples: ImageDataset,
        real: RealImages,
        output_dir: str | Path,
        nearest_k: int = 5,
        seed: int = 0,
        lpips: LPIPS | None = None,
        token_size: int = 32,
        model: ModelMembership | None = None,
    ) -> None:
        if nearest_k < 1:
            raise ValueError(f"nearest_k is {nearest_k}; give at least 1")
        self.features, self.samples, self.real, self.model = features, samples, real, model
        self.output_dir, self.nearest_k, self.seed = Path(output_dir), nearest_k, seed
        self.lpips, self.token_size = lpips, token_size
        self._check_counts()
        self._check_unseen()

    def _check_counts(self) -> None:
        needed = max(MIN_IMAGES, self.nearest_k + 1)  # no image is its own neighbour
        cures = {
            "samples": (self.samples, "sample more"),
            "training images": (self.real.train, "give more patients"),
            "reference images": (self.real.reference, "raise test_fraction or give more patients"),
        }
        for name, (images, cure) in cures.items():
            if len(images) < needed:
                lower = " or lower nearest_k" if len(images) >= MIN_IMAGES else ""
                raise ValueError(
                    f"only {len(images)} {name}, measuring with nearest_k={self.nearest_k} needs {needed}; "
                    f"{cure}{lower}"
                )

    def _check_unseen(self) -> None:
        """Refuse held-back patients that the samples' own run, whose list lies beside the samples, has trained on."""
        listing = Path(self.samples.items[0]["image"]).parent.parent / LISTING_NAME
        try:
            content = json.loads(listing.read_text())
            trained, salt = {row["patient"] for row in content["train"]}, content["salt"]
        except (OSError, ValueError, KeyError, TypeError):  # none there, or a file of that name that no training wrote
            return
        names = pseudonyms()
        if salt != names.salt_id:
            logger.warning(
                "%s has pseudonyms of another salt: whether patients that are held back here were trained on cannot "
                "be told; name the salt's file by %s",
                listing,
                SALT_VARIABLE,
            )
            return
        held_back = {names.of(row["patient"]) for row in self.real.reference.items}
        if trained & held_back:
            raise ValueError(
                f"{len(trained & held_back)} of {len(held_back)} patients held back here are in the training part of "
                f"{listing}; give the dataset_dir, split_seed, test_fraction and max_images of that training"
            )

    def run(self) -> None:
        """Write the numbers (JSON, CSV), what was found of copies, and the report; log a table."""
        chosen = self._drawn(len(self.real.train), len(self.samples))  # (at most n,)
        images = {
            "real": self.real.reference.images,
            "training": self.real.train.images[chosen],
            "synthetic": self.samples.images,
        }  # (m, 1, H, H), (at most n, 1, H, H), (n, 1, H, H)
        privacy = examine(self.features, self.samples.images, self.real.train.images, images["real"], self.seed)
        features, domain = (
            {**privacy.features[view], "training": privacy.features[view]["training"][chosen]}
            for view in ("features", "radiographs")
        )  # (n, D), (at most n, D), (m, D) in each
        if self.model is not None:
            privacy = replace(privacy, by_model=self.model(self.real))
        sets = []
        for name, given in zip(("synthetic", "training"), privacy.measures(), strict=True):
            by_features = feature_measures(features["real"], features[name], self.nearest_k, self.seed)
            by_images = image_measures(images["real"], images[name], self.seed, self.lpips, self.token_size)
            of_domain = kernel_distance(domain["real"], domain[name])
            by_domain = {"kid_radiographs": Measure(of_domain.value, of_domain.stderr)}
            sets.append(by_features | by_domain | by_images | given)
        synthetic, real = sets
        settings = self._settings(len(images["training"]), features["real"].shape[1])
        self._write(synthetic, real, settings)
        lists = self.real.lists.items()
        folders = {option: (datalist.root, datalist.rejected) for option, datalist in lists}
        write_rejected(self.output_dir / REJECTED_NAME, folders)
        write_privacy(privacy, self.output_dir, self.samples, self.real.train)
        images["all training"] = self.real.train.images
        run_dir = Path(self.samples.items[0]["image"]).parent.parent
        found = Evaluated(images, features, synthetic, real, privacy, settings, run_dir)
        write_report(self.output_dir / "report.html", found)
        counts = (len(self.samples), len(images["training"]), len(images["real"]))
        for line in compared(synthetic, real, *counts).splitlines():
            logger.info(line)
        (logger.info if privacy.clean else logger.warning)(privacy.verdict())
        self._write_manifest()
        logger.info("wrote report.html, metrics.json, evaluation.json and .csv, privacy.json to %s", self.output_dir)

    def _write_manifest(self) -> None:
        # Not manifest.json: the evaluation may go into the folder of the run, which has one.
        names = ("metrics.json", "evaluation.json", "evaluation.csv", "privacy.json", "report.html")
        weights = {self.features.name: self.features.sha256, "radiographs": DomainFeatures().sha256}
        if self.lpips is not None:
            weights |= {"lpips network": self.lpips.network_sha256, "lpips weights": self.lpips.weights_sha256}
        if self.model is not None:
            weights["adapter"] = self.model.adapter.sha256
        sets = {"samples": self.samples, "training": self.real.train, "reference": self.real.reference}
        write_manifest(
            self.output_dir / EVALUATION_MANIFEST,
            "evaluation",
            [self.output_dir / name for name in names],
            weights=weights,
            data={name: image_set(images.key, len(images)) for name, images in sets.items()},
            licences={},
        )

    def _drawn(self, images: int, n: int) -> torch.Tensor:
        order = torch.randperm(images, generator=generator(self.seed, 0, "evaluated training images"))
        return order[:n].sort().values  # (at most n,)

    def _settings(self, drawn: int, dimensions: int) -> dict[str, Any]:
        networks = {} if self.lpips is None else {"lpips": {
            "network_sha256": self.lpips.network_sha256, "weights_sha256": self.lpips.weights_sha256,
        }}  # fmt: skip
        return networks | {
            "features": {"name": self.features.name, "sha256": self.features.sha256, "dimensions": dimensions},
            "samples": len(self.samples),
            "training_images": {"measured": drawn, "of": len(self.real.train)},
            "reference_images": len(self.real.reference),
            "nearest_k": self.nearest_k,
            "token_size": self.token_size,
            "seed": self.seed,
            **({} if self.model is None else {"model_membership": self.model.settings}),
            "images_sha256": {
                "samples": self.samples.key, "training": self.real.train.key, "reference": self.real.reference.key,
            },
        }  # fmt: skip

    def _write(self, synthetic: dict[str, Measure], real: dict[str, Measure], settings: dict[str, Any]) -> None:
        metrics = {
            name: {"value": measure.value, "stderr": measure.stderr, "real": real[name].value if name in real else None}
            for name, measure in synthetic.items()
        }
        errors = {name: measure.stderr for name, measure in real.items()}
        record = {"settings": settings, "metrics": metrics, "stderr_of_real": errors}
        for name, content in (("metrics.json", metrics), ("evaluation.json", record)):
            with replaced_when_whole(self.output_dir / name) as temporary:
                temporary.write_text(json.dumps(content, indent=1))
        with (
            replaced_when_whole(self.output_dir / "evaluation.csv") as temporary,
            open(temporary, "w", newline="") as file,
        ):
            table = csv.writer(file)
            table.writerow(["measure", "value", "stderr", "real", "features_sha256"])
            table.writerows([name, *row.values(), settings["features"]["sha256"]] for name, row in metrics.items())


def compared(
    synthetic: dict[str, Measure],
    real: dict[str, Measure],
    samples: int,
    training: int,
    reference: int,
) -> str:
    """Lay two sets of measures side by side.

    Args:
        synthetic: of the samples.
        real: of training images in their place.
        samples: how many were measured.
        training: how many were measured.
        reference: images that both were measured against.

    Returns:
        a table and how to read it.
    """
    rows = [("", f"{samples} synthetic", f"{training} real")]
    rows += [(TITLES[name], _shown(synthetic[name]), _shown(real.get(name))) for name in synthetic]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"against {reference} reference images:"]
    lines += [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}" for row in rows]
    lines.append("read FID only beside that of the real images: with so few it is mostly bias")
    if training < samples:
        lines.append(f"and not even then: there are fewer real images ({training}) than samples ({samples})")
    return "\n".join(lines)


def _shown(measure: Measure | None) -> str:
    if measure is None:
        return "-"
    return f"{measure.value:.3g}" + ("" if measure.stderr is None else f" ± {measure.stderr:.2g}")
