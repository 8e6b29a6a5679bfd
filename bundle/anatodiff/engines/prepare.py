"""From a folder to what the training needs: datalist, caches, prototypes, and a picture of it all."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anatodiff.autoencoders import Autoencoder, LatentDataset, encode_all
from anatodiff.data import Datalist, summarise
from anatodiff.data.phantom import write_phantoms
from anatodiff.engines.pictures import save_grid
from anatodiff.files import replaced_when_whole
from anatodiff.transforms import Binarize, ShapePrototypes

logger = logging.getLogger(__name__)

BASE_CLASSES = ("normal", "effusion", "nodule", "cardiomegaly")
DISEASE = "tension_pneumothorax"  # the base has never seen it
MIN_HELD_BACK = 3  # the kernel distance's jackknife leaves two
PICTURE_COLUMNS = 8


@dataclass(frozen=True)
class PhantomSet:
    """A set of phantoms that stands in where the user gives no folder.

    Args:
        labels: classes of the phantoms.
        seed: seed of the set; sets with other seeds share no anatomy.
        text: what to tell the user.
    """

    labels: tuple[str, ...]
    seed: int
    text: str


PHANTOM_SETS = {
    "disease": PhantomSet((DISEASE,), 20_000, "of a rare disease (pneumothorax with shifted mediastinum)"),
    "base": PhantomSet(BASE_CLASSES, 0, f"of the base's classes ({', '.join(BASE_CLASSES)})"),
}


def dataset_folder(dataset_dir: str | None, cache_dir: str | Path, phantom_set: str, phantom_images: int) -> Path:
    """Choose the folder of radiographs; without one, make phantoms.

    Args:
        dataset_dir: the user's folder, or None.
        cache_dir: where the phantoms go.
        phantom_set: a name in `PHANTOM_SETS`.
        phantom_images: number of phantoms.

    Returns:
        a folder of radiographs.
    """
    if dataset_dir is not None:
        return Path(dataset_dir)
    phantoms = PHANTOM_SETS[phantom_set]
    folder = Path(cache_dir) / f"phantoms-{phantom_set}-{phantom_images}"
    logger.warning(
        "NO dataset_dir WAS GIVEN: using %d PHANTOMS %s, written as DICOM to %s. "
        "For your own data: --dataset_dir /path/to/radiographs",
        phantom_images,
        phantoms.text,
        folder,
    )
    write_phantoms(folder, phantom_images, list(phantoms.labels), seed=phantoms.seed)
    return folder


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
    dataset: LatentDataset,
    autoencoder: Autoencoder,
    scale_factor: float,
    n_prototypes: int = 25,
    threshold: float = 150,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Prototypes:
    """Binarize the training images, cluster them and encode the centres (eq. 11 and theta_c of eq. 12).

    Args:
        dataset: the training split only.
        autoencoder: the same that encodes the images.
        scale_factor: the base's latent scale.
        n_prototypes: number K of clusters.
        threshold: of the binarization, on the 0-255 scale.
        seed: of k-means++.
        device: where to encode.

    Returns:
        the prototypes.
    """
    binary = Binarize(threshold)(dataset.images.float())  # (N, 1, H, W)
    images = torch.as_tensor(ShapePrototypes(n_prototypes=n_prototypes, seed=seed)(binary))  # (K, 1, H, W)
    single = int(((images == 0) | (images == 1)).flatten(1).all(dim=1).sum())
    if single:
        logger.warning(
            "%d of %d prototypes are the outline of one image each, and the adapter will hold them: "
            "lower n_prototypes if the adapter is to leave your house",
            single,
            n_prototypes,
        )
    latents = encode_all(images, autoencoder, device)["mean"] * scale_factor  # (K, C, h, w)
    return Prototypes(images, latents)


class Preparation:
    """Say what was read and leave pictures of it.

    Args:
        output_dir: the run's folder.
        datalist: images and labels.
        train: prepared training split.
        test: prepared held-back split.
        autoencoder: for reconstructions.
        prototypes: shape prototypes.

    Raises:
        ValueError: too few images are held back to measure anything against.
    """

    def __init__(
        self,
        output_dir: str | Path,
        datalist: Datalist,
        train: LatentDataset,
        test: LatentDataset,
        autoencoder: Autoencoder,
        prototypes: Prototypes,
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
        """Write `datalist.json` and `prepared.png`, and log the summary."""
        for line in summarise(self.datalist).splitlines():
            logger.info(line)
        root = os.path.commonpath([os.path.dirname(row["image"]) for row in self.datalist.train + self.datalist.test])

        def relative(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [{**row, "image": os.path.relpath(row["image"], root)} for row in rows]

        listing = {
            "classes": self.datalist.classes,
            "train": relative(self.datalist.train),
            "test": relative(self.datalist.test),
            "rejected": [[os.path.relpath(file, root), reason] for file, reason in self.datalist.rejected],
        }
        with replaced_when_whole(self.output_dir / "datalist.json") as temporary:
            temporary.write_text(json.dumps(listing, indent=1))
        device = next(self.autoencoder.parameters()).device
        again = self.autoencoder.decode(self.train.mean[:PICTURE_COLUMNS].to(device)).cpu()  # (8, 1, H, W)
        rows = [list(self.train.images[:PICTURE_COLUMNS]), list(again), list(self.prototypes.images[:PICTURE_COLUMNS])]
        save_grid(self.output_dir / "prepared.png", rows, ["real", "reconstructed by the autoencoder", "prototypes"])
        logger.info("wrote datalist.json and prepared.png to %s", self.output_dir)
