"""Density and coverage: how well samples sit among the real ones, and how many of the real ones have any near them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from anatodiff.metrics.neighbours import memberships
from anatodiff.metrics.pairs import Features, checked_pair

__all__ = ["DensityCoverage", "density_coverage"]


@dataclass(frozen=True)
class DensityCoverage:
    """Two numbers.

    Args:
        density: real balls that hold a synthetic sample, over k; at least 0, may exceed 1, and is 1 in expectation
            where both sets are of one distribution.
        coverage: share of the real balls that hold a synthetic sample, in [0, 1]; in that case, and where both sets
            are as large, 1 - 2^-k.
    """

    density: float
    coverage: float


def density_coverage(real: Features, synthetic: Features, k: int = 5) -> DensityCoverage:
    """Compute density and coverage with balls around the real samples only, so that synthetic outliers count little.

    With B_i the ball around the real sample i out to its k-th nearest neighbour among the real ones,
    ``density = 1 / (k m) sum_j sum_i [s_j in B_i]`` and ``coverage = 1 / n sum_i [some s_j in B_i]``.

    Args:
        real: (n, D) features, n > k, finite.
        synthetic: (m, D) features, finite.
        k: which neighbour sets the radius.

    Returns:
        both.

    Raises:
        ValueError: k is below 1, the shapes do not fit, there are too few samples, or a feature is NaN or infinite.

    References:
        Naeem et al., Reliable fidelity and diversity metrics for generative models, 2020,
        https://arxiv.org/abs/2002.09797.
    """
    if k < 1:
        raise ValueError(f"k={k} is no number of neighbours: give at least 1.")
    first, second = checked_pair(real, synthetic, 1, ("real", "synthetic"))
    if len(first) <= k:
        raise ValueError(f"real has {len(first)} samples: {k} nearest neighbours need at least {k + 1}.")
    inside, covered = 0, torch.zeros(len(first), dtype=torch.bool, device=first.device)
    for balls in memberships(second, first, k):
        inside += int(balls.sum())
        covered |= balls.any(dim=0)
    return DensityCoverage(inside / (k * len(second)), float(covered.double().mean()))
