"""One phantom radiograph from one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from .anatomy import Anatomy, build_anatomy
from .detector import detect, display, draw_exposure
from .disease import ALL_CLASSES, add_lungs, change_traits, draw_side
from .organs import draw_traits
from .projection import project
from .rays import Array, Mask, View

SMALLEST_SIZE = 32  # pixels
FIELD = 400.0  # mm, side of the detector field around an average adult
TEXTURE_SIZE = 300
SIDE_NAMES = {-1: "right", 1: "left"}
# Streams of random numbers, so that a disease or another view leaves everything else of a patient as it is.
TRAITS, BONES, SOFT, VESSELS, DISEASE, TEXTURE, VIEW, QUANTA = range(8)


@dataclass(frozen=True)
class Phantom:
    """A synthetic radiograph with the truth about it.

    Args:
        pixels: (H, W) float32 in [0, 1], larger is brighter.
        masks: (H, W) bool by name: right_lung and left_lung (the pleural cavity that neither heart nor diaphragm
            covers, with whatever fills it), heart, spine, ribs, clavicles, abdomen, lesion.
        label: class.
        counts: lungs, ribs (visible), clavicles, nodules.
        spacing: mm per pixel at the detector.
        side: "right" or "left" (the patient's) for a disease of one side, else None.
    """

    pixels: npt.NDArray[np.float32]
    masks: dict[str, Mask]
    label: str
    counts: dict[str, int]
    spacing: float
    side: str | None


def _stream(seed: int, *what: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, *what]))


def _rotation(yaw: float, pitch: float, roll: float) -> Array:
    """Rotation about the vertical, the horizontal and the depth axis, radians."""
    c, s = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_z = np.array([[c[0], -s[0], 0], [s[0], c[0], 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, c[1], -s[1]], [0, s[1], c[1]]])
    about_y = np.array([[c[2], 0, s[2]], [0, 1, 0], [-s[2], 0, c[2]]])
    return np.asarray(about_y @ about_x @ about_z)


def draw_view(rng: np.random.Generator, scale: tuple[float, float, float], bend: float) -> View:
    """Draw how the patient stands, or lies, before the detector.

    Args:
        rng: the view's generator.
        scale: (3,), size of the body along x, y, z.
        bend: sideways bend of the trunk, mm.

    Returns:
        A postero-anterior view from 1.8 m, or (one in five) an antero-posterior one from nearby.
    """
    antero_posterior = rng.random() < 0.2
    distance = rng.uniform(1000, 1250) if antero_posterior else rng.uniform(1750, 1850)
    gap = 135 * scale[1] + rng.uniform(5, 30)
    direction = 1.0 if antero_posterior else -1.0
    turn = np.radians(rng.normal(0, [3.0, 3.2, 1.8]))
    magnification = distance / (distance - gap)
    reach = max(scale[0], 0.97 * scale[2])
    return View(
        matrix=_rotation(*turn) @ np.diag(scale),
        shift=np.array([rng.normal(0, 7), 0.0, rng.normal(6, 8)]),
        source=direction * (distance - gap),
        detector=-direction * gap,
        field=FIELD * reach * magnification / 1.08 * rng.uniform(0.86, 1.03),
        bend=(bend, rng.uniform(-40, 60)),
    )


def _patient(seed: int, label: str) -> tuple[Anatomy, int | None]:
    disease = _stream(seed, DISEASE, ALL_CLASSES.index(label))
    side = draw_side(label, disease)
    traits = change_traits(draw_traits(_stream(seed, TRAITS)), label, side, disease)
    anatomy = build_anatomy(traits, _stream(seed, BONES), _stream(seed, SOFT))
    return add_lungs(anatomy, label, side, _stream(seed, VESSELS), disease), side


def _lung_texture(rng: np.random.Generator) -> Array:
    """Noise over three octaves, mean 0, standard deviation 1."""
    total = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE))
    for sigma, weight in ((0.6, 0.6), (1.5, 0.9), (4.0, 0.8)):
        octave = gaussian_filter(rng.standard_normal(total.shape, dtype=np.float32), sigma, mode="wrap", truncate=2.5)
        total += weight * octave / octave.std()
    return (total / total.std()).astype(np.float32)


def make_phantom(seed: int, label: str = "normal", size: int = 320, view: int = 0) -> Phantom:
    """Make one synthetic chest radiograph.

    Args:
        seed: the patient, 0 or more; the same seed with another label is the same patient with another disease.
        label: one of PHANTOM_CLASSES or "tension_pneumothorax".
        size: pixels along a side; the geometry does not depend on it.
        view: number of the exposure, 0 or more: another view of the same patient has another pose and exposure.

    Returns:
        The picture and its truth, the same for the same arguments.

    Raises:
        ValueError: for an unknown label, a negative seed or view, or a size under SMALLEST_SIZE.
    """
    if label not in ALL_CLASSES:
        raise ValueError(f"phantom label {label!r} is unknown: choose one of {', '.join(ALL_CLASSES)}")
    if seed < 0 or view < 0:
        raise ValueError(f"phantom seed {seed} and view {view} must be 0 or more")
    if size < SMALLEST_SIZE:
        raise ValueError(f"phantom size {size} is too small: use {SMALLEST_SIZE} pixels or more")
    anatomy, side = _patient(seed, label)
    rng = _stream(seed, VIEW, view)
    bend = float(_stream(seed, TRAITS, 1).normal(0, 3.5))
    geometry, exposure = draw_view(rng, anatomy.traits.scale, bend), draw_exposure(rng)
    projection = project(anatomy, geometry, exposure.energy, _lung_texture(_stream(seed, TEXTURE)), size)
    spacing = geometry.field / size
    masks = projection.masks
    if label == "cardiomegaly":
        masks["lesion"] = masks["heart"].copy()
    quanta = _stream(seed, QUANTA, view, ALL_CLASSES.index(label), size)
    signal = detect(projection.attenuation, exposure, spacing, quanta)
    pixels = display(signal, masks["right_lung"] | masks["left_lung"], exposure, spacing)
    counts = {"lungs": 2, "clavicles": 2, "ribs": projection.ribs_visible, "nodules": len(anatomy.nodules)}
    return Phantom(pixels, masks, label, counts, spacing, SIDE_NAMES[side] if side is not None else None)
