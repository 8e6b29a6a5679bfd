"""What an evaluation reads: the network of features, the samples, and real images of two kinds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from anatodiff.autoencoders import ImageDataset
from anatodiff.autoencoders.latent_cache import cached
from anatodiff.data import Datalist, DatasetError, make_datalist
from anatodiff.data.items import IMAGE_ENDINGS
from anatodiff.engines.places import local_folder
from anatodiff.engines.prepare import dataset_folder
from anatodiff.engines.sample_folder import SHEET_NAME
from anatodiff.engines.workflow import OptionError
from anatodiff.metrics import LPIPS, FeatureInput, FeatureNetwork, ShippedFeatures, TorchScriptFeatures

KEY_LENGTH = 32  # hexadecimal digits of a cache's name


class RememberedFeatures:
    """Features that are computed once for the same images: the real ones are those of every run of a study.

    Args:
        features: the network.
        takes: what it takes, which changes its features.
        cache_dir: folder of the caches.
    """

    def __init__(self, features: FeatureNetwork, takes: FeatureInput, cache_dir: str | Path) -> None:
        self.features, self.takes, self.cache_dir = features, takes, Path(cache_dir)
        self.name, self.sha256 = features.name, features.sha256

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images (N, 1, H, W) in [0, 1] into features (N, D)."""
        digest = hashlib.sha256(f"{self.sha256} {self.takes} {tuple(images.shape)}".encode())
        digest.update(images.contiguous().numpy().data)
        path = self.cache_dir / f"features-{digest.hexdigest()[:KEY_LENGTH]}.safetensors"
        return cached(path, lambda: {"features": self.features(images).contiguous()})["features"]


def feature_network(
    path: str | Path | None = None,
    channels: int = 1,
    size: int | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    device: str | torch.device = "cpu",
    cache_dir: str | Path = "output/cache",
) -> FeatureNetwork:
    """Choose the network whose features are compared.

    Args:
        path: TorchScript file; None takes the EfficientNet-Lite0 that ships.
        channels: of the TorchScript network's input.
        size: side of its input, pixels; None leaves the images as they are.
        mean: taken from values in [0, 1] before it.
        std: what they are then divided by.
        device: where to compute.
        cache_dir: folder of the caches, of features, too.

    Returns:
        the network.

    Raises:
        OptionError: an option is given that the chosen network does not read.
    """
    takes = FeatureInput(channels, size, mean, std)
    if path is not None:
        return RememberedFeatures(TorchScriptFeatures(path, takes, device), takes, cache_dir)
    if takes != FeatureInput():
        raise OptionError(
            "feature_channels, feature_size, feature_mean and feature_std are read for a network of your own only; "
            "give feature_network too, or leave them out"
        )
    return RememberedFeatures(ShippedFeatures(device=device), takes, cache_dir)


def score_network(path: str | Path | None, device: str | torch.device = "cpu") -> FeatureNetwork | None:
    """Read a network that rates images; None where none is given.

    Args:
        path: TorchScript file, (B, 1, H, W) in [0, 1] to (B, 1).
        device: where to compute.
    """
    return None if path is None else TorchScriptFeatures(path, device=device)


def perceptual_distance(
    network: str | Path | None = None,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> LPIPS | None:
    """Read the two files of LPIPS.

    Args:
        network: convolutions of VGG-16.
        weights: linear layers.
        device: where to compute.

    Returns:
        the distance; None without both files.

    Raises:
        OptionError: one file without the other.
    """
    if network is None and weights is None:
        return None
    if network is None or weights is None:
        missing = "lpips_network" if network is None else "lpips_weights"
        raise OptionError(f"{missing} is missing: LPIPS needs both lpips_network and lpips_weights; give both or none")
    return LPIPS(network, weights, device)


def read_samples(generated_dir: str | Path, image_size: int, cache_dir: str | Path) -> ImageDataset:
    """Read the images of a folder as synthetic ones.

    Files of one name with different endings are one image, and the best is read: DICOM before PNG before the others.

    Args:
        generated_dir: folder of the images, or a DICOMweb address; sub-folders and the contact sheet are passed over.
        image_size: side of the square images, in pixels.
        cache_dir: folder of the caches.

    Returns:
        the images, in the order of their names.

    Raises:
        DatasetError: the folder is missing or has no images.
    """
    folder = local_folder(generated_dir, cache_dir)
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
        train_classes: names of the classes that the first one's labels stand for.
        reference_classes: the same of the second.
        lists: for the name of an option, what was read of the folder that it gives.
    """

    train: ImageDataset
    reference: ImageDataset
    train_classes: list[str]
    reference_classes: list[str]
    lists: dict[str, Datalist] = field(default_factory=dict)


def read_real(
    reference_dir: str | Path | None,
    train_dir: str | Path | None,
    dataset_dir: str | Path | None,
    cache_dir: str | Path,
    image_size: int,
    test_fraction: float,
    seed: int,
    max_images: int | None,
    max_train_images: int | None,
    phantom_images: int,
    allow_burned_in: bool = False,
    labels_path: str | Path | None = None,
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
        max_train_images: most images of its training part.
        phantom_images: number of phantoms.
        allow_burned_in: use DICOM images that say that annotation is burned into their pixels.
        labels_path: table of labels of `dataset_dir`; None: the folder's own.

    Returns:
        both.

    Raises:
        OptionError: one folder without the other, or all three.
        DatasetError: a folder cannot be used.
    """
    given = {"train_dir": train_dir, "reference_dir": reference_dir}
    if _is_split(given, dataset_dir, labels_path):
        given_dir = None if dataset_dir is None else str(dataset_dir)
        folder = dataset_folder(given_dir, cache_dir, "disease", phantom_images, labels_path)
        datalist = make_datalist(
            folder,
            test_fraction,
            seed,
            max_images,
            max_train_images=max_train_images,
            allow_burned_in=allow_burned_in,
            labels_path=labels_path,
        )
        lists = {"dataset_dir": datalist}
        items, classes = [datalist.train, datalist.test], [datalist.classes, datalist.classes]
    else:
        lists = {
            option: make_datalist(local_folder(folder, cache_dir), test_fraction=0, allow_burned_in=allow_burned_in)
            for option, folder in given.items()
            if folder
        }
        items = [datalist.train for datalist in lists.values()]
        classes = [datalist.classes for datalist in lists.values()]
    train, reference = (ImageDataset(part, image_size, cache_dir) for part in items)
    return RealImages(train, reference, classes[0], classes[1], lists)


def _is_split(
    folders: dict[str, str | Path | None], dataset_dir: str | Path | None, labels_path: str | Path | None
) -> bool:
    """Tell whether one folder is split, or there are two; refuse what is neither."""
    missing = [name for name, folder in folders.items() if folder is None]
    if len(missing) == 1:
        raise OptionError(f"{missing[0]} is missing: give both reference_dir and train_dir, or dataset_dir alone")
    if not missing and dataset_dir is not None:
        raise OptionError("dataset_dir is not read beside reference_dir and train_dir; leave it, or these two, out")
    if not missing and labels_path is not None:
        raise OptionError(
            "labels_path is of dataset_dir, and not read beside reference_dir and train_dir; leave it out"
        )
    return bool(missing)
