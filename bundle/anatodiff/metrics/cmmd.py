"""CMMD: the discrepancy of two sets of CLIP features under a Gaussian kernel."""

from __future__ import annotations

import torch

from anatodiff.metrics.discrepancy import MIN_SAMPLES, squared_discrepancy
from anatodiff.metrics.kernel_distance import KernelDistance
from anatodiff.metrics.pairs import Features, checked_pair

__all__ = ["cmmd"]

SIGMA = 10.0
SCALE = 1000.0


def cmmd(x: Features, y: Features, sigma: float = SIGMA, block_size: int = 1024) -> KernelDistance:
    """Estimate 1000 times the squared maximum mean discrepancy with k(a, b) = exp(-|a - b|^2 / (2 sigma^2)).

    It has its name and its scale from embeddings of CLIP ViT-L/14 at 336 pixels, brought to length 1; with other
    features it is a number of its own. The published code counts each sample with itself, which adds
    ``1000 (1/n + 1/m) (1 - mean k)``, five at a few hundred samples of little likeness; this is without it.

    Args:
        x: (n, D) features, n >= 3, finite.
        y: (m, D) features, m >= 3, finite.
        sigma: width of the kernel in units of the features.
        block_size: rows and columns of the kernel matrix in memory at a time.

    Returns:
        value and standard error, both times 1000.

    Raises:
        ValueError: sigma is not above 0, the shapes do not fit, there are too few samples, or a feature is not finite.

    References:
        Jayasumana et al., Rethinking FID: towards a better evaluation metric for image generation, 2024,
        https://arxiv.org/abs/2401.09603.
    """
    if not sigma > 0:
        raise ValueError(f"sigma={sigma} is no width: give a number above 0.")
    first, second = checked_pair(x, y, MIN_SAMPLES)  # (n, D), (m, D)

    def gaussian(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.T  # (n, m)
        return torch.exp(-squares.clamp_min(0) / (2 * sigma**2))

    value, stderr = squared_discrepancy(first, second, gaussian, block_size)
    return KernelDistance(SCALE * value, SCALE * stderr)
