"""What every autoencoder offers to the rest, whoever trained it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import nn

from anatodiff.weights import WeightsError

LOGVAR_LIMITS = (-30.0, 20.0)


class LatentCodec(nn.Module, ABC):
    """Between radiographs in [0, 1] and latents; a subclass says how, this class keeps the ranges.

    Args:
        latent_channels: channels of the latent.
        factor: pixels per latent pixel, along each side.
        scaling_factor: what the latents are multiplied with before a DiT sees them, where it was published with the
            weights; None has it computed from the training set.
    """

    def __init__(self, latent_channels: int, factor: int, scaling_factor: float | None = None) -> None:
        super().__init__()
        self.latent_channels, self.factor, self.scaling_factor = latent_channels, factor, scaling_factor
        self.sha256 = ""  # of the weights that make latents, or of their file; empty while untrained

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode images to the mean and log-variance of their latents.

        Args:
            x: (B, 1, H, W) in [0, 1]; H and W are multiples of `factor`.

        Returns:
            mean and log-variance, each (B, C, H/factor, W/factor).

        Raises:
            ValueError: x has another shape.
        """
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(
                f"the autoencoder takes (B, 1, H, W) with H, W multiples of {self.factor}, got {tuple(x.shape)}"
            )
        mean, logvar = self.posterior(x)  # (B, C, h, w) each
        return mean, logvar.clamp(*LOGVAR_LIMITS)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Decode latents to images.

        Args:
            z: (B, C, h, w), not scaled.

        Returns:
            (B, 1, H, W), cut to [0, 1].
        """
        return self.reconstruct(z).clamp(0, 1)  # (B, 1, H, W)

    def forward(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Encode, draw a latent and decode it.

        Args:
            x: (B, 1, H, W) in [0, 1].
            noise: (B, C, h, w) standard normal; None takes the posterior's mean.

        Returns:
            reconstruction (B, 1, H, W), not cut to [0, 1], mean and logvar (B, C, h, w).
        """
        mean, logvar = self.encode(x)
        z = mean if noise is None else mean + (0.5 * logvar).exp() * noise  # (B, C, h, w)
        return {"reconstruction": self.reconstruct(z), "mean": mean, "logvar": logvar}

    @abstractmethod
    def posterior(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute mean and log-variance (B, C, h, w) of the latents of images (B, 1, H, W) in [0, 1]."""

    @abstractmethod
    def reconstruct(self, z: torch.Tensor) -> torch.Tensor:
        """Decode without the final cut, so that values outside [0, 1] still have a gradient."""


def load_strictly(module: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Load tensors into a module, all of them and no others.

    Args:
        module: network.
        tensors: by the module's own names.
        path: where they come from, for the message.

    Raises:
        WeightsError: names or shapes differ.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise WeightsError(f"{path}: the tensors are of another network ({first}); give the right file") from error
