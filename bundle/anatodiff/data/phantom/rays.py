"""The geometry of an exposure: where the patient stands, and one ray to each pixel.

Patient frame (mm): x to the patient's left (right in the displayed image), y to the front, z upwards; the origin lies
in the middle of the chest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
BEND_LENGTH = 110.0  # mm of height for one radian of the trunk's sideways bend


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
        return amplitude * np.sin((z - middle) / BEND_LENGTH)

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
        return Rays(self.x[window], self.z[window], self.slope_x[window], self.slope_z[window], self.stretch[window])


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


def window_of(
    view: View, low: Sequence[float] | Array, high: Sequence[float] | Array, size: int
) -> tuple[slice, slice]:
    """The pixels that a box in the patient can reach.

    Args:
        view: the geometry of the exposure.
        low: (3,), corner of the box, mm.
        high: (3,), the opposite corner, mm.
        size: pixels along a side.

    Returns:
        Row and column slices; empty where the box lies beside the image.
    """
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
    place, _ = view.project(corners.astype(float), size)
    margin = 2 + size // 40
    first = np.clip(np.floor(place.min(axis=0)).astype(int) - margin, 0, size)
    last = np.clip(np.ceil(place.max(axis=0)).astype(int) + margin, 0, size)
    return slice(first[1], last[1]), slice(first[0], last[0])
