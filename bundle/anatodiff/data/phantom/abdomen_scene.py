"""A radiograph of the abdomen before it meets the detector."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from scipy.ndimage import gaussian_filter

from .abdomen import HALF_DEPTH, HALF_WIDTH, Habitus, Organs, build_organs, draw_habitus
from .bowel import Bowel, build_bowel
from .detector import Exposure
from .fields import make_trabeculae, project_bone
from .geometry import Solid, clip, union_depth
from .pelvis import LEVELS, SPINE_DEPTH, PelvicBones, build_pelvis, project_plate
from .projection import attenuation_coefficients
from .rays import Array, Mask, Rays, View, cast_rays, window_of
from .scene import BONES, BOWEL, DISEASE, SOFT, TEXTURE, TRAITS, VIEW, Scene, rotation, stream
from .skeleton import RIB_PAIRS, build_rib
from .trunk_devices import abdomen_devices
from .tubes import Tubes, join_tubes, splat_tubes

ABDOMEN_MASK_NAMES = (
    "body",
    "lungs",
    "spine",
    "ribs",
    "pelvis",
    "liver",
    "kidneys",
    "psoas",
    "stomach",
    "small_bowel",
    "colon",
    "lesion",
)
FIELD = 425.0  # mm, side of the detector field around an average adult
MIDDLE = -42.0  # mm, height on which the image is centred
HIPS_CUT_MIDDLE = 22.0  # mm, the same where the hips are cut off
CHEST_OFFSET = 189.0  # mm by which the chest's frame lies higher: its L3 is at -190
LOWEST_RIBS = 6  # pairs that the image may show
SPINE_SHARE = 0.18  # bone of a vertebral body as a share of solid cortical bone
GAS_LIMIT = 0.8  # of the cavity's depth that gas can fill
GAS_MASK_DEPTH = 3.0  # mm
LUNG_MASK_DEPTH = 12.0  # mm
BONE_GRAIN = 0.22  # relative unevenness of spongy bone
ORGAN_GRAIN = 0.006  # relative unevenness of soft tissue


def draw_abdomen_view(habitus: Habitus, bend: float, rng: np.random.Generator) -> View:
    """Draw how the patient lies on the table.

    Args:
        habitus: the patient.
        bend: sideways bend of the trunk, mm.
        rng: the view's generator.

    Returns:
        An antero-posterior view from about a metre.
    """
    scale = np.array(habitus.scale)
    yaw, pitch, roll = np.radians(rng.normal(0, [3.5, 3.0, 2.0]))
    matrix = rotation(yaw, pitch, roll) @ np.diag(scale)
    gap = 112 * scale[1] + rng.uniform(25, 70) * (0.3 if habitus.child else 1.0)
    distance = rng.uniform(950, 1150)
    centre = np.array([rng.normal(0, 6), 0.0, (HIPS_CUT_MIDDLE if habitus.cut else MIDDLE) + rng.normal(0, 8)])
    reach = max(scale[0], 0.97 * scale[2]) * (1.12 if habitus.child else 1.0)
    return View(
        matrix=matrix,
        shift=(-matrix @ centre) * [1, 0, 1],
        source=distance - gap,
        detector=-gap,
        field=FIELD * reach * distance / (distance - gap) / 1.06 * rng.uniform(0.88, 1.04),
        bend=(bend, rng.uniform(-40, 60)),
    )


def draw_abdomen_exposure(child: bool, rng: np.random.Generator) -> Exposure:
    """Draw the settings of an exposure of the abdomen.

    Args:
        child: a newborn.
        rng: the view's generator.

    Returns:
        Settings between 60 and 85 kVp.
    """
    closed = rng.uniform(0.0, 0.06, 4) * (rng.random(4) < 0.5) * (rng.random() < 0.5)
    return Exposure(
        energy=rng.uniform(32, 38) if child else rng.uniform(37, 46),
        quanta=10 ** (rng.uniform(5.3, 5.9) if child else rng.uniform(5.6, 6.3)),
        scatter=rng.uniform(0.15, 0.4) if child else rng.uniform(0.3, 0.8),
        blur=rng.uniform(0.1, 0.25) if child else rng.uniform(0.2, 0.6),
        low=rng.uniform(0.2, 0.5),
        high=rng.uniform(0.08, 0.3),
        equalise=rng.uniform(0.5, 0.85),
        sharpen=rng.uniform(0.4, 2.0),
        gamma=float(np.exp(rng.normal(0.0, 0.14))),
        shutters=(closed[0], closed[1], closed[2], closed[3]),
        turn=rng.normal(0, 0.8),
    )


def _depth(solids: Sequence[Solid], within: tuple[Array, Array], rays: Rays) -> Array:
    return np.asarray(union_depth([clip(solid.interval(rays), within) for solid in solids]) * rays.stretch)


def _chord(solid: Solid, rays: Rays) -> Array:
    near, far = solid.interval(rays)
    return np.asarray((far - near) * rays.stretch)


def _soft(organs: Organs, habitus: Habitus, rays: Rays) -> tuple[dict[str, Array], Array]:
    """Path in body, fat and organs, mm, and the depth of the cavity."""
    cavity = organs.cavity.interval(rays)
    depth = (cavity[1] - cavity[0]) * rays.stretch
    found = {
        "body": _chord(organs.skin, rays),
        "liver": _depth(organs.liver, cavity, rays),
        "kidneys": _depth(organs.kidneys, cavity, rays),
        "psoas": _depth(organs.psoas, cavity, rays),
    }
    solid = _depth((*organs.liver, *organs.kidneys, *organs.psoas, *organs.others), cavity, rays)
    lining = np.maximum(_chord(organs.lining, rays) - depth, 0)
    under_skin = np.maximum(found["body"] - _chord(organs.wall, rays), 0)
    # Ribs and diaphragm leave no fat between them, and little lies among the organs there.
    fade = np.clip((150 - rays.z) / 60, 0, 1)
    inner = habitus.inner_fat * np.maximum(depth - solid, 0) * np.clip((190 - rays.z) / 80, 0.3, 1)
    found["fat"] = under_skin + (lining * fade + inner)
    lung = np.zeros_like(depth)
    for cavity_side in organs.lungs:
        near, far = cavity_side.interval(rays)
        obstacles = [clip(part.interval(rays), (near, far)) for part in (*organs.domes, *organs.heart)]
        lung += np.maximum(far - near - union_depth(obstacles), 0) * rays.stretch
    found["lung"] = lung
    return found, depth


def _gas(bowel: Bowel, depth: Array, view: View, size: int) -> dict[str, Array]:
    """Path in the gas of each part of the gut, mm; together never more than there is room."""
    empty, body_scale = np.zeros((size, size), np.float32), float(np.cbrt(np.linalg.det(view.matrix)))
    groups: dict[str, list[Tubes]] = {"stomach": [], "small_bowel": [], "colon": [], "stool": []}
    for name, tubes in zip(groups, (bowel.stomach, bowel.small, bowel.colon, bowel.stool), strict=True):
        if tubes is not None:
            groups[name].append(tubes)
    paths = {}
    for name, some in groups.items():
        path = splat_tubes(join_tubes(some), view, size)[0] if some else empty
        # Neighbouring slices of a bent tube overlap on the inside of the bend: a gut is nowhere deeper than it is wide.
        widest = 2 * max((tubes.depth.max() for tubes in some), default=0.0) * body_scale
        paths[name] = np.minimum(path, np.float32(widest))
    total = sum(paths.values(), empty)
    room = np.minimum(1, GAS_LIMIT * depth / np.maximum(total, 1e-3))
    return {name: path * room for name, path in paths.items()}


def _ribs(seed: int) -> list[Tubes]:
    rng = stream(seed, BONES, 2, 1)
    slope, calibre = rng.normal(1.0, 0.07), rng.normal(1.0, 0.07)
    ribs = [
        build_rib(pair, side, rng, slope, calibre)
        for side in (-1, 1)
        for pair in range(RIB_PAIRS - LOWEST_RIBS, RIB_PAIRS)
    ]
    offset = np.array([0, 0, CHEST_OFFSET])
    return [Tubes(t.nodes + offset, t.height, t.depth, t.wall, t.core, t.links, t.up) for t in ribs]


def _bones(
    bones: PelvicBones, ribs: list[Tubes], view: View, rays: Rays, grain: Array, texture: Array
) -> tuple[Array, dict[str, Mask]]:
    """Path in bone (as cortical bone), and masks."""
    size = len(rays.x)
    rib_path, rib_cover = splat_tubes(join_tubes(ribs), view, size)
    level = bones.spine.level(rays.z + SPINE_DEPTH * rays.slope_z)
    spine = _chord(bones.spine, rays)
    bony = bones.spine_bone.astype(np.float32)[level]
    path = rib_path + splat_tubes(bones.processes, view, size)[0] + SPINE_SHARE * spine * bony * grain
    pelvis = np.zeros((size, size), bool)
    for plate in bones.plates:
        low, high = plate.outline.min(axis=0), plate.outline.max(axis=0)
        window = window_of(view, (low[0], -90, low[1]), (high[0], 30, high[1]), size)
        found, inside = project_plate(plate, rays.crop(window), grain[window])
        path[window] += found
        pelvis[window] |= inside
    for rami in bones.rami:
        found, cover = splat_tubes(rami, view, size)
        path += found
        pelvis |= cover > 0.5
    for hip in bones.hips:
        path += project_bone(hip, view, size, texture)[0]
    return path, {"ribs": rib_cover > 0.5, "spine": (spine > 0) & (bony > 0), "pelvis": pelvis}


def _noise(rng: np.random.Generator, size: int, widths: tuple[float, ...]) -> Array:
    """Noise of several widths (shares of the image), mean 0, standard deviation 1."""
    total = np.zeros((size, size), np.float32)
    for width in widths:
        octave = gaussian_filter(rng.standard_normal(total.shape, dtype=np.float32), width * size, truncate=2.5)
        total += octave / octave.std()
    return total / total.std()


def _visible(nodes: Array, view: View, size: int) -> bool:
    place, _ = view.project(nodes, size)
    return bool(((place > 0) & (place < size - 1)).all(axis=1).mean() >= 0.5)


def _counts(bowel: Bowel, ribs: list[Tubes], ill: bool, view: View, size: int) -> dict[str, int]:
    bodies = np.stack([np.zeros(len(LEVELS)), np.full(len(LEVELS), SPINE_DEPTH), LEVELS], axis=1)
    return {
        "vertebrae": sum(_visible(body[None], view, size) for body in bodies),
        "ribs": sum(_visible(rib.nodes, view, size) for rib in ribs),
        "kidneys": 2,
        "small_bowel_pockets": bowel.small_pockets,
        "colon_pockets": bowel.colon_pockets,
        "dilated_loops": bowel.small_pockets if ill else 0,
    }


def _masks(soft: dict[str, Array], gas: dict[str, Array], bones: dict[str, Mask], ill: bool) -> dict[str, Mask]:
    found = bones | {"body": soft["body"] > 1.0, "lungs": soft["lung"] > LUNG_MASK_DEPTH}
    found |= {name: soft[name] > 0 for name in ("liver", "kidneys", "psoas")}
    found |= {name: gas[name] > GAS_MASK_DEPTH for name in ("stomach", "small_bowel", "colon")}
    found["lesion"] = found["small_bowel"].copy() if ill else np.zeros_like(found["body"])
    return {name: found[name] for name in ABDOMEN_MASK_NAMES}


def abdomen_scene(seed: int, label: str, size: int, view: int) -> Scene:
    """One exposure of an abdomen.

    Args:
        seed: the patient.
        label: one of ABDOMEN_CLASSES.
        size: pixels along a side.
        view: number of the exposure.

    Returns:
        Line integrals, masks and counts.
    """
    habitus, ill = draw_habitus(stream(seed, TRAITS, 2, 1)), label == "abdomen_ileus"
    rng = stream(seed, VIEW, 2, view)
    bend = float(stream(seed, TRAITS, 2, 2).normal(0, 4.0))
    geometry, exposure = draw_abdomen_view(habitus, bend, rng), draw_abdomen_exposure(habitus.child, rng)
    bowel = build_bowel(ill, habitus.child, stream(seed, BOWEL), stream(seed, DISEASE, 2, int(ill)))
    rays, mu, ribs = cast_rays(geometry, size), attenuation_coefficients(exposure.energy), _ribs(seed)
    soft, depth = _soft(build_organs(habitus, stream(seed, SOFT, 2)), habitus, rays)
    gas = _gas(bowel, depth, geometry, size)
    grain = np.maximum(1 + BONE_GRAIN * _noise(stream(seed, TEXTURE, 4), size, (0.004, 0.01)), 0)
    bones = build_pelvis(habitus.child, stream(seed, BONES, 2))
    bone, masks = _bones(bones, ribs, geometry, rays, grain, make_trabeculae(stream(seed, TEXTURE, 3)))
    uneven = 1 + ORGAN_GRAIN * _noise(stream(seed, TEXTURE, 5), size, (0.008, 0.02, 0.06))
    total = mu["soft"] * soft["body"] * uneven - (mu["soft"] - mu["fat"]) * soft["fat"]
    total += (mu["bone"] - mu["soft"]) * bone - (mu["soft"] - mu["lung"]) * soft["lung"]
    total -= mu["soft"] * sum(gas.values(), np.zeros_like(total))
    total = np.maximum(total, 0).astype(np.float32)
    masks, counts = _masks(soft, gas, masks, ill), _counts(bowel, ribs, ill, geometry, size)
    window = masks["body"] & ~masks["lungs"] & (soft["body"] > 0.5 * soft["body"].max())
    half = (float(HALF_WIDTH.min()) + habitus.fat, float(HALF_DEPTH.max()) + habitus.fat)
    equip = partial(abdomen_devices, habitus=habitus, half=half)
    return Scene(total, masks, counts, window, geometry, exposure, "ABDOMEN", None, equip)
