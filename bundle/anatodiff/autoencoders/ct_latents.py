"""CT slices as latents, with their contexts."""

from __future__ import annotations

from pathlib import Path

import torch

from anatodiff.autoencoders.codec import LatentCodec
from anatodiff.autoencoders.context import ContextCodec
from anatodiff.autoencoders.ct_dataset import CTDataset
from anatodiff.autoencoders.ct_requests import CTRequests
from anatodiff.autoencoders.latent_cache import ENCODE_BATCH, cache_key, cached, encode_all
from anatodiff.autoencoders.photographs import EmulatedPhotographs


class CTEncoded:
    """CT slices as posteriors of an autoencoder.

    Args:
        slices: the slices, or photographs in their place.
        cache_dir: folder of the caches.
        autoencoder: encodes them.
        device: where to encode.

    Attributes:
        mean: (N, C, h, w).
        logvar: (N, C, h, w).
        key: hash of all that they depend on.
    """

    def __init__(
        self,
        slices: CTDataset | EmulatedPhotographs,
        cache_dir: str | Path,
        autoencoder: LatentCodec,
        device: str | torch.device = "cpu",
    ) -> None:
        self.slices, self.cache_dir = slices, Path(cache_dir)
        self.key = cache_key(["ct latents", slices.key, autoencoder.sha256])
        stored = cached(
            self.cache_dir / f"latents-{self.key}.safetensors",
            lambda: encode_all(slices.images, autoencoder, device),
        )
        self.mean, self.logvar = stored["mean"], stored["logvar"]


class CTLatents:
    """CT slices as a training takes them: posteriors of an autoencoder, and what the network is told of each.

    Args:
        encoded: the slices' posteriors.
        codec: encodes their conditions.

    Attributes:
        slices: the slices themselves.
        context: (N, ...) float32.
        key: hash of all that the rows depend on.
    """

    def __init__(self, encoded: CTEncoded, codec: ContextCodec) -> None:
        self.slices = encoded.slices
        self.items, self.images, self.labels = self.slices.items, self.slices.images, self.slices.labels
        self.mean, self.logvar = encoded.mean, encoded.logvar
        self.key = cache_key([encoded.key, codec.key])
        path = encoded.cache_dir / f"context-{self.key}.safetensors"
        self.context = cached(path, lambda: {"context": context_of(self.slices, codec)})["context"]

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return mean and logvar (B, C, h, w), label (B,) and context (B, ...) at `indices` (B,)."""
        of_all = {"mean": self.mean, "logvar": self.logvar, "label": self.labels, "context": self.context}
        return {name: values[indices] for name, values in of_all.items()}


def context_of(conditions: CTDataset | EmulatedPhotographs | CTRequests, codec: ContextCodec) -> torch.Tensor:
    """Encode conditions in batches.

    Args:
        conditions: slices, or requests of some.
        codec: encodes them.

    Returns:
        (N, ...) float32.
    """
    parts = zip(
        conditions.noise.split(ENCODE_BATCH),
        conditions.mask.split(ENCODE_BATCH),
        conditions.has_noise.split(ENCODE_BATCH),
        conditions.has_mask.split(ENCODE_BATCH),
        strict=True,
    )
    return torch.cat([codec.encode(*part) for part in parts])
