"""Measure samples that are there already against held-back radiographs, and real ones in their place beside them."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from anatodiff.autoencoders import ImageDataset
from anatodiff.data import DatasetError
from anatodiff.data.listing import IMAGE_ENDINGS
from anatodiff.diffusion.draws import generator
from anatodiff.engines.finish import check_writable
from anatodiff.engines.sampling import SHEET_NAME
from anatodiff.engines.workflow import OptionError
from anatodiff.files import replaced_when_whole
from anatodiff.metrics import (
    FeatureInput,
    FeatureNetwork,
    KernelDistance,
    ShippedFeatures,
    TorchScriptFeatures,
    frechet_distance,
    improved_precision_recall,
    kernel_distance,
)

logger = logging.getLogger(__name__)

MIN_IMAGES = 3  # the kernel distance's jackknife leaves two
LISTING_NAME = "datalist.json"  # what a training leaves beside its samples


def feature_network(
    path: str | Path | None = None,
    channels: int = 3,
    size: int | None = None,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
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
            "give features_path too, or leave them out"
        )
    return ShippedFeatures(device=device)


def read_samples(samples_dir: str | Path, image_size: int, cache_dir: str | Path) -> ImageDataset:
    """Read the images of a folder as synthetic ones.

    Files of one name with different endings are one image, and the best is read: DICOM before PNG before the others.

    Args:
        samples_dir: folder of the images; sub-folders and the contact sheet are passed over.
        image_size: side of the square images, in pixels.
        cache_dir: folder of the caches.

    Returns:
        the images, in the order of their names.

    Raises:
        DatasetError: the folder is missing or has no images.
    """
    folder = Path(samples_dir)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give run_dir a finished run or samples_dir a folder of samples")
    best: dict[str, Path] = {}
    for ending in IMAGE_ENDINGS:
        for file in sorted(folder.iterdir()):
            name = file.name.lower()
            if name.endswith(ending) and not name.startswith(".") and name != SHEET_NAME and file.is_file():
                best.setdefault(file.name[: -len(ending)], file)
    if not best:
        raise DatasetError(f"{folder}: no DICOM, PNG, JPEG or NIfTI in this folder; give samples_dir one with samples")
    return ImageDataset([{"image": str(best[stem]), "label": 0} for stem in sorted(best)], image_size, cache_dir)


@dataclass(frozen=True)
class Measures:
    """How far a set of images is from the held-back ones.

    Args:
        kernel_distance: KID and its standard error.
        frechet_distance: FID.
        precision: share of the set that looks real.
        recall: share of the held-back images that the set reaches.
    """

    kernel_distance: KernelDistance
    frechet_distance: float
    precision: float
    recall: float

    @classmethod
    def of(cls, held_back: torch.Tensor, features: torch.Tensor, neighbours: int) -> Measures:
        """Measure features (n, D) against those of the held-back images (m, D)."""
        shares = improved_precision_recall(held_back, features, neighbours)
        distance = kernel_distance(held_back, features)
        return cls(distance, frechet_distance(held_back, features), shares.precision, shares.recall)

    def table(self) -> dict[str, float]:
        """Return the numbers by name, in the order to show them."""
        return {
            "kernel_distance": self.kernel_distance.value,
            "kernel_distance_stderr": self.kernel_distance.stderr,
            "frechet_distance": self.frechet_distance,
            "precision": self.precision,
            "recall": self.recall,
        }


class Evaluation:
    """Measure samples, and as many training images in their place, against the held-back images.

    The second says what real images reach: a distance of the samples means little without it.

    Args:
        features: describes the images.
        samples: synthetic images.
        train: training images of the same split that the samples' model was trained on.
        test: held-back images, of patients that the training never saw.
        output_dir: where the numbers go.
        neighbours: k of precision and recall.
        seed: of the draw of equally many samples and training images.

    Raises:
        ValueError: there are too few images of one kind, or held-back patients were trained on.
    """

    def __init__(
        self,
        features: FeatureNetwork,
        samples: ImageDataset,
        train: ImageDataset,
        test: ImageDataset,
        output_dir: str | Path,
        neighbours: int = 3,
        seed: int = 0,
    ) -> None:
        if neighbours < 1:
            raise ValueError(f"neighbours is {neighbours}; give at least 1")
        self.features, self.samples, self.train, self.test = features, samples, train, test
        self.output_dir, self.neighbours, self.seed = Path(output_dir), neighbours, seed
        self._check_counts()
        self._check_unseen()
        check_writable(self.output_dir)

    def _check_counts(self) -> None:
        needed = max(MIN_IMAGES, self.neighbours + 1)  # no image is its own neighbour
        cures = {
            "samples": (self.samples, "sample more"),
            "training images": (self.train, "give more patients"),
            "held-back images": (self.test, "raise test_fraction or give more patients"),
        }
        for name, (images, cure) in cures.items():
            if len(images) < needed:
                lower = " or lower neighbours" if len(images) >= MIN_IMAGES else ""
                raise ValueError(
                    f"only {len(images)} {name}, measuring with neighbours={self.neighbours} needs {needed}; "
                    f"{cure}{lower}"
                )

    def _check_unseen(self) -> None:
        """Refuse held-back patients that the samples' own run, whose list lies beside the samples, has trained on."""
        listing = Path(self.samples.items[0]["image"]).parent.parent / LISTING_NAME
        try:
            trained = {row["patient"] for row in json.loads(listing.read_text())["train"]}
        except (OSError, ValueError, KeyError, TypeError):  # none there, or a file of that name that no training wrote
            return
        held_back = {row["patient"] for row in self.test.items}
        if trained & held_back:
            raise ValueError(
                f"{len(trained & held_back)} of {len(held_back)} patients held back here are in the training part of "
                f"{listing}; give the dataset_dir, seed, test_fraction and max_images of that training"
            )

    def run(self) -> None:
        """Write `evaluation.json` and `evaluation.csv`, and log a table."""
        n = min(len(self.samples), len(self.train))
        sets = (
            self.test.images,
            self._drawn(self.samples, n, "samples"),
            self._drawn(self.train, n, "training images"),
        )
        held_back, samples, train = (self.features(images) for images in sets)
        synthetic = Measures.of(held_back, samples, self.neighbours)
        real = Measures.of(held_back, train, self.neighbours)
        self._write(synthetic, real, n, held_back.shape[1])
        for line in compared(synthetic, real, n, len(self.test)).splitlines():
            logger.info(line)
        logger.info("wrote evaluation.json and evaluation.csv to %s", self.output_dir)

    def _drawn(self, images: ImageDataset, n: int, what: str) -> torch.Tensor:
        order = torch.randperm(len(images), generator=generator(self.seed, 0, f"evaluated {what}"))
        return images.images[order[:n].sort().values]  # (n, 1, H, W)

    def _write(self, synthetic: Measures, real: Measures, n: int, dimensions: int) -> None:
        network = {
            "name": self.features.name,
            "sha256": self.features.sha256,
            "dimensions": dimensions,
        }
        record = {
            "settings": {
                "features": network,
                "samples": {"measured": n, "of": len(self.samples)},
                "training_images": {"measured": n, "of": len(self.train)},
                "held_back_images": len(self.test),
                "neighbours": self.neighbours,
                "seed": self.seed,
            },
            "measures": {"synthetic": asdict(synthetic), "real": asdict(real)},
        }
        with replaced_when_whole(self.output_dir / "evaluation.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1))
        with (
            replaced_when_whole(self.output_dir / "evaluation.csv") as temporary,
            open(temporary, "w", newline="") as file,
        ):
            table = csv.writer(file)
            table.writerow(["measure", "synthetic", "real"])
            for (name, ours), theirs in zip(synthetic.table().items(), real.table().values(), strict=True):
                table.writerow([name, ours, theirs])


def compared(synthetic: Measures, real: Measures, n: int, held_back: int) -> str:
    """Lay two sets of measures side by side.

    Args:
        synthetic: of the samples.
        real: of as many training images.
        n: images in each of the two.
        held_back: images that both were measured against.

    Returns:
        a table and how to read it.
    """
    rows = [("", f"{n} synthetic", f"{n} real")]
    distances = [f"{m.kernel_distance.value:.3g} ± {m.kernel_distance.stderr:.2g}" for m in (synthetic, real)]
    rows.append(("kernel distance (KID)", distances[0], distances[1]))
    rows.append(("Frechet distance (FID)", f"{synthetic.frechet_distance:.4g}", f"{real.frechet_distance:.4g}"))
    rows.append(("improved precision", f"{synthetic.precision:.2f}", f"{real.precision:.2f}"))
    rows.append(("improved recall", f"{synthetic.recall:.2f}", f"{real.recall:.2f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"against {held_back} held-back images:"]
    lines += [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}" for row in rows]
    lines.append("read FID only beside that of the real images: with so few it is mostly bias")
    return "\n".join(lines)
