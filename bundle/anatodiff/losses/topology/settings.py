"""What the Anatomical Fidelity loss can be set to."""

from __future__ import annotations

from typing import NamedTuple

CHANNELS = ("random", "all", "mean")
REDUCTIONS = ("mean", "sum", "none")
ESSENTIALS = ("birth", "max", "none")
SLICES = ("mean", "sum")


class GroundNorm(NamedTuple):
    """One norm of the birth-death plane.

    Args:
        order: as NumPy calls it.
        metric: as SciPy calls it.
        to_diagonal: the distance of (b, d) to the nearest point of the diagonal, as a multiple of its persistence.
    """

    order: float
    metric: str
    to_diagonal: float


GROUND_NORMS: dict[int | str, GroundNorm] = {
    1: GroundNorm(1.0, "cityblock", 1.0),
    2: GroundNorm(2.0, "euclidean", 2.0**-0.5),
    "inf": GroundNorm(float("inf"), "chebyshev", 0.5),
}


class Metric(NamedTuple):
    """What two images are compared by.

    Args:
        homology: groups to sum over: 0 (components), 1 (loops), in volumes 2 (voids).
        ground_norm: norm of the birth-death plane, a key of `GROUND_NORMS`.
        essential: what becomes of the component that never dies, one of `ESSENTIALS`.
    """

    homology: tuple[int, ...]
    ground_norm: int | str
    essential: str


def check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Refuse a value that is not allowed.

    Args:
        name: what the value is for.
        value: what was given.
        allowed: what may be given.

    Raises:
        ValueError: it is not one of those.
    """
    if isinstance(value, bool) or value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}.")
