"""A radiograph of the arm before it meets the detector."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.ndimage import gaussian_filter

from .arm_devices import arm_devices
from .detector import Exposure
from .fields import Bone, make_trabeculae, project_bone
from .geometry import Ellipsoid, Interval, Solid, Stack, union_depth
from .humerus import (
    HEAD_CENTRE,
    Fracture,
    Limb,
    build_arm,
    build_forearm,
    build_humerus,
    draw_fracture,
    draw_limb,
)
from .organs import build_body, build_cavity, draw_traits
from .projection import attenuation_coefficients
from .rays import Array, Mask, View, cast_rays
from .scene import BONES, DISEASE, SOFT, TEXTURE, TRAITS, VIEW, Scene, rotation, stream
from .skeleton import RIB_PAIRS, build_clavicle, build_rib, build_shoulder
from .tubes import Tubes, join_tubes, splat_tubes

ARM_MASK_NAMES = ("body", "humerus", "forearm", "scapula", "clavicle", "ribs", "lesion")
CHEST_HEAD = np.array([188.0, -40.0, 118.0])  # middle of the left humeral head in the chest's frame, mm
SHOULDER_CENTRE, ELBOW_CENTRE = (0.0, 0.0, 62.0), (0.0, 0.0, -112.0)  # what the image is centred on, mm
FIELD = 262.0  # mm, side of the detector field for an average adult
FRACTURE_BAND = 4.0  # mm across the broken surface that its mask shows
MUSCLE_GRAIN = 0.012  # relative unevenness of soft tissue


@dataclass(frozen=True)
class Trunk:
    """The part of the chest that a shoulder shows, in the chest's own frame.

    Args:
        skin: surfaces of the trunk.
        muscle: the trunk without its fat.
        lung: the pleural cavity of that side.
        scapula: its tubes.
        clavicle: its tube.
        ribs: its tubes.
        turn: (3, 3), from the chest's frame to the arm's.
        move: (3,), the chest's origin in the arm's frame, mm.
    """

    skin: tuple[Solid, ...]
    muscle: tuple[Solid, ...]
    lung: Stack
    scapula: Tubes
    clavicle: Tubes
    ribs: Tubes
    turn: Array
    move: Array


def _carry(tubes: Tubes, turn: Array, move: Array) -> Tubes:
    return replace(tubes, nodes=tubes.nodes @ turn.T + move, up=tubes.up @ turn.T)


def build_trunk(limb: Limb, rng: np.random.Generator) -> Trunk:
    """The shoulder girdle and the chest wall beside the arm.

    Args:
        limb: the arm.
        rng: generator of the bones.

    Returns:
        The trunk, upright where the arm is not.
    """
    side = limb.side
    traits = replace(draw_traits(rng), fat=limb.fat)
    skin, muscle = build_body(traits)
    deltoid = Ellipsoid((side * 150.0, -34, 108), (82 + limb.fat, 54, 51 + 0.5 * limb.fat))
    turn = rotation(0.0, 0.0, side * limb.lean)
    move = HEAD_CENTRE * [side, 1, 1] - turn @ (CHEST_HEAD * [side, 1, 1])
    scapula = join_tubes(build_shoulder(side, rng, rng.uniform(-0.5, 0.6))[:5])
    ribs = join_tubes([build_rib(pair, side, rng, 1.0, 1.0) for pair in range(RIB_PAIRS - 3)])
    return Trunk(
        skin=(*skin, deltoid),
        muscle=(muscle, skin[1], deltoid),
        lung=build_cavity(side, traits),
        scapula=_carry(scapula, turn, move),
        clavicle=_carry(build_clavicle(side, rng), turn, move),
        ribs=_carry(ribs, turn, move),
        turn=turn,
        move=move,
    )


def draw_arm_view(limb: Limb, rng: np.random.Generator) -> View:
    """Draw how the arm lies on the detector.

    Args:
        limb: the arm.
        rng: the view's generator.

    Returns:
        An antero-posterior view from about a metre.
    """
    shoulder = limb.joint == "shoulder"
    yaw, pitch = np.radians(rng.normal(0, [6.0, 3.0]))
    roll = -limb.side * limb.lean + np.radians(rng.normal(0, 3.0))
    matrix = limb.scale * rotation(yaw, pitch, roll)
    gap = limb.scale * (115 if shoulder else 48) + rng.uniform(5, 40 if shoulder else 15)
    distance = rng.uniform(1000, 1200)
    centre = np.array(SHOULDER_CENTRE if shoulder else ELBOW_CENTRE) + rng.normal(0, [10, 0, 14])
    return View(
        matrix=matrix,
        shift=(-matrix @ centre) * [1, 0, 1],
        source=distance - gap,
        detector=-gap,
        field=FIELD * limb.scale * rng.uniform(0.85, 1.12) * distance / (distance - gap),
        bend=(0.0, 0.0),
    )


def draw_arm_exposure(rng: np.random.Generator) -> Exposure:
    """Draw the settings of an exposure of a limb.

    Args:
        rng: the view's generator.

    Returns:
        Settings between 52 and 66 kVp, with the blades often closed in from the sides.
    """
    closed = rng.uniform(0.02, 0.16, 4) * (rng.random(4) < [0.25, 0.25, 0.45, 0.45]) * (rng.random() < 0.6)
    return Exposure(
        energy=rng.uniform(31, 39),
        quanta=10 ** rng.uniform(4.6, 5.5),
        scatter=rng.uniform(0.08, 0.35),
        blur=rng.uniform(0.12, 0.35),
        low=rng.uniform(0.35, 0.9),
        high=rng.uniform(0.0, 0.18),
        equalise=rng.uniform(0.0, 0.35),
        sharpen=rng.uniform(0.2, 1.4),
        gamma=float(np.exp(rng.normal(0.0, 0.16))),
        shutters=(closed[0], closed[1], closed[2], closed[3]),
        turn=rng.normal(0, 1.2),
    )


def _shifted(interval: Interval, by: float) -> Interval:
    offset = np.float32(by)
    return interval[0] + offset, interval[1] + offset


def _soft_tissue(arm: tuple[Stack, Stack], trunk: Trunk | None, view: View, size: int) -> tuple[Array, Array, Array]:
    """Path in the body, in its fat and in lung, mm."""
    rays = cast_rays(view, size)
    skin, muscle = ([solid.interval(rays)] for solid in arm)
    lung = np.zeros_like(rays.x)
    if trunk is not None:
        own = cast_rays(
            replace(view, matrix=view.matrix @ trunk.turn, shift=view.shift + view.matrix @ trunk.move), size
        )
        # Both frames differ by a turn in the image plane, so that their depths differ by a constant.
        skin += [_shifted(solid.interval(own), trunk.move[1]) for solid in trunk.skin]
        muscle += [_shifted(solid.interval(own), trunk.move[1]) for solid in trunk.muscle]
        near, far = trunk.lung.interval(own)
        lung = (far - near) * own.stretch
    body = union_depth(skin) * rays.stretch
    return body, np.maximum(body - union_depth(muscle) * rays.stretch, 0), np.minimum(lung, 0.8 * body)


def _grain(rng: np.random.Generator, size: int) -> Array:
    """Uneven soft tissue: strands of muscle and fat, mean 0."""
    noise = np.zeros((size, size), np.float32)
    for sigma in (size / 110, size / 36, size / 12):
        octave = gaussian_filter(rng.standard_normal(noise.shape, dtype=np.float32), (1.6 * sigma, sigma), truncate=2.5)
        noise += octave / octave.std()
    return noise / noise.std()


def _limb(seed: int, label: str) -> tuple[Limb, Fracture | None]:
    limb = draw_limb(stream(seed, TRAITS, 1, 1))
    broken = label == "humerus_fracture"
    return limb, draw_fracture(limb, stream(seed, DISEASE, 1, 1)) if broken else None


def _bones(
    pieces: tuple[Bone, ...], forearm: tuple[Bone, ...], trunk: Trunk | None, view: View, size: int, texture: Array
) -> tuple[Array, dict[str, Mask]]:
    """Path in bone (as cortical bone above soft tissue), and masks."""
    masks: dict[str, Mask] = {name: np.zeros((size, size), bool) for name in ARM_MASK_NAMES}
    bone = np.zeros((size, size), np.float32)
    for name, group in (("humerus", pieces), ("forearm", forearm)):
        for piece in group:
            path, inside, broken = project_bone(piece, view, size, texture, FRACTURE_BAND)
            bone += path
            masks[name] |= inside
            masks["lesion"] |= broken
    if trunk is not None:
        for name, tubes in (("scapula", trunk.scapula), ("clavicle", trunk.clavicle), ("ribs", trunk.ribs)):
            path, cover = splat_tubes(tubes, view, size)
            bone += path
            masks[name] = cover > 0.5
    return bone, masks


def arm_scene(seed: int, label: str, size: int, view: int) -> Scene:
    """One exposure of an arm.

    Args:
        seed: the patient.
        label: one of HUMERUS_CLASSES.
        size: pixels along a side.
        view: number of the exposure.

    Returns:
        Line integrals, masks and counts.
    """
    limb, fracture = _limb(seed, label)
    rng = stream(seed, VIEW, 1, view)
    geometry, exposure = draw_arm_view(limb, rng), draw_arm_exposure(rng)
    shoulder = limb.joint == "shoulder"
    pieces = build_humerus(limb, fracture, stream(seed, BONES, 1))
    forearm = () if shoulder else build_forearm(limb, pieces[-1])
    trunk = build_trunk(limb, stream(seed, SOFT, 1)) if shoulder else None
    bone, masks = _bones(pieces, forearm, trunk, geometry, size, make_trabeculae(stream(seed, TEXTURE, 1)))
    arm = build_arm(limb, fracture)
    body, fat, lung = _soft_tissue(arm, trunk, geometry, size)
    mu, grain = attenuation_coefficients(exposure.energy), 1 + MUSCLE_GRAIN * _grain(stream(seed, TEXTURE, 2), size)
    total = mu["soft"] * body * grain - (mu["soft"] - mu["fat"]) * fat - (mu["soft"] - mu["lung"]) * lung
    total = np.maximum(total + (mu["bone"] - mu["soft"]) * bone, 0).astype(np.float32)
    masks["body"] = body > 1.0
    counts = {"humeri": 1, "fragments": len(pieces), "fractures": len(pieces) - 1}
    counts |= {"growth_plates": len(pieces[0].plates), "forearm_bones": len(forearm)}
    window = masks["body"] & (body > np.percentile(body[masks["body"]], 25)) & (bone < 0.5)
    equip = partial(arm_devices, limb=limb, skin=arm[0], broken=fracture is not None)
    part = "SHOULDER" if shoulder else "HUMERUS"
    return Scene(total, masks, counts, window, geometry, exposure, part, limb.side, equip)
