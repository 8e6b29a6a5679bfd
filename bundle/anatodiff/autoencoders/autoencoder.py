"""The autoencoder between radiographs and latents: MONAI's AutoencoderKL behind one small interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import AutoencoderKL
from torch import nn

from anatodiff.weights import load_weights, save_weights, shipped

SHIPPED_NAME = "autoencoder.safetensors"
LOGVAR_LIMITS = (-30.0, 20.0)


class Autoencoder(nn.Module):
    """A variational autoencoder of radiographs with values in [0, 1].

    Pixels are folded into channels before the network and unfolded after it: convolutions at full resolution would
    cost most of the time and learn least.

    Args:
        fold: pixels per side that are folded into channels, e.g. 4: 1 x 256 x 256 becomes 16 x 64 x 64.
        channels: feature channels per resolution; each after the first halves the resolution.
        latent_channels: channels of the latent.
        num_res_blocks: residual blocks per resolution.
        norm_num_groups: groups of the group normalisation; divides all channels.

    References:
        Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", https://arxiv.org/abs/2112.10752
    """

    def __init__(
        self,
        fold: int = 4,
        channels: tuple[int, ...] = (64, 96),
        latent_channels: int = 4,
        num_res_blocks: int = 1,
        norm_num_groups: int = 8,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "fold": fold,
            "channels": list(channels),
            "latent_channels": latent_channels,
            "num_res_blocks": num_res_blocks,
            "norm_num_groups": norm_num_groups,
        }
        self.latent_channels = latent_channels
        self.fold = fold
        self.factor = fold * 2 ** (len(channels) - 1)
        self.sha256 = ""  # of the file that the weights come from; empty while untrained
        self.net = AutoencoderKL(
            spatial_dims=2,
            in_channels=fold**2,
            out_channels=fold**2,
            channels=tuple(channels),
            num_res_blocks=(num_res_blocks,) * len(channels),
            attention_levels=(False,) * len(channels),
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
            include_fc=False,
        )

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode images to the mean and log-variance of their latents.

        Args:
            x: (B, 1, H, W) in [0, 1]; H and W are multiples of `factor`.

        Returns:
            mean and log-variance, each (B, C, H/8, W/8).
        """
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(
                f"the autoencoder takes (B, 1, H, W) with H, W multiples of {self.factor}, got {tuple(x.shape)}"
            )
        h = self.features(x)  # (B, F, h, w)
        mean = self.net.quant_conv_mu(h)  # (B, C, h, w)
        logvar = self.net.quant_conv_log_sigma(h).clamp(*LOGVAR_LIMITS)  # (B, C, h, w)
        return mean, logvar

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the encoder's last feature maps, before they become a latent; x (B, 1, H, W) -> (B, F, h, w)."""
        return self.net.encoder(nn.functional.pixel_unshuffle(2 * x - 1, self.fold))  # (B, F, h, w)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Decode latents to images.

        Args:
            z: (B, C, h, w), not scaled.

        Returns:
            (B, 1, 8h, 8w), cut to [0, 1].
        """
        return self.reconstruct(z).clamp(0, 1)  # (B, 1, H, W)

    def reconstruct(self, z: torch.Tensor) -> torch.Tensor:
        """Decode without the final cut, so that values outside [0, 1] still have a gradient."""
        return (nn.functional.pixel_shuffle(self.net.decode(z), self.fold) + 1) / 2  # (B, 1, H, W)

    def forward(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Encode, draw a latent and decode it.

        Args:
            x: (B, 1, H, W) in [0, 1].
            noise: (B, C, H/8, W/8) standard normal; None takes the posterior's mean.

        Returns:
            reconstruction (B, 1, H, W), mean and logvar (B, C, H/8, W/8).
        """
        mean, logvar = self.encode(x)
        z = mean if noise is None else mean + (0.5 * logvar).exp() * noise
        return {"reconstruction": self.reconstruct(z), "mean": mean, "logvar": logvar}


def save_autoencoder(path: str | Path, autoencoder: Autoencoder, notes: dict[str, Any], half: bool = True) -> str:
    """Write an autoencoder.

    Args:
        path: .safetensors file.
        autoencoder: network to write.
        notes: how it was trained (data, steps, seed), kept in the header.
        half: store in fp16.

    Returns:
        SHA-256 of the file.
    """
    settings = {"kind": "autoencoder", "network": autoencoder.settings, "notes": notes}
    return save_weights(path, dict(autoencoder.state_dict()), settings, half=half)


def load_autoencoder(path: str | Path | None = None) -> Autoencoder:
    """Read an autoencoder, frozen and in evaluation mode.

    Args:
        path: .safetensors file; None takes the one that ships with the bundle.

    Returns:
        the network; `sha256` is the file's hash.

    Raises:
        WeightsError: the file is missing or is no autoencoder.
    """
    weights = load_weights(shipped(SHIPPED_NAME) if path is None else path, kind="autoencoder")
    autoencoder = Autoencoder(**weights.settings["network"])
    autoencoder.load_state_dict(weights.tensors)
    autoencoder.sha256 = weights.sha256
    return autoencoder.eval().requires_grad_(False)
