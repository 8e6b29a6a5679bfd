"""One axial slice as it is painted: organs over one another, with soft edges, and a label for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from ..geometry import Ellipsoid, Solid, Stack
from ..rays import Array
from ..tubes import Tubes

AIR_HU = -1000.0
LABELS = (
    "background",
    "body",
    "lungs",
    "liver",
    "liver_lesion",
    "spleen",
    "kidneys",
    "bone",
    "vessels",
    "heart",
    "stomach",
    "bowel",
    "pancreas",
    "gallbladder",
)
FAR = 1e3  # mm, farther than any pixel
GRAIN_SIZE = 48  # voxels along a side of the texture
GRAIN_VOXELS = ((1.1, 0.55), (3.7, 0.45))  # mm along a voxel's side, and the weight of that octave
FINE, MIDDLING, COARSE = 0.85, 1.3, 2.0  # scales of the texture
BEADS = 0.45  # of a tube's radius between two balls of it


@dataclass
class Canvas:
    """A slice that is being painted.

    Args:
        x: (H, W) mm to the patient's left.
        y: (H, W) mm to anterior.
        z: height of the slice, mm.
        pixel: side of a pixel, mm.
        hu: (H, W), painted so far.
        labels: (H, W) uint8, places in LABELS.
        grains: textures that were sampled already, by scale.
    """

    x: Array
    y: Array
    z: float
    pixel: float
    hu: Array
    labels: Array
    grains: dict[float, Array] = field(default_factory=dict)

    @classmethod
    def blank(cls, x: Array, y: Array, z: float, pixel: float) -> Canvas:
        """Start with air."""
        return cls(x, y, z, pixel, np.full(x.shape, AIR_HU, np.float32), np.zeros(x.shape, np.uint8))

    def paint(self, distance: Array, hu: float | Array, label: str | None = None, share: float = 1.0) -> None:
        """Paint one tissue over what is there; a pixel on its edge is a mixture.

        Args:
            distance: (H, W) mm to its surface, negative inside.
            hu: its value, or (H, W) values.
            label: one of LABELS, which pixels that it covers by half get; None leaves the labels.
            share: how much of what is there it replaces.
        """
        cover = share * np.clip(0.5 - distance / self.pixel, 0, 1)
        self.hu += cover * (hu - self.hu)
        if label is not None:
            self.labels[distance < 0] = LABELS.index(label)


def three(values: Array) -> tuple[float, float, float]:
    """Make the three numbers of a solid out of an array (3,)."""
    x, y, z = (float(value) for value in values)
    return x, y, z


def solid_distance(solid: Solid, x: Array, y: Array, z: float) -> Array:
    """Approximate distance to the surface of an ellipsoid or a stack, exact on the surface.

    Args:
        solid: the body.
        x: (H, W) mm.
        y: (H, W) mm.
        z: mm.

    Returns:
        (H, W) mm, negative inside.
    """
    if isinstance(solid, Stack):
        centre_x, centre_y, a, b = (float(row[solid.level(np.asarray(z))]) for row in solid.table)
        return ellipse_distance(x, y, (centre_x, centre_y), (a, b))
    return _ellipsoid_distance(solid, x, y, z)


def _ellipsoid_distance(solid: Ellipsoid, x: Array, y: Array, z: float) -> Array:
    matrix = (np.eye(3) if solid.axes is None else solid.axes) / np.asarray(solid.radii)[:, None]
    dx, dy, dz = x - solid.centre[0], y - solid.centre[1], z - solid.centre[2]
    unit = [row[0] * dx + row[1] * dy + row[2] * dz for row in matrix]
    length = np.sqrt(sum(part * part for part in unit)) + 1e-6
    slope = [sum(matrix[row, axis] * unit[row] for row in range(3)) / length for axis in range(3)]
    return np.asarray((length - 1) / (np.sqrt(sum(part * part for part in slope)) + 1e-6))


def ellipse_distance(x: Array, y: Array, centre: tuple[float, float], radii: tuple[float, float]) -> Array:
    """Approximate distance to an ellipse, see `solid_distance`."""
    u, v = (x - centre[0]) / radii[0], (y - centre[1]) / radii[1]
    length = np.hypot(u, v) + 1e-6
    return np.asarray((length - 1) / (np.hypot(u / radii[0], v / radii[1]) / length + 1e-6))


def capsule_distance(x: Array, y: Array, start: tuple[float, float], end: tuple[float, float], radius: float) -> Array:
    """Distance to a thick line in the slice."""
    way = np.subtract(end, start)
    share = np.clip(((x - start[0]) * way[0] + (y - start[1]) * way[1]) / float(way @ way), 0, 1)
    return np.asarray(np.hypot(x - start[0] - share * way[0], y - start[1] - share * way[1]) - radius)


def blend(distances: Sequence[Array], width: float) -> Array:
    """Distance to several bodies that flow into one another.

    Args:
        distances: (H, W) each, mm.
        width: mm over which they do.
    """
    total = distances[0]
    for other in distances[1:]:
        near = np.maximum(width - np.abs(total - other), 0)
        total = np.minimum(total, other) - near * near * (0.25 / width)
    return np.asarray(total)


def tube_distance(tubes: Tubes, canvas: Canvas, shrink: float = 0.0) -> Array:
    """Distance to tubes where they cross a slice, as strings of balls.

    Args:
        tubes: any, in the frame of the canvas.
        canvas: the slice.
        shrink: mm by which they are thinner: what a shell of that thickness holds.

    Returns:
        (H, W) mm, FAR where no tube is near.
    """
    centres, wide = _beads(tubes, canvas.z, shrink)
    found = np.full(canvas.x.shape, FAR, np.float32)
    if len(centres) == 0:
        return found
    low, high = (centres - wide[:, None]).min(axis=0), (centres + wide[:, None]).max(axis=0)
    margin = 3 * canvas.pixel
    near = (np.abs(canvas.x - 0.5 * (low[0] + high[0])) < 0.5 * (high[0] - low[0]) + margin) & (
        np.abs(canvas.y - 0.5 * (low[1] + high[1])) < 0.5 * (high[1] - low[1]) + margin
    )
    points = np.stack([canvas.x[near], canvas.y[near]], axis=1)
    best = np.full(len(points), FAR, np.float32)
    # The ball whose surface is nearest is not always that whose middle is nearest: balls of like size go together.
    for size in np.unique(np.floor(2 * wide)):
        some = np.floor(2 * wide) == size
        reach = float(wide[some].max())
        away, which = cKDTree(centres[some]).query(points, distance_upper_bound=reach + margin)
        hit = np.isfinite(away)
        best[hit] = np.minimum(best[hit], away[hit] - wide[some][which[hit]])
    found[near] = best
    return found


def _beads(tubes: Tubes, z: float, shrink: float) -> tuple[Array, Array]:
    """Circles in which balls along tubes cross a height: centres (N, 2) and radii (N,)."""
    first, second = tubes.links[:, 0], tubes.links[:, 1]
    low = np.minimum(tubes.nodes[first, 2] - tubes.height[first], tubes.nodes[second, 2] - tubes.height[second])
    high = np.maximum(tubes.nodes[first, 2] + tubes.height[first], tubes.nodes[second, 2] + tubes.height[second])
    first, second = first[(low < z) & (high > z)], second[(low < z) & (high > z)]
    if len(first) == 0:
        return np.zeros((0, 2)), np.zeros(0)
    length = np.linalg.norm(tubes.nodes[second] - tubes.nodes[first], axis=1)
    thin = np.minimum(tubes.depth[first], tubes.depth[second])
    count = np.clip(np.ceil(length / (BEADS * np.maximum(thin, 0.5))), 1, 24).astype(int)
    owner = np.repeat(np.arange(len(first)), count)
    share = (np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)) / count[owner]

    def along(values: Array) -> Array:
        a, b = values[first][owner], values[second][owner]
        weight = share.reshape((-1,) + (1,) * (a.ndim - 1))
        return np.asarray(a + weight * (b - a))

    nodes, tall, wide = along(tubes.nodes), along(tubes.height) - shrink, along(tubes.depth) - shrink
    inside = 1 - ((z - nodes[:, 2]) / np.maximum(tall, 1e-3)) ** 2
    cut = (inside > 0) & (tall > 0) & (wide > 0)
    return nodes[cut, :2], wide[cut] * np.sqrt(inside[cut])


class Grain:
    """Unevenness of tissue in space, mean 0 and standard deviation about 1: neighbouring slices go together.

    Args:
        rng: generator of the texture.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._cubes = []
        for _ in GRAIN_VOXELS:
            cube = gaussian_filter(rng.standard_normal((GRAIN_SIZE,) * 3, dtype=np.float32), 1.1, mode="wrap")
            self._cubes.append(cube / cube.std())
        # Oblique to the slices, so that what repeats does not line up with the pixels.
        self._turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]

    def on(self, canvas: Canvas, scale: float = MIDDLING) -> Array:
        """Sample it on a slice.

        Args:
            canvas: the slice.
            scale: makes it coarser; each scale is sampled once.

        Returns:
            (H, W) float32.
        """
        if scale not in canvas.grains:
            canvas.grains[scale] = self._sample(canvas.x, canvas.y, canvas.z, scale)
        return canvas.grains[scale]

    def _sample(self, x: Array, y: Array, z: float, scale: float) -> Array:
        total = np.zeros(x.shape, np.float32)
        points = [row[0] * x + row[1] * y + row[2] * z for row in self._turn]
        for cube, (voxel, weight) in zip(self._cubes, GRAIN_VOXELS, strict=True):
            places = np.stack(points) / (voxel * scale)
            total += weight * map_coordinates(cube, places, order=1, mode="grid-wrap", output=np.float32)
        return np.asarray(total / np.sqrt(sum(weight**2 for _, weight in GRAIN_VOXELS)))


class Warp:
    """A smooth displacement of space, so that no organ is an ellipsoid and no two patients have the same shapes.

    Args:
        rng: generator.
        amplitude: standard deviation of the displacement, mm.
        wavelengths: shortest and longest, mm.
        waves: how many.
    """

    def __init__(
        self, rng: np.random.Generator, amplitude: float, wavelengths: tuple[float, float], waves: int = 10
    ) -> None:
        directions = rng.standard_normal((waves, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        self._waves = 2 * np.pi * directions / rng.uniform(*wavelengths, (waves, 1))
        self._phase = rng.uniform(0, 2 * np.pi, (waves, 2))
        self._amplitude = amplitude * np.sqrt(2 / waves)

    def __call__(self, x: Array, y: Array, z: float) -> tuple[Array, Array]:
        """Displace points (H, W) of the height z; returns their new x and y."""
        dx, dy = np.zeros_like(x), np.zeros_like(y)
        for wave, phase in zip(self._waves, self._phase, strict=True):
            at = wave[0] * x + wave[1] * y + wave[2] * z
            dx += np.sin(at + phase[0])
            dy += np.sin(at + phase[1])
        return x + self._amplitude * dx, y + self._amplitude * dy
