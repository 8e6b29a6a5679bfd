"""Bones of free form as signed distance fields, whose line integrals are sums over slices of depth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from .rays import Array, Mask, Rays, View, cast_rays, window_of
from .shapes import Cone, Cut, Point

SLICE = 1.5  # mm of depth between two samples along a ray
COARSE = 4  # pixels between the rays by which the bone is first looked for
EDGE = 1.5  # mm over which the surface fades, so that pixels do not alias
CUT_REACH = 75.0  # mm from its height within which a cut lies
TEXTURE_SIZE = 48  # voxels along a side
VOXEL = 0.8  # mm
TRABECULAR_SCALE = (
    (1.0, 0.7, 0.7, 1.8),
    (0.8, 1.6, 1.6, 4.0),
)  # weight, then standard deviations along x, y, z, voxels


@dataclass(frozen=True)
class Bone:
    """One bone, or one fragment of a bone, in a frame of its own.

    Args:
        parts: whose smooth union is the bone.
        heights: rising z at which wall and core are given, mm.
        wall: thickness of the cortical shell at these heights, mm.
        core: density of what the shell holds at these heights, relative to the shell's, above soft tissue.
        texture: relative strength of the trabeculae in the core.
        plates: growth plates, each a surface and the thickness of the gap, mm.
        cut: where a fracture ends this fragment, or None.
        keep: 1 for the fragment above the cut, -1 for the one below.
        rotation: (3, 3), from this frame to the patient's.
        move: (3,), patient coordinates of this frame's origin, mm.
    """

    parts: tuple[Cone, ...]
    heights: tuple[float, ...]
    wall: tuple[float, ...]
    core: tuple[float, ...]
    texture: float = 0.5
    plates: tuple[tuple[Cut, float], ...] = ()
    cut: Cut | None = None
    keep: int = 1
    rotation: Array | None = None
    move: Point = (0.0, 0.0, 0.0)

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance to the surface of the whole bone, see Cone.distance.

        Args:
            x: any shape, mm.
            y: the same shape, mm.
            z: the same shape, mm.

        Returns:
            mm, in their shape.
        """
        total = self.parts[0].distance(x, y, z)
        for part in self.parts[1:]:
            other = part.distance(x, y, z)
            near = np.maximum(part.blend - np.abs(total - other), 0)
            total = np.minimum(total, other) - near * near * np.float32(0.25 / part.blend)
        return np.asarray(total)

    def box(self) -> tuple[Array, Array]:
        """Two corners of a box around the bone, or around what a cut leaves of it.

        Returns:
            (3,) and (3,), mm, in the bone's frame.
        """
        ends = np.array([end for part in self.parts for end in (part.start, part.end)])
        reach = np.array([radius for part in self.parts for radius in part.radii])[:, None] + EDGE
        low, high = (ends - reach).min(axis=0), (ends + reach).max(axis=0)
        if self.cut is not None:
            end = self.cut.height - self.keep * CUT_REACH
            low[2], high[2] = (max(low[2], end), high[2]) if self.keep > 0 else (low[2], min(high[2], end))
        return low, high

    def view(self, view: View) -> View:
        """An exposure as the bone's frame sees it.

        Args:
            view: in the patient's frame.

        Returns:
            The same exposure of a body that lies as this bone does.
        """
        rotation = np.eye(3) if self.rotation is None else self.rotation
        shift = view.shift + view.matrix @ np.asarray(self.move)
        return replace(view, matrix=view.matrix @ rotation, shift=shift)


def make_trabeculae(rng: np.random.Generator) -> Array:
    """Noise in space like the trabeculae of spongy bone, mean 0 and standard deviation 1, periodic.

    Args:
        rng: generator.

    Returns:
        (N, N, N) float32 over x, y, z.
    """
    total = np.zeros((TEXTURE_SIZE,) * 3, np.float32)
    for weight, *sigma in TRABECULAR_SCALE:
        octave = gaussian_filter(rng.standard_normal(total.shape, dtype=np.float32), sigma, mode="wrap", truncate=2.5)
        total += weight * octave / octave.std()
    return np.asarray(total / total.std())


def occupied(distance: Array) -> Array:
    """Share of a small neighbourhood that lies inside a surface.

    Args:
        distance: signed distance, mm.

    Returns:
        0 to 1.
    """
    return np.clip(0.5 - distance / EDGE, 0, 1)


