"""Kernel distance (KID) between two sets of features, with its standard error."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from anatodiff.metrics.discrepancy import MIN_SAMPLES, squared_discrepancy
from anatodiff.metrics.pairs import Features, checked_pair

__all__ = ["KernelDistance", "kernel_distance"]

DEGREE = 3


@dataclass(frozen=True)
class KernelDistance:
    """An estimate of the squared MMD and its standard error.

    ``value`` is unbiased, so that it may be negative where the two sets come from one distribution.
    """

    value: float
    stderr: float


def kernel_distance(x: Features, y: Features, block_size: int = 1024) -> KernelDistance:
    """Estimate the squared maximum mean discrepancy with the cubic kernel k(a, b) = (a.b / D + 1)^3, without bias.

    The standard error is a jackknife over samples of both sets; both by `squared_discrepancy`.

    Args:
        x: (n, D) features, n >= 3, finite.
        y: (m, D) features, m >= 3, finite.
        block_size: rows and columns of the kernel matrix in memory at a time; it changes the memory, not the value.

    Returns:
        The value and its standard error, both not multiplied by anything (some report 1000 x KID).

    Raises:
        ValueError: the shapes do not fit, there are too few samples, or a feature is NaN or infinite.

    References:
        Binkowski et al., Demystifying MMD GANs, 2018, https://arxiv.org/abs/1801.01401.
    """
    first, second = checked_pair(x, y, MIN_SAMPLES)  # (n, D), (m, D)
    return KernelDistance(*squared_discrepancy(first, second, _cubic, block_size))


def _cubic(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a @ b.T / a.shape[1] + 1.0) ** DEGREE
