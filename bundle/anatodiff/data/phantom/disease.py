"""Diseases, as changes of the anatomy in 3-D before anything is projected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.interpolate import PchipInterpolator

from .anatomy import HILA, Anatomy, Lung, grow_vessels
from .geometry import STACK_HEIGHTS, Ellipsoid, Stack
from .organs import SIDES, Traits
from .rays import Array, Mask
from .tubes import Tubes
from .vessels import sample_inside

PHANTOM_CLASSES = ("normal", "effusion", "pneumothorax", "nodule", "cardiomegaly")
RARE_CLASS = "tension_pneumothorax"
CHEST_CLASSES = (*PHANTOM_CLASSES, RARE_CLASS)
ONE_SIDED = ("effusion", "pneumothorax", "nodule", RARE_CLASS)

ENLARGED_RATIO = (0.61, 0.70)  # cardiothoracic ratio drawn for cardiomegaly, clear of the diagnostic 0.55
NODULE_RADIUS = (5.0, 15.0)  # mm
NODULE_MARGIN = 0.75  # of the radius by which a nodule's middle keeps away from the lung's surface


def draw_side(label: str, rng: np.random.Generator) -> int | None:
    """Which lung a disease strikes.

    Args:
        label: one of CHEST_CLASSES.
        rng: the disease's generator.

    Returns:
        -1 right, 1 left, None where the disease has no side.
    """
    side = SIDES[int(rng.random() < 0.5)]
    return side if label in ONE_SIDED else None


def change_traits(traits: Traits, label: str, side: int | None, rng: np.random.Generator) -> Traits:
    """What a disease changes in organs other than the struck lung.

    Args:
        traits: of the healthy patient.
        label: one of CHEST_CLASSES.
        side: from draw_side.
        rng: the disease's generator.

    Returns:
        Traits of the ill patient.
    """
    if label == "cardiomegaly":
        return replace(traits, heart_ratio=rng.uniform(*ENLARGED_RATIO), heart_lie=traits.heart_lie * 0.75)
    if label == RARE_CLASS and side is not None:
        which = SIDES.index(side)
        domes, height, density = list(traits.domes), [1.0, 1.0], list(traits.lung_density)
        domes[which] -= rng.uniform(22, 38)
        height[which] = rng.uniform(0.45, 0.65)
        domes[1 - which] += rng.uniform(0, 8)
        density[1 - which] *= rng.uniform(1.1, 1.3)
        density[which] *= rng.uniform(2.2, 3.2)
        return replace(
            traits,
            shift=-side * rng.uniform(24, 42),
            domes=(domes[0], domes[1]),
            dome_height=(height[0], height[1]),
            lung_density=(density[0], density[1]),
        )
    return traits


def _fluid_surface(cavity: Stack, side: int, level: float, rise: float) -> Stack:
    """The lung above an effusion: its cross-section narrows towards the fluid's level, most at the outer wall."""
    share = np.clip((STACK_HEIGHTS - level) / rise, 1e-6, 1) ** 0.42
    table = cavity.table.copy()
    table[0] -= side * 0.8 * table[2] * (1 - share)
    table[1] += 0.25 * table[3] * (1 - share)
    table[2:] *= share
    return Stack(table, cavity.depth)


def _collapse(cavity: Stack, side: int, gap: tuple[float, float, float], apex: float, lift: float, cap: float) -> Stack:
    """The lung in a pneumothorax: away from wall and apex, held at the hilum.

    Args:
        cavity: the healthy lung.
        side: -1 right, 1 left.
        gap: share of the lung's width that is lost at the base, the hilum and the apex.
        apex: how far the apex falls, mm.
        lift: how far the base rises, mm.
        cap: height over which both ends are rounded off, mm; 0 for none.

    Returns:
        The collapsed lung.
    """
    top, bottom, hilum = 150.0, -200.0, HILA[side][2]
    upper = hilum + (STACK_HEIGHTS - hilum) * (top - hilum) / (top - apex - hilum)
    lower = hilum + (STACK_HEIGHTS - hilum) * (hilum - bottom) / (hilum - bottom - lift)
    table = cavity.table[:, cavity.level(np.where(hilum < STACK_HEIGHTS, upper, lower))].copy()
    heights = np.clip(STACK_HEIGHTS, -150, 140)
    lost = PchipInterpolator([-150, hilum, 140], gap)(heights)
    table[0] -= side * table[2] * lost
    table[2] *= 1 - lost
    table[3] *= 1 - 0.6 * lost
    lung = Stack(table, cavity.depth)
    return lung.capped(top - apex, cap).capped(bottom + lift, cap, top=False) if cap > 0 else lung


