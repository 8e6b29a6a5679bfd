"""The arm: humerus with shoulder or elbow; lengths in mm for an adult, z upwards, the shaft at x = y = 0."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .fields import Bone
from .geometry import Stack
from .rays import Array
from .shapes import Cone, Cut

HUMERUS_CLASSES = ("humerus_normal", "humerus_fracture")
HEAD_CENTRE = np.array([-10.0, -2.0, 134.0])
HUMERUS = (
    Cone((1, 0, 60), (1.5, 0, 15), (12.6, 12.2)),
    Cone((1.5, 0, 15), (0, -1, -92), (12.2, 10.2), blend=1.5),
    Cone((0, 0, 118), (1, 0, 60), (19, 12.6), blend=2),  # metaphysis
    Cone((-11, -2, 132), (-13, -2, 137), (22.5, 22.5), blend=9),  # head
    Cone((14, 3, 125), (10, 1, 104), (9.5, 11.0), blend=10),  # greater tubercle
)
CONDYLES = (
    Cone((-1, -1, -94), (-18, -1, -137), (9.0, 6.5), blend=5),
    Cone((1, -1, -94), (15, -1, -138), (9.0, 6.5), blend=5),
    Cone((-9, 1, -116), (7, 1, -116), (6, 6)),
    Cone((-9, 1, -129), (7, 1, -129), (4, 4)),  # the thin floor of the olecranon fossa
    Cone((-15, -3, -132), (-26, -4, -135), (8.0, 6.0), blend=7),  # medial epicondyle
    Cone((12, 0, -136), (20, -1, -137), (6, 5), blend=5),
    Cone((-17, 4, -147), (-1, 4, -146), (10.5, 6.5), blend=4),  # trochlea
    Cone((6, 6, -148), (13, 6, -147), (9, 8.5), blend=4),  # capitulum
)
ULNA = (
    Cone((-7, -11, -126), (-9, -9, -150), (8, 10)),  # olecranon, behind the trochlea
    Cone((-11, -3, -172), (-9, -2, -186), (11, 8), ceiling=-161),
    Cone((-9, -8, -150), (-6, -3, -200), (9, 7)),
    Cone((-6, -3, -200), (-1, -2, -320), (7.5, 6.5)),
)
RADIUS = (
    Cone((13, 4, -166), (13, 4, -172), (9.8, 9), ceiling=-160),
    Cone((13, 4, -172), (12, 3, -186), (8, 6.5)),
    Cone((9, 3, -193), (10, 2, -205), (7.5, 7)),
    Cone((11, 3, -190), (17, 1, -320), (6.5, 6.8)),
)
HUMERUS_HEIGHTS = (-165.0, -130, -102, -70, 40, 85, 110, 160)
HUMERUS_WALL = (1.0, 1.1, 1.7, 4.2, 4.3, 2.6, 1.2, 0.8)
HUMERUS_CORE = (0.24, 0.18, 0.10, -0.03, -0.03, 0.05, 0.13, 0.20)  # below 0 where the marrow is fat
FOREARM_HEIGHTS = (-330.0, -230, -195, -165, -120)
FOREARM_WALL = (2.6, 2.4, 1.6, 0.9, 0.9)
FOREARM_CORE = (-0.03, -0.02, 0.10, 0.22, 0.22)
ARM_HEIGHTS = np.array([-330.0, -280, -220, -180, -140, -110, -60, 0, 60, 110, 165])
ARM_WIDTH = np.array([30.0, 35, 43, 45, 42, 39, 41, 46, 50, 52, 50])
ARM_DEPTH = np.array([26.0, 30, 37, 38, 35, 37, 43, 48, 50, 52, 50])
SHAFT = {"shoulder": (0.0, 75.0), "elbow": (-85.0, -32.0)}  # mm, where a fracture of the shaft shows
SURGICAL_NECK = (84.0, 98.0)  # mm, where one of the proximal humerus lies
FRACTURE_KINDS = ("transverse", "oblique", "spiral")


@dataclass(frozen=True)
class Limb:
    """What is drawn for one arm.

    Args:
        side: -1 right, 1 left.
        joint: "shoulder" or "elbow", whichever the image shows.
        child: whether the growth plates are open.
        scale: size against an adult's.
        calibre: thickness of the bones against the average.
        wall: thickness of the cortical bone against the average; thin in the old.
        fat: under the skin, mm.
        muscle: thickness of the muscles against the average.
        twist: rotation about the bone's own axis, radians.
        lean: angle between the bone and the vertical of the image, radians.
        carrying: angle between upper arm and forearm, radians.
    """

    side: int
    joint: str
    child: bool
    scale: float
    calibre: float
    wall: float
    fat: float
    muscle: float
    twist: float
    lean: float
    carrying: float


@dataclass(frozen=True)
class Fracture:
    """How the shaft is broken.

    Args:
        kind: one of FRACTURE_KINDS.
        cut: the broken surface.
        shift: (3,), how far the lower fragment has moved, mm.
        bend: angulation of the lower fragment in the image and along the beam, radians.
    """

    kind: str
    cut: Cut
    shift: Array
    bend: tuple[float, float]


def draw_limb(rng: np.random.Generator) -> Limb:
    """Draw what makes one arm.

    Args:
        rng: the patient's own generator.

    Returns:
        The arm of somebody healthy.
    """
    side, joint = (-1, 1)[int(rng.random() < 0.5)], ("shoulder", "elbow")[int(rng.random() < 0.5)]
    child = bool(rng.random() < 0.35)
    scale = rng.uniform(0.52, 0.88) if child else rng.normal(1.0, 0.05)
    return Limb(
        side=side,
        joint=joint,
        child=child,
        scale=scale,
        calibre=float(np.clip(rng.normal(1.0, 0.08), 0.82, 1.2)),
        wall=rng.uniform(0.9, 1.1) if child else rng.uniform(0.55, 1.15),
        fat=rng.uniform(3, 9) if child else 3 + 14 * rng.beta(1.6, 3),
        muscle=rng.uniform(0.82, 1.2),
        twist=rng.normal(0, 0.22),
        lean=rng.uniform(0.08, 0.75) if joint == "shoulder" else rng.normal(0, 0.3),
        carrying=rng.uniform(0.05, 0.25),
    )


def _fracture_cut(kind: str, height: float, limb: Limb, rng: np.random.Generator) -> Cut:
    lean = {"transverse": 0.12, "oblique": 1.0, "spiral": 0.25}[kind]
    direction, steep = rng.uniform(0, 2 * np.pi), lean * rng.uniform(0.6, 1.5)
    pitch = rng.choice([-1.0, 1.0]) * rng.uniform(45, 80) * limb.calibre if kind == "spiral" else 0.0
    return Cut(
        height,
        (1.0, 0.0),
        (steep * np.cos(direction), 0.6 * steep * np.sin(direction)),
        pitch,
        rough=rng.uniform(0.4, 1.0),
        phase=rng.uniform(0, 2 * np.pi),
    )


def draw_fracture(limb: Limb, rng: np.random.Generator) -> Fracture:
    """Draw a fracture of the shaft that the image shows.

    Args:
        limb: the arm.
        rng: the disease's generator.

    Returns:
        The fracture, in the bone's frame.
    """
    kind = FRACTURE_KINDS[int(rng.integers(len(FRACTURE_KINDS)))]
    height = rng.uniform(*SHAFT[limb.joint])
    if limb.joint == "shoulder" and kind == "transverse" and rng.random() < 0.4:
        height = rng.uniform(*SURGICAL_NECK)
    width = 24 * limb.calibre
    severity = rng.beta(1.4, 1.8)
    sideways = rng.uniform(0.05, 0.9) * severity * width * rng.choice([-1, 1])
    gap = -rng.uniform(1.2, 3.0) - 3 * severity * rng.random()
    if abs(sideways) > 0.5 * width:
        gap = rng.uniform(0, 14)  # muscles pull the fragments past each other
    shift = np.array([sideways, rng.normal(0, 0.25) * severity * width, gap])
    bend = (rng.normal(0, 0.05) + rng.choice([-1, 1]) * 0.4 * severity * rng.random(), rng.normal(0, 0.08))
    return Fracture(kind, _fracture_cut(kind, height, limb, rng), shift, bend)


def _sized(parts: tuple[Cone, ...], limb: Limb) -> tuple[Cone, ...]:
    """On the right side, as thick as drawn."""
    return tuple(
        replace(part, radii=(part.radii[0] * limb.calibre, part.radii[1] * limb.calibre)).mirrored(limb.side)
        for part in parts
    )


def _growth_plates(limb: Limb) -> tuple[tuple[Cut, float], ...]:
    if not limb.child:
        return ()
    open_wide = 2.0 + 3.0 * (0.9 - limb.scale)
    upper = Cut(118.0, (0.0, 0.0), (0.10 * limb.side, 0.0), tent=0.45, rough=0.5, phase=1.0)
    lower = Cut(-138.5, (0.0, 0.0), (-0.18 * limb.side, 0.0), rough=0.5, phase=2.0)
    return (upper, open_wide), (lower, open_wide)


def build_humerus(limb: Limb, fracture: Fracture | None, rng: np.random.Generator) -> tuple[Bone, ...]:
    """The humerus, in one piece or in two.

    Args:
        limb: the arm.
        fracture: from draw_fracture, or None.
        rng: generator of the bones.

    Returns:
        One bone or two fragments, upper first.
    """
    parts = _sized(HUMERUS + CONDYLES, limb)
    turn = np.array(
        [[np.cos(limb.twist), -np.sin(limb.twist), 0], [np.sin(limb.twist), np.cos(limb.twist), 0], [0, 0, 1]]
    )
    wall = tuple(np.array(HUMERUS_WALL) * limb.wall)
    core = tuple(np.where(np.array(HUMERUS_CORE) > 0.1, np.array(HUMERUS_CORE) * limb.wall, HUMERUS_CORE))
    whole = Bone(parts, HUMERUS_HEIGHTS, wall, core, rng.uniform(0.35, 0.6), _growth_plates(limb), rotation=turn)
    if fracture is None:
        return (whole,)
    c, s = np.cos(fracture.bend[0]), np.sin(fracture.bend[0])
    in_image = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    c, s = np.cos(fracture.bend[1]), np.sin(fracture.bend[1])
    along_beam = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    bent = in_image @ along_beam @ turn
    hinge = np.array([0.0, 0.0, fracture.cut.height])
    move = hinge - bent @ hinge + fracture.shift
    lower = replace(whole, cut=fracture.cut, keep=-1, rotation=bent, move=(move[0], move[1], move[2]))
    return replace(whole, cut=fracture.cut, keep=1), lower


def build_forearm(limb: Limb, lower: Bone) -> tuple[Bone, ...]:
    """Upper ends of ulna and radius, which follow the humerus.

    Args:
        limb: the arm.
        lower: the piece of the humerus that carries the elbow.

    Returns:
        Ulna and radius.
    """
    angle = limb.side * limb.carrying
    c, s = np.cos(angle), np.sin(angle)
    bend = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    joint = np.array([0.0, 0.0, -150.0])
    carried = np.eye(3) if lower.rotation is None else lower.rotation
    turned = carried @ bend
    move = carried @ (joint - bend @ joint) + np.asarray(lower.move)
    wall = tuple(np.array(FOREARM_WALL) * limb.wall)
    return tuple(
        Bone(_sized(parts, limb), FOREARM_HEIGHTS, wall, FOREARM_CORE, rotation=turned, move=(*move,))
        for parts in (ULNA, RADIUS)
    )


def build_arm(limb: Limb, fracture: Fracture | None) -> tuple[Stack, Stack]:
    """Skin and muscle.

    Args:
        limb: the arm.
        fracture: swells the arm around it.

    Returns:
        The surface of the skin and that of the muscle.
    """
    centre = np.interp(ARM_HEIGHTS, [-330, -150, 0], [limb.side * np.tan(limb.carrying) * 180, 0, limb.side * 4.0])
    muscle = limb.muscle * np.where((ARM_HEIGHTS < -100) & (ARM_HEIGHTS > -190), 1 / limb.muscle, 1.0)
    swelling = np.zeros_like(ARM_HEIGHTS)
    if fracture is not None:
        reach = np.clip(fracture.cut.height - ARM_HEIGHTS, 0, None)
        centre = centre + (reach > 0) * fracture.shift[0] * 0.7 - np.tan(fracture.bend[0]) * reach
        swelling = 5 * np.exp(-(((ARM_HEIGHTS - fracture.cut.height) / 70) ** 2))
    depth = np.zeros_like(ARM_HEIGHTS)
    wide, deep = ARM_WIDTH * muscle + swelling, ARM_DEPTH * muscle + swelling
    fat = limb.fat * np.interp(ARM_HEIGHTS, [-330, -140, 0, 150], [0.6, 0.7, 1.2, 1.0])
    skin = Stack.from_knots(ARM_HEIGHTS, centre, depth, wide + fat, deep + fat)
    inner = Stack.from_knots(ARM_HEIGHTS, centre, depth, wide, deep)
    if limb.joint == "shoulder":
        skin, inner = skin.capped(172 + limb.fat, 60), inner.capped(172, 60)
    return skin, inner
