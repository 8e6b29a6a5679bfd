"""Tubes, lines, leads, implants and casts on their way to the detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .materials import device_attenuation, soft_attenuation
from .rays import Array, Mask, cast_rays
from .scene import Device, Scene
from .tubes import Tubes, make_tube, splat_tubes

DEVICE_MASK = "devices"
LEAST_SEEN = 0.03  # line integral that a device adds where its mask begins
CLIP_LENGTH, CLIP_RADIUS = 5.5, 0.55  # mm


def smooth_line(
    points: Sequence[Sequence[float]] | Array, radius: float, wall: float = 0.0, unit: float = 1.0
) -> Tubes:
    """A thin round line through a few points.

    Args:
        points: (P, 3), mm.
        radius: mm.
        wall: of a hollow line, mm; 0 is solid.
        unit: mm of the patient frame for one mm of the room: small patients are large patients made small.

    Returns:
        A tube.
    """
    core = 0.0 if wall > 0 else 1.0
    return make_tube(np.asarray(points, dtype=float), radius * unit, radius * unit, wall * unit, core, nodes=140)


def scatter_clips(
    rng: np.random.Generator, middle: Sequence[float], spread: Sequence[float], unit: float = 1.0
) -> Device:
    """Surgical clips that lie about a place.

    Args:
        rng: the devices' generator.
        middle: (3,), mm.
        spread: (3,), standard deviation, mm.
        unit: see smooth_line.

    Returns:
        Three to nine clips of titanium.
    """
    clips = []
    for _ in range(int(rng.integers(3, 10))):
        place, along, across = rng.normal(middle, spread), rng.normal(size=3), rng.normal(size=3)
        along *= CLIP_LENGTH * unit / 2 / np.linalg.norm(along)
        across *= 0.5 * CLIP_RADIUS * unit / np.linalg.norm(across)
        points = [place - along, place - 0.3 * along + across, place + 0.3 * along + across, place + along]
        clips.append(make_tube(np.array(points), CLIP_RADIUS * unit, CLIP_RADIUS * unit, nodes=8))
    return Device("clips", "titanium", tuple(clips))


def project_device(device: Device, scene: Scene) -> Array:
    """Line integral that a device adds.

    Args:
        device: the device.
        scene: the patient, from whom the geometry and the energy are taken.

    Returns:
        (H, W), no unit; it replaces soft tissue where the device is implanted.
    """
    size = len(scene.attenuation)
    path = np.zeros((size, size), np.float32)
    for tubes in device.tubes:
        path += splat_tubes(tubes, scene.view, size)[0]
    if device.solids:
        rays = cast_rays(scene.view, size)
        for solid in device.solids:
            outer, inner = solid if isinstance(solid, tuple) else (solid, None)
            near, far = outer.interval(rays)
            depth = far - near
            if inner is not None:
                near, far = inner.interval(rays)
                depth = np.maximum(depth - (far - near), 0)
            path += depth * rays.stretch
    energy = scene.exposure.energy
    mu = device_attenuation(device.material, energy) - (soft_attenuation(energy) if device.implanted else 0.0)
    return path * np.float32(mu)


def add_devices(scene: Scene, rng: np.random.Generator | None) -> Scene:
    """Give a patient devices.

    Args:
        scene: without devices.
        rng: the devices' generator, or None: the patient carries none.

    Returns:
        The scene with the mask and the count "devices", which are empty for a patient without.
    """
    carried = scene.equip(rng) if rng is not None else ()
    mask: Mask = np.zeros(scene.attenuation.shape, bool)
    total, seen = scene.attenuation, 0
    for device in carried:
        added = project_device(device, scene)
        there = added > LEAST_SEEN
        mask |= there
        seen += bool(there.any())
        total = total + added
    return replace(
        scene, attenuation=total, masks=scene.masks | {DEVICE_MASK: mask}, counts=scene.counts | {DEVICE_MASK: seen}
    )
