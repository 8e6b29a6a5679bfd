"""The upper abdomen in axial CT: one 3-D anatomy, painted at any height."""

from __future__ import annotations

import numpy as np

from ..geometry import Ellipsoid
from ..rays import Array
from .abdomen_anatomy import Abdomen, trunk_distance
from .canvas import COARSE, FAR, FINE, MIDDLING, Canvas, blend, ellipse_distance, solid_distance, tube_distance
from .spine import paint_vertebra

LOWEST_LUNG = 96.0  # mm, the bottom of the costophrenic recess


def paint_abdomen(patient: Abdomen, canvas: Canvas) -> None:
    """Paint one slice.

    Args:
        patient: from build_abdomen.
        canvas: blank, in the patient's frame.
    """
    x, y, z = canvas.x, canvas.y, canvas.z
    trunk = trunk_distance(*patient.figure(x, y, 0.3 * z), z, patient.habitus)
    cavity = _paint_wall(patient, canvas, trunk)
    where = patient.ripple(*patient.warp(x, y, z), z)
    dome = _paint_chest(patient, canvas, where, cavity)
    inner = np.maximum(cavity + 2.0, dome)
    _paint_gut(patient, canvas, where, inner)
    _paint_solid(patient, canvas, where, inner)
    _paint_back(patient, canvas, trunk)
    _paint_vessels(patient, canvas)
    ribs = tube_distance(patient.ribs, canvas)
    ribs = np.where(trunk < -1.0, ribs, FAR)
    canvas.paint(ribs, 620.0, "bone")
    canvas.paint(np.maximum(tube_distance(patient.ribs, canvas, 1.6), ribs), patient.tissue.marrow + 60)


def _texture(patient: Abdomen, canvas: Canvas, strength: float) -> Array:
    return strength * patient.grain.on(canvas, FINE)


def _paint_wall(patient: Abdomen, canvas: Canvas, trunk: Array) -> Array:
    """Paint skin, fat, muscles and the fat of the cavity; returns the distance to the cavity."""
    x, y, z = canvas.x, canvas.y, canvas.z
    tissue, habitus = patient.tissue, patient.habitus
    angle = np.arctan2(y, np.abs(x))  # -90 degrees behind, 0 at the flank, 90 in front
    layer = habitus.fat * float(np.interp(z, [-120, 0, 180], [1.25, 1.0, 0.7]))
    thick = layer * (1 + 0.28 * np.cos(2 * angle + 1.3) - 0.25 * np.exp(-(((angle - 1.57) / 0.25) ** 2)))
    skin = trunk - np.maximum(thick, 3.0)
    canvas.paint(skin, 10.0, "body")
    septa = np.clip(patient.grain.on(canvas, COARSE) - 1.1, 0, 1) * 55
    fat = tissue.fat + _texture(patient, canvas, 5) + septa
    canvas.paint(skin + 1.9, fat)
    meat = tissue.muscle + _texture(patient, canvas, 7) - np.clip(patient.grain.on(canvas, MIDDLING) - 1.3, 0, 1) * 60
    canvas.paint(trunk, meat)
    wall = patient.wall * np.interp(angle, [-1.57, -0.9, -0.2, 0.6, 1.0, 1.57], [2.4, 1.9, 1.0, 0.9, 0.72, 0.75])
    for share in (0.36, 0.68):  # fat between the three muscles of the flank
        line = np.abs(trunk + share * wall) - 0.35
        canvas.paint(np.where((angle > -0.5) & (angle < 0.75), line, FAR), tissue.fat, share=0.75)
    middle = np.where(angle > 1.0, np.abs(np.abs(x) - 1.5) - 1.2, FAR)
    canvas.paint(np.maximum(middle, np.abs(trunk + 0.5 * wall) - 0.5 * wall), tissue.fat + 60, share=0.8)
    cavity = np.asarray(trunk + wall)
    mesentery = np.clip(patient.grain.on(canvas, MIDDLING) - 1.6, 0, 1) * 70
    canvas.paint(cavity, tissue.fat + _texture(patient, canvas, 6) + mesentery)
    return cavity


