"""The 3-D primitives that rays cross, in closed form; see rays.py for the frame.

Every interval on a ray is measured in depth y, since all rays run nearly along y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from .rays import Array, Mask, Rays

Numbers = Sequence[float] | Array
Interval = tuple[Array, Array]

STACK_BOTTOM = -330.0  # mm, lowest height that a stack's table covers
STACK_TOP = 330.0  # mm
STACK_STEP = 0.25  # mm, well under a pixel, so that the table needs no interpolation
STACK_HEIGHTS = np.arange(STACK_BOTTOM, STACK_TOP, STACK_STEP)
FAR_OFF = np.float32(2000.0)  # mm, makes every depth positive
SMALLEST_AXIS = 1e-2  # mm, stands for "nothing at this height"


def _roots(a: Array, half_b: Array, c: Array) -> Interval:
    """Both roots of a y^2 + 2 half_b y + c, equal where there is none (a > 0)."""
    root = np.sqrt(np.maximum(half_b * half_b - a * c, 0))
    inverse = 1 / a
    middle = -half_b * inverse
    reach = root * inverse
    return middle - reach, middle + reach


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid of any orientation.

    Args:
        centre: (3,), mm.
        radii: (3,), semi-axes, mm.
        axes: (3, 3), the directions of the semi-axes in its rows; None: along x, y, z.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    axes: Array | None = None

    def _to_unit(self) -> Array:
        axes = np.eye(3) if self.axes is None else self.axes
        return np.asarray(axes / np.asarray(self.radii)[:, None])

    def interval(self, rays: Rays) -> Interval:
        """Entry and exit depth of each ray.

        Args:
            rays: (H, W) rays.

        Returns:
            Two (H, W) arrays of y, mm, equal where the ray misses.
        """
        matrix = self._to_unit().astype(np.float32)
        centre = np.asarray(self.centre, np.float32)
        offset_x, offset_y, offset_z = rays.x - centre[0], -centre[1], rays.z - centre[2]
        a, half_b, c = np.zeros_like(rays.x), np.zeros_like(rays.x), np.full_like(rays.x, -1)
        for row in matrix:
            start = row[0] * offset_x + row[1] * offset_y + row[2] * offset_z
            slope = row[0] * rays.slope_x + row[1] + row[2] * rays.slope_z
            a = a + slope * slope
            half_b = half_b + start * slope
            c = c + start * start
        return _roots(a, half_b, c)

    def contains(self, points: Array) -> Mask:
        """Which points lie inside.

        Args:
            points: (N, 3), mm.

        Returns:
            (N,) bool.
        """
        unit = (points - np.asarray(self.centre)) @ self._to_unit().T
        return np.asarray((unit * unit).sum(axis=1) <= 1)

    def half_width(self) -> float:
        """Half the extent along x.

        Returns:
            mm.
        """
        axes = np.eye(3) if self.axes is None else self.axes
        return float(np.linalg.norm(axes[:, 0] * np.asarray(self.radii)))


@dataclass(frozen=True)
class Stack:
    """A body whose horizontal cross-section is an ellipse at every height.

    A ray sees the ellipse of the height at which it crosses the body's own depth: rays climb by a few mm within a body,
    which only leans its cross-sections along the beam.

    Args:
        table: (4, M) on STACK_HEIGHTS: centre x, centre y, semi-axis along x, semi-axis along y, mm.
        depth: y at which the height of a ray is read, mm.
    """

    table: Array
    depth: float = 0.0

    @classmethod
    def from_knots(cls, heights: Numbers, *columns: Numbers, depth: float = 0.0) -> Stack:
        """Smooth, monotone interpolation between knots; nothing beyond the first and the last.

        Args:
            heights: M rising heights, mm.
            *columns: centre x, centre y, semi-axis x and semi-axis y at the heights, mm.
            depth: see the class.

        Returns:
            The stack.
        """
        inside = (heights[0] <= STACK_HEIGHTS) & (heights[-1] >= STACK_HEIGHTS)
        clipped = np.clip(STACK_HEIGHTS, heights[0], heights[-1])
        table = np.stack([PchipInterpolator(heights, column)(clipped) for column in columns])
        table[2:] = np.where(inside, table[2:], SMALLEST_AXIS)
        return cls(table, depth)

    def capped(self, height: float, length: float, top: bool = True) -> Stack:
        """The same body closed by a round cap.

        Args:
            height: where the body ends, mm.
            length: over which it closes, mm.
            top: close upwards, else downwards.

        Returns:
            The closed body.
        """
        beyond = (STACK_HEIGHTS - (height - length)) if top else ((height + length) - STACK_HEIGHTS)
        shrink = np.sqrt(np.clip(1 - np.clip(beyond / length, 0, None) ** 2, 0, 1))
        table = self.table.copy()
        table[2:] = np.maximum(table[2:] * shrink, SMALLEST_AXIS)
        return Stack(table, self.depth)

    def level(self, z: Array) -> npt.NDArray[np.int32]:
        """The table's column for a height.

        Args:
            z: any shape, mm.

        Returns:
            Indices in the shape of z.
        """
        return np.clip((z - STACK_BOTTOM) / STACK_STEP, 0, len(STACK_HEIGHTS) - 1).astype(np.int32)

    def interval(self, rays: Rays) -> Interval:
        """Entry and exit depth of each ray.

        Args:
            rays: (H, W) rays.

        Returns:
            Two (H, W) arrays of y, mm, equal where the ray misses.
        """
        level = self.level(rays.z + self.depth * rays.slope_z)
        lookup = self.table.astype(np.float32)
        lookup[2:] = lookup[2:] ** -2
        offset = rays.x - lookup[0][level]
        centre_y, weight_x, weight_y = lookup[1][level], lookup[2][level], lookup[3][level]
        slope = weight_x * rays.slope_x
        a = slope * rays.slope_x + weight_y
        half_b = slope * offset - weight_y * centre_y
        c = weight_x * offset * offset + weight_y * centre_y * centre_y - 1
        return _roots(a, half_b, c)

    def contains(self, points: Array) -> Mask:
        """Which points lie inside.

        Args:
            points: (N, 3), mm.

        Returns:
            (N,) bool.
        """
        centre_x, centre_y, a, b = self.table[:, self.level(points[:, 2])]
        return np.asarray(((points[:, 0] - centre_x) / a) ** 2 + ((points[:, 1] - centre_y) / b) ** 2 <= 1)


Solid = Ellipsoid | Stack


def clip(interval: Interval, within: Interval) -> Interval:
    """The part of an interval that lies in another.

    Args:
        interval: (near, far), each (H, W).
        within: (near, far), each (H, W).

    Returns:
        (near, far), equal where they do not meet.
    """
    near = np.maximum(interval[0], within[0])
    return near, np.maximum(np.minimum(interval[1], within[1]), near)


def union_depth(intervals: Sequence[Interval]) -> Array:
    """Depth covered by at least one of several intervals on each ray.

    Args:
        intervals: (near, far) pairs of (H, W) arrays.

    Returns:
        (H, W), mm of depth.
    """
    # Each interval is packed into one integer, start first, so that one plain sort orders them: the bits of positive
    # floats rise with their value.
    packed = np.empty((*intervals[0][0].shape, len(intervals)), np.uint64)
    for index, (near, far) in enumerate(intervals):
        start_bits, end_bits = ((np.asarray(part, np.float32) + FAR_OFF).view(np.uint32) for part in (near, far))
        packed[..., index] = (start_bits.astype(np.uint64) << np.uint64(32)) | end_bits
    packed.sort(axis=-1)
    total, reached = np.zeros_like(intervals[0][0], np.float32), np.zeros_like(intervals[0][0], np.float32)
    for index in range(len(intervals)):
        start = (packed[..., index] >> np.uint64(32)).astype(np.uint32).view(np.float32)
        end = packed[..., index].astype(np.uint32).view(np.float32)
        total = total + np.maximum(end - np.maximum(start, reached), 0)
        reached = np.maximum(reached, end)
    return np.asarray(total)
