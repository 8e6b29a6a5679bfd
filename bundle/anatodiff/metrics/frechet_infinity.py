"""The Frechet distance that infinitely many samples would have, extrapolated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from anatodiff.metrics.frechet_distance import frechet_distance
from anatodiff.metrics.pairs import Features, checked_pair

__all__ = ["FrechetInfinity", "frechet_infinity"]

SIZES = 5  # of the subsets, evenly spaced in 1 / n
LEAST = 3  # the smallest subset is a third of the set
GROUPS = 5  # of the jackknife
MIN_SAMPLES = 30


@dataclass(frozen=True)
class FrechetInfinity:
    """The extrapolated distance and its standard error, a jackknife over fifths of both sets."""

    value: float
    stderr: float


def frechet_infinity(x: Features, y: Features, seed: int = 0) -> FrechetInfinity:
    """Extrapolate the Frechet distance to infinitely many samples: the intercept of its line over 1 / n.

    Subsets of both sets shrink together, unlike in the paper, whose reference set is as good as infinite. The line
    holds where there are several times as many samples as features; with fewer it takes away most of the bias, not
    all: read it beside that of real images against real ones, as the plain distance.

    Args:
        x: (n, D) features, n >= 30, finite.
        y: (m, D) features, m >= 30, finite.
        seed: of the subsets.

    Returns:
        intercept and standard error; it may be below 0.

    Raises:
        ValueError: the shapes do not fit, there are too few samples, or a feature is NaN or infinite.

    References:
        Chong and Forsyth, Effectively unbiased FID and inception score, 2020, https://arxiv.org/abs/1911.07023.
    """
    first, second = checked_pair(x, y, MIN_SAMPLES)
    rng = np.random.default_rng(seed)
    orders = [torch.from_numpy(rng.permutation(len(side))) for side in (first, second)]
    first, second = (side[order.to(side.device)] for side, order in zip((first, second), orders, strict=True))

    def without(group: int) -> float:
        kept = [side[torch.arange(len(side)) % GROUPS != group] for side in (first, second)]
        return _intercept(kept[0], kept[1], frechet_distance)

    parts = np.array([without(group) for group in range(GROUPS)])
    stderr = np.sqrt((GROUPS - 1) * parts.var())
    return FrechetInfinity(_intercept(first, second, frechet_distance), float(stderr))


def _intercept(
    first: torch.Tensor,
    second: torch.Tensor,
    distance: Callable[[torch.Tensor, torch.Tensor], float],
) -> float:
    whole = min(len(first), len(second))
    sizes = np.round(1 / np.linspace(1 / whole, LEAST / whole, SIZES)).astype(int)
    values = []
    for size in sizes:
        # As many disjoint subsets as there are room for: their mean is less noisy.
        starts = range(0, whole - size + 1, size)
        values.append(np.mean([distance(first[a : a + size], second[a : a + size]) for a in starts]))
    return float(np.polyfit(1 / sizes, values, deg=1)[1])
