"""MONAI's AutoencoderKL between radiographs and latents, on one channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets import AutoencoderKL
from torch import nn

from anatodiff.autoencoders.codec import LatentCodec


class Autoencoder(LatentCodec):
    """A variational autoencoder of radiographs with values in [0, 1].

    Pixels are folded into channels before the network and unfolded after it: convolutions at full resolution would
    cost most of the time and learn least.

    Args:
        fold: pixels per side that are folded into channels, e.g. 4: 1 x 256 x 256 becomes 16 x 64 x 64; 1 folds none.
        channels: feature channels per resolution; each after the first halves the resolution.
        latent_channels: channels of the latent.
        num_res_blocks: residual blocks per resolution, one number for all or one for each.
        norm_num_groups: groups of the group normalisation; divides all channels.
        attention_levels: resolutions with self-attention after each residual block; None is none.
        with_encoder_nonlocal_attn: self-attention at the end of the encoder.
        with_decoder_nonlocal_attn: self-attention at the beginning of the decoder.
        value_range: what the network's own values are for black and white.

    References:
        Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", https://arxiv.org/abs/2112.10752
    """

    def __init__(
        self,
        fold: int = 4,
        channels: Sequence[int] = (64, 96),
        latent_channels: int = 4,
        num_res_blocks: int | Sequence[int] = 1,
        norm_num_groups: int = 8,
        attention_levels: Sequence[bool] | None = None,
        with_encoder_nonlocal_attn: bool = False,
        with_decoder_nonlocal_attn: bool = False,
        value_range: Sequence[float] = (-1, 1),
    ) -> None:
        super().__init__(latent_channels, factor=fold * 2 ** (len(channels) - 1))
        self.black, self.white = value_range
        if self.black == self.white:
            raise ValueError(f"value_range is {list(value_range)}; black and white must differ")
        levels = (False,) * len(channels) if attention_levels is None else tuple(attention_levels)
        self.settings: dict[str, Any] = {
            "fold": fold,
            "channels": list(channels),
            "latent_channels": latent_channels,
            "num_res_blocks": num_res_blocks if isinstance(num_res_blocks, int) else list(num_res_blocks),
            "norm_num_groups": norm_num_groups,
            "attention_levels": list(levels),
            "with_encoder_nonlocal_attn": with_encoder_nonlocal_attn,
            "with_decoder_nonlocal_attn": with_decoder_nonlocal_attn,
            "value_range": list(value_range),
        }
        self.fold = fold
        self.net = AutoencoderKL(
            spatial_dims=2,
            in_channels=fold**2,
            out_channels=fold**2,
            channels=tuple(channels),
            num_res_blocks=num_res_blocks,
            attention_levels=levels,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            with_encoder_nonlocal_attn=with_encoder_nonlocal_attn,
            with_decoder_nonlocal_attn=with_decoder_nonlocal_attn,
            include_fc=False,
        )

    def posterior(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute mean and log-variance (B, C, h, w) of the latents of images (B, 1, H, W) in [0, 1]."""
        values = (self.white - self.black) * x + self.black  # (B, 1, H, W)
        maps = self.net.encoder(nn.functional.pixel_unshuffle(values, self.fold))  # (B, F, h, w)
        return self.net.quant_conv_mu(maps), self.net.quant_conv_log_sigma(maps)

    def reconstruct(self, z: torch.Tensor) -> torch.Tensor:
        """Decode without the final cut, so that values outside [0, 1] still have a gradient."""
        values = nn.functional.pixel_shuffle(self.net.decode(z), self.fold)  # (B, 1, H, W)
        return (values - self.black) / (self.white - self.black)  # (B, 1, H, W)
