"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

# (x_t (B, C, h, w), times (B,)) -> network output (B, C or 2C, h, w)
Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def guided(
    network: nn.Module,
    labels: torch.Tensor,
    null_label: int,
    scale: float,
    latent_channels: int,
) -> Denoiser:
    """Wrap a network so that it is told its labels and pushed away from the unconditional output.

    eps = eps_null + scale (eps_label - eps_null), on all latent channels; the variance output is the labelled one's.

    Args:
        network: called as network(x, timesteps, class_labels=...).
        labels: (B,) class of each image.
        null_label: the label that stands for none.
        scale: 1 is no guidance (one forward per step instead of two), 0 the unconditional model.
        latent_channels: C; the network's output may hold C more channels of variance.

    Returns:
        a function of (x_t, times).
    """

    def plain(x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return network(x, times, class_labels=labels)  # (B, C or 2C, h, w)

    def with_guidance(x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        both = torch.cat([labels, torch.full_like(labels, null_label)])  # (2B,)
        out = network(torch.cat([x, x]), torch.cat([times, times]), class_labels=both)  # (2B, C or 2C, h, w)
        told, untold = out.chunk(2)  # 2 x (B, C or 2C, h, w)
        noise = untold[:, :latent_channels] + scale * (told - untold)[:, :latent_channels]  # (B, C, h, w)
        return torch.cat([noise, told[:, latent_channels:]], dim=1)  # (B, C or 2C, h, w)

    return plain if scale == 1 else with_guidance
