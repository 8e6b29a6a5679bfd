"""Edges of latents: what the anatomical loss, which is blind to where things lie, leaves open."""

from __future__ import annotations

import torch
from torch import nn

# In units of the latent's standard deviation: slopes below it count as flat, so that the root has a gradient.
FLAT = 1e-3


class LatentEdgeLoss(nn.Module):
    """Mean absolute error of the gradient's magnitude: mean | |grad x| - |grad y| |, |grad x|^2 = dx^2 + dy^2 + FLAT^2.

    Differences run to the next pixel on the right and below. The direction of a slope does not count, nor a constant
    that is added to a channel. It stays in the latent space: nothing is decoded.

    References:
        AnatoDiff, section III.C and the outlook of the discussion, name edge losses; the form is ours.
    """

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare each sample of ``input`` with the same sample of ``target``.

        Args:
            input: (B, C, h, w) scaled latents.
            target: (B, C, h, w) scaled latents. No gradient flows to it.

        Returns:
            (B,) mean over channels and pixels.

        Raises:
            ValueError: the shapes differ, or a side has one pixel only.
        """
        if input.shape != target.shape or input.ndim != 4 or min(input.shape[2:]) < 2:
            raise ValueError(
                f"input {tuple(input.shape)} and target {tuple(target.shape)}: give one (B, C, h, w) shape, h and w "
                "at least 2."
            )
        return (_slope(input) - _slope(target.detach())).abs().flatten(1).mean(1)  # (B,)


def _slope(latents: torch.Tensor) -> torch.Tensor:
    across = latents[:, :, :-1].diff(dim=3)  # (B, C, h - 1, w - 1)
    down = latents[:, :, :, :-1].diff(dim=2)  # (B, C, h - 1, w - 1)
    return (across**2 + down**2 + FLAT**2).sqrt()
