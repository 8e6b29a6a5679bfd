"""Prepared images and their latents, computed once and kept on disk.

A cache file is named by everything that it depends on: the bytes of the images, their order, the labels, the
preprocessing and the autoencoder. Another configuration has another name, so a cache is never used for the wrong one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from anatodiff.autoencoders.codec import LatentCodec
from anatodiff.files import replaced_when_whole, sha256_of
from anatodiff.parallel import main_first
from anatodiff.transforms import radiograph_transforms

logger = logging.getLogger(__name__)

CACHE_VERSION = 2  # to be raised when reading or preprocessing changes its results
ENCODE_BATCH = 8


class ImageDataset:
    """Radiographs in memory: read, resized, cropped.

    Args:
        items: rows of a datalist: {"image": path, "label": int, ...}.
        image_size: side of the square images, in pixels.
        cache_dir: folder of the caches.

    Raises:
        ValueError: there are no items.
    """

    def __init__(self, items: Sequence[dict[str, Any]], image_size: int, cache_dir: str | Path) -> None:
        self.items = list(items)
        if not self.items:
            raise ValueError("a split has no images; give more patients or another test_fraction between 0 and 1")
        parts = [[sha256_of(item["image"]), int(item["label"])] for item in self.items]
        self.key = _key(["images", CACHE_VERSION, image_size, parts])
        stored = cached(Path(cache_dir) / f"images-{self.key}.safetensors", lambda: self._read(image_size))
        self.images: torch.Tensor = stored["images"]
        self.labels: torch.Tensor = stored["labels"]

    def _read(self, image_size: int) -> dict[str, torch.Tensor]:
        # Whether burned-in annotation is allowed was asked when the datalist was made; what is in it is read.
        transform = radiograph_transforms(image_size, allow_burned_in=True)
        images = [transform({"image": item["image"]})["image"].as_tensor() for item in tqdm(self.items, "reading")]
        labels = torch.tensor([int(item["label"]) for item in self.items])
        # Half precision keeps 11 bits: more than the 8 of most files, and a quarter of a gigabyte saved per 2,000.
        return {"images": torch.stack(images).half(), "labels": labels}

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return image (B, 1, H, W) in [0, 1] and label (B,) at `indices` (B,)."""
        return {"image": self.images[indices].float(), "label": self.labels[indices]}


class LatentDataset(ImageDataset):
    """Radiographs as posteriors of an autoencoder: mean and log-variance, so that each step draws a fresh latent.

    Args:
        items: rows of a datalist: {"image": path, "label": int, ...}.
        image_size: side of the square images, in pixels.
        cache_dir: folder of the caches.
        autoencoder: encodes the images.
        device: where to encode.
    """

    def __init__(
        self,
        items: Sequence[dict[str, Any]],
        image_size: int,
        cache_dir: str | Path,
        autoencoder: LatentCodec,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(items, image_size, cache_dir)
        self.key = _key(["latents", CACHE_VERSION, self.key, autoencoder.sha256])
        stored = cached(
            Path(cache_dir) / f"latents-{self.key}.safetensors", lambda: encode_all(self.images, autoencoder, device)
        )
        self.mean: torch.Tensor = stored["mean"]
        self.logvar: torch.Tensor = stored["logvar"]

    def gather(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return mean and logvar (B, C, h, w) and label (B,) at `indices` (B,)."""
        return {"mean": self.mean[indices], "logvar": self.logvar[indices], "label": self.labels[indices]}


@torch.no_grad()
def encode_all(
    images: torch.Tensor,
    autoencoder: LatentCodec,
    device: str | torch.device = "cpu",
) -> dict[str, torch.Tensor]:
    """Encode images in batches.

    Args:
        images: (N, 1, H, W) in [0, 1].
        autoencoder: encoder.
        device: where to encode.

    Returns:
        mean and logvar, each (N, C, H/8, W/8), on the CPU.
    """
    autoencoder = autoencoder.to(device)
    pairs = [autoencoder.encode(batch.float().to(device)) for batch in tqdm(images.split(ENCODE_BATCH), "encoding")]
    mean, logvar = (torch.cat([half.cpu() for half in halves]) for halves in zip(*pairs, strict=True))
    return {"mean": mean.contiguous(), "logvar": logvar.contiguous()}  # a file takes no other order


def latent_scale(dataset: LatentDataset, known: float | None = None) -> float:
    """Compute the scale that gives the latents of a whole training set unit variance.

    Args:
        dataset: the training set.
        known: the scale that a network to train further is used to; it is kept.

    Returns:
        1 / standard deviation of posterior draws over all values, or the known one.
    """
    if known is not None:
        return known
    variance = dataset.mean.double().var() + dataset.logvar.double().exp().mean()
    return float(variance.rsqrt())


def _key(parts: list[Any]) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


def cached(path: Path, compute: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the tensors of `path`, or compute and write them; of several processes one does, the others read."""
    with main_first():
        stored = _stored(path)
        if stored is None:
            stored = compute()
            with replaced_when_whole(path) as temporary:
                save_file(stored, temporary)
        return stored


def _stored(path: Path) -> dict[str, torch.Tensor] | None:
    """Read a cache file; a damaged one is as good as none."""
    if not path.is_file():
        return None
    try:
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        logger.warning("cache %s is damaged (%s): making it anew", path.name, error)
        return None
