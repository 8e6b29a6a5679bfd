"""How many of a set of images are copies: nearer to a training image than other real images ever come."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import stats

SIDE = 64  # pixels: fine enough for ribs, coarse enough that noise and a shift of a pixel hide nothing
CONFIDENCE = 0.95
BATCH = 256


@dataclass(frozen=True)
class CopyRate:
    """Share of images that are copies.

    Args:
        value: share of the images.
        low: lower end of its 95 % interval (Clopper and Pearson).
        high: upper end.
    """

    value: float
    low: float
    high: float


def pixel_features(images: torch.Tensor) -> torch.Tensor:
    """Describe images by their pixels at 64 x 64, so that cosines of these are correlations.

    Args:
        images: (N, 1, H, W) in [0, 1].

    Returns:
        (N, 4096) with mean zero in each row.
    """
    small = torch.nn.functional.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
    flat = small.flatten(1)  # (N, 4096)
    return flat - flat.mean(1, keepdim=True)


def nearest(features: torch.Tensor, training: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find for each image the most similar training image.

    Args:
        features: (N, D) of the images.
        training: (M, D) of the training images.

    Returns:
        cosine similarity (N,) and index (N,) of the nearest.
    """
    known = torch.nn.functional.normalize(training, dim=1)  # (M, D)
    found = [
        (torch.nn.functional.normalize(batch, dim=1) @ known.T).max(dim=1)  # (B,)
        for batch in features.split(BATCH)
    ]
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])


def copy_rate(copied: torch.Tensor) -> CopyRate:
    """Count copies.

    Args:
        copied: (N,) bool: images that are nearer to a training image than any held-out one is, in one view or another.

    Returns:
        the share and its interval.
    """
    count = int(copied.sum())
    ends = stats.binomtest(count, len(copied)).proportion_ci(CONFIDENCE)
    return CopyRate(count / len(copied), float(ends.low), float(ends.high))
