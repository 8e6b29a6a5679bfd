"""Improved precision and recall: how many samples look real, and how much of what is real they reach."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from anatodiff.metrics.neighbours import memberships
from anatodiff.metrics.pairs import Features, checked_pair

__all__ = ["PrecisionRecall", "improved_precision_recall"]


@dataclass(frozen=True)
class PrecisionRecall:
    """Two shares in [0, 1]: of synthetic samples within the real manifold, and of real ones within the synthetic."""

    precision: float
    recall: float


def improved_precision_recall(real: Features, synthetic: Features, k: int = 3) -> PrecisionRecall:
    """Compute precision and recall with manifolds made of balls around the samples.

    The manifold of a set is the union of one ball around each sample that reaches to its k-th nearest neighbour among
    the others. A sample on the edge of a ball is within it. Equal samples are neighbours at distance 0.

    Args:
        real: (n, D) features, n > k, finite.
        synthetic: (m, D) features, m > k, finite.
        k: which neighbour sets the radius; a larger one gives larger manifolds and larger shares.

    Returns:
        precision and recall.

    Raises:
        ValueError: k is below 1, the shapes do not fit, a set has no k-th neighbours, or a feature is NaN or infinite.

    References:
        Kynkaanniemi et al., Improved precision and recall metric for assessing generative models, 2019,
        https://arxiv.org/abs/1904.06991. AnatoDiff, section IV.B.
    """
    if k < 1:
        raise ValueError(f"k={k} is no number of neighbours: give at least 1.")
    first, second = checked_pair(real, synthetic, k + 1, ("real", "synthetic"))
    return PrecisionRecall(precision=_share_within(second, first, k), recall=_share_within(first, second, k))


def _share_within(samples: torch.Tensor, manifold: torch.Tensor, k: int) -> float:
    within = [balls.any(dim=1) for balls in memberships(samples, manifold, k)]
    return float(torch.cat(within).double().mean())
