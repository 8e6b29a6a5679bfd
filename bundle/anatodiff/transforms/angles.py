"""Angles of projections, folded by the symmetries of the square, so that one grid serves up to eight of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

RIGHT_ANGLE, HALF_TURN, FULL_TURN = 90.0, 180.0, 360.0  # degrees
# Angles that fold onto the same one up to this are computed together, degrees; float64 rounds at 360 to 6e-14.
SAME_ANGLE_DECIMALS = 12
# Symmetric images are computed together while at most this share more projections than asked for come out.
STACK_LIMIT = 1.25
Symmetry = Callable[[torch.Tensor], torch.Tensor]


class AngleGroup(NamedTuple):
    """Angles that share their grids: `angle[b, k]` is the place of the angle bases[b] under symmetries[k], or -1."""

    symmetries: list[int]
    bases: list[float]
    angle: np.ndarray


def _flip_rows(x: torch.Tensor) -> torch.Tensor:
    return x.flip(-2)


def _flip_columns(x: torch.Tensor) -> torch.Tensor:
    return x.flip(-1)


# An angle is a base in 0..45 degrees under one of eight symmetries of the square grid, in this order: base, 90 - base,
# 90 + base, 180 - base, and the same half a turn further. The grid of the base then serves all eight.
# What radon does to the image; in the second and fourth the detectors come out in reverse. The samples along a ray
# keep their direction, because scikit-image's range of them is not symmetric when their number is even.
_BEFORE: tuple[Symmetry, ...] = (
    lambda x: x,
    lambda x: x.mT,
    lambda x: _flip_rows(x).mT,
    _flip_rows,
)
_REVERSED = (False, True, False, True)
# What iradon does to the image that the base's grid gave. Here the detectors keep their direction.
_AFTER: tuple[Symmetry, ...] = (
    lambda x: x,
    lambda x: x.flip(-1, -2).mT,
    lambda x: _flip_columns(x).mT,
    _flip_columns,
)


def angle_groups(degrees: np.ndarray) -> Iterator[AngleGroup]:
    """Fold angles onto 0..45 degrees; those that meet there are computed together, if enough of them do.

    Args:
        degrees: (A,) finite angles.

    Yields:
        groups in which each angle has one place.
    """
    # Rounded first: a tiny negative number would turn to 360 and not to 0.
    turned = np.round(degrees, SAME_ANGLE_DECIMALS) % FULL_TURN
    half, quarter = np.divmod(turned, HALF_TURN)
    right, rest = np.divmod(quarter, RIGHT_ANGLE)
    above = rest > RIGHT_ANGLE / 2
    bases = np.round(np.where(above, RIGHT_ANGLE - rest, rest), SAME_ANGLE_DECIMALS)
    symmetries = (4 * half + 2 * right + above).astype(int)
    unique, base = np.unique(bases, return_inverse=True)
    present = np.unique(symmetries)
    # An angle that is given twice has no place of its own in the table, so each then goes alone.
    twice = len(np.unique(np.stack([base, symmetries]), axis=1).T) < len(degrees)
    if not twice and len(unique) * len(present) <= STACK_LIMIT * len(degrees) + len(present):
        angle = np.full((len(unique), len(present)), -1)
        angle[base, np.searchsorted(present, symmetries)] = np.arange(len(degrees))
        yield AngleGroup(present.tolist(), unique.tolist(), angle)
        return
    for symmetry in present:
        (places,) = np.nonzero(symmetries == symmetry)
        yield AngleGroup([int(symmetry)], bases[places].tolist(), places[:, None])


def _apply(symmetries: tuple[Symmetry, ...], index: int, x: torch.Tensor) -> torch.Tensor:
    half, quarter = divmod(index, len(symmetries))
    turned = symmetries[quarter](x)
    return turned.flip(-1, -2) if half else turned


def before_projection(index: int, x: torch.Tensor) -> torch.Tensor:
    """Turn images so that the grid of the base projects them along the angle of symmetry `index`.

    Args:
        index: of the symmetry.
        x: (..., n, n), n odd, with the turning axis in the middle.

    Returns:
        (..., n, n); where `is_reversed(index)`, their detectors then come out in reverse.
    """
    return _apply(_BEFORE, index, x)


def after_projection(index: int, x: torch.Tensor) -> torch.Tensor:
    """Turn what the grid of the base back-projected into the image of symmetry `index`.

    Args:
        index: of the symmetry.
        x: (..., n, n), n odd, with the turning axis in the middle.

    Returns:
        (..., n, n).
    """
    return _apply(_AFTER, index, x)


def is_reversed(index: int) -> bool:
    """Say whether `before_projection` reverses the detectors.

    Args:
        index: of the symmetry.

    Returns:
        True if it does.
    """
    return _REVERSED[index % len(_REVERSED)]
