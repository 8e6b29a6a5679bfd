"""The upper abdomen of one CT phantom in 3-D, before it is cut; lengths in mm, the middle of L3 at z = 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..abdomen import HALF_DEPTH, HALF_WIDTH, HEIGHTS, Habitus, build_organs, draw_habitus
from ..abdomen_scene import CHEST_OFFSET, LOWEST_RIBS
from ..geometry import Ellipsoid
from ..rays import Array, Mask
from ..scene import BONES, SOFT, TEXTURE, TRAITS, VESSELS, stream
from ..skeleton import RIB_PAIRS, build_rib
from ..tubes import Tubes, join_tubes, make_tube
from ..vessels import grow_tree, sample_inside, tree_to_tubes
from .canvas import Grain, Warp, three

CT_ABDOMEN = 11  # part of the random numbers of this region
HEIGHT_RANGE = (18.0, 138.0)  # mm, between which slices are cut
TRUNK_EXPONENT = 2.35  # 2 is an ellipse; the trunk is fuller
PORTAL_ROOT, HEPATIC_ROOT = (-34.0, 8.0), (-22.0, -14.0)  # x, y where the liver's vessels enter
LESION_SHARE = 0.75  # of the patients
LIVER_BRANCHES, MESENTERIC_BRANCHES = 70, 26
COURSES: dict[str, list[tuple[float, float, float, float]]] = {  # x, y, z and radius of tubes, mm
    "stomach": [
        (58, -26, 150, 25), (66, 4, 128, 34), (62, 34, 104, 33), (46, 54, 80, 28), (16, 56, 62, 22), (-14, 46, 58, 15),
        (-30, 34, 62, 9),
    ],
    "ascending": [(-102, -34, -70, 20), (-106, -26, -10, 20), (-100, -6, 20, 19), (-92, 16, 34, 18)],
    "transverse": [
        (-92, 16, 34, 18), (-64, 56, 26, 17), (-20, 74, 12, 17), (30, 76, 16, 16), (76, 62, 46, 16), (106, 22, 84, 16),
    ],
    "descending": [(106, 22, 84, 16), (116, -22, 64, 15), (116, -34, 20, 14), (108, -34, -70, 14)],
    "pancreas": [
        (-30, 10, 44, 14), (-26, 16, 60, 14), (-4, 26, 72, 9), (22, 24, 84, 9), (52, 2, 98, 10), (74, -14, 108, 8),
    ],
    "splenic": [
        (84, -22, 110, 4), (52, -8, 96, 4), (22, 12, 83, 4.5), (-4, 16, 76, 6.5), (-24, 12, 84, 6.5), (-40, 8, 96, 6),
    ],
    "superior": [(8, -18, 84, 3.6), (8, -4, 72, 3.6), (7, 8, 40, 3.4), (6, 14, -20, 3)],
    "mesenteric": [(-6, 16, 74, 5.8), (-7, 12, 50, 5.6), (-8, 16, -20, 5)],
    "celiac": [(6, -20, 96, 3.2), (8, -6, 99, 3), (-10, 2, 98, 2.4)],
    "right_renal": [(-18, -28, 46, 5), (-38, -36, 42, 5), (-56, -44, 42, 4.5)],
    "left_renal": [(-14, -20, 54, 4), (6, -17, 54, 4), (28, -30, 54, 5), (52, -46, 56, 4.5)],
}  # fmt: skip
LOOPS = (  # middles of the loops of small bowel
    (28, 40, 18), (58, 22, 26), (-20, 48, 4), (70, 46, 6), (6, 60, 26), (40, 10, 4), (82, 10, 22), (52, 52, 30),
    (-48, 30, 0), (-30, 16, 14), (20, 16, 26), (62, -8, 34),
)  # fmt: skip


@dataclass(frozen=True)
class Tissue:
    """Hounsfield units of one patient at one phase of contrast."""

    muscle: float
    fat: float
    liver: float
    liver_vessel: float
    lesion: float
    spleen: float
    cortex: float
    medulla: float
    pancreas: float
    aorta: float
    vein: float
    marrow: float
    gut_wall: float


@dataclass(frozen=True, eq=False)
class Abdomen:
    """One patient.

    Args:
        habitus: fat, girth and size.
        tissue: Hounsfield units.
        liver: ellipsoids that flow together.
        lesions: within the liver, none in a healthy one.
        organs: single bodies by name.
        tubes: hollow and solid tubes by name.
        ribs: in the abdominal frame.
        warp: bends the organs.
        ripple: makes their surfaces uneven.
        figure: bends the trunk.
        grain: texture.
        stomach_level: height of the fluid in the stomach, mm to anterior of its middle.
        wall: thickness of the muscles at the flank, mm.
    """

    habitus: Habitus
    tissue: Tissue
    liver: tuple[Ellipsoid, ...]
    lesions: tuple[tuple[Ellipsoid, float], ...]
    organs: dict[str, Ellipsoid]
    tubes: dict[str, Tubes]
    ribs: Tubes
    warp: Warp
    ripple: Warp
    figure: Warp
    grain: Grain
    stomach_level: float
    wall: float


def _tissue(rng: np.random.Generator) -> Tissue:
    # Portal venous phase in most patients, without contrast in some; ranges from textbooks of abdominal CT.
    contrast = rng.random() < 0.8
    steatosis = rng.uniform(0, 25) * (rng.random() < 0.3)
    liver = (rng.uniform(98, 122) if contrast else rng.uniform(52, 64)) - steatosis
    return Tissue(
        muscle=rng.uniform(52, 64),
        fat=rng.uniform(-112, -98),
        liver=liver,
        liver_vessel=liver + (rng.uniform(38, 58) if contrast else -rng.uniform(8, 16)),
        lesion=liver - (rng.uniform(38, 72) if contrast else rng.uniform(16, 30)),
        spleen=rng.uniform(108, 128) if contrast else rng.uniform(44, 52),
        cortex=rng.uniform(165, 200) if contrast else 33.0,
        medulla=rng.uniform(130, 165) if contrast else 29.0,
        pancreas=rng.uniform(85, 105) if contrast else 40.0,
        aorta=rng.uniform(150, 185) if contrast else 42.0,
        vein=rng.uniform(135, 165) if contrast else 40.0,
        marrow=rng.uniform(130, 210),
        gut_wall=rng.uniform(75, 100) if contrast else 38.0,
    )


def _adult(seed: int) -> Habitus:
    rng = stream(seed, TRAITS, CT_ABDOMEN)
    habitus = draw_habitus(rng)
    while habitus.child:
        habitus = draw_habitus(rng)
    return habitus


def _ribs(seed: int, habitus: Habitus) -> Tubes:
    rng = stream(seed, BONES, CT_ABDOMEN)
    slope, calibre = rng.normal(1.0, 0.06), rng.normal(1.0, 0.06)
    ribs = []
    for side in (-1, 1):
        for pair in range(RIB_PAIRS - LOWEST_RIBS, RIB_PAIRS):
            rib = build_rib(pair, side, rng, slope, calibre)
            nodes = rib.nodes + np.array([0.0, 0.0, CHEST_OFFSET])
            ribs.append(replace(rib, nodes=_on_wall(nodes, habitus)))
    return join_tubes(ribs)


def _on_wall(nodes: Array, habitus: Habitus) -> Array:
    """Bring ribs into the muscles of the trunk: they were drawn around a chest of average girth."""
    moved = nodes.copy()
    for index, (x, y, z) in enumerate(nodes):
        depth = float(trunk_distance(np.array([[x]]), np.array([[y]]), float(z), habitus)[0, 0])
        # Behind, the ribs run from the vertebrae through the muscles of the back and are where they should be.
        free = np.clip((abs(x) - 45) / 40, 0, 1)
        moved[index, :2] *= 1 + free * (-8.0 - depth) / max(np.hypot(x, y), 1.0)
    return moved


def trunk_distance(x: Array, y: Array, z: float, habitus: Habitus) -> Array:
    """Distance to the outer surface of the trunk's muscles, measured towards its middle.

    Args:
        x: (H, W) mm.
        y: (H, W) mm.
        z: mm.
        habitus: the patient.

    Returns:
        (H, W) mm, negative inside.
    """
    belly = habitus.girth * np.exp(-(((z + 10) / 90) ** 2))
    a, b = np.interp(z, HEIGHTS, HALF_WIDTH) + belly, np.interp(z, HEIGHTS, HALF_DEPTH) + 0.8 * belly
    groove = 5.0 * np.exp(-((x / 11) ** 2)) * (y < 0)  # over the spinous processes
    reach = np.hypot(x, y) + 1e-6
    unit = (np.abs(x / a) ** TRUNK_EXPONENT + np.abs(y / b) ** TRUNK_EXPONENT) ** (1 / TRUNK_EXPONENT)
    return np.asarray(reach * (1 - 1 / np.maximum(unit, 1e-6)) + groove)


def build_abdomen(seed: int) -> Abdomen:
    """Build one patient from a seed.

    Args:
        seed: 0 or more.

    Returns:
        The anatomy, of which slices are cut by `paint_abdomen`.
    """
    habitus, rng = _adult(seed), stream(seed, SOFT, CT_ABDOMEN)
    tissue = _tissue(rng)
    parts = build_organs(habitus, rng)
    warp, ripple = Warp(rng, rng.uniform(3.5, 5.5), (70, 150)), Warp(rng, rng.uniform(0.7, 1.3), (16, 34), 14)
    liver = tuple(part for part in parts.liver if isinstance(part, Ellipsoid))
    spleen = parts.others[0]
    assert isinstance(spleen, Ellipsoid)
    right, left = parts.kidneys
    organs = {
        "spleen": replace(spleen, centre=(106.0, spleen.centre[1] + 4, spleen.centre[2] - 8)),
        "right_kidney": replace(right, centre=(-63.0, -46.0, right.centre[2] + 10)),
        "left_kidney": replace(left, centre=(61.0, -48.0, left.centre[2] + 22)),
        "gallbladder": Ellipsoid((-58 + rng.normal(0, 4), 42, 52 + rng.normal(0, 6)), (15, 22 + rng.normal(0, 3), 24)),
    }
    return Abdomen(
        habitus,
        tissue,
        liver,
        _lesions(liver, tissue, rng),
        organs,
        _tubes(rng) | _liver_vessels(liver, stream(seed, VESSELS, CT_ABDOMEN)),
        _ribs(seed, habitus),
        warp,
        ripple,
        Warp(rng, rng.uniform(1.5, 3.0), (110, 220)),
        Grain(stream(seed, TEXTURE, CT_ABDOMEN)),
        float(rng.uniform(-12, 20)),
        float(rng.uniform(11, 17)),
    )


def _in_liver(liver: tuple[Ellipsoid, ...], margin: float) -> Callable[[Array], Mask]:
    def contains(points: Array) -> Mask:
        shrunk = [Ellipsoid(part.centre, three(np.asarray(part.radii) - margin), part.axes) for part in liver]
        return np.asarray(np.any([part.contains(points) for part in shrunk], axis=0))

    return contains


def _lesions(
    liver: tuple[Ellipsoid, ...], tissue: Tissue, rng: np.random.Generator
) -> tuple[tuple[Ellipsoid, float], ...]:
    """Draw round lesions of the liver, with the HU of each."""
    count = int(rng.integers(1, 7)) if rng.random() < LESION_SHARE else 0
    places = sample_inside(rng, _in_liver(liver, 14.0), np.array([-130, -70, 25]), np.array([40, 75, 135]), 4 * count)
    found: list[tuple[Ellipsoid, float]] = []
    for place in places:
        radius = float(np.exp(rng.uniform(np.log(5), np.log(21))))
        apart = all(np.linalg.norm(place - np.asarray(one.centre)) > radius + max(one.radii) for one, _ in found)
        if len(found) < count and apart:
            radii = three(radius * rng.uniform(0.85, 1.15, 3))
            cyst = rng.random() < 0.15
            hu = float(rng.uniform(0, 15)) if cyst else tissue.lesion + float(rng.normal(0, 6))
            found.append((Ellipsoid(three(place), radii), hu))
    return tuple(found)


def _liver_vessels(liver: tuple[Ellipsoid, ...], rng: np.random.Generator) -> dict[str, Tubes]:
    low, high = np.array([-135, -80, 15]), np.array([60, 80, 160])
    points = sample_inside(rng, _in_liver(liver, 9.0), low, high, 2 * LIVER_BRANCHES)
    half = len(points) // 2
    portal = tree_to_tubes(*grow_tree(rng, np.array([*PORTAL_ROOT, 88.0]), points[:half]), leaf_radius=0.75)
    hepatic = tree_to_tubes(*grow_tree(rng, np.array([*HEPATIC_ROOT, 138.0]), points[half:]), leaf_radius=0.75)
    return {"portal": portal, "hepatic": hepatic}


def _tubes(rng: np.random.Generator) -> dict[str, Tubes]:
    def tube(name: str, spread: float = 3.0) -> Tubes:
        knots = np.array(COURSES[name], dtype=float)
        moved = knots[:, :3] + rng.normal(0, spread, (len(knots), 3))
        wide = knots[:, 3] * rng.uniform(0.9, 1.12)
        return make_tube(moved, wide, wide, nodes=60)

    stomach = tube("stomach")
    vessels = ("splenic", "superior", "mesenteric", "celiac", "right_renal", "left_renal")
    return {
        "stomach": replace(stomach, height=stomach.height * rng.uniform(0.75, 1.05)),
        "colon": join_tubes([tube(name) for name in ("ascending", "transverse", "descending")]),
        "pancreas": tube("pancreas", 2.0),
        "vessels": join_tubes([tube(name, 1.0) for name in vessels]),
        "small_bowel": join_tubes([_loop(rng, place) for place in LOOPS]),
        "mesentery": join_tubes([_branch(rng) for _ in range(MESENTERIC_BRANCHES)]),
    }


def _loop(rng: np.random.Generator, place: tuple[float, float, float]) -> Tubes:
    turns = np.cumsum(rng.normal(0, 14, (7, 3)), axis=0)
    radius = rng.uniform(9, 13)
    return make_tube(np.asarray(place) + turns - turns.mean(axis=0), radius, radius, nodes=40)


def _branch(rng: np.random.Generator) -> Tubes:
    """A small vessel in the fat of the mesentery."""
    start = np.array([0.0, 14, rng.uniform(-20, 90)])
    end = start + rng.uniform([-70, 5, -35], [85, 60, 20])
    middle = 0.5 * (start + end) + rng.normal(0, 7, 3)
    radius = rng.uniform(0.8, 1.7)
    return make_tube(np.stack([start, middle, end]), radius, 0.8 * radius, nodes=24)
