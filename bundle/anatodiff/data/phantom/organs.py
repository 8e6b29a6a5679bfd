"""The traits that are drawn for a patient and the soft organs that follow from them; lengths in mm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .geometry import STACK_HEIGHTS, Ellipsoid, Solid, Stack
from .rays import Array
from .tubes import ACROSS, Tubes, make_tube

SIDES = (-1, 1)  # right lung (left in the image) and left lung
LUNG_TOP, LUNG_CAP = 152.0, 22.0
LUNG_HEIGHTS = (-210.0, -185, -160, -120, -60, 0, 50, 90, 120, 140, 155)
LUNG_OUTER = (118.0, 132, 139, 142, 141, 136, 127, 114, 98, 82, 68)
LUNG_INNER = (60.0, 20, -8, -18, -22, -22, -20, -10, 4, 14, 22)  # past the middle, where MIDLINE cuts the lung
LUNG_HALF_DEPTH = (30.0, 62, 82, 94, 97, 94, 87, 73, 57, 46, 38)
LUNG_CENTRE_DEPTH = (-45.0, -28, -10, -2, 0, 0, -4, -10, -17, -23, -27)
DOME_HEIGHT, DOME_HALF_WIDTH, DOME_HALF_DEPTH, DOME_CENTRE = 92.0, 81.0, 116.0, 66.0
THORAX_WIDTH = 278.0  # inner width of the chest that the cardiothoracic ratio refers to


@dataclass(frozen=True)
class Traits:
    """What is drawn for a patient; a disease changes some of it before the organs are built.

    Args:
        female: whether breasts and narrower shoulders are built.
        scale: (3,), size of the body along x, y, z against the average adult.
        fat: thickness of the fat under the skin, mm.
        breast: thickness of the breasts, mm; 0 for none.
        heart_ratio: width of the heart over the inner width of the chest.
        heart_lie: angle of the heart's long axis below the horizontal, degrees.
        domes: height of the right and the left hemidiaphragm, mm.
        dome_height: curvature of the two domes against the normal, 0 flat to 1.
        aorta: size of the aortic knob against the average.
        shift: sideways displacement of heart, mediastinum and trachea, mm.
        lung_density: density of each lung against normally inflated lung.
        markings: how many vessels there are, against the average.
        gas: size of the stomach bubble, 0 for none.
    """

    female: bool
    scale: tuple[float, float, float]
    fat: float
    breast: float
    heart_ratio: float
    heart_lie: float
    domes: tuple[float, float]
    dome_height: tuple[float, float] = (1.0, 1.0)
    aorta: float = 1.0
    shift: float = 0.0
    lung_density: tuple[float, float] = (1.0, 1.0)
    markings: float = 1.0
    gas: float = 1.0


def draw_traits(rng: np.random.Generator) -> Traits:
    """Draw what makes one patient.

    Args:
        rng: the patient's own generator.

    Returns:
        Traits of somebody healthy.
    """
    female = bool(rng.random() < 0.48)
    size = rng.normal(0.93 if female else 1.0, 0.04)
    build = rng.normal(0, 0.045)  # narrow and long against broad and short
    habitus = rng.beta(2, 3.2)  # thin to obese
    right_dome = rng.uniform(-108, -66) + 14 * (1 - habitus)
    return Traits(
        female=female,
        scale=(size * (1 + build), size * (1 + 0.5 * build + 0.12 * (habitus - 0.4)), size * (1 - 0.6 * build)),
        fat=4 + 30 * habitus**1.5,
        breast=float(rng.uniform(15, 30) + 28 * habitus) if female else float(max(0.0, 30 * (habitus - 0.6))),
        heart_ratio=float(np.clip(rng.normal(0.455, 0.03), 0.39, 0.51)),
        heart_lie=rng.uniform(24, 42) - 10 * habitus,
        domes=(right_dome, right_dome - rng.uniform(6, 20)),
        aorta=rng.uniform(0.8, 1.3),
        markings=rng.uniform(0.75, 1.25),
        gas=float(rng.random() < 0.75) * rng.uniform(0.5, 1.2),
        lung_density=(rng.normal(1.0, 0.06),) * 2,
    )


def build_dome(side: int, traits: Traits) -> Stack:
    """Half of the diaphragm with what lies below it.

    Args:
        side: -1 right, 1 left.
        traits: of the patient.

    Returns:
        A body of soft tissue that is closed by the dome.
    """
    which = SIDES.index(side)
    height = DOME_HEIGHT * traits.dome_height[which]
    middle = traits.domes[which] - height
    above = np.clip((STACK_HEIGHTS - middle) / height, 0, None)
    shrink = np.maximum(np.sqrt(np.clip(1 - above**2, 0, 1)), 1e-4)
    below = np.clip(middle - STACK_HEIGHTS, 0, None)
    width = (DOME_HALF_WIDTH + 0.2 * below) * shrink
    depth = (DOME_HALF_DEPTH + 0.2 * below) * shrink
    centre = np.full_like(width, side * (DOME_CENTRE + 6 * (1 - shrink)))
    return Stack(np.stack([centre, 6 + 10 * (1 - shrink), width, depth]), depth=10.0)


def build_cavity(side: int, traits: Traits) -> Stack:
    """The space inside the chest wall on one side, diaphragm and heart not yet taken away.

    Args:
        side: -1 right, 1 left.
        traits: of the patient.

    Returns:
        The pleural cavity.
    """
    outer, inner = np.array(LUNG_OUTER), np.array(LUNG_INNER) + 0.9 * side * traits.shift
    stack = Stack.from_knots(
        LUNG_HEIGHTS, tuple(side * (outer + inner) / 2), LUNG_CENTRE_DEPTH, tuple((outer - inner) / 2), LUNG_HALF_DEPTH
    )
    return stack.capped(LUNG_TOP, LUNG_CAP).capped(-205, 30, top=False)


def _tilted(angle: float) -> Array:
    """Axes turned in the frontal plane: the first points to the left and, for a positive angle, upwards."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def build_heart(traits: Traits) -> tuple[Ellipsoid, ...]:
    """The heart, as wide as the traits ask.

    Args:
        traits: of the patient.

    Returns:
        Ellipsoids whose union is the heart: ventricles, right atrium, base, left upper border.
    """
    lie = np.radians(traits.heart_lie)
    axes = np.array([[np.cos(lie), 0.35, -np.sin(lie)], [-0.35 * np.cos(lie), 1, 0.3], [np.sin(lie), 0, np.cos(lie)]])
    axes = np.linalg.qr(axes.T)[0].T
    width = traits.heart_ratio * THORAX_WIDTH
    size = width / 126.0
    floor = min(traits.domes) + 16
    # Normal hearts lie a third to the right of the midline; large ones grow to the left first.
    right = (42 + 0.22 * (width - 126)) * np.sqrt(min(size, 1.15))
    left = width - right
    ventricle = (66.0 * size, 46.0 * size**0.7, 47.0 * size)
    reach = Ellipsoid((0, 0, 0), ventricle, axes).half_width()
    height = max(floor + 32 * size, -62 + 4 * (size - 1))
    heart = Ellipsoid((left - reach + traits.shift, 22, height), ventricle, axes)
    atrium = Ellipsoid((34 - right + traits.shift, 12, height + 9), (34.0, 34.0, 48.0 * size**0.8), None)
    base = Ellipsoid((8 + traits.shift, 10, height + 36 * size), (32.0 * size, 34.0, 38.0), None)
    # Outflow tract and left appendage: they make the left border run straight from the trunk to the ventricle.
    border = Ellipsoid((0.40 * left + traits.shift, 18, height + 34 * size), (54 * size, 30, 24 * size), _tilted(-0.85))
    return heart, atrium, base, border