def _points(rays: Rays, y: float) -> tuple[Array, Array, Array]:
    depth = np.float32(y)
    return rays.x + rays.slope_x * depth, np.full_like(rays.x, depth), rays.z + rays.slope_z * depth


def _struck(bone: Bone, rays: Rays, depths: Array, margin: float) -> Mask:
    """Rays that come near the bone, found on a coarse grid."""
    coarse = rays.crop((slice(None, None, COARSE), slice(None, None, COARSE)))
    nearest = np.full(coarse.x.shape, np.inf, np.float32)
    for y in depths[::3]:
        nearest = np.minimum(nearest, bone.distance(*_points(coarse, y)))
    found = np.repeat(np.repeat(nearest < margin, COARSE, axis=0), COARSE, axis=1)
    return np.asarray(found[: rays.x.shape[0], : rays.x.shape[1]])


def _density(bone: Bone, points: tuple[Array, Array, Array], distance: Array, texture: Array) -> Array:
    """Bone at points near or in it, as cortical bone above soft tissue."""
    x, y, z = points
    wall = np.interp(z, bone.heights, bone.wall).astype(np.float32)
    core = np.interp(z, bone.heights, bone.core).astype(np.float32)
    inner = occupied(distance + wall)
    index = [(part / VOXEL).astype(np.int32) % TEXTURE_SIZE for part in (x, y, z)]
    grain = 1 + bone.texture * texture[index[0], index[1], index[2]]
    density = occupied(distance) - inner + core * np.maximum(grain, 0) * inner
    for plate, thickness in bone.plates:
        off = np.abs(plate.above(x, y, z)) - 0.5 * thickness
        # The zone of calcification on both sides of the cartilage is denser than the bone around it.
        density = density * (1 - occupied(off)) * (1 + 0.8 * np.exp(-((off / 1.2) ** 2)))
    if bone.cut is not None:
        density = density * occupied(-bone.keep * bone.cut.above(x, y, z))
    return np.asarray(density)


def _march(bone: Bone, part: Rays, depths: Array, texture: Array, gap: float) -> tuple[Array, Array, Array]:
    """Slices of bone, of its outline and of the broken surface that each ray crosses."""
    total, solid, crossed = (np.zeros_like(part.x) for _ in range(3))
    for y in depths:
        points = _points(part, y)
        distance = bone.distance(*points)
        near = np.flatnonzero(distance < EDGE)
        if len(near) == 0:
            continue
        close = (points[0][near], points[1][near], points[2][near])
        total[near] += _density(bone, close, distance[near], texture)
        kept = occupied(distance[near])
        if bone.cut is not None:
            above = bone.keep * bone.cut.above(*close)
            crossed[near] += kept * ((above > -0.5 * gap) & (above < 0.5 * gap))
            kept = kept * (above > 0)
        solid[near] += kept
    return total, solid, crossed


def project_bone(bone: Bone, view: View, size: int, texture: Array, gap: float = 0.0) -> tuple[Array, Mask, Mask]:
    """Line integrals through a bone.

    Args:
        bone: the bone.
        view: the exposure, in the patient's frame.
        size: pixels along a side.
        texture: from make_trabeculae.
        gap: width of the band along the cut that the third result shows, mm.

    Returns:
        (H, W) mm of path as cortical bone above soft tissue; (H, W) bool where the bone is; (H, W) bool where a ray
        crosses the broken surface.
    """
    own = bone.view(view)
    low, high = bone.box()
    window = window_of(own, low, high, size)
    rays = cast_rays(own, size).crop(window)
    path, broken = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
    inside = np.zeros((size, size), bool)
    if rays.x.size == 0:
        return path, inside, broken > 0
    depths = np.arange(low[1], high[1] + SLICE, SLICE)
    struck = _struck(bone, rays, depths, margin=EDGE + COARSE * view.field / size)
    part = Rays(*(getattr(rays, name)[struck] for name in ("x", "z", "slope_x", "slope_z", "stretch")))
    total, solid, crossed = _march(bone, part, depths, texture, gap)
    length = part.stretch * np.float32(SLICE)
    path[window][struck], broken[window][struck] = total * length, crossed * length
    inside[window][struck] = solid * length > EDGE
    return path, inside, broken > EDGE
