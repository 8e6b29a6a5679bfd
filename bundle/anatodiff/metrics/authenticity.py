"""Authenticity: the share of samples that are no nearer to a training image than training images are to each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import stats

from anatodiff.metrics.pairs import Features, checked_pair

__all__ = ["Authenticity", "authenticity"]

CONFIDENCE = 0.95
BLOCK = 512
MIN_TRAINING = 3


@dataclass(frozen=True)
class Authenticity:
    """How samples lie to the training images.

    Args:
        value: share of authentic samples, in [0, 1]; half where samples and training images are of one distribution.
        low: lower end of its 95 % interval (Clopper and Pearson).
        high: upper end.
        ratio: (m,) distance to the nearest training image over that to the second nearest: near 0 for a copy of one,
            near 1 between two.
    """

    value: float
    low: float
    high: float
    ratio: torch.Tensor


def authenticity(training: Features, synthetic: Features) -> Authenticity:
    """Compare each sample's distance to its nearest training image with that image's to its own nearest one.

    A sample is authentic if the former is the larger: ``|s - x| > min_{x' not x} |x - x'|`` with x the nearest to s.

    Args:
        training: (n, D) features, n >= 3, finite.
        synthetic: (m, D) features, m >= 1, finite.

    Returns:
        the share, its interval, and the ratios of distances.

    Raises:
        ValueError: the shapes do not fit, there are too few samples, or a feature is NaN or infinite.

    References:
        Alaa et al., How faithful is your synthetic data?, 2022, https://arxiv.org/abs/2102.08921, section 3.3.
    """
    known, samples = (side.double() for side in checked_pair(training, synthetic, 1, ("training", "synthetic")))
    if len(known) < MIN_TRAINING:
        raise ValueError(f"training has {len(known)} samples: distances among them need at least {MIN_TRAINING}.")
    # The first of a training image's two nearest is itself.
    among = torch.cat([torch.cdist(block, known).topk(2, largest=False).values[:, 1] for block in known.split(BLOCK)])
    found = [torch.cdist(block, known).topk(2, largest=False) for block in samples.split(BLOCK)]
    distances, index = torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])  # (m, 2)
    count = int((distances[:, 0] > among[index[:, 0]]).sum())
    ends = stats.binomtest(count, len(samples)).proportion_ci(CONFIDENCE)
    ratio = distances[:, 0] / distances[:, 1].clamp_min(torch.finfo(torch.float64).tiny)  # (m,)
    return Authenticity(count / len(samples), float(ends.low), float(ends.high), ratio)