def _move_vessels(vessels: tuple[Tubes, ...], cavity: Stack, lung: Stack) -> tuple[Tubes, ...]:
    """Carry vessels along when a lung collapses: same place relative to the cross-section."""
    moved = []
    for tubes in vessels:
        nodes = tubes.nodes.copy()
        level = cavity.level(nodes[:, 2])
        old, new = cavity.table[:, level], lung.table[:, level]
        share = new[2:] / old[2:]
        nodes[:, 0] = new[0] + (nodes[:, 0] - old[0]) * share[0]
        nodes[:, 1] = new[1] + (nodes[:, 1] - old[1]) * share[1]
        alive = new[2] > 1
        keep = alive[tubes.links[:, 0]] & alive[tubes.links[:, 1]]
        moved.append(replace(tubes, nodes=nodes, links=tubes.links[keep]))
    return tuple(moved)


def _nodules(anatomy: Anatomy, side: int, rng: np.random.Generator) -> tuple[Ellipsoid, ...]:
    """One to three spheres in a lung, away from what would hide them from the front."""
    low, high = sorted((side * 45.0, side * 130.0))
    dome = anatomy.traits.domes[SIDES.index(side)]
    found: list[Ellipsoid] = []
    for _ in range(int(rng.integers(1, 4))):
        radius = rng.uniform(*NODULE_RADIUS)
        shell = radius * NODULE_MARGIN * np.vstack([np.eye(3), -np.eye(3)])

        def fits(points: Array, shell: Array = shell, radius: float = radius) -> Mask:
            good: Mask = np.all([anatomy.in_lung(points + offset, side) for offset in shell], axis=0)
            for other in found:
                apart = np.linalg.norm(points[:, [0, 2]] - np.array(other.centre)[[0, 2]], axis=1)
                good &= apart > radius + other.radii[0] + 6
            for solid in anatomy.heart:
                apart = np.abs(points[:, 0] - solid.centre[0])
                good &= apart > solid.half_width() + 0.3 * radius
            return good

        places = sample_inside(rng, fits, np.array([low, -80, dome + 8]), np.array([high, 80, 125]), 60)
        if len(places):
            found.append(Ellipsoid(tuple(places[0]), (radius, radius, radius)))
    return tuple(found)


def _ill_lung(lung: Lung, label: str, side: int, dome: float, rng: np.random.Generator) -> Lung:
    cavity = lung.cavity
    if label == "effusion":
        level = dome + rng.uniform(-38, 42)
        aerated = _fluid_surface(cavity, side, level, rng.uniform(38, 80))
        kept = [
            replace(tubes, links=tubes.links[aerated.contains(tubes.nodes)[tubes.links].all(axis=1)])
            for tubes in lung.vessels
        ]
        return replace(lung, aerated=aerated, filling="fluid", vessels=tuple(kept))
    if label == RARE_CLASS:
        held = rng.uniform(0.50, 0.62)
        gap = (held + rng.uniform(0.04, 0.12), held, held + rng.uniform(0.02, 0.10))
        aerated = _collapse(cavity, side, gap, rng.uniform(45, 65), rng.uniform(75, 110), cap=70)
    else:
        gap_top, gap_base = rng.uniform(0.17, 0.38), rng.uniform(0.04, 0.2)
        gap = (gap_base, 0.42 * (gap_top + gap_base), gap_top)
        aerated = _collapse(cavity, side, gap, rng.uniform(12, 34), rng.uniform(0, 12), cap=0)
    density = lung.density * (1.0 if label == RARE_CLASS else rng.uniform(1.1, 1.35))
    moved = _move_vessels(lung.vessels, cavity, aerated)
    return replace(lung, aerated=aerated, filling="air", vessels=moved, density=density)


def add_lungs(
    anatomy: Anatomy, label: str, side: int | None, growth: np.random.Generator, rng: np.random.Generator
) -> Anatomy:
    """Grow the vessels and give the struck lung its disease.

    Args:
        anatomy: from build_anatomy.
        label: one of CHEST_CLASSES.
        side: from draw_side.
        growth: generator of the vessels.
        rng: the disease's generator.

    Returns:
        The complete patient.
    """
    pairs = zip(SIDES, anatomy.lungs, strict=True)
    lungs = [replace(lung, vessels=grow_vessels(anatomy, which, growth)) for which, lung in pairs]
    if side is not None and label == "nodule":
        return replace(anatomy, lungs=(lungs[0], lungs[1]), nodules=_nodules(anatomy, side, rng))
    if side is not None:
        which = SIDES.index(side)
        dome = anatomy.traits.domes[which]
        lungs[which] = _ill_lung(lungs[which], label, side, dome, rng)
    return replace(anatomy, lungs=(lungs[0], lungs[1]))
