"""CT phantoms from seeds: slices of one patient at full and at low dose, with exact labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..abdomen import HALF_DEPTH, HALF_WIDTH
from ..make import SMALLEST_SIZE
from ..rays import Array
from ..scene import QUANTA, VIEW, stream
from . import abdomen, abdomen_anatomy, chest
from .canvas import LABELS, Canvas, capsule_distance
from .noise import PHOTONS, dose_pair

CT_REGIONS = ("abdomen", "chest")
BODY_PARTS = {"abdomen": "ABDOMEN", "chest": "CHEST"}
MARGIN = 1.07  # of the body's width that the field covers
DEEPER = 1.1  # organs of the projection phantoms are flatter than those of people who lie in a scanner
COUCH_HU, COUCH_WIDTH, COUCH_SAG, COUCH_GAP, COUCH_SHELL = -650.0, 190.0, 26.0, 3.0, 1.4  # carbon fibre; mm
MOST_SLICES = 200


@dataclass(frozen=True, eq=False)
class CTPhantom:
    """Axial slices of one patient who never lived, with the truth about them.

    Args:
        clean: (N, H, W) float32 HU without noise, from the feet to the head, as `CTVolume.slices`.
        full_dose: the same with the noise of a full-dose scan.
        low_dose: the same with that of a part of its photons.
        labels: (N, H, W) uint8, places in LABELS; each pixel has the label of what covers it by half or more.
        spacing: mm between slices, rows and columns.
        region: one of CT_REGIONS.
        dose: of the low-dose scan, a share of the full dose.
    """

    clean: npt.NDArray[np.float32]
    full_dose: npt.NDArray[np.float32]
    low_dose: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    spacing: tuple[float, float, float]
    region: str
    dose: float

    def mask(self, name: str) -> npt.NDArray[np.bool_]:
        """Where an organ is.

        Args:
            name: one of LABELS, but "body" is everything that is not air around the patient, and "liver" has its
                lesions.

        Returns:
            (N, H, W) bool.
        """
        if name not in LABELS:
            raise ValueError(f"CT phantom label {name!r} is unknown: choose one of {', '.join(LABELS)}")
        if name == "body":
            return self.labels > 0
        found = self.labels == LABELS.index(name)
        return found | (self.labels == LABELS.index("liver_lesion")) if name == "liver" else found


@dataclass(frozen=True)
class _Patient:
    """How one patient is painted: `paint` in a frame of average size, `scale` along x, y, z, `half` width and depth."""

    paint: Callable[[Canvas], None]
    scale: tuple[float, float, float]
    half: tuple[float, float]
    heights: tuple[float, float]


def make_ct_phantom(
    seed: int, region: str = "abdomen", slices: int = 8, size: int = 256, dose: float = 0.25, photons: float = PHOTONS
) -> CTPhantom:
    """Make the slices of one patient, evenly spaced over the region.

    Args:
        seed: the patient, 0 or more; the same seed gives the same patient, whatever the size and number of slices.
        region: one of CT_REGIONS: the upper abdomen, from the lower poles of the kidneys to the domes of the liver;
            or the chest, from there to the aortic arch.
        slices: how many.
        size: pixels along a side.
        dose: of the low-dose scan, above 0 and at most 1.
        photons: for each ray of the full-dose scan; more make less noise.

    Returns:
        The slices, the same for the same arguments.

    Raises:
        ValueError: for an unknown region, a negative seed, a dose, a size or a number of slices out of range.
    """
    check_settings(seed, region, slices, size, dose, photons)
    patient = _abdomen(seed) if region == "abdomen" else _chest(seed)
    # Streams are told apart by what follows the aspect, so that a chest is not the noise of an abdomen.
    place = CT_REGIONS.index(region)
    rng = stream(seed, VIEW, 100 + place)
    roll, off = np.radians(rng.normal(0, 2.0)), rng.normal(0, 5.0, 2)
    field = 2 * MARGIN * max(patient.half) * (1 + rng.uniform(0, 0.1)) + 2 * np.abs(off).max()
    pixel = float(field / size)
    low, high = (height * patient.scale[2] for height in patient.heights)
    step = (high - low) / slices
    heights = low + step * (np.arange(slices) + rng.uniform(0.3, 0.7))
    axis = (np.arange(size) - (size - 1) / 2) * pixel
    across, up = np.meshgrid(axis - off[0], -axis - off[1])
    x, y = np.cos(roll) * across - np.sin(roll) * up, np.sin(roll) * across + np.cos(roll) * up
    canvases = []
    for height in heights:
        frame = (x / patient.scale[0]).astype(np.float32), (y / patient.scale[1]).astype(np.float32)
        canvas = Canvas.blank(*frame, float(height / patient.scale[2]), pixel / float(np.mean(patient.scale[:2])))
        patient.paint(canvas)
        canvases.append(canvas)
    labels = np.stack([canvas.labels for canvas in canvases]).astype(np.uint8, copy=False)
    clean = np.stack([canvas.hu for canvas in canvases])
    _add_couch(clean, labels, x, y, pixel)
    full, less = dose_pair(clean, pixel, dose, stream(seed, QUANTA, 100 + place, size, slices), photons)
    return CTPhantom(clean, full, less, labels, (float(step), pixel, pixel), region, dose)


def check_settings(seed: int, region: str, slices: int, size: int, dose: float, photons: float = PHOTONS) -> None:
    """Refuse what `make_ct_phantom` cannot make.

    Args:
        seed: see there.
        region: see there.
        slices: see there.
        size: see there.
        dose: see there.
        photons: see there.

    Raises:
        ValueError: says which one is wrong, and its range.
    """
    if region not in CT_REGIONS:
        raise ValueError(f"CT phantom region {region!r} is unknown: choose one of {', '.join(CT_REGIONS)}")
    if seed < 0:
        raise ValueError(f"CT phantom seed {seed} must be 0 or more")
    if not 1 <= slices <= MOST_SLICES:
        raise ValueError(f"CT phantom of {slices} slices: give 1 to {MOST_SLICES}")
    if size < SMALLEST_SIZE:
        raise ValueError(f"CT phantom size {size} is too small: use {SMALLEST_SIZE} pixels or more")
    if not 0 < dose <= 1:
        raise ValueError(f"CT phantom dose {dose:g}: give a share of the full dose, above 0 and at most 1")
    if not photons >= 1:
        raise ValueError(f"CT phantom photons {photons:g}: give 1 or more for each ray")


def _abdomen(seed: int) -> _Patient:
    patient = abdomen_anatomy.build_abdomen(seed)
    habitus = patient.habitus
    scale = (habitus.scale[0], habitus.scale[1] * DEEPER, habitus.scale[2])
    out = 1.35 * habitus.fat + habitus.girth
    half = ((float(HALF_WIDTH[5:9].max()) + out) * scale[0], (float(HALF_DEPTH.max()) + out) * scale[1])
    return _Patient(partial(abdomen.paint_abdomen, patient), scale, half, abdomen_anatomy.HEIGHT_RANGE)


def _chest(seed: int) -> _Patient:
    patient = chest.build_chest(seed)
    traits = patient.anatomy.traits
    scale = (traits.scale[0], traits.scale[1] * DEEPER, traits.scale[2])
    deep = chest.HALF_DEPTH + traits.fat + traits.breast
    half = ((chest.HALF_WIDTH + 1.2 * traits.fat) * scale[0], deep * scale[1])
    return _Patient(partial(chest.paint_chest, patient), scale, half, chest.HEIGHT_RANGE)


def _add_couch(clean: Array, labels: np.ndarray, x: Array, y: Array, pixel: float) -> None:
    """Paint what the patient lies on, in the air behind; it has no label."""
    back = float(y[(labels > 0).any(axis=0)].min()) - COUCH_GAP
    half, low = 0.55 * COUCH_WIDTH, back + COUCH_SAG
    edge = [(-COUCH_WIDTH, low), (-half, back + 4), (0.0, back), (half, back + 4), (COUCH_WIDTH, low)]
    shell = np.min([capsule_distance(x, y, *ends, COUCH_SHELL) for ends in pairwise(edge)], axis=0)
    cover = np.clip(0.5 - shell / pixel, 0, 1) * (labels == 0)
    clean += (cover * (COUCH_HU - clean)).astype(np.float32)
