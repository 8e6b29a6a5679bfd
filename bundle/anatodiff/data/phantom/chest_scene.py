"""A radiograph of the chest before it meets the detector."""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.ndimage import gaussian_filter

from .anatomy import Anatomy, build_anatomy
from .detector import draw_exposure
from .disease import CHEST_CLASSES, add_lungs, change_traits, draw_side
from .organs import draw_traits
from .projection import project
from .rays import Array, View
from .scene import BONES, DISEASE, SOFT, TEXTURE, TRAITS, VESSELS, VIEW, Scene, rotation, stream
from .trunk_devices import chest_devices

FIELD = 400.0  # mm, side of the detector field around an average adult
TEXTURE_SIZE = 300


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
        matrix=rotation(*turn) @ np.diag(scale),
        shift=np.array([rng.normal(0, 7), 0.0, rng.normal(6, 8)]),
        source=direction * (distance - gap),
        detector=-direction * gap,
        field=FIELD * reach * magnification / 1.08 * rng.uniform(0.86, 1.03),
        bend=(bend, rng.uniform(-40, 60)),
    )


def _patient(seed: int, label: str) -> tuple[Anatomy, int | None]:
    disease = stream(seed, DISEASE, CHEST_CLASSES.index(label))
    side = draw_side(label, disease)
    traits = change_traits(draw_traits(stream(seed, TRAITS)), label, side, disease)
    anatomy = build_anatomy(traits, stream(seed, BONES), stream(seed, SOFT))
    return add_lungs(anatomy, label, side, stream(seed, VESSELS), disease), side


def _lung_texture(rng: np.random.Generator) -> Array:
    """Noise over three octaves, mean 0, standard deviation 1."""
    total = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE))
    for sigma, weight in ((0.6, 0.6), (1.5, 0.9), (4.0, 0.8)):
        octave = gaussian_filter(rng.standard_normal(total.shape, dtype=np.float32), sigma, mode="wrap", truncate=2.5)
        total += weight * octave / octave.std()
    return (total / total.std()).astype(np.float32)


def chest_scene(seed: int, label: str, size: int, view: int) -> Scene:
    """One exposure of a chest.

    Args:
        seed: the patient.
        label: one of CHEST_CLASSES.
        size: pixels along a side.
        view: number of the exposure.

    Returns:
        Line integrals, masks and counts.
    """
    anatomy, side = _patient(seed, label)
    rng = stream(seed, VIEW, view)
    bend = float(stream(seed, TRAITS, 1).normal(0, 3.5))
    geometry, exposure = draw_view(rng, anatomy.traits.scale, bend), draw_exposure(rng)
    projection = project(anatomy, geometry, exposure.energy, _lung_texture(stream(seed, TEXTURE)), size)
    masks = projection.masks
    if label == "cardiomegaly":
        masks["lesion"] = masks["heart"].copy()
    counts = {"lungs": 2, "clavicles": 2, "ribs": projection.ribs_visible, "nodules": len(anatomy.nodules)}
    window = masks["right_lung"] | masks["left_lung"]
    equip = partial(chest_devices, traits=anatomy.traits)
    return Scene(projection.attenuation, masks, counts, window, geometry, exposure, "CHEST", side, equip)
