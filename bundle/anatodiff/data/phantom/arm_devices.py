"""Devices of the arm: plate with screws, cast; lengths in mm in the arm's frame."""

from __future__ import annotations

import numpy as np

from .geometry import SMALLEST_AXIS, STACK_HEIGHTS, Stack
from .humerus import Limb
from .scene import Device
from .tubes import Tubes, make_tube

SHAFT_RADIUS = 11.6  # mm, of an adult's bone of average calibre
PLATE_HALF_WIDTH, PLATE_HALF_THICKNESS = 5.8, 1.9  # mm
SCREW_RADIUS, HEAD_RADIUS, THREAD = 1.6, 3.6, 1.75  # mm; the last is the rise of the thread
PLATE_SPAN = {"shoulder": (-48.0, 60.0), "elbow": (-92.0, 30.0)}  # mm, where the shaft is straight
CAST_SPAN = {"shoulder": (-330.0, 45.0), "elbow": (-330.0, 20.0)}


def _screw(start: np.ndarray, end: np.ndarray, unit: float) -> Tubes:
    way = float(np.linalg.norm(end - start))
    nodes = max(int(way / 0.45), 8)
    along = np.linspace(0, way, nodes)
    radius = SCREW_RADIUS * unit * (1 + 0.14 * np.sin(2 * np.pi * along / (THREAD * unit)))
    radius = np.where(along < 2.6 * unit, HEAD_RADIUS * unit, radius) * np.clip((way - along) / 2.0 + 0.2, 0, 1)
    points = start + (end - start) * (along / way)[:, None]
    return make_tube(points, radius, radius, nodes=nodes, up=(0.0, 0.0, 1.0))


def _plate(rng: np.random.Generator, limb: Limb) -> tuple[Device, ...]:
    unit = 0.5 + 0.5 / limb.scale
    low, high = PLATE_SPAN[limb.joint]
    bone = SHAFT_RADIUS * limb.calibre
    count = int(rng.integers(5, 9))
    step = rng.uniform(13, 16)
    middle = rng.uniform(low + 0.35 * count * step, max(high - 0.35 * count * step, low + 0.36 * count * step))
    angle = rng.uniform(-0.3, 1.2)
    out = np.array([limb.side * np.cos(angle), np.sin(angle), 0.0])
    around = np.array([-out[1], out[0], 0.0])
    ends = middle + 0.5 * count * step * np.array([-1.0, -0.97, 0, 0.97, 1.0])
    surface = out * (bone + PLATE_HALF_THICKNESS * unit)
    points = surface + np.stack([np.zeros(5), np.zeros(5), ends], axis=1)
    wide = PLATE_HALF_WIDTH * unit * np.array([0.3, 1, 1, 1, 0.3])
    plate = make_tube(points, wide, PLATE_HALF_THICKNESS * unit, nodes=60, up=(around[0], around[1], around[2]))
    screws = []
    for hole in range(count):
        if rng.random() < 0.12:
            continue  # not every hole is used
        z = middle + (hole + 0.5 - count / 2) * step
        start = out * (bone + 3.8 * unit) + [0, 0, z]
        end = -out * (bone + rng.uniform(-1, 2.5)) + [0, 0, z + rng.normal(0, 1.2)]
        screws.append(_screw(start, end, unit))
    metal = "titanium" if rng.random() < 0.6 else "steel"
    return Device("plate", metal, (plate,)), Device("screws", metal, tuple(screws))


def _shell(skin: Stack, low: float, high: float, inside: float, outside: float) -> tuple[Stack, Stack]:
    """What lies between two distances from the skin, over a range of heights."""
    layers = []
    covered = (low < STACK_HEIGHTS) & (high > STACK_HEIGHTS)
    for distance in (outside, inside):
        table = skin.table.copy()
        table[2:] = np.where(covered & (table[2:] > 1), table[2:] + distance, SMALLEST_AXIS)
        layers.append(Stack(table, skin.depth))
    return layers[0], layers[1]


def _cast(rng: np.random.Generator, limb: Limb, skin: Stack) -> tuple[Device, ...]:
    low, high = CAST_SPAN[limb.joint]
    high += rng.uniform(-45, 0)
    padding, thick = rng.uniform(1.5, 4), rng.uniform(2.0, 3.5)
    # Windings end at different heights, so the edge is thinner than the cast.
    layers = [
        _shell(skin, low, high - 9.0 * turn, padding + turn * thick, padding + (turn + 1) * thick) for turn in range(2)
    ]
    return (Device("cast", "plaster", solids=tuple(layers), implanted=False),)


def arm_devices(rng: np.random.Generator, limb: Limb, skin: Stack, broken: bool) -> tuple[Device, ...]:
    """Draw the devices of an arm.

    Args:
        rng: the devices' generator.
        limb: the arm.
        skin: its surface.
        broken: whether the bone is broken and not yet mended: it then has a cast, never a plate.

    Returns:
        A plate with screws, or a cast.
    """
    plate = rng.random() < 0.6
    return _plate(rng, limb) if plate and not broken else _cast(rng, limb, skin)
