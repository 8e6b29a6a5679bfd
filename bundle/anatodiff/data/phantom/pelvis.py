"""Lumbar spine, pelvis and hips; lengths in mm for an adult, the middle of L3 at z = 0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from .fields import Bone
from .geometry import STACK_HEIGHTS, Stack
from .rays import Array, Mask, Rays
from .shapes import Cone
from .tubes import ACROSS, Tubes, join_tubes, make_tube, straight_tube

SPINE_DEPTH = -62.0  # mm, middle of the vertebral bodies
LEVELS = np.array([219.0, 193, 166, 137, 106, 73, 37, 0, -36, -70])  # middles of the vertebrae T8 to L5
BODY_WIDTH = np.array([14.0, 14.5, 15, 16.5, 18, 20, 21.5, 23, 24.5, 26])  # half, mm
BODY_SHARE = 0.72  # of the spacing of an adult's vertebrae; the rest is disc
ILIUM = np.array(  # outline of the left wing as the front sees it: x, z
    [
        (39, -66),
        (48, -46),
        (66, -32),
        (92, -23),
        (114, -32),
        (130, -56),
        (137, -82),
        (129, -98),
        (116, -112),
        (116, -126),
        (124, -142),
        (118, -154),
        (97, -162),
        (80, -154),
        (68, -134),
        (58, -116),
        (47, -106),
        (39, -92),
    ],
    dtype=float,
)
SACRUM = np.array(
    [
        (0, -86),
        (20, -84),
        (36, -78),
        (50, -82),
        (54, -96),
        (48, -112),
        (38, -128),
        (28, -146),
        (20, -164),
        (10, -176),
        (0, -180),
    ],
    dtype=float,
)
FORAMINA = ((20.0, -104.0), (18.0, -122.0), (15.0, -139.0), (12.0, -155.0))  # x, z of the sacral holes
OUTLINE_POINTS = 72


@dataclass(frozen=True)
class Plate:
    """A flat bone that lies roughly across the beam: its outline, and how thick it is.

    Args:
        outline: (P, 2), x and z, a closed curve, mm.
        plane: (3,) depth of its middle at x = z = 0, and its slopes along x and z.
        thick: in the middle, mm.
        rim: at its edge, which is rounded, mm.
        rim_width: how far the rim reaches inwards, mm.
        wall: of the cortical shell, mm.
        core: density inside, relative to the shell's.
        holes: middles (x, z) of round holes.
        hole: their radius, mm.
    """

    outline: Array
    plane: tuple[float, float, float]
    thick: float
    rim: float
    rim_width: float
    wall: float
    core: float
    holes: tuple[tuple[float, float], ...] = ()
    hole: float = 0.0


def _inward(outline: Array, x: Array, z: Array) -> Array:
    """Distance of points to a closed polygon, positive inside."""
    nearest, crossings = np.full(x.shape, np.inf, np.float32), np.zeros(x.shape, bool)
    for (ax, az), (bx, bz) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        dx, dz = np.float32(bx - ax), np.float32(bz - az)
        px, pz = x - np.float32(ax), z - np.float32(az)
        share = np.clip((px * dx + pz * dz) / max(float(dx * dx + dz * dz), 1e-6), 0, 1)
        nearest = np.minimum(nearest, (px - share * dx) ** 2 + (pz - share * dz) ** 2)
        if abs(dz) > 1e-6:
            crossings ^= ((z >= az) != (z >= bz)) & (px < pz * (dx / dz))
    return np.asarray(np.where(crossings, 1, -1) * np.sqrt(nearest))


def project_plate(plate: Plate, rays: Rays, grain: Array) -> tuple[Array, Mask]:
    """Path of rays in a flat bone.

    Args:
        plate: the bone.
        rays: a window of rays.
        grain: the trabeculae's relative density at each ray.

    Returns:
        mm of path as cortical bone, and where the bone is, in the shape of the rays.
    """
    depth, slope_x, slope_z = plate.plane
    # Where a ray meets the plate's plane.
    y = (depth + slope_x * rays.x + slope_z * rays.z) / (1 - slope_x * rays.slope_x - slope_z * rays.slope_z)
    x, z = rays.x + rays.slope_x * y, rays.z + rays.slope_z * y
    inward = _inward(plate.outline, x, z)
    for hole_x, hole_z in plate.holes:
        inward = np.minimum(inward, np.hypot(x - hole_x, 0.8 * (z - hole_z)) - plate.hole)

    def thickness(distance: Array) -> Array:
        share = np.clip(distance / plate.rim_width, 0, 1)
        profile = plate.thick + (plate.rim - plate.thick) * (1 - share) ** 1.5
        return np.asarray(profile * np.sqrt(np.clip(1 - (1 - np.clip(2 * distance / plate.rim, 0, 1)) ** 2, 0, 1)))

    whole = thickness(inward)
    inner = np.maximum(thickness(inward - plate.wall) - 2 * plate.wall, 0)
    lean = np.sqrt(1 + slope_x**2 + slope_z**2)
    path = np.where(inward > 0, whole - (1 - plate.core * grain) * inner, 0) * lean * rays.stretch
    return path.astype(np.float32), inward > 0


def _smooth(outline: Array, gap: float, side: int) -> Array:
    """A closed spline through the outline, shrunk by what is still cartilage."""
    closed = np.concatenate([outline, outline[:1]])
    curve = CubicSpline(np.arange(len(closed)), closed, bc_type="periodic")
    points = curve(np.linspace(0, len(outline), OUTLINE_POINTS, endpoint=False))
    middle = points.mean(axis=0)
    return np.asarray((middle + (points - middle) * (1 - gap)) * [side, 1])


@dataclass(frozen=True)
class PelvicBones:
    """The bones of the lower trunk.

    Args:
        spine: bodies and discs of the vertebrae, T8 to L5.
        spine_bone: on STACK_HEIGHTS, how bony the spine is: 0 disc, 1 body, above 1 end plate.
        processes: of the vertebrae.
        plates: iliac wings and sacrum.
        rami: pubis and ischium.
        hips: upper ends of the femora.
    """

    spine: Stack
    spine_bone: Array
    processes: Tubes
    plates: tuple[Plate, ...]
    rami: tuple[Tubes, ...]
    hips: tuple[Bone, ...]


def _vertebrae(share: float, rng: np.random.Generator) -> tuple[Stack, Array]:
    """Bodies and discs as one column, and how bony it is at each height of the table."""
    spacing = -np.gradient(LEVELS)
    phase = np.abs(STACK_HEIGHTS[:, None] - LEVELS) / spacing  # (M, V), 0.5 is the middle of the disc
    phase = np.take_along_axis(phase, phase.argmin(axis=1)[:, None], axis=1)[:, 0]
    wide = np.interp(-STACK_HEIGHTS, -LEVELS, BODY_WIDTH) * rng.normal(1, 0.04)
    wide = wide * (0.88 + 0.14 * np.clip(phase / (share / 2), 0, 1) ** 2)
    bone = 1 / (1 + np.exp((phase - share / 2) / 0.014))
    bone = bone * (1 + 0.9 * np.exp(-(((phase - share / 2 + 0.035) / 0.022) ** 2)))
    bone = bone * ((STACK_HEIGHTS > -88) & (STACK_HEIGHTS < 235))
    table = np.stack([np.zeros_like(wide), np.full_like(wide, SPINE_DEPTH), wide, 0.72 * wide])
    return Stack(table, SPINE_DEPTH), bone


def _processes(rng: np.random.Generator) -> list[Tubes]:
    tubes = []
    for z, width, spacing in zip(LEVELS, BODY_WIDTH, -np.gradient(LEVELS), strict=True):
        tall = spacing / 34.0
        spinous = np.array(
            [
                [0, -100, z - 2],
                [0, -102, z - 9 * tall],
                [rng.normal(0, 0.8), -104, z - 18 * tall],
                [0, -104, z - 24 * tall],
            ]
        )
        tubes.append(straight_tube(spinous, np.array([1.0, 2.8, 3.8, 1.5]), np.array([3.0, 7, 7, 3]), 0.7, 0.15))
        for side in (-1, 1):
            at = np.array([side * 0.66 * width, -84, z + 5 * tall])
            ring = at + np.array([[0.0, 0, 9], [0, 0, 6], [0, 0, 0], [0, 0, -6], [0, 0, -9]]) * tall
            wide = np.array([0.6, 3.8, 4.8, 3.8, 0.6]) * width / 22
            tubes.append(straight_tube(ring, wide, 1.4 * wide, 0.8, 0.03))
            facet = (
                np.array([side * 0.72 * width, -92, z - 14 * tall])
                + np.array([[0, 0, 12], [0, 0, 0], [0, 0, -8]]) * tall
            )
            tubes.append(straight_tube(facet, np.array([2.0, 4.4, 3.0]), np.array([2.0, 4, 3]), 0.7, 0.12))
            length = 1.5 if z < 90 else 0.6
            wing = np.array(
                [
                    [side * 0.7 * width, -82, z + 2],
                    [side * width * 1.2, -86, z + 4],
                    [side * width * (1 + 0.6 * length), -90, z + 5 + rng.normal(0, 2)],
                ]
            )
            tubes.append(
                straight_tube(wing, np.array([4.0, 3.4, 2.6]), np.array([3.0, 2.4, 2.0]), 0.7, 0.2, across=False)
            )
    return tubes


def _half_pelvis(side: int, gap: float) -> tuple[Plate, tuple[Tubes, ...]]:
    ilium = Plate(_smooth(ILIUM, gap, side), (-82.0, 0.62 * side, -0.1), 5.5, 13.0, 30.0, 0.9, 0.12)

    def ramus(points: list[tuple[float, float, float]], radii: list[float], wall: float = 1.0) -> Tubes:
        placed = np.array(points, dtype=float) * [side, 1, 1]
        wide = np.array(radii)
        return make_tube(placed, wide, 0.8 * wide, wall, 0.14, 40, ACROSS)

    cut = 26 * gap  # cartilage between the bones of a child
    upper = ramus(
        [(88 - cut, 10, -158 - cut), (62, 22, -176), (36, 34, -190), (13 + cut, 38, -197), (8 + cut, 38, -200)],
        [8, 11, 8, 10, 6],
        0.8,
    )
    body = ramus(
        [(14 + cut, 38, -194), (13 + cut, 37, -206), (20, 32, -222), (36, 18, -238), (50 - cut, 0, -250)],
        [6, 9, 6.5, 5.5, 5],
    )
    seat = ramus(
        [
            (100 - cut, -10, -164 - 2 * cut),
            (92, -25, -188),
            (82, -35, -212),
            (70, -38, -234),
            (56, -25, -252),
            (46, -8, -250),
        ],
        [9, 15, 14, 14, 9, 5],
        0.7,
    )
    brim = ramus([(44, -58, -98), (56, -40, -116), (70, -20, -136), (84, -6, -152)], [4, 9, 12, 9], 0.45)
    crest = ramus(
        [(52, -60, -42), (78, -40, -30), (106, -20, -36), (128, -4, -66), (132, 2, -88)], [2, 3, 5, 5, 4], 0.4
    )
    return ilium, (upper, body, seat, brim, crest)


def _hip(side: int, child: bool) -> Bone:
    parts = [
        Cone((140, -12, -206), (133, -10, -260), (17, 14), blend=4),
        Cone((133, -10, -260), (126, -8, -330), (14, 13.5), blend=2),
    ]
    if not child:
        parts += [
            Cone((100, -10, -170), (101, -10, -171), (24, 24), blend=6),  # head
            Cone((108, -10, -176), (134, -12, -200), (16, 17), blend=9),  # neck
            Cone((148, -18, -190), (147, -16, -208), (10, 13), blend=8),  # greater trochanter
            Cone((119, -20, -228), (124, -18, -234), (7, 8), blend=8),  # lesser trochanter
        ]
    placed = tuple(part.mirrored(side) for part in parts)
    return Bone(placed, (-330.0, -240, -200, -160), (4.5, 3.5, 1.4, 0.9), (-0.02, 0.05, 0.16, 0.20), texture=0.4)


def build_pelvis(child: bool, rng: np.random.Generator) -> PelvicBones:
    """Build the bones of the lower trunk.

    Args:
        child: a newborn, whose bones still have cartilage between them and whose femoral heads do not show.
        rng: generator of the bones.

    Returns:
        The bones.
    """
    gap, share = (rng.uniform(0.12, 0.18), rng.uniform(0.5, 0.58)) if child else (0.0, rng.normal(BODY_SHARE, 0.02))
    halves = [_half_pelvis(side, gap) for side in (-1, 1)]
    sacrum = np.concatenate([SACRUM, SACRUM[-2:0:-1] * [-1, 1]])
    middle = Plate(
        _smooth(sacrum, 0.6 * gap, 1),
        (-78.0, 0.0, 0.25),
        34.0,
        12.0,
        20.0,
        0.9,
        0.05,
        tuple((side * x, z) for x, z in FORAMINA for side in (-1, 1)),
        4.2,
    )
    spine, bone = _vertebrae(share, rng)
    return PelvicBones(
        spine=spine,
        spine_bone=bone,
        processes=join_tubes(_processes(rng)),
        plates=(halves[0][0], halves[1][0], middle),
        rami=halves[0][1] + halves[1][1],
        hips=tuple(_hip(side, child) for side in (-1, 1)),
    )