def _paint_chest(patient: Abdomen, canvas: Canvas, where: tuple[Array, Array], cavity: Array) -> Array:
    """Paint what lies above the diaphragm; returns the distance to the space below it."""
    tops, z = patient.habitus.domes, canvas.z
    domes = [Ellipsoid((side * 68.0, 0.0, top - 84), (84, 112, 84)) for side, top in zip((-1, 1), tops, strict=True)]
    below = blend([solid_distance(dome, *where, z) for dome in domes], 30.0)
    # Between the lungs, the fat around the heart and the mediastinum lie on the diaphragm.
    around_heart = ellipse_distance(*where, (8.0, 66.0), (40.0, 52.0))
    between = blend([around_heart, ellipse_distance(*where, (0.0, -46.0), (27.0, 42.0))], 20.0)
    lung = np.maximum(np.maximum(-below, cavity + 1.0), -between)
    if z < LOWEST_LUNG:
        lung = np.full_like(lung, FAR)
    if (lung < 0).any():
        gas = -860 + _texture(patient, canvas, 26) + 45 * np.clip(-canvas.y / 90, -1, 1)
        dots = np.clip(patient.grain.on(canvas, MIDDLING) - 1.25, 0, 1) * 620
        canvas.paint(np.maximum(np.abs(below) - 1.2, cavity), patient.tissue.muscle)
        canvas.paint(lung, gas + dots, "lungs")
    heart = Ellipsoid((28, 30, tops[1] + 24), (66, 46, 42))
    beat = solid_distance(heart, *where, z)
    canvas.paint(np.maximum(beat - 4, cavity), patient.tissue.fat)
    canvas.paint(np.maximum(beat, cavity), patient.tissue.vein - 15 + _texture(patient, canvas, 4), "heart")
    return np.asarray(below)


def _hollow(canvas: Canvas, distance: Array, wall: float, hu: float, content: Array | float, label: str) -> None:
    canvas.paint(distance, hu, label)
    canvas.paint(distance + wall, content)


def _paint_gut(patient: Abdomen, canvas: Canvas, where: tuple[Array, Array], inner: Array) -> None:
    tissue = patient.tissue
    bent = _bent(canvas, where)
    mesentery = tube_distance(patient.tubes["mesentery"], canvas)
    canvas.paint(np.maximum(mesentery, inner), tissue.vein - 30)
    small = np.maximum(tube_distance(patient.tubes["small_bowel"], bent), inner)
    folds = 34 + 22 * np.clip(patient.grain.on(canvas, MIDDLING), -1, 1.5)
    _hollow(canvas, small, 2.4, tissue.gut_wall, folds, "bowel")
    colon = np.maximum(tube_distance(patient.tubes["colon"], bent), inner)
    lumps = patient.grain.on(canvas, COARSE)
    stool = np.where(lumps > 0.75, -620.0, 32 + 30 * lumps)
    gas = np.where((canvas.y > 30) & (lumps > -0.6), -980.0, stool)
    _hollow(canvas, colon, 2.0, tissue.gut_wall - 15, gas, "bowel")
    stomach = np.maximum(tube_distance(patient.tubes["stomach"], bent), inner)
    full = stomach < 0
    level = float(canvas.y[full].mean()) + patient.stomach_level if full.any() else 0.0
    content = np.where(canvas.y > level, -985.0, 22 + 10 * patient.grain.on(canvas, MIDDLING))
    _hollow(canvas, stomach, 4.0, tissue.gut_wall, content, "stomach")


def _bent(canvas: Canvas, where: tuple[Array, Array]) -> Canvas:
    """The same slice with bent coordinates, to find distances in."""
    return Canvas(where[0], where[1], canvas.z, canvas.pixel, canvas.hu, canvas.labels)


def _paint_solid(patient: Abdomen, canvas: Canvas, where: tuple[Array, Array], inner: Array) -> None:
    tissue, z = patient.tissue, canvas.z
    bent = _bent(canvas, where)
    pancreas = np.maximum(tube_distance(patient.tubes["pancreas"], bent), inner)
    lobules = 14 * np.clip(patient.grain.on(canvas, FINE), -2.5, 1)
    canvas.paint(pancreas, tissue.pancreas + lobules, "pancreas")
    liver = _liver_distance(patient, where, z)
    liver = np.maximum(liver, inner)
    canvas.paint(liver - 1.5, tissue.fat, share=0.7)
    canvas.paint(liver, tissue.liver + _texture(patient, canvas, 2.5), "liver")
    for name in ("portal", "hepatic"):
        branches = np.maximum(tube_distance(patient.tubes[name], bent), liver + 2.0)
        canvas.paint(branches, tissue.liver_vessel, share=0.9)
    for lesion, hu in patient.lesions:
        distance = np.maximum(solid_distance(lesion, *where, z), liver + 0.5)
        canvas.paint(distance - 1.0, tissue.liver + 0.35 * (hu - tissue.liver))
        canvas.paint(distance, hu + 0.12 * (tissue.liver - hu) + _texture(patient, canvas, 4), "liver_lesion")
    gallbladder = np.maximum(solid_distance(patient.organs["gallbladder"], *where, z), inner)
    canvas.paint(gallbladder, tissue.gut_wall, "gallbladder")
    canvas.paint(gallbladder + 1.6, 8.0)
    spleen = solid_distance(patient.organs["spleen"], *where, z)
    hilum = ellipse_distance(*where, (72.0, -12.0), (30.0, 34.0))
    spleen = np.maximum(np.maximum(spleen, -hilum - 2), inner)
    canvas.paint(spleen, tissue.spleen + _texture(patient, canvas, 2.5), "spleen")
    for name, side in (("right_kidney", -1), ("left_kidney", 1)):
        _paint_kidney(patient, canvas, patient.organs[name], side, where)


