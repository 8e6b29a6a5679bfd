"""Rays and the 3-D primitives that they cross, in closed form.

Patient frame (mm): x to the patient's left (right in the displayed image), y to the front, z upwards; the origin lies in
the middle of the chest. Every interval on a ray is measured in depth y, since all rays run nearly along y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

Array = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
Interval = tuple[Array, Array]

STACK_BOTTOM = -330.0  # mm, lowest height that a stack's table covers
STACK_TOP = 330.0  # mm
STACK_STEP = 0.25  # mm, well under a pixel, so that the table needs no interpolation
STACK_HEIGHTS = np.arange(STACK_BOTTOM, STACK_TOP, STACK_STEP)
FAR_OFF = np.float32(2000.0)  # mm, makes every depth positive
SMALLEST_AXIS = 1e-2  # mm, stands for "nothing at this height"


@dataclass(frozen=True)
class View:
    """One exposure's geometry: where the patient stands before the source and the detector.

    Args:
        matrix: (3, 3), patient frame to room frame (rotation times body scale).
        shift: (3,), room coordinates of the patient's origin, mm.
        source: depth of the point source in the room, mm; negative is behind the patient (postero-anterior).
        detector: depth of the detector plane in the room, mm.
        field: side of the square detector field, mm.
        bend: (2,), sideways bend of the trunk: amplitude in mm and the height of its middle in mm.
    """

    matrix: Array
    shift: Array
    source: float
    detector: float
    field: float
    bend: tuple[float, float]

    def sideways(self, z: Array) -> Array:
        """Sideways displacement of the trunk at height z.

        Args:
            z: any shape, mm.

        Returns:
            The displacement along x, mm, in the shape of z.
        """
        amplitude, middle = self.bend
        return amplitude * np.sin((z - middle) / 110.0)

    def project(self, points: Array, size: int) -> tuple[Array, Array]:
        """Perspective projection of points on the detector.

        Args:
            points: (N, 3), patient frame, mm.
            size: pixels along a side of the image.

        Returns:
            (N, 2) column and row in pixels, and (N,) pixels per mm at the depth of the point.
        """
        bent = points.copy()
        bent[:, 0] += self.sideways(points[:, 2])
        room = bent @ self.matrix.T + self.shift
        magnification = (self.detector - self.source) / (room[:, 1] - self.source)
        scale = magnification * size / self.field
        centre = (size - 1) / 2
        return np.stack([centre + room[:, 0] * scale, centre - room[:, 2] * scale], axis=1), scale


@dataclass(frozen=True)
class Rays:
    """A bundle of rays in the patient frame, each as a line over the depth y.

    Args:
        x: (H, W), where the ray crosses y = 0, mm.
        z: (H, W), the same along z, mm.
        slope_x: (H, W), dx/dy.
        slope_z: (H, W), dz/dy.
        stretch: (H, W), mm of path in the room per mm of depth y in the patient frame.
    """

    x: Array
    z: Array
    slope_x: Array
    slope_z: Array
    stretch: Array

    def crop(self, window: tuple[slice, slice]) -> Rays:
        """The rays of a window of the image.

        Args:
            window: row and column slices.

        Returns:
            The same rays, views on the arrays.
        """
        return Rays(
            self.x[window], self.z[window], self.slope_x[window], self.slope_z[window], self.stretch[window]
        )


def cast_rays(view: View, size: int) -> Rays:
    """One ray from the source to the middle of each pixel.

    Args:
        view: the geometry of the exposure.
        size: pixels along a side.

    Returns:
        Rays with (size, size) arrays.
    """
    inverse = np.linalg.inv(view.matrix)
    axis = ((np.arange(size) + 0.5) / size - 0.5) * view.field
    u, v = np.meshgrid(axis, -axis)
    pixels = np.stack([u, np.full_like(u, view.detector), v], axis=-1) - view.shift  # (H, W, 3)
    source = inverse @ (np.array([0.0, view.source, 0.0]) - view.shift)
    direction = pixels @ inverse.T - source  # (H, W, 3)
    slope_x = direction[..., 0] / direction[..., 1]
    slope_z = direction[..., 2] / direction[..., 1]
    step = np.stack([slope_x, np.ones_like(slope_x), slope_z], axis=-1) @ view.matrix.T
    z = source[2] - source[1] * slope_z
    x = source[0] - source[1] * slope_x - view.sideways(z)
    return Rays(*(part.astype(np.float32) for part in (x, z, slope_x, slope_z, np.linalg.norm(step, axis=-1))))


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
        a, half_b, c = np.float32(0), np.float32(0), np.float32(-1)
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
    def from_knots(cls, heights: Sequence[float], *columns: Sequence[float], depth: float = 0.0) -> Stack:
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
    # Each interval is packed into one integer, start first, so that one plain sort orders them: the bits of positive floats
    # rise with their value.
    packed = np.empty((*intervals[0][0].shape, len(intervals)), np.uint64)
    for index, (near, far) in enumerate(intervals):
        start_bits, end_bits = ((np.asarray(part, np.float32) + FAR_OFF).view(np.uint32) for part in (near, far))
        packed[..., index] = (start_bits.astype(np.uint64) << np.uint64(32)) | end_bits
    packed.sort(axis=-1)
    total, reached = np.float32(0), np.float32(0)
    for index in range(len(intervals)):
        start = (packed[..., index] >> np.uint64(32)).astype(np.uint32).view(np.float32)
        end = packed[..., index].astype(np.uint32).view(np.float32)
        total = total + np.maximum(end - np.maximum(start, reached), 0)
        reached = np.maximum(reached, end)
    return np.asarray(total)
