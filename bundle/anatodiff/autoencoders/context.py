"""What a network is told of each CT slice, as one tensor: the context. Zero says nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from anatodiff.autoencoders.codec import LatentCodec

CONDITIONS = ("noise", "mask")
FORMS = ("maps", "embeddings")


@dataclass(frozen=True)
class ContextLayout:
    """How conditions lie in a context.

    Args:
        names: of the conditions, of CONDITIONS, in their order.
        sizes: length of each along dimension 1. Of maps the first channel of each says whether it is told, 1 or 0.
        form: "maps": (B, C, h, w) at the latent's resolution; "embeddings": (B, K, F), a vector for each condition.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    form: str = "maps"

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in CONDITIONS]
        if unknown or not self.names or len(set(self.names)) != len(self.names):
            raise ValueError(f"conditions must be some of {CONDITIONS}, each once, got {list(self.names)}")
        if self.form not in FORMS or len(self.sizes) != len(self.names):
            raise ValueError(f"a context of form {self.form!r} with sizes {self.sizes} is none; the forms are {FORMS}")

    def slices(self) -> dict[str, slice]:
        """Where each condition lies along dimension 1."""
        ends = [sum(self.sizes[: k + 1]) for k in range(len(self.sizes))]
        return {name: slice(end - size, end) for name, size, end in zip(self.names, self.sizes, ends, strict=True)}


class ContextCodec(ABC):
    """From noise maps and masks to a context.

    Args:
        names: of the conditions.
        noise_scale: HU of a noise map that become 1.
        organs: number of organs of a mask.
    """

    layout: ContextLayout

    def __init__(self, names: Sequence[str], noise_scale: float, organs: int) -> None:
        if noise_scale <= 0:
            raise ValueError(f"noise_scale must be above 0 HU, got {noise_scale}")
        self.names, self.noise_scale, self.organs = tuple(names), noise_scale, organs
        self.key: list[str | float] = [*self.names, float(noise_scale), organs]

    def encode(
        self, noise: torch.Tensor, mask: torch.Tensor, has_noise: torch.Tensor, has_mask: torch.Tensor
    ) -> torch.Tensor:
        """Encode the conditions of some slices.

        Args:
            noise: (B, 1, S, S) HU.
            mask: (B, S, S), 0 background and k the k-th organ.
            has_noise: (B,) bool, whether the noise is told.
            has_mask: (B,) bool, whether the organs are told.

        Returns:
            (B, ...) float32; what is not told is zero.
        """
        told = {"noise": has_noise, "mask": has_mask}
        parts = []
        for name in self.names:
            part = self._of_noise(noise.float()) if name == "noise" else self._of_mask(mask)  # (B, c, ...)
            parts.append(part * told[name].to(part).reshape(-1, *[1] * (part.ndim - 1)))  # (B, c, ...)
        return torch.cat(parts, dim=1)

    @abstractmethod
    def _of_noise(self, noise: torch.Tensor) -> torch.Tensor:
        """Encode noise maps (B, 1, S, S)."""

    @abstractmethod
    def _of_mask(self, mask: torch.Tensor) -> torch.Tensor:
        """Encode masks (B, S, S)."""


class MapCodec(ContextCodec):
    """Conditions as maps at the latent's resolution: the mean noise, and the share of each organ, in a latent pixel.

    Args:
        names: of the conditions.
        noise_scale: HU of a noise map that become 1.
        organs: number of organs of a mask.
        factor: pixels of the image along a latent pixel.
    """

    def __init__(self, names: Sequence[str], noise_scale: float, organs: int, factor: int = 8) -> None:
        super().__init__(names, noise_scale, organs)
        self.factor = factor
        self.key = ["maps", factor, *self.key]
        self.layout = ContextLayout(self.names, tuple(2 if name == "noise" else 1 + organs for name in self.names))

    def _of_noise(self, noise: torch.Tensor) -> torch.Tensor:
        return _told(F.avg_pool2d(noise / self.noise_scale, self.factor))  # (B, 2, h, w)

    def _of_mask(self, mask: torch.Tensor) -> torch.Tensor:
        each = [F.avg_pool2d((mask == k + 1).float()[:, None], self.factor) for k in range(self.organs)]  # (B, 1, h, w)
        return _told(torch.cat(each, dim=1))  # (B, 1 + organs, h, w)


class TokenCodec(ContextCodec):
    """Conditions as latents of the autoencoder that encodes the images (section 3.2): z_y of eq. 2 is made of them.

    Args:
        names: of the conditions.
        noise_scale: HU of a noise map that become white.
        organs: number of organs of a mask, which become gray levels.
        autoencoder: encodes them.
        scale_factor: what its latents are multiplied with.
        device: where it is.
    """

    def __init__(
        self,
        names: Sequence[str],
        noise_scale: float,
        organs: int,
        autoencoder: LatentCodec,
        scale_factor: float,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(names, noise_scale, organs)
        self.autoencoder, self.scale_factor, self.device = autoencoder, scale_factor, device
        self.key = ["tokens", autoencoder.sha256, scale_factor, *self.key]
        self.layout = ContextLayout(self.names, (1 + autoencoder.latent_channels,) * len(self.names))

    def _of_noise(self, noise: torch.Tensor) -> torch.Tensor:
        return self._encoded(noise_picture(noise, self.noise_scale))

    def _of_mask(self, mask: torch.Tensor) -> torch.Tensor:
        return self._encoded(mask_picture(mask, self.organs))

    @torch.no_grad()
    def _encoded(self, picture: torch.Tensor) -> torch.Tensor:
        latents = self.autoencoder.to(self.device).encode(picture.to(self.device))[0].cpu()  # (B, C, h, w)
        return _told(latents * self.scale_factor)  # (B, 1 + C, h, w)


def noise_picture(noise: torch.Tensor, noise_scale: float) -> torch.Tensor:
    """Draw noise maps (B, 1, S, S) in HU as images in [0, 1]."""
    return (noise / noise_scale).clamp(0, 1)  # (B, 1, S, S)


def mask_picture(mask: torch.Tensor, organs: int) -> torch.Tensor:
    """Draw masks (B, S, S) as images (B, 1, S, S) in [0, 1], each organ a gray level."""
    return (mask.float() / max(organs, 1))[:, None]  # (B, 1, S, S)


def _told(maps: torch.Tensor) -> torch.Tensor:
    """Put the channel that says "told" before maps (B, c, h, w)."""
    return torch.cat([torch.ones_like(maps[:, :1]), maps], dim=1)  # (B, 1 + c, h, w)
