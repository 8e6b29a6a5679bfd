"""Vertebrae in axial slices, of the abdomen and of the chest."""

from __future__ import annotations

import numpy as np

from ..pelvis import BODY_WIDTH, LEVELS
from .canvas import FINE, Canvas, Grain, capsule_distance, ellipse_distance

BODY_Y, CANAL_Y = -57.0, -82.0  # mm, middles of the body and of the canal
DISC = 0.40  # of the spacing, from the middle of a body to its end plate
CORTEX_HU, DISC_HU, CANAL_HU, MUSCLE_HU = 640.0, 85.0, 18.0, 60.0


def paint_vertebra(canvas: Canvas, grain: Grain, z: float, marrow: float, size: float = 1.0, back: float = 0.0) -> None:
    """Paint the vertebra or the disc at a height.

    Args:
        canvas: the slice.
        grain: texture of the spongy bone.
        z: height in the abdominal frame, mm: the middle of L3 is 0.
        marrow: HU of the spongy bone.
        size: against a vertebra of the abdomen.
        back: mm by which it lies further behind.
    """
    x, y = canvas.x / size, (canvas.y + back - BODY_Y) / size + BODY_Y
    nearest = int(np.abs(LEVELS - z).argmin())
    spacing = float(np.abs(np.gradient(LEVELS))[nearest])
    phase = (z - float(LEVELS[nearest])) / spacing
    half = float(np.interp(-z, -LEVELS, BODY_WIDTH)) * (0.93 + 0.3 * phase**2)
    body = ellipse_distance(x, y, (0.0, BODY_Y), (half + 1.5, 16.5))
    canal = ellipse_distance(x, y, (0.0, CANAL_Y), (11.0, 8.5))
    body = np.maximum(body, -(canal - 1.0))
    if abs(phase) > DISC:
        canvas.paint(body, DISC_HU, "bone")
        _facets(canvas, x, y, marrow)
    else:
        spongy = marrow + 55 * np.clip(grain.on(canvas, FINE), -2, 2)
        end_plate = 240 * np.exp(-(((abs(phase) - DISC) / 0.035) ** 2))
        _arch(canvas, x, y, marrow, abs(phase))
        canvas.paint(body, CORTEX_HU, "bone")
        canvas.paint(body + 1.4, spongy + end_plate)
        if abs(phase) < 0.06:  # the veins leave through the back of the body
            canvas.paint(capsule_distance(x, y, (0, BODY_Y - 6), (0, BODY_Y - 16), 1.6), 70.0)
    canvas.paint(canal, CANAL_HU - 60, "body")
    canvas.paint(canal + 1.8, CANAL_HU, "body")


def _bony(canvas: Canvas, distance: np.ndarray, core: float) -> None:
    canvas.paint(distance, CORTEX_HU, "bone")
    canvas.paint(distance + 1.5, core)


def _arch(canvas: Canvas, x: np.ndarray, y: np.ndarray, marrow: float, phase: float) -> None:
    """Paint pedicles, laminae and processes: pedicles in the upper half of a body, processes in its middle."""
    core = marrow + 120
    for side in (-1, 1):
        if phase < 0.3:
            _bony(canvas, capsule_distance(x, y, (side * 14.0, -70.0), (side * 14.5, -84.0), 4.5), core)
        if phase < 0.22:
            _bony(canvas, capsule_distance(x, y, (side * 16.0, -85.0), (side * 37.0, -91.0), 3.4), core)
        _bony(canvas, capsule_distance(x, y, (side * 14.0, -86.0), (side * 2.0, -95.0), 3.6), core)
    _bony(canvas, capsule_distance(x, y, (0.0, -96.0), (0.0, -108.0), 3.0), core)


def _facets(canvas: Canvas, x: np.ndarray, y: np.ndarray, marrow: float) -> None:
    for side in (-1, 1):
        _bony(canvas, ellipse_distance(x, y, (side * 16.5, -87.0), (6.0, 7.5)), marrow + 150)
        canvas.paint(capsule_distance(x, y, (side * 13.0, -84.0), (side * 20.0, -89.0), 0.5), 90.0, share=0.8)
        _bony(canvas, capsule_distance(x, y, (side * 11.0, -93.0), (side * 2.0, -98.0), 2.6), marrow + 150)
