"""Repeated trials of several ways to do something: means, and differences of pairs, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean and how far it may be off.

    Args:
        mean: of the values.
        half: half the width of its interval; infinite where a single value tells nothing.
    """

    mean: float
    half: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the mean is further from zero than chance would have it."""
        return abs(self.mean) > self.half


def student_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Find the mean of repeated measurements and its interval by Student's t.

    Args:
        values: one of each repetition, at least one.

    Returns:
        the mean and half the width of its 95 % interval.
    """
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2:
        return Interval(float(found.mean()), float("inf"))
    return Interval(
        float(found.mean()),
        float(stats.sem(found) * stats.t.ppf((1 + CONFIDENCE) / 2, len(found) - 1)),
    )


def paired_difference(values: dict[int, float], reference: dict[int, float]) -> Interval:
    """Find the mean difference of two ways over the seeds that both have, so that what a seed does to both drops out.

    Args:
        values: by seed.
        reference: by seed.

    Returns:
        mean of values less reference, and half the width of its 95 % interval.

    Raises:
        ValueError: they have no seed in common.
    """
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        raise ValueError(f"seeds {sorted(values)} and {sorted(reference)} have none in common to pair by")
    return student_interval([values[seed] - reference[seed] for seed in seeds])