def _liver_distance(patient: Abdomen, where: tuple[Array, Array], z: float) -> Array:
    x, y = where
    whole = blend([solid_distance(part, x, y, z) for part in patient.liver], 16.0)
    # What presses on it from behind: spine, great vessels and the stomach's bed; and the fissure between its lobes.
    bed = ellipse_distance(x, y, (26.0, -22.0), (62.0, 44.0))
    fissure = np.maximum(np.abs(x + 18 + 0.25 * (y - 60)) - 1.6, 52 - y) if z < 112 else np.full_like(x, FAR)
    kidney = ellipse_distance(x, y, (-46.0, -60.0), (37.0, 36.0))  # its fat reaches up behind the liver
    return np.maximum(np.maximum(np.maximum(whole, -bed), -fissure), -kidney)


def _paint_kidney(patient: Abdomen, canvas: Canvas, kidney: Ellipsoid, side: int, where: tuple[Array, Array]) -> None:
    tissue, z = patient.tissue, canvas.z
    x, y = where
    outer = solid_distance(kidney, x, y, z)
    turn = np.radians(35.0) * side
    depth = np.clip(1 - ((z - kidney.centre[2]) / (0.62 * kidney.radii[2])) ** 2, 0, 1) ** 0.5
    cx, cy = kidney.centre[0] - side * 13, kidney.centre[1] + 9
    u = np.cos(turn) * (x - cx) - np.sin(turn) * (y - cy)
    v = np.sin(turn) * (x - cx) + np.cos(turn) * (y - cy)
    hilum = ellipse_distance(u, v, (0.0, 0.0), (15.0 * depth + 0.1, 7.5 * depth + 0.1))
    canvas.paint(outer - (4 if side < 0 else 7), tissue.fat + _texture(patient, canvas, 5), "body")
    canvas.paint(np.abs(outer - (5 if side < 0 else 8)) - 0.4, tissue.fat + 70, share=0.6)  # the fascia around its fat
    canvas.paint(outer, tissue.cortex + _texture(patient, canvas, 3), "kidneys")
    columns = np.cos(11 * np.arctan2(y - cy, x - cx) + kidney.centre[2])
    canvas.paint(np.maximum(outer + 6.5, -columns * 4 - 1), tissue.medulla, share=0.8)
    canvas.paint(hilum, tissue.fat + 20, "body")
    canvas.paint(hilum + 4.5, 12.0)


def _paint_back(patient: Abdomen, canvas: Canvas, trunk: Array) -> None:
    """Paint the muscles along the spine, and the spine."""
    x, y, z = canvas.x, canvas.y, canvas.z
    tissue = patient.tissue
    meat = tissue.muscle + _texture(patient, canvas, 6) - np.clip(patient.grain.on(canvas, MIDDLING) - 1.2, 0, 1) * 70
    psoas = float(np.interp(z, [-20, 30, 70, 96], [19, 16, 10, 3]))
    for side in (-1, 1):
        erector = np.maximum(ellipse_distance(x, y, (side * 32.0, -92.0), (29.0, 21.0)), trunk + 1.5)
        canvas.paint(np.maximum(erector - 2, trunk), tissue.fat, "body")
        canvas.paint(erector, meat, "body")
        square = ellipse_distance(x, y, (side * 64.0, -78.0), (17.0, 9.0))
        if z < 92:
            canvas.paint(np.maximum(square, trunk + 4), meat, "body")
        if psoas > 3:
            canvas.paint(ellipse_distance(x, y, (side * (22 + psoas), -57.0), (0.9 * psoas, psoas)), meat, "body")
    paint_vertebra(canvas, patient.grain, z, tissue.marrow)


def _paint_vessels(patient: Abdomen, canvas: Canvas) -> None:
    tissue, z = patient.tissue, canvas.z
    x, y = canvas.x, canvas.y
    if z > 66:  # the crura of the diaphragm hold the aorta
        for side, reach in ((-1, 22.0), (1, 20.0)):
            arm = np.abs(ellipse_distance(x, y, (6.0, -30.0), (15.0, 17.0))) - (2.2 if side > 0 else 3.2)
            canvas.paint(np.where((side * (x - 6) > 0) & (y < -30 + reach), arm, FAR), tissue.muscle)
    canvas.paint(ellipse_distance(x, y, (8.0, -30.0), (11.0, 11.0)), tissue.aorta, "vessels")
    canvas.paint(np.abs(ellipse_distance(x, y, (8.0, -30.0), (10.6, 10.6))) - 0.6, tissue.aorta - 55, share=0.5)
    forward = float(np.interp(z, [40, 130], [-28, -18]))
    canvas.paint(ellipse_distance(x, y, (-20.0, forward), (13.0, 9.5)), tissue.vein, "vessels")
    canvas.paint(tube_distance(patient.tubes["vessels"], canvas), tissue.vein + 8, "vessels")
