"""Kernel distance (KID) between two sets of features, with its standard error."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from anatodiff.metrics.pairs import Features, checked_pair

__all__ = ["KernelDistance", "kernel_distance"]

DEGREE = 3
# Leaving one sample out must leave two: the unbiased mean over pairs divides by n - 1.
MIN_SAMPLES = 3


@dataclass(frozen=True)
class KernelDistance:
    """An estimate of the squared MMD and its standard error.

    ``value`` is unbiased, so that it may be negative where the two sets come from one distribution.
    """

    value: float
    stderr: float


def kernel_distance(x: Features, y: Features, block_size: int = 1024) -> KernelDistance:
    """Estimate the squared maximum mean discrepancy with the cubic kernel k(a, b) = (a.b / D + 1)^3, without bias.

    With S the sums of k over all ordered pairs of different samples,
    ``value = S_xx / (n (n - 1)) + S_yy / (m (m - 1)) - 2 S_xy / (n m)``.

    ``stderr`` is the two-sample jackknife over samples: with v_i the value without x_i, w_j the value without y_j and
    bars for their means,
    ``stderr^2 = (n - 1) / n * sum_i (v_i - v_bar)^2 + (m - 1) / m * sum_j (w_j - w_bar)^2``.
    All v_i and w_j follow from the row sums of k, at no cost. Where both sets come from one distribution this is too
    large rather than too small, by about the square root of two.

    Args:
        x: (n, D) features, n >= 3, finite.
        y: (m, D) features, m >= 3, finite.
        block_size: rows of the kernel matrix in memory at a time; it changes the memory, not the value.

    Returns:
        The value and its standard error, both not multiplied by anything (some report 1000 x KID).

    Raises:
        ValueError: the shapes do not fit, there are too few samples, or a feature is NaN or infinite.

    References:
        Binkowski et al., Demystifying MMD GANs, 2018, https://arxiv.org/abs/1801.01401.
        Gretton et al., A kernel two-sample test, 2012, eq. 3.
    """
    if block_size < 1:
        raise ValueError(f"block_size={block_size} is not a positive number of rows.")
    first, second = checked_pair(x, y, MIN_SAMPLES)  # (n, D), (m, D) float64
    xx, yy = _row_sums(first, first, block_size)[0], _row_sums(second, second, block_size)[0]
    xx, yy = xx - _self_kernel(first), yy - _self_kernel(second)  # (n,), (m,) without the pairs of a sample with itself
    xy, yx = _row_sums(first, second, block_size)  # (n,), (m,)
    n, m = len(first), len(second)
    total_xx, total_yy, total_xy = xx.sum(), yy.sum(), xy.sum()
    mean_xx, mean_yy = total_xx / (n * (n - 1)), total_yy / (m * (m - 1))
    value = mean_xx + mean_yy - 2 * total_xy / (n * m)
    # A sample leaves the sum over ordered pairs twice, as a row and as a column.
    without_x = (total_xx - 2 * xx) / ((n - 1) * (n - 2)) + mean_yy - 2 * (total_xy - xy) / ((n - 1) * m)  # (n,)
    without_y = mean_xx + (total_yy - 2 * yy) / ((m - 1) * (m - 2)) - 2 * (total_xy - yx) / (n * (m - 1))  # (m,)
    variance = (n - 1) * without_x.var(correction=0) + (m - 1) * without_y.var(correction=0)
    return KernelDistance(float(value), float(variance.sqrt()))


def _kernel(dot: torch.Tensor, n_features: int) -> torch.Tensor:
    return (dot / n_features + 1.0) ** DEGREE


def _self_kernel(features: torch.Tensor) -> torch.Tensor:
    return _kernel(features.square().sum(dim=1), features.shape[1])  # (n,)


def _row_sums(a: torch.Tensor, b: torch.Tensor, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the kernel matrix over b for each sample of a, and over a for each sample of b."""
    over_b, over_a = [], b.new_zeros(len(b))
    for block in a.split(block_size):
        kernel = _kernel(block @ b.T, a.shape[1])  # (block, m)
        over_b.append(kernel.sum(dim=1))
        over_a += kernel.sum(dim=0)
    return torch.cat(over_b), over_a
