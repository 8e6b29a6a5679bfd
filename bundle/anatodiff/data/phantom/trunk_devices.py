"""Devices of chest and abdomen; lengths in mm in the frame of each region."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .abdomen import Habitus
from .devices import scatter_clips, smooth_line
from .geometry import Ellipsoid
from .organs import Traits
from .rays import Array
from .scene import Device

Draw = Callable[[], tuple[Device, ...]]
WIRE_RADIUS, LINE_RADIUS = 0.4, 1.1  # mm
ELECTRODES = np.array([[-112.0, 92], [112, 92], [98, -112], [-98, -112], [34, -22], [-30, 30]])  # x and z on the chest


def _some(rng: np.random.Generator, draws: tuple[Draw, ...], weights: tuple[float, ...]) -> tuple[Device, ...]:
    """One to three kinds of devices, common ones more often."""
    share = np.array(weights) / sum(weights)
    count = 1 + int(rng.random() < 0.5) + int(rng.random() < 0.25)
    chosen = rng.choice(len(draws), size=min(count, len(draws)), replace=False, p=share)
    return tuple(device for which in sorted(chosen) for device in draws[which]())


def _electrodes(
    rng: np.random.Generator, places: Array, half: tuple[float, float], exit_z: float, unit: float = 1.0
) -> tuple[Device, ...]:
    """Snaps on the skin and their wires, which run together out of the image."""
    wires, snaps = [], []
    leave = np.array([rng.normal(0, 60), half[1] + 8, exit_z])
    for x, z in places:
        y = half[1] * np.sqrt(max(1 - (x / half[0]) ** 2, 0.05)) + 3
        spot = np.array([x, y, z])
        snaps.append(Ellipsoid((x, y, z), (4.2 * unit, 1.2 * unit, 4.2 * unit)))
        middle = 0.5 * (spot + leave)
        points = [spot, spot * 0.75 + middle * 0.25, middle, middle * 0.4 + leave * 0.6, leave + rng.normal(0, 12, 3)]
        points[1:4] = [point + rng.normal(0, [22, 4, 16]) for point in points[1:4]]
        wires.append(smooth_line(points, WIRE_RADIUS, unit=unit))
    return (
        Device("leads", "steel", tuple(wires), implanted=False),
        Device("electrodes", "steel", solids=tuple(snaps), implanted=False),
    )


def _airway_tube(rng: np.random.Generator, shift: float) -> tuple[Device, ...]:
    tip = rng.uniform(66, 118)
    points = np.array(
        [[0.1 * shift, -11, 235], [0.15 * shift, -13, 180], [0.5 * shift, -15, 140], [0.8 * shift, -17, tip]]
    )
    stripe = np.add(points, [4.2, 0.0, 0.0])
    return (
        Device("endotracheal_tube", "plastic", (smooth_line(points, 5.2, 1.2),), implanted=False),
        Device("endotracheal_tube_stripe", "catheter", (smooth_line(stripe, 0.6),), implanted=False),
    )


def _stomach_tube(route: Array) -> tuple[Device, ...]:
    return (Device("nasogastric_tube", "catheter", (smooth_line(route, 2.3, 0.7),)),)


def _central_line(rng: np.random.Generator, shift: float) -> tuple[Device, ...]:
    tip = [-21.0 + 0.9 * shift, 20, rng.uniform(25, 75)]
    junction = [[-25 + 0.6 * shift, 22, 106], [-21.5 + 0.8 * shift, 20, 88]]
    starts = (
        [[-42, 22, 235], [-36, 22, 175], [-30, 22, 135]],  # jugular vein
        [[-118, 78, 108], [-84, 66, 122], [-52, 44, 122]],  # subclavian vein
        [[-205, -30, -40], [-180, -12, 80], [-120, 20, 124], [-60, 42, 122]],  # vein of the arm
    )
    route = np.array([*starts[int(rng.integers(3))], *junction, tip], dtype=float)
    route[:-3] += rng.normal(0, 3, route[:-3].shape)
    return (Device("central_line", "catheter", (smooth_line(route, LINE_RADIUS),)),)


def _pacemaker(rng: np.random.Generator, shift: float, dome: float) -> tuple[Device, ...]:
    side = 1 if rng.random() < 0.85 else -1
    place = np.array([side * 92.0, 96, 100]) + rng.normal(0, [6, 2, 8])
    angle = rng.uniform(-0.5, 0.5)
    axes = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    can = Ellipsoid((place[0], place[1], place[2]), (23, 3.6, 19), axes)
    entry = [place - [side * 14, 0, -16], [side * 78, 76, 130], [side * 48, 48, 124], [-14 + 0.6 * shift, 26, 106]]
    vein = [[-22 + 0.9 * shift, 20, 80], [-26 + 0.9 * shift, 20, 30]]
    ventricle = [*entry, *vein, [-16 + shift, 24, dome + 48], [22 + shift, 36, dome + 26], [44 + shift, 42, dome + 27]]
    lines = [smooth_line(np.array(ventricle, dtype=float), 0.7)]
    if rng.random() < 0.6:
        offset = np.array([1.5, 0.0, 1.0])  # beside the first lead, not in it
        atrium = [
            *entry,
            *vein,
            [-28 + shift, 26, dome + 62],
            [-22 + shift, 44, dome + 66],
            [-24 + shift, 46, dome + 80],
        ]
        lines.append(smooth_line(np.array(atrium, dtype=float) + offset, 0.7))
    return Device("pacemaker", "titanium", solids=(can,)), Device("pacing_leads", "steel", tuple(lines))


def _sternal_wires(rng: np.random.Generator) -> tuple[Device, ...]:
    loops = []
    angle = np.linspace(0, 2 * np.pi, 9)
    for z in (84.0, 60, 36, 12, -14)[: int(rng.integers(3, 6))]:
        wide, tall = rng.uniform(7, 10), rng.uniform(4, 7)
        ring = np.stack([wide * np.cos(angle), np.full(9, 102.0), z + tall * np.sin(angle)], axis=1)
        loops.append(smooth_line(ring + rng.normal(0, 0.7, (9, 3)), 0.45))
        twist = np.array([[2.0, 104, z + tall], [4, 105, z + tall + 4], [3, 105, z + tall + 8]]) + rng.normal(
            0, 0.6, (3, 3)
        )
        loops.append(smooth_line(twist, 0.8))
    return (Device("sternal_wires", "steel", tuple(loops)),)


def chest_devices(rng: np.random.Generator, traits: Traits) -> tuple[Device, ...]:
    """Draw the devices of a chest.

    Args:
        rng: the devices' generator.
        traits: the patient.

    Returns:
        At least one device.
    """
    shift, dome = traits.shift, min(traits.domes)
    gullet = np.array(
        [
            [2, -34, 235],
            [3 + 0.4 * shift, -38, 120],
            [6 + 0.8 * shift, -40, 30],
            [14 + 0.5 * shift, -32, -50],
            [24, -8, dome + 2],
            [58, 14, dome - 34],
            [40, 34, dome - 78],
            [0, 40, dome - 92],
        ],
        dtype=float,
    )
    keep = rng.permutation(len(ELECTRODES))[: int(rng.integers(3, 6))]
    places = ELECTRODES[keep] + rng.normal(0, 10, (len(keep), 2))
    exit_z = -330.0 if rng.random() < 0.7 else 260.0
    where = ((-60.0, 10, 0), (110.0, 20, 60), (-110.0, 20, 60), (10.0, 0, 40))[int(rng.integers(4))]
    half = (172 + traits.fat, 114 + 0.8 * traits.fat)
    draws: tuple[Draw, ...] = (
        lambda: _electrodes(rng, places, half, exit_z),
        lambda: _airway_tube(rng, shift) + _stomach_tube(gullet + rng.normal(0, 2, gullet.shape)),
        lambda: _central_line(rng, shift),
        lambda: _pacemaker(rng, shift, dome),
        lambda: _sternal_wires(rng),
        lambda: (scatter_clips(rng, where, (16, 10, 16)),),
    )
    return _some(rng, draws, (3, 2, 3, 1.5, 1, 1))


def abdomen_devices(rng: np.random.Generator, habitus: Habitus, half: tuple[float, float]) -> tuple[Device, ...]:
    """Draw the devices of an abdomen.

    Args:
        rng: the devices' generator.
        habitus: the patient.
        half: half width and half depth of the trunk, mm.

    Returns:
        At least one device.
    """
    unit = 0.55 / habitus.scale[2] if habitus.child else 1 / habitus.scale[2]
    gullet = np.array(
        [[4, -34, 330], [8, -36, 240], [16, -28, 178], [40, -8, 150], [64, 8, 118], [60, 28, 86], [34, 46, 62]],
        dtype=float,
    )
    groin = np.array([[-66, 60, -250], [-48, 40, -190], [-22, -4, -120], [-11, -30, -60], [-13, -32, 20]], dtype=float)
    groin[-1, 2] += rng.uniform(0, 110)
    navel = np.array([[0, half[1], -38], [2, 40, -70], [10, 0, -106], [7, -28, -60], [8, -40, 40]], dtype=float)
    navel = np.concatenate([navel, [[9, -42, rng.uniform(70, 190)]]])
    start = np.array([half[0], 30, rng.uniform(-60, 40)]) * [rng.choice([-1, 1]), 1, 1]
    drain = np.array(
        [start, start * [0.7, 1, 1] + [0, 10, 14], [start[0] * 0.4, 30, -60], [rng.normal(0, 25), 10, -130]]
    )
    places = np.array([[-92, 150], [96, 146], [88, 20], [-80, 30]]) + rng.normal(0, 12, (4, 2))

    def tube(kind: str, route: Array, radius: float, wall: float = 0.0) -> tuple[Device, ...]:
        bent = route + rng.normal(0, 2, route.shape)
        return (Device(kind, "catheter", (smooth_line(bent, radius, wall, unit),)),)

    draws: tuple[Draw, ...] = (
        lambda: tube("nasogastric_tube", gullet, 2.3, 0.7),
        lambda: _electrodes(rng, places[: int(rng.integers(2, 5))], half, 330.0, 0.6 * unit),
        lambda: tube("umbilical_catheter", navel, 1.1) if habitus.child else tube("femoral_line", groin, LINE_RADIUS),
        lambda: (scatter_clips(rng, (-62, 10, 70) if rng.random() < 0.6 else (20, 0, -150), (13, 12, 13), unit),),
        lambda: tube("drain", drain, 3.0, 0.8),
    )
    return _some(rng, draws, (3, 2, 2, 0.2 if habitus.child else 1.5, 1))
