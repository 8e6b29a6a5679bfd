"""Prepared images and their latents, computed once and kept on disk.

A cache file is named by everything that it depends on: the bytes of the images, their order, the labels, the
preprocessing and the autoencoder. Another configuration has another name, so a cache is never used for the wrong one.
A checksum in its header finds bytes that have changed since.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from anatodiff.autoencoders.codec import LatentCodec
from anatodiff.data import read_radiograph
from anatodiff.draws import generator
from anatodiff.files import remove_parts, replaced_when_whole, sha256_of
from anatodiff.locks import FileLock
from anatodiff.parallel import main_first
from anatodiff.transforms import Augmentation, radiograph_transforms
from anatodiff.weights import hash_of_tensors

logger = logging.getLogger(__name__)

CACHE_VERSION = 2  # to be raised when reading or preprocessing changes its results
ENCODE_BATCH = 8
SCALE_BATCH = 256
DIGEST_KEY = "sha256"


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
        self.digests = [sha256_of(item["image"]) for item in self.items]
        parts = [[digest, int(item["label"])] for digest, item in zip(self.digests, self.items, strict=True)]
        self.key = cache_key(["images", CACHE_VERSION, image_size, parts])
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

    With several versions the rows are those of the images as they are, then those of each augmented version in the
    same order, in half precision; `images` holds the images as they are.

    Args:
        items: rows of a datalist: {"image": path, "label": int, ...}.
        image_size: side of the square images, in pixels.
        cache_dir: folder of the caches.
        autoencoder: encodes the images.
        device: where to encode.
        versions: versions of each image, at least 1, the first as it is.
        augmentation: makes the others; None: `Augmentation` as it comes.

    Raises:
        ValueError: there are no items, or no version.
    """

    def __init__(
        self,
        items: Sequence[dict[str, Any]],
        image_size: int,
        cache_dir: str | Path,
        autoencoder: LatentCodec,
        device: str | torch.device = "cpu",
        versions: int = 1,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__(items, image_size, cache_dir)
        if versions < 1:
            raise ValueError(f"augmented_versions is {versions}; give at least 1, which is the image as it is")
        self.key = cache_key(["latents", CACHE_VERSION, self.key, autoencoder.sha256])
        folder = Path(cache_dir)
        stored = cached(
            folder / f"latents-{self.key}.safetensors", lambda: encode_all(self.images, autoencoder, device)
        )
        if versions > 1:
            settings = augmentation or Augmentation()
            found = [{name: values.half() for name, values in stored.items()}]
            # A file for each version: a killed run loses one at most, and more versions keep those that are there.
            for version in range(1, versions):
                key = cache_key(["version", version, self.key, asdict(settings)])
                images = self._augmented(settings, image_size, version)
                encode = partial(encode_batches, images, autoencoder, device, torch.float16)
                found.append(cached(folder / f"latents-{key}.safetensors", encode))
            stored = {name: torch.cat([one[name] for one in found]) for name in ("mean", "logvar")}
            self.labels = self.labels.repeat(versions)
            self.key = cache_key(["versions", versions, self.key, asdict(settings)])
        self.mean: torch.Tensor = stored["mean"]
        self.logvar: torch.Tensor = stored["logvar"]

    def _augmented(self, augmentation: Augmentation, size: int, version: int) -> Iterator[torch.Tensor]:
        """Make one version of all images, in batches (B, 1, H, W); each image's draws depend on its bytes alone."""
        batch: list[torch.Tensor] = []
        for item, digest in zip(tqdm(self.items, f"version {version}"), self.digests, strict=True):
            image = torch.as_tensor(read_radiograph(item["image"], allow_burned_in=True).pixels)[None]  # (1, H, W)
            batch.append(augmentation(image, size, generator(0, version, digest)))
            if len(batch) == ENCODE_BATCH:
                yield torch.stack(batch)
                batch = []
        if batch:
            yield torch.stack(batch)

    def gather(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return mean and logvar (B, C, h, w) and label (B,) at `indices` (B,)."""
        mean, logvar = self.mean[indices].float(), self.logvar[indices].float()  # (B, C, h, w) each
        return {"mean": mean, "logvar": logvar, "label": self.labels[indices]}


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
    return encode_batches(tqdm(images.split(ENCODE_BATCH), "encoding"), autoencoder, device)


@torch.no_grad()
def encode_batches(
    batches: Iterable[torch.Tensor],
    autoencoder: LatentCodec,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, torch.Tensor]:
    """Encode batches of images.

    Args:
        batches: (B, 1, H, W) each, in [0, 1].
        autoencoder: encoder.
        device: where to encode.
        dtype: of the result.

    Returns:
        mean and logvar, each (N, C, H/8, W/8), on the CPU.
    """
    autoencoder = autoencoder.to(device)
    pairs = [autoencoder.encode(batch.float().to(device)) for batch in batches]
    mean, logvar = (torch.cat([half.cpu().to(dtype) for half in halves]) for halves in zip(*pairs, strict=True))
    return {"mean": mean.contiguous(), "logvar": logvar.contiguous()}  # a file takes no other order


class Posteriors(Protocol):
    """Latents of a data set, (N, C, h, w) each."""

    mean: torch.Tensor
    logvar: torch.Tensor


def latent_scale(dataset: Posteriors, known: float | None = None) -> float:
    """Compute the scale that gives the latents of a whole training set unit variance.

    Args:
        dataset: the training set.
        known: the scale that a network to train further is used to; it is kept.

    Returns:
        1 / standard deviation of posterior draws over all values, or the known one.
    """
    if known is not None:
        return known
    # In pieces: a large set in double precision at once would take gigabytes.
    sums = torch.zeros(3, dtype=torch.float64)
    for mean, logvar in zip(dataset.mean.split(SCALE_BATCH), dataset.logvar.split(SCALE_BATCH), strict=True):
        values = mean.double()
        sums += torch.stack([values.sum(), values.square().sum(), logvar.double().exp().sum()])
    count = dataset.mean.numel()
    total, squares, noise = sums.tolist()
    return ((squares - total**2 / count) / (count - 1) + noise / dataset.logvar.numel()) ** -0.5


def cache_key(parts: list[Any]) -> str:
    """Name a cache by all that it depends on, as JSON."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


def cached(path: Path, compute: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the tensors of `path`, or compute and write them.

    Of several processes one computes and the others read, whether they belong to one run or not.

    Args:
        path: cache file.
        compute: makes the tensors; not called where the file is whole.

    Returns:
        name -> tensor.

    Raises:
        OSError: the file cannot be written; found out before anything is computed, unless the disk is full.
    """
    with main_first():
        stored = _stored(path)
        if stored is None:
            with _alone(path) as has_waited:
                stored = _stored(path) if has_waited else None
                if stored is None:
                    stored = compute()
                    _store(path, stored)
        return stored


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Hold the lock of a cache file, and say whether another process has held it before."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        has_waited = not lock.take()
        if has_waited:
            logger.info("process %s makes the cache %s: waiting for it", lock.holder(), path.name)
            lock.take(wait=True)
    except OSError as error:
        raise OSError(f"{path.parent}: cannot be written ({error.strerror}); give another cache_dir") from error
    try:
        remove_parts(path.parent, path.name)  # of processes that were killed
        yield has_waited
    finally:
        lock.release()


def _store(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    try:
        with replaced_when_whole(path) as temporary:
            save_file(tensors, temporary, metadata={DIGEST_KEY: _digest(tensors)})
    except SafetensorError as error:  # which hides the system's error
        raise OSError(f"{path}: cannot be written ({error}); free some space or give another cache_dir") from error


def _stored(path: Path) -> dict[str, torch.Tensor] | None:
    """Read a cache file; a damaged one is as good as none."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            digest = (file.metadata() or {}).get(DIGEST_KEY)
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
        if digest == _digest(tensors):
            return tensors
        problem: object = "it has no checksum" if digest is None else "its checksum is wrong"
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        problem = error
    logger.warning("cache %s is damaged (%s): making it anew", path.name, problem)
    return None


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    """Hash tensors with their types: safetensors notices a file that is too short, but no byte that has changed."""
    types = sorted(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
    return hashlib.sha256(f"{hash_of_tensors(tensors)} {types}".encode()).hexdigest()
