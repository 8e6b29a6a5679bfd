"""How near outputs come to the images that they should be: SSIM, PSNR and NMSE of pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.metrics import PSNRMetric, SSIMMetric

__all__ = ["PairedMeasures", "paired_measures"]


@dataclass(frozen=True)
class PairedMeasures:
    """One number for each pair, (N,) float64.

    Args:
        ssim: structural similarity, 1 for equal images.
        psnr: peak signal-to-noise ratio in dB, infinite for equal images.
        nmse: squared error over the squared target, 0 for equal images.
    """

    ssim: torch.Tensor
    psnr: torch.Tensor
    nmse: torch.Tensor


def paired_measures(output: torch.Tensor, target: torch.Tensor) -> PairedMeasures:
    """Compare each output with its target.

    Args:
        output: (N, C, H, W) or (N, C, D, H, W), in [0, 1].
        target: of the same shape; no image of it is all zero.

    Returns:
        the three measures of each pair, those of the whole set being their means.

    Raises:
        ValueError: the shapes differ or are no batch, or a target is all zero.

    References:
        Wang et al., Image quality assessment: from error visibility to structural similarity, 2004; MONAI's code.
    """
    if output.shape != target.shape or output.ndim not in (4, 5) or len(output) == 0:
        raise ValueError(f"output is {tuple(output.shape)} and target {tuple(target.shape)}; give one batch shape")
    size = target.double().flatten(1).square().sum(dim=1)  # (N,)
    if not bool((size > 0).all()):
        raise ValueError(f"target {int((size == 0).nonzero()[0])} is all zero: its NMSE is not defined; leave it out")
    metrics = (SSIMMetric(output.ndim - 2, reduction="none"), PSNRMetric(max_val=1.0, reduction="none"))
    ssim, psnr = (torch.as_tensor(metric(output.double(), target.double())).flatten() for metric in metrics)  # (N,)
    error = (output.double() - target.double()).flatten(1).square().sum(dim=1)  # (N,)
    return PairedMeasures(ssim, psnr, error / size)
