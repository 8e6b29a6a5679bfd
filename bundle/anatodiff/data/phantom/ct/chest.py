"""The chest in axial CT: the anatomy of the projection phantoms, cut at any height; the carina is near z = 50."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..anatomy import Anatomy, build_anatomy
from ..disease import CHEST_CLASSES, add_lungs, draw_side
from ..geometry import Ellipsoid
from ..organs import SIDES, draw_traits
from ..rays import Array
from ..scene import BONES, DISEASE, SOFT, TEXTURE, TRAITS, VESSELS, stream
from ..tubes import join_tubes
from .canvas import (
    COARSE,
    FAR,
    FINE,
    MIDDLING,
    Canvas,
    Grain,
    Warp,
    blend,
    ellipse_distance,
    solid_distance,
    three,
    tube_distance,
)
from .spine import paint_vertebra

CT_CHEST = 12  # part of the random numbers of this region
HEIGHT_RANGE = (-96.0, 96.0)  # mm, between which slices are cut
HALF_WIDTH, HALF_DEPTH = 186.0, 122.0  # mm, of the trunk with the muscles at its sides, without its fat
TO_LUMBAR = 190.0  # mm by which the frame of the abdomen counts higher
THORACIC_FROM, THORACIC_STEP = 193.0, 26.5  # mm; above, vertebrae repeat
SPINE_BACK, SPINE_SIZE = 15.0, 0.86  # against a lumbar vertebra
LUNG_HU, LUNG_GRADIENT = -865.0, 55.0  # in the middle, and from front to back
# Left and right ventricle: where in the heart, mm, and which share of its size.
CHAMBERS = (((10, -10, 0), (0.62, 0.52, 0.6)), ((-16, 18, 0), (0.6, 0.36, 0.6)))
NODULE_SHARE = 0.3  # of the patients


@dataclass(frozen=True, eq=False)
class Chest:
    """One patient.

    Args:
        anatomy: organs, lungs with vessels, and bones.
        warp: bends the organs.
        grain: texture.
        blood: HU of the vessels.
        muscle: HU.
        fat: HU.
        liver: HU.
        marrow: HU.
    """

    anatomy: Anatomy
    warp: Warp
    grain: Grain
    blood: float
    muscle: float
    fat: float
    liver: float
    marrow: float


def build_chest(seed: int) -> Chest:
    """Build one patient from a seed.

    Args:
        seed: 0 or more.

    Returns:
        The anatomy, of which slices are cut by `paint_chest`.
    """
    rng = stream(seed, SOFT, CT_CHEST)
    traits = draw_traits(stream(seed, TRAITS, CT_CHEST))
    anatomy = build_anatomy(traits, stream(seed, BONES, CT_CHEST), stream(seed, SOFT, CT_CHEST, 1))
    label = "nodule" if rng.random() < NODULE_SHARE else "normal"
    disease = stream(seed, DISEASE, CT_CHEST, CHEST_CLASSES.index(label))
    side = draw_side(label, disease)
    anatomy = add_lungs(anatomy, label, side, stream(seed, VESSELS, CT_CHEST), disease)
    contrast = rng.random() < 0.7
    return Chest(
        anatomy,
        Warp(rng, rng.uniform(2.0, 4.0), (70, 150)),
        Grain(stream(seed, TEXTURE, CT_CHEST)),
        blood=rng.uniform(150, 230) if contrast else 42.0,
        muscle=rng.uniform(52, 64),
        fat=rng.uniform(-112, -98),
        liver=rng.uniform(80, 115) if contrast else 56.0,
        marrow=rng.uniform(150, 220),
    )


def paint_chest(patient: Chest, canvas: Canvas) -> None:
    """Paint one slice.

    Args:
        patient: from build_chest.
        canvas: blank, in the patient's frame.
    """
    where = patient.warp(canvas.x, canvas.y, canvas.z)
    trunk = _paint_wall(patient, canvas, where)
    _paint_lungs(patient, canvas, where)
    _paint_middle(patient, canvas, where)
    _paint_bones(patient, canvas, trunk)


def _texture(patient: Chest, canvas: Canvas, strength: float) -> Array:
    return strength * patient.grain.on(canvas, FINE)


def _paint_wall(patient: Chest, canvas: Canvas, where: tuple[Array, Array]) -> Array:
    """Paint skin, fat, breasts and muscles; returns the distance to the surface of the muscles."""
    anatomy, z, traits = patient.anatomy, canvas.z, patient.anatomy.traits
    skin = [solid_distance(anatomy.body[0], *where, z)]
    meat = [solid_distance(anatomy.muscle, *where, z)]
    for half in anatomy.limbs:
        flank = solid_distance(half[-1], *where, z)
        skin.append(flank)
        meat.append(flank + 14.0 + 0.9 * traits.fat)
        skin += [solid_distance(part, *where, z) for part in half[1:-2]]  # the breast, where there is one
    whole = blend(skin, 30.0)
    canvas.paint(whole, 10.0, "body")
    strands = np.clip(patient.grain.on(canvas, COARSE) - 1.1, 0, 1) * 50
    canvas.paint(whole + 1.9, patient.fat + _texture(patient, canvas, 5) + strands)
    trunk = blend(meat, 20.0)
    clefts = np.clip(patient.grain.on(canvas, MIDDLING) - 1.2, 0, 1) * 70
    canvas.paint(np.maximum(trunk, whole + 3), patient.muscle + _texture(patient, canvas, 7) - clefts)
    return trunk


def _lung_distance(patient: Chest, where: tuple[Array, Array], z: float, side: int) -> Array:
    anatomy = patient.anatomy
    lung = solid_distance(anatomy.lungs[SIDES.index(side)].cavity, *where, z)
    lung = np.maximum(lung, -side * (where[0] - anatomy.midline()) + 2.0)
    heart = blend([solid_distance(part, *where, z) for part in anatomy.heart], 14.0)
    lung = np.maximum(lung, 3.5 - heart)  # the fat around it
    for solid in (*anatomy.vessels, anatomy.domes[SIDES.index(side)], anatomy.skeleton.spine):
        lung = np.maximum(lung, 2.0 - solid_distance(solid, *where, z))
    return np.asarray(lung)


def _paint_lungs(patient: Chest, canvas: Canvas, where: tuple[Array, Array]) -> None:
    anatomy, z = patient.anatomy, canvas.z
    between = blend([solid_distance(lung.cavity, *where, z) for lung in anatomy.lungs], 40.0)
    canvas.paint(between - 0.5, patient.fat + _texture(patient, canvas, 5))
    for which, side in enumerate(SIDES):
        _paint_below(patient, canvas, where, side)
        lung = _lung_distance(patient, where, z, side)
        gas = LUNG_HU - LUNG_GRADIENT * canvas.y / 100 + _texture(patient, canvas, 20)
        canvas.paint(lung, gas, "lungs")
        small = np.clip(patient.grain.on(canvas, MIDDLING) - 1.7, 0, 1) * 420
        canvas.paint(lung + 5, gas + small)
        vessels = tube_distance(join_tubes(anatomy.lungs[which].vessels), canvas)
        canvas.paint(np.maximum(vessels, lung), 0.6 * patient.blood)
    for nodule in anatomy.nodules:
        canvas.paint(solid_distance(nodule, canvas.x, canvas.y, z), 45.0)


def _paint_below(patient: Chest, canvas: Canvas, where: tuple[Array, Array], side: int) -> None:
    """Paint what lies under one half of the diaphragm."""
    dome = solid_distance(patient.anatomy.domes[SIDES.index(side)], *where, canvas.z)
    wall = solid_distance(patient.anatomy.lungs[SIDES.index(side)].cavity, *where, canvas.z)
    within = np.maximum(np.maximum(dome, wall - 1), -side * where[0] - 20 * (side < 0))
    canvas.paint(within, patient.muscle)
    if side < 0:
        canvas.paint(within + 2.5, patient.liver + _texture(patient, canvas, 3), "liver")
        return
    canvas.paint(within + 2.5, patient.fat)
    spleen = np.maximum(ellipse_distance(*where, (96.0, -48.0), (30.0, 44.0)), within + 4)
    canvas.paint(spleen, patient.liver + 8, "spleen")
    stomach = np.maximum(ellipse_distance(*where, (60.0, 12.0), (36.0, 40.0)), within + 5)
    canvas.paint(stomach, 80.0, "stomach")
    canvas.paint(stomach + 4, np.where(canvas.y > 24, -985.0, 25.0))


def _paint_middle(patient: Chest, canvas: Canvas, where: tuple[Array, Array]) -> None:
    anatomy, z, blood = patient.anatomy, canvas.z, patient.blood
    parts = [solid_distance(part, *where, z) for part in anatomy.heart]
    heart = blend(parts, 14.0)
    canvas.paint(heart - 3.0, patient.fat)
    canvas.paint(np.abs(heart - 3.2) - 0.5, patient.muscle, share=0.7)  # the pericardium
    canvas.paint(heart, 0.55 * blood + 45 + _texture(patient, canvas, 4), "heart")
    ventricle = anatomy.heart[0]
    centre = np.asarray(ventricle.centre)
    for offset, shares in CHAMBERS:
        size = np.multiply(ventricle.radii, shares)
        chamber = solid_distance(Ellipsoid(three(centre + offset), three(size), ventricle.axes), *where, z)
        canvas.paint(np.maximum(chamber, heart + 3), blood, "heart")
    for part in parts[1:3]:
        canvas.paint(np.maximum(part + 3, heart + 2), blood - 8, "heart")
    _, descending, knob, trunk, cava = (solid_distance(solid, *where, z) for solid in anatomy.vessels)
    shift = 0.8 * anatomy.traits.shift
    calibre = 14.5 * anatomy.traits.aorta**0.5
    ascending = ellipse_distance(*where, (-8.0 + shift, 18.0 - 0.25 * max(z - 40, 0)), (calibre, calibre))
    if z < 0 or z > 82:
        ascending = np.full_like(heart, FAR)
    for vessel in (trunk + 6, cava, ascending, knob, descending):
        canvas.paint(np.maximum(vessel - 1.2, 2.0 - heart), patient.fat)
        canvas.paint(vessel, blood + _texture(patient, canvas, 3), "vessels")
    canvas.paint(ellipse_distance(*where, (4.0 + shift, -38.0), (8.0, 5.5)), patient.muscle - 8)  # the oesophagus
    airways = join_tubes(anatomy.air)
    canvas.paint(tube_distance(airways, canvas) - 1.4, patient.muscle - 10)
    canvas.paint(tube_distance(airways, canvas), -990.0, "lungs")


def _paint_bones(patient: Chest, canvas: Canvas, trunk: Array) -> None:
    skeleton = patient.anatomy.skeleton
    for side in (-1, 1):
        back = np.maximum(ellipse_distance(canvas.x, canvas.y, (side * 27.0, -103.0), (24.0, 14.0)), trunk + 1.5)
        canvas.paint(back, patient.muscle + _texture(patient, canvas, 6), "body")
    lumbar = canvas.z + TO_LUMBAR
    if lumbar > THORACIC_FROM:
        lumbar = THORACIC_FROM + (lumbar - THORACIC_FROM) % THORACIC_STEP
    paint_vertebra(canvas, patient.grain, lumbar, patient.marrow, SPINE_SIZE, SPINE_BACK)
    bones = join_tubes([*skeleton.ribs, *skeleton.clavicles, skeleton.others[0]])
    outer = np.where(trunk < 4.0, tube_distance(bones, canvas), FAR)
    canvas.paint(outer, 560.0, "bone")
    canvas.paint(np.maximum(tube_distance(bones, canvas, 1.4), outer), patient.marrow + 20)
