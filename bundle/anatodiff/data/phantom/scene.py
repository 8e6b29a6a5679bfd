"""What a region hands to the detector, and what every region but the chest draws alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .detector import Exposure
from .geometry import Solid
from .rays import Array, Mask, View
from .tubes import Tubes

# Streams of random numbers, so that a disease or another view leaves everything else of a patient as it is.
TRAITS, BONES, SOFT, VESSELS, DISEASE, TEXTURE, VIEW, QUANTA, DEVICES, BOWEL = range(10)


def stream(seed: int, *what: int) -> np.random.Generator:
    """The generator of one aspect of one patient.

    Args:
        seed: the patient.
        *what: the aspect, one of the constants of this module first.

    Returns:
        A generator that depends on nothing else.
    """
    return np.random.default_rng(np.random.SeedSequence([seed, *what]))


def rotation(yaw: float, pitch: float, roll: float) -> Array:
    """Rotation about the vertical, the horizontal and the depth axis.

    Args:
        yaw: radians.
        pitch: radians.
        roll: radians.

    Returns:
        (3, 3).
    """
    c, s = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_z = np.array([[c[0], -s[0], 0], [s[0], c[0], 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, c[1], -s[1]], [0, s[1], c[1]]])
    about_y = np.array([[c[2], 0, s[2]], [0, 1, 0], [-s[2], 0, c[2]]])
    return np.asarray(about_y @ about_x @ about_z)


@dataclass(frozen=True)
class Device:
    """Something that does not grow in a patient.

    Args:
        kind: what it is.
        material: see materials.device_attenuation.
        tubes: its thin parts, in the patient frame.
        solids: its thick parts, none of which overlap; of a pair (outer, inner) only what lies between them counts.
        implanted: whether it takes the place of soft tissue.
    """

    kind: str
    material: str
    tubes: tuple[Tubes, ...] = ()
    solids: tuple[Solid | tuple[Solid, Solid], ...] = ()
    implanted: bool = True


@dataclass(frozen=True)
class Scene:
    """One exposure of one patient before it meets the detector.

    Args:
        attenuation: (H, W), line integral of mu, no unit.
        masks: (H, W) bool by name.
        counts: of what can be counted.
        window: (H, W) bool, the pixels by which the display is set: the tissue that is to be dark grey.
        view: the geometry.
        exposure: the settings.
        body_part: DICOM's word for the region.
        side: -1 right, 1 left, None where there is none.
        equip: draws devices that fit this patient.
    """

    attenuation: Array
    masks: dict[str, Mask]
    counts: dict[str, int]
    window: Mask
    view: View
    exposure: Exposure
    body_part: str
    side: int | None
    equip: Callable[[np.random.Generator], tuple[Device, ...]]
