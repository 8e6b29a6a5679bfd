"""The abdomen: traits and soft organs; lengths in mm for an adult, the middle of L3 at z = 0, lying on the back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .geometry import Ellipsoid, Solid, Stack

ABDOMEN_CLASSES = ("abdomen_normal", "abdomen_ileus")
HEIGHTS = np.array([-330.0, -260, -210, -160, -110, -60, 0, 60, 120, 180, 250, 330])
HALF_WIDTH = np.array([168.0, 170, 170, 164, 156, 146, 142, 150, 160, 166, 169, 169])
HALF_DEPTH = np.array([92.0, 100, 104, 104, 104, 104, 106, 110, 114, 118, 118, 114])
WALL = 13.0  # mm of muscle around the cavity
STRIPE = 3.5  # mm of fat between muscle and peritoneum
NEWBORN = (0.27, 0.34)  # size against an adult's


@dataclass(frozen=True)
class Habitus:
    """What is drawn for one patient.

    Args:
        child: a newborn.
        scale: (3,) size along x, y, z against the average adult.
        fat: under the skin, mm.
        inner_fat: share of fat in what lies between the organs.
        domes: height of the right and the left hemidiaphragm, mm.
        liver: size against the average.
        girth: how round the belly is, mm of half width at the waist.
        cut: whether the image ends above the hips.
    """

    child: bool
    scale: tuple[float, float, float]
    fat: float
    inner_fat: float
    domes: tuple[float, float]
    liver: float
    girth: float
    cut: bool


@dataclass(frozen=True)
class Organs:
    """The soft organs of one patient.

    Args:
        skin: outer surface.
        wall: the trunk without the fat under its skin.
        lining: inner surface of the muscles.
        cavity: what lies within the fat that lines them.
        liver: its lobes.
        kidneys: right and left.
        psoas: right and left.
        others: spleen, bladder, the back's muscles.
        domes: the diaphragm, right and left.
        lungs: the pleural cavities, right and left.
        heart: with the mediastinum, above the diaphragm.
    """

    skin: Stack
    wall: Stack
    lining: Stack
    cavity: Stack
    liver: tuple[Solid, ...]
    kidneys: tuple[Ellipsoid, Ellipsoid]
    psoas: tuple[Stack, Stack]
    others: tuple[Solid, ...]
    domes: tuple[Ellipsoid, Ellipsoid]
    lungs: tuple[Stack, Stack]
    heart: tuple[Solid, ...]


def draw_habitus(rng: np.random.Generator) -> Habitus:
    """Draw what makes one patient.

    Args:
        rng: the patient's own generator.

    Returns:
        Traits of somebody healthy: two in three are adults, the others newborn.
    """
    child = bool(rng.random() < 0.34)
    build = rng.beta(2, 3)  # thin to obese
    right = rng.uniform(150, 182)
    size = rng.uniform(*NEWBORN) if child else rng.normal(0.98, 0.05)
    broad = rng.normal(1.0, 0.03)
    return Habitus(
        child=child,
        scale=(size * broad, size * (1.0 if child else broad + 0.25 * (build - 0.4)), size / broad),
        fat=rng.uniform(6, 16) if child else 4 + 42 * build**1.6,
        inner_fat=rng.uniform(0.1, 0.3) if child else 0.75 + 0.25 * build,
        domes=(right, right - rng.uniform(6, 18)),
        liver=rng.uniform(1.05, 1.2) if child else rng.uniform(0.88, 1.08),
        girth=rng.uniform(10, 24) if child else rng.normal(0, 5) + 14 * (build - 0.4),
        cut=bool(rng.random() < 0.45),
    )


def _tilted(angle: float) -> np.ndarray:
    """Axes turned in the frontal plane; the third leans to the right for a positive angle."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _trunk(habitus: Habitus) -> tuple[Stack, Stack, Stack, Stack]:
    round_belly = habitus.girth * np.exp(-(((HEIGHTS + 10) / 90) ** 2))
    wide, deep = HALF_WIDTH + round_belly, HALF_DEPTH + 0.8 * round_belly
    layer = habitus.fat * np.interp(HEIGHTS, [-260, -120, 0, 180], [1.5, 1.25, 1.0, 0.7])
    middle = np.zeros_like(HEIGHTS)

    def stack(out: np.ndarray | float, deeper: np.ndarray | float) -> Stack:
        return Stack.from_knots(HEIGHTS, middle, middle, wide + out, deep + deeper)

    muscle = np.interp(HEIGHTS, [-200, -110, 60, 190], [40.0, WALL, WALL, 20])
    return stack(layer, layer), stack(0, 0), stack(-muscle, -muscle), stack(-muscle - STRIPE, -muscle - STRIPE)


