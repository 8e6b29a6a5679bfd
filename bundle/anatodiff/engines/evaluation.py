"""Measure samples that are there already against reference radiographs, and real ones in their place beside them."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anatodiff.autoencoders import ImageDataset
from anatodiff.data import DatasetError, make_datalist
from anatodiff.data.listing import IMAGE_ENDINGS
from anatodiff.diffusion.draws import generator
from anatodiff.engines.finish import check_writable
from anatodiff.engines.prepare import dataset_folder
from anatodiff.engines.privacy import examine, write_privacy
from anatodiff.engines.report import TITLES, Evaluated, write_report
from anatodiff.engines.sampling import SHEET_NAME
from anatodiff.engines.workflow import OptionError
from anatodiff.files import replaced_when_whole
from anatodiff.metrics import (
    FeatureInput,
    FeatureNetwork,
    Measure,
    ShippedFeatures,
    TorchScriptFeatures,
    feature_measures,
    image_measures,
)

logger = logging.getLogger(__name__)

MIN_IMAGES = 3  # the kernel distance's jackknife leaves two
LISTING_NAME = "datalist.json"  # what a training leaves beside its samples


def feature_network(
    path: str | Path | None = None,
    channels: int = 1,
    size: int | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    device: str | torch.device = "cpu",
) -> FeatureNetwork:
    """Choose the network whose features are compared.

    Args:
        path: TorchScript file; None takes the EfficientNet-Lite0 that ships.
        channels: of the TorchScript network's input.
        size: side of its input, pixels; None leaves the images as they are.
        mean: taken from values in [0, 1] before it.
        std: what they are then divided by.
        device: where to compute.

    Returns:
        the network.

    Raises:
        OptionError: an option is given that the chosen network does not read.
    """
    takes = FeatureInput(channels, size, mean, std)
    if path is not None:
        return TorchScriptFeatures(path, takes, device)
    if takes != FeatureInput():
        raise OptionError(
            "feature_channels, feature_size, feature_mean and feature_std are read for a network of your own only; "
            "give feature_network too, or leave them out"
        )
    return ShippedFeatures(device=device)


def read_samples(generated_dir: str | Path, image_size: int, cache_dir: str | Path) -> ImageDataset:
    """Read the images of a folder as synthetic ones.

    Files of one name with different endings are one image, and the best is read: DICOM before PNG before the others.

    Args:
        generated_dir: folder of the images; sub-folders and the contact sheet are passed over.
        image_size: side of the square images, in pixels.
        cache_dir: folder of the caches.

    Returns:
        the images, in the order of their names.

    Raises:
        DatasetError: the folder is missing or has no images.
    """
    folder = Path(generated_dir)
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: no such folder; give run_dir a finished run or generated_dir a folder of samples"
        )
    best: dict[str, Path] = {}
    for ending in IMAGE_ENDINGS:
        for file in sorted(folder.iterdir()):
            name = file.name.lower()
            if name.endswith(ending) and not name.startswith(".") and name != SHEET_NAME and file.is_file():
                best.setdefault(file.name[: -len(ending)], file)
    if not best:
        raise DatasetError(
            f"{folder}: no DICOM, PNG, JPEG or NIfTI in this folder; give generated_dir one with samples"
        )
    return ImageDataset([{"image": str(best[stem]), "label": 0} for stem in sorted(best)], image_size, cache_dir)


@dataclass(frozen=True)
class RealImages:
    """Real images of two kinds.

    Args:
        train: what the network that made the samples was trained on.
        reference: of other patients; what samples are measured against.
    """

    train: ImageDataset
    reference: ImageDataset


def read_real(
    reference_dir: str | Path | None,
    train_dir: str | Path | None,
    dataset_dir: str | Path | None,
    cache_dir: str | Path,
    image_size: int,
    test_fraction: float,
    seed: int,
    max_images: int | None,
    phantom_images: int,
) -> RealImages:
    """Read the real images: from two folders, or from one that is split by patient as the training splits it.

    Args:
        reference_dir: folder of reference images; None takes the held-back part of `dataset_dir`.
        train_dir: folder of training images, together with `reference_dir`.
        dataset_dir: folder of both; None without the other two makes phantoms.
        cache_dir: folder of the caches, and of the phantoms.
        image_size: side of the square images, in pixels.
        test_fraction: share of `dataset_dir` that is held back.
        seed: of that split.
        max_images: most images of `dataset_dir` to use.
        phantom_images: number of phantoms.

    Returns:
        both.

    Raises:
        OptionError: one folder without the other, or all three.
        DatasetError: a folder cannot be used.
    """
    folders = {"reference_dir": reference_dir, "train_dir": train_dir}
    missing = [name for name, folder in folders.items() if folder is None]
    if len(missing) == 1:
        raise OptionError(f"{missing[0]} is missing: give both reference_dir and train_dir, or dataset_dir alone")
    if not missing and dataset_dir is not None:
        raise OptionError("dataset_dir is not read beside reference_dir and train_dir; leave it, or these two, out")
    if missing:
        folder = dataset_folder(None if dataset_dir is None else str(dataset_dir), cache_dir, "disease", phantom_images)
        datalist = make_datalist(folder, test_fraction, seed, max_images)
        items = [datalist.train, datalist.test]
    else:
        items = [make_datalist(folder, test_fraction=0).train for folder in (train_dir, reference_dir) if folder]
    return RealImages(*(ImageDataset(part, image_size, cache_dir) for part in items))


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
    ) -> None:
        if nearest_k < 1:
            raise ValueError(f"nearest_k is {nearest_k}; give at least 1")
        self.features, self.samples, self.real = features, samples, real
        self.output_dir, self.nearest_k, self.seed = Path(output_dir), nearest_k, seed
        self._check_counts()
        self._check_unseen()
        check_writable(self.output_dir)

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
            trained = {row["patient"] for row in json.loads(listing.read_text())["train"]}
        except (OSError, ValueError, KeyError, TypeError):  # none there, or a file of that name that no training wrote
            return
        held_back = {row["patient"] for row in self.real.reference.items}
        if trained & held_back:
            raise ValueError(
                f"{len(trained & held_back)} of {len(held_back)} patients held back here are in the training part of "
                f"{listing}; give the dataset_dir, seed, test_fraction and max_images of that training"
            )

    def run(self) -> None:
        """Write the numbers (JSON, CSV), what was found of copies, and the report; log a table."""
        images = {
            "real": self.real.reference.images,
            "training": self._drawn(self.real.train, len(self.samples)),
            "synthetic": self.samples.images,
        }  # (m, 1, H, H), (at most n, 1, H, H), (n, 1, H, H)
        features = {name: self.features(batch) for name, batch in images.items()}  # (m, D) and so on
        privacy = examine(self.features, self.samples.images, self.real.train.images, images["real"], self.seed)
        sets = []
        for name, given in zip(("synthetic", "training"), privacy.measures(), strict=True):
            by_features = feature_measures(features["real"], features[name], self.nearest_k, self.seed)
            sets.append(by_features | image_measures(images["real"], images[name], self.seed) | given)
        synthetic, real = sets
        settings = self._settings(len(images["training"]), features["real"].shape[1])
        self._write(synthetic, real, settings)
        write_privacy(privacy, self.output_dir, self.samples, self.real.train)
        images["all training"] = self.real.train.images
        run_dir = Path(self.samples.items[0]["image"]).parent.parent
        found = Evaluated(images, features, synthetic, real, privacy, settings, run_dir)
        write_report(self.output_dir / "report.html", found)
        counts = (len(self.samples), len(images["training"]), len(images["real"]))
        for line in compared(synthetic, real, *counts).splitlines():
            logger.info(line)
        (logger.info if privacy.clean else logger.warning)(privacy.verdict())
        logger.info("wrote report.html, metrics.json, evaluation.json and .csv, privacy.json to %s", self.output_dir)

    def _drawn(self, images: ImageDataset, n: int) -> torch.Tensor:
        order = torch.randperm(len(images), generator=generator(self.seed, 0, "evaluated training images"))
        return images.images[order[:n].sort().values]  # (at most n, 1, H, H)

    def _settings(self, drawn: int, dimensions: int) -> dict[str, Any]:
        return {
            "features": {"name": self.features.name, "sha256": self.features.sha256, "dimensions": dimensions},
            "samples": len(self.samples),
            "training_images": {"measured": drawn, "of": len(self.real.train)},
            "reference_images": len(self.real.reference),
            "nearest_k": self.nearest_k,
            "seed": self.seed,
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
