"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

# (x_t (B, C, h, w), times (B,), level in (0, 1]: 1 is noise) -> network output (B, C or 2C, h, w)
Denoiser = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


@dataclass(frozen=True)
class Guidance:
    """How far to push a sample away from what the network says without a label.

    Args:
        scale: 1 is no guidance (one forward per step instead of two), 0 the unconditional model.
        channels: latent channels that are guided; None: all. The published DiT samples guided the first three.
        interval: shares of the schedule's steps, from 0 (clean) to 1 (noise), between which guidance acts.

    References:
        Ho and Salimans, https://arxiv.org/abs/2207.12598; Kynkaanniemi et al., https://arxiv.org/abs/2404.07724
    """

    scale: float = 1.0
    channels: Sequence[int] | None = None
    interval: Sequence[float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise ValueError(f"guidance_scale must not be negative, got {self.scale}; 1 is no guidance")
        if len(self.interval) != 2 or not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise ValueError(f"guidance_interval must be two rising numbers in 0..1, got {list(self.interval)}")
        if self.channels is not None and (not self.channels or min(self.channels) < 0):
            raise ValueError(f"guidance_channels must name latent channels from 0, got {list(self.channels)}")


def guided(
    network: nn.Module,
    labels: torch.Tensor,
    null_label: int,
    guidance: Guidance,
    latent_channels: int,
    context: torch.Tensor | None = None,
) -> Denoiser:
    """Wrap a network so that it is told its labels and conditions and pushed away from the unconditional output.

    out = out_null + scale (out_label - out_null) on the guided channels; the variance output is the labelled one's.

    Args:
        network: called as network(x, timesteps, context=..., class_labels=...).
        labels: (B,) class of each image.
        null_label: the label that stands for none.
        guidance: scale, channels and interval.
        latent_channels: C; the network's output may hold C more channels of variance.
        context: (B, ...) conditions, zero where nothing is told; None: none.

    Returns:
        a function of (x_t, times, level).
    """
    channels = range(latent_channels) if guidance.channels is None else guidance.channels
    if max(channels) >= latent_channels:
        raise ValueError(f"guidance_channels {list(channels)} has one outside 0..{latent_channels - 1}")
    pushed = torch.zeros(2 * latent_channels, device=labels.device)
    pushed[list(channels)] = guidance.scale - 1  # out_label + (scale - 1) (out_label - out_null)
    low, high = guidance.interval

    def denoise(x: torch.Tensor, times: torch.Tensor, level: float) -> torch.Tensor:
        if guidance.scale == 1 or not low <= level <= high:
            return network(x, times, context=context, class_labels=labels)  # (B, C or 2C, h, w)
        both = torch.cat([labels, torch.full_like(labels, null_label)])  # (2B,)
        told_of = None if context is None else torch.cat([context, torch.zeros_like(context)])  # (2B, ...)
        twice = torch.cat([x, x]), torch.cat([times, times])
        out = network(*twice, context=told_of, class_labels=both)  # (2B, C or 2C, h, w)
        told, untold = out.chunk(2)  # 2 x (B, C or 2C, h, w)
        push = pushed[: out.shape[1]].to(out.dtype).reshape(1, -1, 1, 1)  # (1, C or 2C, 1, 1)
        return told + push * (told - untold)  # (B, C or 2C, h, w)

    return denoise