def build_great_vessels(traits: Traits) -> tuple[Solid, ...]:
    """Mediastinum, aorta, pulmonary trunk and superior vena cava.

    Args:
        traits: of the patient.

    Returns:
        Soft-tissue solids that overlap.
    """
    heights = np.array([-200.0, -100, -20, 30, 70, 100, 125, 150, 200])
    follow = np.interp(heights, [-200, -60, 90, 150], [0.4, 1.0, 0.9, 0.3]) * traits.shift
    aorta_x = np.interp(heights, [-200, -100, 0, 60, 80], [8, 14, 20, 25, 25]) + follow
    middle = Stack.from_knots(
        heights,
        follow + np.array([0, 0, -2, -3, -2, 0, 1, 0, 0]),
        (-5, -5, 0, 10, 10, 5, -5, -15, -20),
        (34, 28, 24, 24, 27, 29, 29, 31, 40),
        (62, 60, 44, 36, 36, 38, 36, 34, 34),
    )
    radius = 12.0 * traits.aorta**0.5
    descending = Stack.from_knots(
        heights[:5], aorta_x[:5], (-52, -52, -50, -44, -36), (radius,) * 5, (radius,) * 5, depth=-50.0
    ).capped(82, 14)
    knob = Ellipsoid((21 + 0.9 * traits.shift, -18, 80), (18.0 * traits.aorta, 26, 17.0 * traits.aorta))
    trunk = Ellipsoid((20 + 0.9 * traits.shift, 14, 40), (22, 24, 28), _tilted(0.35))
    cava = Stack.from_knots(
        heights[3:8], follow[3:8] - np.array([20, 21, 20, 20, 22]), (20,) * 5, (11,) * 5, (11,) * 5, depth=20.0
    )
    return middle, descending, knob, trunk, cava


