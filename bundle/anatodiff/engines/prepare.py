"""From a folder to what the training needs: datalist, caches, prototypes, and a picture of it all."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anatodiff.autoencoders import CTLatents, ImageDataset, LatentCodec, LatentDataset, encode_all
from anatodiff.data import Datalist, Sources, pseudonyms, summarise, write_rejected
from anatodiff.data.phantom import ABDOMEN_CLASSES, HUMERUS_CLASSES, write_phantoms
from anatodiff.data.rejected import REJECTED_FILE
from anatodiff.engines.pictures import save_grid
from anatodiff.engines.places import local_folder, optional_folder
from anatodiff.engines.workflow import OptionError
from anatodiff.files import replaced_when_whole
from anatodiff.parallel import is_main, main_first
from anatodiff.transforms import Binarize, ShapePrototypes

logger = logging.getLogger(__name__)

BASE_CHESTS = ("normal", "effusion", "nodule", "cardiomegaly")
BASE_CLASSES = (*BASE_CHESTS, *ABDOMEN_CLASSES, *HUMERUS_CLASSES)
BASE_DEVICES = 0.3  # share of patients with tubes, lines, implants or casts
CHEST_SET = "chest"
DISEASE = "tension_pneumothorax"  # the base has never seen it
MIN_HELD_BACK = 3  # the kernel distance's jackknife leaves two
PICTURE_COLUMNS = 8
FILES = ("image", "mask", "low_dose")  # of an entry of a datalist


@dataclass(frozen=True)
class PhantomSet:
    """A set of phantoms that stands in where the user gives no folder.

    Args:
        labels: classes of the phantoms.
        seed: seed of the set; sets with other seeds share no anatomy.
        text: what to tell the user.
        devices: share of patients with devices.
    """

    labels: tuple[str, ...]
    seed: int
    text: str
    devices: float = 0.0


PHANTOM_SETS = {
    "disease": PhantomSet((DISEASE,), 20_000, "of a rare disease (pneumothorax with shifted mediastinum)"),
    "base": PhantomSet(BASE_CLASSES, 0, f"of the base's classes ({', '.join(BASE_CLASSES)})", BASE_DEVICES),
    CHEST_SET: PhantomSet(BASE_CHESTS, 40_000, f"of chests ({', '.join(BASE_CHESTS)})", BASE_DEVICES),
}


def dataset_folder(
    dataset_dir: str | None,
    cache_dir: str | Path,
    phantom_set: str,
    phantom_images: int,
    labels_path: str | Path | None = None,
) -> Path:
    """Choose the folder of radiographs; without one, make phantoms.

    Args:
        dataset_dir: the user's folder, the address of a DICOMweb server, or None.
        cache_dir: where the phantoms, and what is fetched, go.
        phantom_set: a name in `PHANTOM_SETS`.
        phantom_images: number of phantoms.
        labels_path: table of labels, which says what to fetch.

    Returns:
        a folder of radiographs.
    """
    if dataset_dir is not None:
        return local_folder(dataset_dir, cache_dir, labels_path)
    folder = _phantom_path(cache_dir, phantom_set, phantom_images)
    logger.warning(
        "NO dataset_dir WAS GIVEN: using %d PHANTOMS %s, written as DICOM to %s. "
        "For your own data: --dataset_dir /path/to/radiographs",
        phantom_images,
        PHANTOM_SETS[phantom_set].text,
        folder,
    )
    _make_phantoms(folder, phantom_set, phantom_images)
    return folder


def extra_folder(place: str | None, cache_dir: str | Path, phantom_images: int = 0) -> Path | None:
    """Choose the second folder of a base: the user's, or phantoms of chests, or none.

    Args:
        place: the user's folder, the address of a DICOMweb server, or None.
        cache_dir: where the phantoms, and what is fetched, go.
        phantom_images: number of phantoms; 0 makes none.

    Returns:
        a folder of radiographs, or None.

    Raises:
        OptionError: both a folder and phantoms are asked for, or a negative number of phantoms.
    """
    if phantom_images < 0 or (phantom_images and place is not None):
        raise OptionError(f"extra_phantoms is {phantom_images}; give 0 with extra_dir, or a positive number without it")
    if not phantom_images:
        return optional_folder(place, cache_dir)
    folder = _phantom_path(cache_dir, CHEST_SET, phantom_images)
    _make_phantoms(folder, CHEST_SET, phantom_images)
    return folder


def _phantom_path(cache_dir: str | Path, phantom_set: str, count: int) -> Path:
    return Path(cache_dir) / f"phantoms-{phantom_set}-{count}"


def _make_phantoms(folder: Path, phantom_set: str, count: int) -> None:
    phantoms = PHANTOM_SETS[phantom_set]
    with main_first():
        write_phantoms(folder, count, list(phantoms.labels), seed=phantoms.seed, devices=phantoms.devices)


def extra_images(items: list[dict[str, Any]] | None, image_size: int, cache_dir: str | Path) -> ImageDataset | None:
    """Read the images of the small second folder of a base; None where there is none."""
    return None if items is None else ImageDataset(items, image_size, cache_dir)


def extra_latents(
    items: list[dict[str, Any]] | None,
    image_size: int,
    cache_dir: str | Path,
    autoencoder: LatentCodec,
    device: str | torch.device,
) -> LatentDataset | None:
    """Encode the images of the small second folder of a base; None where there is none."""
    return None if items is None else LatentDataset(items, image_size, cache_dir, autoencoder, device)


@dataclass(frozen=True)
class Prototypes:
    """Shape prototypes of a training set.

    Args:
        images: (K, 1, H, W) cluster centres in [0, 1].
        latents: (K, C, h, w) their latents, scaled as the DiT expects.
    """

    images: torch.Tensor
    latents: torch.Tensor


def shape_prototypes(
    dataset: LatentDataset | CTLatents,
    autoencoder: LatentCodec,
    scale_factor: float = 1.0,
    n_prototypes: int = 25,
    threshold: float | None = 150,
    method: str = "kmeans",
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Prototypes | None:
    """Binarize the training images, cluster them and encode the centres (eq. 11 and theta_c of eq. 12).

    Args:
        dataset: the training split only.
        autoencoder: the same that encodes the images.
        scale_factor: the base's latent scale.
        n_prototypes: number K of clusters; 0: no prototypes at all.
        threshold: of the binarization, on the 0-255 scale; None: no binarization.
        method: "kmeans" or "density_peak".
        seed: of k-means++.
        device: where to encode.

    Returns:
        the prototypes.
    """
    if n_prototypes == 0:
        return None
    shapes = dataset.images.float()  # (N, 1, H, W)
    if threshold is not None:
        shapes = torch.as_tensor(Binarize(threshold)(shapes))  # (N, 1, H, W)
    images = torch.as_tensor(ShapePrototypes(n_prototypes, method, seed)(shapes))  # (K, 1, H, W)
    _warn_of_single_images(images, dataset.images.float(), threshold)
    latents = encode_all(images, autoencoder, device)["mean"] * scale_factor  # (K, C, h, w)
    return Prototypes(images, latents)


def latents_of(prototypes: Prototypes | None) -> torch.Tensor | None:
    """Return the latents of prototypes, (K, C, h, w); None of none."""
    return None if prototypes is None else prototypes.latents


def _warn_of_single_images(prototypes: torch.Tensor, images: torch.Tensor, threshold: float | None) -> None:
    """Say how many prototypes are one image each: such a prototype is a patient, not a shape."""
    if threshold is None:
        flat = images.flatten(1)  # (N, H*W)
        single = sum(bool((flat == prototype.flatten()).all(dim=1).any()) for prototype in prototypes)
    else:
        single = int(((prototypes == 0) | (prototypes == 1)).flatten(1).all(dim=1).sum())
    if single:
        logger.warning(
            "%d of %d prototypes are %s of one image each, and the adapter will hold them: "
            "lower n_prototypes if the adapter is to leave your house",
            single,
            len(prototypes),
            "copies" if threshold is None else "the outline",
        )


def _places(row: dict[str, Any], root: str) -> dict[str, str]:
    """Name the files of an entry below a folder."""
    return {name: os.path.relpath(row[name], root) for name in FILES if row.get(name) is not None}


class SourcesReading:
    """Say what was read of a base's folders.

    Args:
        output_dir: the run's folder.
        sources: what was read.
    """

    def __init__(self, output_dir: str | Path, sources: Sources) -> None:
        self.output_dir, self.sources = Path(output_dir), sources

    def run(self) -> None:
        """Write `rejected.csv` and log a summary of each folder."""
        if not is_main():
            return
        for option, datalist in self.sources.lists.items():
            logger.info("%s:", option)
            for line in summarise(datalist).splitlines():
                logger.info(line)
        folders = {option: (datalist.root, datalist.rejected) for option, datalist in self.sources.lists.items()}
        write_rejected(self.output_dir / REJECTED_FILE, folders)


class Preparation:
    """Say what was read and leave pictures of it.

    Args:
        output_dir: the run's folder.
        datalist: images and labels.
        train: prepared training split.
        test: prepared held-back split.
        autoencoder: for reconstructions.
        prototypes: shape prototypes, or None.

    Raises:
        ValueError: too few images are held back to measure anything against.
    """

    def __init__(
        self,
        output_dir: str | Path,
        datalist: Datalist,
        train: LatentDataset | CTLatents,
        test: LatentDataset | CTLatents,
        autoencoder: LatentCodec,
        prototypes: Prototypes | None,
    ) -> None:
        if len(test) < MIN_HELD_BACK:
            raise ValueError(
                f"only {len(test)} images are held back, measuring needs {MIN_HELD_BACK}; "
                "raise test_fraction or give more patients"
            )
        self.output_dir, self.datalist, self.train = Path(output_dir), datalist, train
        self.autoencoder, self.prototypes = autoencoder, prototypes

    @torch.no_grad()
    def run(self) -> None:
        """Write `datalist.json`, `rejected.csv`, `prepared.png` and `prototypes.png`, and log the summary."""
        if not is_main():
            return
        for line in summarise(self.datalist).splitlines():
            logger.info(line)
        names = pseudonyms()
        root = os.path.commonpath([os.path.dirname(row["image"]) for row in self.datalist.train + self.datalist.test])

        def relative(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [{**row, **_places(row, root), "patient": names.of(row["patient"])} for row in rows]

        listing = {
            "salt": names.salt_id,
            "classes": self.datalist.classes,
            "train": relative(self.datalist.train),
            "test": relative(self.datalist.test),
            "rejected": [[os.path.relpath(row.file, root), row.whole_reason()] for row in self.datalist.rejected],
        }
        with replaced_when_whole(self.output_dir / "datalist.json") as temporary:
            temporary.write_text(json.dumps(listing, indent=1))
        folders = {"dataset_dir": (self.datalist.root, self.datalist.rejected)}
        write_rejected(self.output_dir / REJECTED_FILE, folders)
        device = next(self.autoencoder.parameters()).device
        again = self.autoencoder.decode(self.train.mean[:PICTURE_COLUMNS].to(device)).cpu()  # (8, 1, H, W)
        rows, titles = [list(self.train.images[:PICTURE_COLUMNS]), list(again)], ["real", "reconstructed"]
        if self.prototypes is not None:
            every = self.prototypes.images.split(PICTURE_COLUMNS)
            rows, titles = [*rows, list(every[0])], [*titles, "prototypes, of the largest clusters first"]
            save_grid(self.output_dir / "prototypes.png", [list(row) for row in every])
        else:  # those of an earlier run in this folder are not this run's
            (self.output_dir / "prototypes.png").unlink(missing_ok=True)
        save_grid(self.output_dir / "prepared.png", rows, titles)
        logger.info("wrote datalist.json, %s and prepared.png to %s", REJECTED_FILE, self.output_dir)
