"""Bones of the phantom: rib cage, spine, shoulder girdle; lengths in mm for an adult of average size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from .geometry import STACK_HEIGHTS, Stack
from .rays import Array
from .tubes import ACROSS, Tubes, make_tube, straight_tube

RIB_PAIRS = 12
# Height of the head of each rib: the level of its vertebra.
RIB_HEADS = np.array([150.0, 132, 112, 91, 69, 47, 24, 1, -23, -48, -74, -101])
RIB_DROP = np.array([34.0, 56, 72, 86, 98, 110, 120, 126, 122, 108, 66, 36])  # from the head to the front end
RIB_END = np.array([142.0, 142, 143, 143, 142, 140, 137, 131, 122, 110, 74, 46])  # degrees around from the back
RIB_HALF_HEIGHT = np.array([6.5, 5.2, 5.4, 5.8, 6.0, 6.2, 6.4, 6.4, 6.2, 6.0, 5.0, 4.0])
RIB_HALF_DEPTH = 3.6
RIB_WALL = 0.9
MARROW = 0.24  # spongy bone and marrow against cortical bone, as attenuation above that of soft tissue

CLAVICLE_HALF_HEIGHT = np.array([2.5, 8, 10.5, 8, 7, 7, 8, 4])  # from the sternum to the shoulder
CLAVICLE_HALF_DEPTH = np.array([2.5, 8, 10, 7.5, 7, 6.5, 5, 3])

CAGE_HEIGHTS = (-240.0, -170, -120, -60, 0, 50, 90, 120, 140, 158)
CAGE_HALF_WIDTH = (140.0, 146, 147, 146, 141, 132, 119, 103, 84, 60)
CAGE_HALF_DEPTH = (100.0, 104, 105, 104, 101, 94, 80, 64, 50, 38)
CAGE_CENTRE_DEPTH = (-5.0, -3, 0, 0, 0, -4, -10, -17, -23, -28)

CAGE = PchipInterpolator(CAGE_HEIGHTS, [CAGE_HALF_WIDTH, CAGE_HALF_DEPTH, CAGE_CENTRE_DEPTH], axis=1)
# Share of a rib's drop that lies behind each angle around the cage: ribs run level from the spine, then fall.
RIB_COURSE = PchipInterpolator(np.radians([0, 9, 30, 60, 90, 120, 150]), [-0.03, 0, 0.03, 0.22, 0.52, 0.83, 1.05])

VERTEBRAE = np.array([196.0, 182, 167, *RIB_HEADS, -129, -159, -190, -222, -254])  # centres, C5 to L5
# Processes of a vertebra, against its centre; the half widths are those of the nodes.
SPINOUS = np.array([[0.0, 2, -3], [0, 0, -7], [0, -2, -12], [0, -1, -16], [0, 0, -19]])
PEDICLE = np.array([[0.0, 0, 8], [0, 0, 6], [0, 0, 3], [0, 0, 0], [0, 0, -2]])
WING = np.array([[10.0, -92, 4], [24, -98, 7], [31, -101, 7], [34, -103, 6]])
SPINOUS_WIDTH = np.array([0.6, 2.0, 2.6, 2.0, 0.6])
PEDICLE_WIDTH = np.array([0.6, 2.8, 3.6, 2.8, 0.6])
WING_HEIGHT = np.array([4.2, 3.6, 2.8, 0.8])
VERTEBRA_SHARE = 0.80  # of the spacing, the rest is disc
SPINE_DEPTH = -70.0


@dataclass(frozen=True)
class Skeleton:
    """The bones.

    Args:
        ribs: one Tubes for each rib, right 1 to 12, then left 1 to 12.
        clavicles: right and left.
        others: everything that has no mask of its own (scapulae, humeri, processes of the vertebrae, sternum).
        spine: bodies and discs of the vertebrae.
        spine_bone: on STACK_HEIGHTS, how bony the spine is: 0 disc, 1 body, above 1 end plate.
    """

    ribs: tuple[Tubes, ...]
    clavicles: tuple[Tubes, Tubes]
    others: tuple[Tubes, ...]
    spine: Stack
    spine_bone: Array


def build_rib(pair: int, side: int, rng: np.random.Generator, slope: float, calibre: float) -> Tubes:
    """One rib.

    Args:
        pair: 0 to 11.
        side: -1 right, 1 left.
        rng: generator of the bones.
        slope: how steeply it falls, against the average.
        calibre: thickness against the average.

    Returns:
        A tube in the patient frame.
    """
    angle = np.radians(np.linspace(9, RIB_END[pair] + rng.normal(0, 2), 44))
    share = RIB_COURSE(angle) / RIB_COURSE(np.radians(RIB_END[pair]))
    z = RIB_HEADS[pair] - RIB_DROP[pair] * slope * share + rng.normal(0, 1.2) * share
    half_width, half_depth, centre = CAGE(np.clip(z, CAGE_HEIGHTS[0], CAGE_HEIGHTS[-1]))
    # The back of the cage is flatter than an ellipse: ribs first run backwards beside the spine.
    x = side * half_width * np.sin(angle) ** np.where(angle < np.pi / 2, 0.88, 1.0)
    y = centre - half_depth * np.cos(angle)
    head = np.clip(1 - (angle - angle[0]) / np.radians(16), 0, 1) ** 2
    y = y + head * (SPINE_DEPTH - 2 - y)
    ends = np.array([0.55, 0.8, 1.0, 1.0, 1.0, 1.12, 0.5])
    taper = np.interp(np.linspace(0, 1, 44), [0, 0.05, 0.15, 0.5, 0.85, 0.97, 1], ends)
    height = RIB_HALF_HEIGHT[pair] * calibre * taper
    depth = RIB_HALF_DEPTH * calibre * taper * np.interp(angle, [1.2, 2.3], [1.0, 0.62])
    return make_tube(np.stack([x, y, z], axis=1), height, depth, RIB_WALL, MARROW, nodes=72)


def build_clavicle(side: int, rng: np.random.Generator) -> Tubes:
    """One clavicle.

    Args:
        side: -1 right, 1 left.
        rng: generator of the bones.

    Returns:
        A tube in the patient frame.
    """
    lift, curve = rng.normal(0, 5), rng.normal(1, 0.15)
    points = np.array(
        [
            [20, 62, 106],
            [23, 63, 106],
            [34, 66, 109],
            [62, 66 * curve, 117],
            [98, 44, 127],
            [132, 16, 135],
            [160, -4, 138],
            [176, -12, 137],
        ]
    )
    points[:, 0] *= side
    points[:, 2] += lift * points[:, 0] * side / 170
    return make_tube(points, CLAVICLE_HALF_HEIGHT, CLAVICLE_HALF_DEPTH, 1.9, 0.22, nodes=60)


def build_shoulder(side: int, rng: np.random.Generator, protraction: float) -> list[Tubes]:
    """Scapula (as its thick edges and its thin blade) and humerus.

    Args:
        side: -1 right, 1 left.
        rng: generator of the bones.
        protraction: 1 moves the blade off the lung.

    Returns:
        Five tubes of the scapula, then head and shaft of the humerus.
    """
    out = 12 * protraction
    drop = rng.normal(0, 4)

    def place(points: Sequence[Sequence[float]]) -> Array:
        moved = np.array(points, dtype=float)
        moved[:, 2] += drop
        moved[:, 0] = side * (moved[:, 0] + out)
        return moved

    edge = [
        [165, -42, 112],
        [158, -58, 85],
        [148, -76, 50],
        [138, -92, 15],
        [130, -100, -8],
        [124, -102, -14],
    ]
    lateral = place(edge)
    medial = place([[96, -98, 112], [92, -106, 85], [97, -110, 40], [112, -108, 5], [124, -102, -14]])
    spine = place([[94, -104, 92], [115, -104, 104], [142, -84, 118], [168, -58, 130], [184, -34, 136]])
    upper = place([[96, -98, 112], [112, -88, 124], [136, -66, 120], [158, -40, 120]])
    blade = place([[146, -70, 108], [134, -86, 70], [126, -96, 30], [123, -101, -2]])
    head = place([[186, -40, 138], [187, -40, 132], [188, -40, 118], [189, -40, 102], [190, -40, 96]])
    shaft = place([[190, -40, 112], [194, -40, 80], [199, -42, 20], [207, -46, -60], [216, -50, -140]])
    blade_wide = np.array([34.0, 38, 24, 8])
    return [
        make_tube(lateral, np.array([10.0, 6, 5, 4.5, 4, 2]), np.array([9.0, 6, 5, 4.5, 4, 2]), 1.3, 0.15, 40, ACROSS),
        make_tube(medial, 2.4, 2.4, 1.0, 0.3, 40, ACROSS),
        make_tube(spine, np.array([1.0, 4, 6, 7, 2]), np.array([1.0, 4, 5, 5, 2]), 1.0, 0.2),
        make_tube(upper, 2.2, 2.2, 1.0, 0.3),
        make_tube(blade, blade_wide, 1.5, 0.5, 0.25, 40, ACROSS),
        make_tube(head, np.array([6.0, 16, 24, 18, 12]), np.array([6.0, 16, 24, 18, 12]), 1.3, 0.22, 40, ACROSS),
        make_tube(shaft, np.array([17.0, 12, 11, 11, 11]), np.array([17.0, 12, 11, 11, 11]), 3.6, 0.0, 40, ACROSS),
    ]


def _vertebral_processes(size: Array) -> list[Tubes]:
    tubes = []
    for z, half_width in zip(VERTEBRAE[3:-2], size[3:-2], strict=True):
        spinous = np.array([0, -110, z]) + SPINOUS
        tubes.append(straight_tube(spinous, SPINOUS_WIDTH, 3 * SPINOUS_WIDTH, 0.7, 0.3))
        for side in (-1, 1):
            at = side * 0.62 * half_width
            pedicle = np.array([at, -88, z]) + PEDICLE
            tubes.append(straight_tube(pedicle, PEDICLE_WIDTH, 1.5 * PEDICLE_WIDTH, 0.5, 0.15))
            wing = np.array([0, 0, z]) + WING * [side, 1, 1]
            tubes.append(straight_tube(wing, WING_HEIGHT, 0.8 * WING_HEIGHT, 0.5, 0.2, across=False))
    return tubes


def _spine(rng: np.random.Generator) -> tuple[Stack, Array, Array]:
    half_width = np.interp(VERTEBRAE, [-254, -129, 0, 110, 167, 196], [26, 22.5, 17, 15.5, 15, 13])
    half_width = half_width * rng.normal(1, 0.04)
    spacing = -np.gradient(VERTEBRAE)
    phase = np.abs(STACK_HEIGHTS[:, None] - VERTEBRAE) / spacing  # (M, V), 0.5 is the middle of the disc
    nearest = phase.argmin(axis=1)
    phase = np.take_along_axis(phase, nearest[:, None], axis=1)[:, 0]
    wide = np.interp(-STACK_HEIGHTS, -VERTEBRAE, half_width)
    wide = wide * (0.90 + 0.12 * np.clip(phase / (VERTEBRA_SHARE / 2), 0, 1) ** 2)
    bone = 1 / (1 + np.exp((phase - VERTEBRA_SHARE / 2) / 0.018))
    bone = bone * (1 + 0.5 * np.exp(-(((phase - VERTEBRA_SHARE / 2 + 0.05) / 0.03) ** 2)))
    table = np.stack([np.zeros_like(wide), np.full_like(wide, SPINE_DEPTH), wide, 0.85 * wide])
    return Stack(table, SPINE_DEPTH), bone, half_width


def build_skeleton(rng: np.random.Generator) -> Skeleton:
    """The bones of one patient.

    Args:
        rng: the patient's own generator.

    Returns:
        A Skeleton in the patient frame.
    """
    slope, calibre, protraction = rng.normal(1.0, 0.07), rng.normal(1.0, 0.07), rng.uniform(-0.6, 1.0)
    ribs = tuple(build_rib(pair, side, rng, slope, calibre) for side in (-1, 1) for pair in range(RIB_PAIRS))
    clavicles = (build_clavicle(-1, rng), build_clavicle(1, rng))
    spine, bone, half_width = _spine(rng)
    sternum = np.array([[0, 78, 112], [0, 84, 100], [0, 94, 70], [0, 102, 20], [0, 104, -40]])
    others = [make_tube(sternum, np.array([26.0, 28, 17, 18, 12]), 5, 0.8, 0.15, 40, ACROSS)]
    others += (
        build_shoulder(-1, rng, protraction) + build_shoulder(1, rng, protraction) + _vertebral_processes(half_width)
    )
    return Skeleton(ribs, clavicles, tuple(others), spine, bone)