def build_body(traits: Traits) -> tuple[tuple[Solid, ...], Stack]:
    """Trunk, neck and shoulders.

    Args:
        traits: of the patient.

    Returns:
        The outer surface (the trunk first), and the trunk without its fat.
    """
    wide = 0.97 if traits.female else 1.03
    heights = (-320.0, -200, -100, 0, 60, 100, 130, 160, 200)
    half_width = np.array([160.0, 163, 168, 170, 168, 158, 136, 104, 56])
    half_depth = np.array([116.0, 118, 119, 116, 108, 96, 80, 66, 56])
    muscle = Stack.from_knots(heights, (0,) * 9, (-6, -6, -4, -3, -5, -10, -16, -20, -18), half_width, half_depth)
    fat = traits.fat * np.array([1.6, 1.4, 1.1, 0.9, 0.9, 0.9, 0.7, 0.5, 0.3])
    skin = Stack.from_knots(
        heights, (0,) * 9, (2, 0, -2, -3, -5, -10, -16, -20, -18), half_width + fat, half_depth + 0.8 * fat
    )
    shoulder_heights = (-20.0, 30, 60, 90, 120, 138, 150, 160, 172, 186, 204, 300)
    shoulders = np.array([150.0, 178, 194, 202, 198, 184, 160, 128, 92, 70, 60, 58]) * wide + 0.5 * traits.fat
    girdle = Stack.from_knots(
        shoulder_heights,
        (0,) * 12,
        (-30,) * 12,
        shoulders,
        (40.0, 56, 60, 60, 56, 52, 50, 50, 52, 54, 56, 56),
        depth=-30.0,
    ).capped(-20, 40, top=False)
    return (skin, girdle), muscle


def build_limbs(traits: Traits, rng: np.random.Generator) -> tuple[tuple[Solid, ...], tuple[Solid, ...]]:
    """Arms, flanks, pectoral muscles and breasts.

    Args:
        traits: of the patient.
        rng: generator of the soft tissue.

    Returns:
        Those of the right and of the left half; none crosses the middle.
    """
    halves: list[tuple[Solid, ...]] = []
    spread = rng.uniform(5, 70)
    thick = 40 + 0.5 * traits.fat
    for side in SIDES:
        solids: list[Solid] = []
        heights = (-330.0, -100, 40, 110, 150)
        x = side * (np.array([212 + 1.7 * spread, 208 + 0.9 * spread, 199 + 0.3 * spread, 190, 178]))
        arm = Stack.from_knots(heights, x, (-40,) * 5, (thick,) * 5, (thick * 1.05,) * 5, depth=-40.0)
        solids.append(arm.capped(142, 42))
        if traits.breast > 4:
            sag = rng.normal(0, 4)
            centre = (side * 80.0, 84 + 0.2 * traits.breast, -38 - 0.6 * traits.breast + sag)
            # Tilted so that the upper pole sinks into the chest wall and only the lower fold has an edge.
            hang = np.array([[1, 0, 0], [0, 0.88, 0.47], [0, -0.47, 0.88]])
            radii = (54 + 0.35 * traits.breast, 0.55 * traits.breast + 22, 62 + 0.5 * traits.breast)
            solids.append(Ellipsoid(centre, radii, hang))
        solids.append(Ellipsoid((side * 102.0, 54, 82), (76, 30, 42), _tilted(0.45 * side)))
        flank = np.array([142.0, 146, 151, 152, 148, 140]) * side
        wide = np.array([36.0, 34, 34, 36, 40, 30]) + 0.9 * traits.fat
        deep = (74, 74, 76, 74, 66, 50)
        solids.append(Stack.from_knots((-330, -200, -60, 20, 80, 130), flank, (-30,) * 6, wide, deep))
        halves.append(tuple(solids))
    return halves[0], halves[1]


def build_airways(traits: Traits) -> tuple[Tubes, ...]:
    """Trachea and main bronchi.

    Args:
        traits: of the patient.

    Returns:
        Tubes of air.
    """
    shift = traits.shift
    trachea = np.array([[0, -12, 230], [0.2 * shift, -14, 160], [0.8 * shift, -18, 105], [3 + shift, -24, 56]])
    right = np.array([[3 + shift, -24, 58], [-16 + 0.9 * shift, -25, 38], [-32 + 0.7 * shift, -24, 14]])
    left = np.array([[3 + shift, -24, 58], [22 + 0.9 * shift, -26, 43], [42 + 0.7 * shift, -28, 30]])
    return (
        make_tube(trachea, np.full(4, 8.6), np.full(4, 8.6), nodes=30, up=ACROSS),
        make_tube(right, np.array([6.0, 6, 3.5]), np.array([6.0, 6, 3.5]), nodes=16, up=ACROSS),
        make_tube(left, np.array([5.5, 5, 3]), np.array([5.5, 5, 3]), nodes=16, up=ACROSS),
    )


def build_gas(traits: Traits, rng: np.random.Generator) -> tuple[Ellipsoid, ...]:
    """Stomach bubble and bowel gas below the left dome.

    Args:
        traits: of the patient.
        rng: generator of the soft tissue.

    Returns:
        Bubbles of air; none where the traits say so.
    """
    place = np.array([58 + rng.normal(0, 8), 10, traits.domes[1] - 26 + rng.normal(0, 3)])
    size = traits.gas * rng.uniform([22, 16, 11], [36, 26, 17])
    bowel = [
        Ellipsoid(tuple(place + rng.uniform([0, 0, -55], [50, 30, -30])), tuple(rng.uniform(7, 15, 3) * traits.gas))
        for _ in range(rng.integers(0, 4))
    ]
    return (Ellipsoid(tuple(place), tuple(size)), *bowel) if traits.gas > 0 else ()
