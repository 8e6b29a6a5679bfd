"""One phantom radiograph from one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .abdomen import ABDOMEN_CLASSES
from .abdomen_scene import ABDOMEN_MASK_NAMES, abdomen_scene
from .arm_scene import ARM_MASK_NAMES, arm_scene
from .chest_scene import chest_scene
from .detector import detect, display
from .devices import DEVICE_MASK, add_devices
from .disease import CHEST_CLASSES
from .humerus import HUMERUS_CLASSES
from .projection import MASK_NAMES
from .rays import Mask
from .scene import DEVICES, QUANTA, stream

# New classes are appended: a class's place in this list is part of its random numbers.
ALL_CLASSES = CHEST_CLASSES + ABDOMEN_CLASSES + HUMERUS_CLASSES
REGIONS = (
    (CHEST_CLASSES, chest_scene, MASK_NAMES, "chest phantom"),
    (ABDOMEN_CLASSES, abdomen_scene, ABDOMEN_MASK_NAMES, "abdomen phantom"),
    (HUMERUS_CLASSES, arm_scene, ARM_MASK_NAMES, "upper arm phantom"),
)
SMALLEST_SIZE = 32  # pixels
SIDE_NAMES = {-1: "right", 1: "left"}


@dataclass(frozen=True)
class Phantom:
    """A synthetic radiograph with the truth about it.

    Args:
        pixels: (H, W) float32 in [0, 1], larger is brighter.
        masks: (H, W) bool by name, see mask_names. Of the chest: right_lung and left_lung (the pleural cavity that
            neither heart nor diaphragm covers, with whatever fills it), heart, spine, ribs, clavicles, abdomen, lesion.
        label: class.
        counts: what can be counted; of the chest: lungs, ribs (visible), clavicles, nodules.
        spacing: mm per pixel at the detector.
        side: "right" or "left" (the patient's) for an arm and for a disease of one side, else None.
        body_part: DICOM's word for the region.
    """

    pixels: npt.NDArray[np.float32]
    masks: dict[str, Mask]
    label: str
    counts: dict[str, int]
    spacing: float
    side: str | None
    body_part: str = "CHEST"


def mask_names(label: str, devices: float = 0.0) -> tuple[str, ...]:
    """Names of the masks that a phantom of a class has, in order.

    Args:
        label: one of ALL_CLASSES.
        devices: as for make_phantom.

    Returns:
        The keys of Phantom.masks.

    Raises:
        ValueError: for an unknown label.
    """
    for labels, _, names, _ in REGIONS:
        if label in labels:
            return (*names, DEVICE_MASK) if devices > 0 else names
    raise ValueError(f"phantom label {label!r} is unknown: choose one of {', '.join(ALL_CLASSES)}")


def domain_of(label: str) -> str:
    """Name the domain of a phantom label: its region, and that it is a phantom."""
    return next(domain for labels, _, _, domain in REGIONS if label in labels)


def _check(seed: int, label: str, size: int, view: int, devices: float) -> None:
    if label not in ALL_CLASSES:
        raise ValueError(f"phantom label {label!r} is unknown: choose one of {', '.join(ALL_CLASSES)}")
    if seed < 0 or view < 0:
        raise ValueError(f"phantom seed {seed} and view {view} must be 0 or more")
    if size < SMALLEST_SIZE:
        raise ValueError(f"phantom size {size} is too small: use {SMALLEST_SIZE} pixels or more")
    if not 0 <= devices <= 1:
        raise ValueError(f"phantom devices={devices}: give the share of images with devices, 0 to 1")


def make_phantom(seed: int, label: str = "normal", size: int = 320, view: int = 0, devices: float = 0.0) -> Phantom:
    """Make one synthetic radiograph.

    Args:
        seed: the patient, 0 or more; the same seed with another label of the same region is the same patient with
            another disease.
        label: one of ALL_CLASSES; those of the chest have no prefix.
        size: pixels along a side; the geometry does not depend on it.
        view: number of the exposure, 0 or more: another view of the same patient has another pose and exposure.
        devices: share of patients with tubes, lines, leads, clips, a pacemaker, a plate or a cast, 0 to 1. Above 0
            every phantom has a mask and a count "devices", which is empty where there are none.

    Returns:
        The picture and its truth, the same for the same arguments.

    Raises:
        ValueError: for an unknown label, a negative seed or view, a size under SMALLEST_SIZE, or another share.
    """
    _check(seed, label, size, view, devices)
    build = next(scene for labels, scene, _, _ in REGIONS if label in labels)
    scene = build(seed, label, size, view)
    if devices > 0:
        rng = stream(seed, DEVICES)
        scene = add_devices(scene, rng if rng.random() < devices else None)
    spacing = scene.view.field / size
    quanta = stream(seed, QUANTA, view, ALL_CLASSES.index(label), size)
    signal = detect(scene.attenuation, scene.exposure, spacing, quanta)
    pixels = display(signal, scene.window, scene.exposure, spacing)
    side = SIDE_NAMES[scene.side] if scene.side is not None else None
    return Phantom(pixels, scene.masks, label, scene.counts, spacing, side, scene.body_part)
