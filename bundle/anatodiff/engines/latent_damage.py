"""Latents as a diffusion model leaves them, noised or too smooth, for the training of a decoder."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from monai.inferers import Inferer

from anatodiff.autoencoders import LatentCodec
from anatodiff.diffusion import normal_each, uniform_each
from anatodiff.engines.batches import EngineBatch, ReconstructionBatch

SPECTRUM_IMAGES = 64
LEAST_POWER = 1e-8  # mirrored latents have none at the highest frequency, and 0 / 0 is no gain


class Damage(NamedTuple):
    """What happens to the latents of a batch.

    Attributes:
        level: (B, 1, 1, 1) standard deviation of the noise, in that of the latents; 0 leaves a latent as it is.
        smooth: (B, 1, 1, 1) whether the noise is then filtered out as far as a linear filter can.
        noise: (B, C, h, w) standard normal.
    """

    level: torch.Tensor
    smooth: torch.Tensor
    noise: torch.Tensor


class DamagedBatch(ReconstructionBatch):
    """Crops and the posterior's noise as in `ReconstructionBatch`, and for some images damage of their latents.

    Half of the damaged latents are noised, the other half smoothed.

    Args:
        crop_size: side of the crop; 0 takes the whole image.
        latent_channels: channels of the latent.
        factor: pixels per latent pixel.
        seed: the run's seed.
        share: of the images whose latents are damaged, 0 to 1.
        noise: largest level of noise, in standard deviations of the latents; levels are uniform from 0.
        smoothing: largest level of the noise that smoothed latents lack.
    """

    def __init__(
        self,
        crop_size: int,
        latent_channels: int,
        factor: int,
        seed: int,
        share: float = 0.0,
        noise: float = 0.3,
        smoothing: float = 0.8,
    ) -> None:
        super().__init__(crop_size, latent_channels, factor, seed)
        if not 0 <= share <= 1:
            raise ValueError(f"damaged_share is {share}; give 0 to 1")
        self.share, self.levels = share, (noise, smoothing)

    def __call__(
        self,
        batchdata: dict[str, Any],
        device: torch.device,
        non_blocking: bool = False,
    ) -> EngineBatch:
        """Draw crops, noise and damage; the arguments and what is returned are those of `ReconstructionBatch`."""
        images, target, _, found = super().__call__(batchdata, device, non_blocking)
        if self.share:
            at = batchdata["position"]
            draw, size = (uniform_each(self.seed, at, f"damage {what}") for what in ("kind", "level"))  # (B,) each
            smooth = draw < self.share / 2  # (B,)
            level = size * torch.where(smooth, self.levels[1], self.levels[0]) * (draw < self.share)  # (B,)
            noise = normal_each(tuple(found["noise"].shape[1:]), self.seed, at, "damage noise")  # (B, C, h, w)
            level, smooth = (value.view(-1, 1, 1, 1).to(device) for value in (level.float(), smooth))
            found = {**found, "damage": Damage(level, smooth, noise.to(device))}
        return images, target, (), found


class DamagedInferer(Inferer):
    """Encode, draw, damage and decode.

    Smoothed latents are the best linear estimates from noised ones (Wiener filter): what a diffusion model at its
    last steps would leave if it knew nothing but the spectrum. The spectrum is the training latents'.

    Args:
        network: makes the latents of the spectrum.
        images: (N, 1, H, W) training images, of which the first are taken.
        crop_size: side of the training crops in pixels; 0 takes whole images.
    """

    def __init__(self, network: LatentCodec, images: torch.Tensor, crop_size: int) -> None:
        side = crop_size or images.shape[-1]
        device = next(network.parameters()).device
        with torch.no_grad():
            mean, _ = network.encode(images[:SPECTRUM_IMAGES, :, :side, :side].float().to(device))  # (N, C, h, w)
        self.deviation = mean.std()
        self.spectrum = _fourier(mean).abs().square().mean(dim=0).clamp_min(LEAST_POWER)  # (C, 2h, w + 1)

    def __call__(  # type: ignore[override]
        self,
        inputs: torch.Tensor,
        network: LatentCodec,
        noise: torch.Tensor,
        damage: Damage | None = None,
    ) -> dict[str, torch.Tensor]:
        """Reconstruct inputs (B, 1, H, W) with posterior noise (B, C, h, w) and damage of their latents."""
        if damage is None:
            return network(inputs, noise)
        mean, logvar = network.encode(inputs)
        z = self.damaged(mean + (0.5 * logvar).exp() * noise, damage)  # (B, C, h, w)
        return {"reconstruction": network.reconstruct(z), "mean": mean, "logvar": logvar}

    def damaged(self, z: torch.Tensor, damage: Damage) -> torch.Tensor:
        """Damage latents (B, C, h, w)."""
        level = damage.level * self.deviation  # (B, 1, 1, 1)
        noised = z + level * damage.noise  # (B, C, h, w)
        gain = self.spectrum / (self.spectrum + level**2)  # (B, C, 2h, w + 1)
        height, width = z.shape[2:]
        smooth = torch.fft.irfft2(gain * _fourier(noised), s=(2 * height, 2 * width), norm="ortho")  # (B, C, 2h, 2w)
        return torch.where(damage.smooth, smooth[..., :height, :width], noised)  # (B, C, h, w)


def _fourier(z: torch.Tensor) -> torch.Tensor:
    """Transform latents (B, C, h, w), mirrored at their right and lower edge so that they have no jump there."""
    z = torch.cat([z, z.flip(2)], dim=2)  # (B, C, 2h, w)
    return torch.fft.rfft2(torch.cat([z, z.flip(3)], dim=3), norm="ortho")  # (B, C, 2h, w + 1)