def _liver(habitus: Habitus, rng: np.random.Generator) -> tuple[Solid, ...]:
    size, dome = habitus.liver, habitus.domes[0]
    tip = rng.uniform(-10, 32)
    right = Ellipsoid((-72, 2, dome - 76 * size), (62 * size, 84, 74 * size), _tilted(0.12))
    lower = Ellipsoid(
        (-88, -6, 0.5 * (dome - 60) + 0.5 * tip + 18), (34, 62, 0.5 * (dome - 60 - tip) + 18), _tilted(0.1)
    )
    left = Ellipsoid((2, 44, dome - 56), (72 * size, 40, 34), _tilted(-0.2))
    return right, lower, left


def _kidneys(habitus: Habitus, rng: np.random.Generator) -> tuple[Ellipsoid, Ellipsoid]:
    size, lift = rng.normal(1.0, 0.06, 2), rng.normal(0, 7, 2)
    if habitus.child:
        size = size * 1.2
    kidneys = tuple(
        Ellipsoid(
            (side * 55.0, -48, z + lift[which]),
            (25 * size[which], 22, 54 * size[which]),
            _tilted(-side * rng.uniform(0.15, 0.32)),
        )
        for which, (side, z) in enumerate(((-1, 24.0), (1, 36.0)))
    )
    return kidneys[0], kidneys[1]


def _psoas(rng: np.random.Generator) -> tuple[Stack, Stack]:
    slack, bulk = rng.normal(0, 4), rng.normal(1.0, 0.1)
    psoas = tuple(
        Stack.from_knots(
            (-150, -110, -60, 0, 50, 84),
            side * np.array([84.0, 72, 55, 41 + slack, 30, 24]),
            (0, -24, -42, -48, -52, -54),
            bulk * np.array([15.0, 19, 22, 20, 13, 4]),
            bulk * np.array([15.0, 19, 23, 22, 16, 5]),
            depth=-46.0,
        )
        for side in (-1, 1)
    )
    return psoas[0], psoas[1]


def _thorax(habitus: Habitus) -> tuple[tuple[Ellipsoid, Ellipsoid], tuple[Stack, Stack]]:
    """The diaphragm and the pleural cavities."""
    domes = tuple(
        Ellipsoid((side * 70.0, -4, top - 84), (78, 104, 84)) for side, top in zip((-1, 1), habitus.domes, strict=True)
    )
    lungs = tuple(
        Stack.from_knots(
            (104, 130, 170, 220, 330),
            side * np.array([102.0, 92, 78, 74, 70]),
            (-40, -24, -8, 0, 0),
            (24, 44, 60, 64, 64),
            (30, 62, 88, 94, 92),
        )
        for side in (-1, 1)
    )
    return (domes[0], domes[1]), (lungs[0], lungs[1])


def build_organs(habitus: Habitus, rng: np.random.Generator) -> Organs:
    """Build the soft organs of one patient.

    Args:
        habitus: what was drawn.
        rng: generator of the soft tissue.

    Returns:
        The organs.
    """
    skin, wall, lining, cavity = _trunk(habitus)
    spleen = Ellipsoid((102, -42, 118 + rng.normal(0, 6)), (26, 40, 48 * rng.uniform(0.8, 1.2)), _tilted(-0.25))
    fill = rng.uniform(0.5, 1.15)
    bladder = Ellipsoid((0, 28, -196 + 26 * fill), (44 * fill, 36 * fill, 30 * fill))
    back = Stack.from_knots((-180, 240), (0, 0), (-86, -88), (70, 66), (22, 22), depth=-86.0)
    domes, lungs = _thorax(habitus)
    mediastinum = Stack.from_knots((80, 330), (4, 0), (-10, -10), (34, 30), (70, 60))
    heart = Ellipsoid((30, 22, habitus.domes[1] + 20), (76, 52, 50), _tilted(0.3))
    return Organs(
        skin,
        wall,
        lining,
        cavity,
        _liver(habitus, rng),
        _kidneys(habitus, rng),
        _psoas(rng),
        (spleen, bladder, back),
        domes,
        lungs,
        (heart, mediastinum),
    )
