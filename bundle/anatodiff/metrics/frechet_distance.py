"""Frechet distance (FID) between two sets of features."""

from __future__ import annotations

import torch

from anatodiff.metrics.pairs import Features, checked_pair, float64_blocks, float64_mean

__all__ = ["frechet_distance"]

MIN_SAMPLES = 2  # a covariance divides by n - 1
# Rows of a block over features: a larger one costs memory, a smaller one work, as each block is factored with D rows.
BLOCK_RATIO = 4
MIN_BLOCK = 4096  # rows


def frechet_distance(x: Features, y: Features) -> float:
    """Compute the squared 2-Wasserstein distance of the normal distributions with the mean and covariance of each set.

    ``|mean_x - mean_y|^2 + tr(S_x) + tr(S_y) - 2 tr((S_x S_y)^(1/2))``.

    No square root of a matrix is taken. With X and Y the centred features over sqrt(n - 1) and sqrt(m - 1),
    S_x = X^T X, and the eigenvalues of S_x S_y that are not 0 are the squared singular values of X Y^T: the last trace
    is the sum of the singular values of X Y^T. This holds for any rank, so that fewer samples than features are no
    special case. The value, however, is biased upwards, and at a few hundred samples by more than what is measured:
    compare it only with another one of as many samples.

    Args:
        x: (n, D) features, n >= 2, finite.
        y: (m, D) features, m >= 2, finite.

    Returns:
        The distance, at least 0.

    Raises:
        ValueError: the shapes do not fit, there are too few samples, or a feature is NaN or infinite.

    References:
        Heusel et al., GANs trained by a two time-scale update rule, 2017, https://arxiv.org/abs/1706.08500.
        AnatoDiff, section IV.B.
    """
    first, second = checked_pair(x, y, MIN_SAMPLES)
    means = float64_mean(first), float64_mean(second)  # (D,), (D,)
    left, right = _root(first, means[0]), _root(second, means[1])  # (min(n, D), D), (min(m, D), D)
    between = (means[0] - means[1]).square().sum()
    within = left.square().sum() + right.square().sum() - 2 * torch.linalg.svdvals(left @ right.T).sum()
    return max(0.0, float(between + within))  # equal sets come out at some rounding around 0


def _root(features: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Return some R of at most D rows with R^T R the covariance of the features (n, D) of this mean (D,)."""
    n, d = features.shape
    root = mean.new_zeros(0, d)
    # Not by adding up X^T X: that squares the condition, and directions without variance would be lost in rounding.
    for block in float64_blocks(features, max(BLOCK_RATIO * d, MIN_BLOCK)):
        root = torch.cat([root, (block - mean) / (n - 1) ** 0.5])  # (at most D + block, D)
        if len(root) > d:
            root = torch.linalg.qr(root, mode="r").R  # (D, D)
    return root  # (min(n, D), D)
