"""Line integrals of the attenuation along the rays, and the masks of what they cross."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import map_coordinates

from .anatomy import Anatomy, Lung
from .geometry import Solid, Stack, clip, union_depth
from .organs import SIDES
from .rays import Array, Mask, Rays, View, cast_rays, window_of
from .tubes import join_tubes, splat_tubes

# Mass attenuation coefficients in cm^2/g of the ICRU-44 tissues: J. H. Hubbell and S. M. Seltzer, "Tables of X-Ray Mass
# Attenuation Coefficients", NISTIR 5632 (NIST Standard Reference Database 126), Table 4. Densities in g/cm^3: ICRU 44.
ENERGIES = np.array([30.0, 40.0, 50.0, 60.0, 80.0])  # keV
MASS_ATTENUATION = {
    "soft": np.array([0.3790, 0.2688, 0.2264, 0.2048, 0.1823]),
    "fat": np.array([0.3063, 0.2396, 0.2123, 0.1974, 0.1800]),
    "lung": np.array([0.3815, 0.2699, 0.2270, 0.2053, 0.1826]),
    "bone": np.array([1.3310, 0.6655, 0.4242, 0.3148, 0.2229]),
}
DENSITY = {"soft": 1.06, "fat": 0.95, "lung": 0.26, "bone": 1.92}
SPINE_MARROW = 0.11  # bone of a vertebral body as a share of solid cortical bone
BASE_DENSITY = 0.22  # how much denser a lung is at the base than in the middle, upright
LUNG_MASK_DEPTH = 12.0  # mm of lung that a pixel of the lung field has at least
MEDIASTINUM_DEPTH = 15.0  # mm of it that hide the lung
LESION_MASK_DEPTH = 6.0  # mm of fluid or air
PLEURA = 0.9  # mm, visible edge of a collapsed lung
WIDE_BONE = 7.5  # mm, half width above which a bone needs more samples across
WIDE_VESSEL = 2.2  # mm, radius
TEXTURE_CONTRAST = 0.05  # relative to the density of the lung
TEXTURE_FIELD = 420.0  # mm covered by the texture
MASK_NAMES = ("right_lung", "left_lung", "heart", "spine", "ribs", "clavicles", "abdomen", "lesion")


@dataclass(frozen=True)
class Projection:
    """What the rays have crossed.

    Args:
        attenuation: (H, W), line integral of mu, no unit.
        masks: (H, W) bool by name, see MASK_NAMES.
        ribs_visible: ribs of which at least half of the length lies in the image.
    """

    attenuation: Array
    masks: dict[str, Mask]
    ribs_visible: int


def attenuation_coefficients(energy: float) -> dict[str, float]:
    """Linear attenuation coefficients at an effective energy.

    Args:
        energy: keV, 30 to 80.

    Returns:
        mm^-1 by tissue.
    """
    log_energy, logs = np.log(energy), np.log(ENERGIES)
    return {
        tissue: float(np.exp(np.interp(log_energy, logs, np.log(values)))) * DENSITY[tissue] / 10
        for tissue, values in MASS_ATTENUATION.items()
    }


def _chord(solid: Solid, rays: Rays) -> Array:
    near, far = solid.interval(rays)
    return np.asarray((far - near) * rays.stretch)


def _lung_paths(lung: Lung, beyond: Mask, obstacles: Sequence[Solid], rays: Rays) -> tuple[Array, Array, Array]:
    """Path in the cavity (none beyond the midline), in its aerated part, in the edge of a collapsed lung, mm."""
    near, far = lung.cavity.interval(rays)
    space = near, np.where(beyond, near, far)
    inside = [clip(solid.interval(rays), space) for solid in obstacles]

    def free(within: tuple[Array, Array]) -> Array:
        return np.asarray((within[1] - within[0] - union_depth([clip(i, within) for i in inside])) * rays.stretch)

    cavity = free(space)
    if lung.aerated is None:
        return cavity, cavity, np.zeros_like(cavity)
    part = clip(lung.aerated.interval(rays), space)
    aerated = free(part)
    if lung.filling != "air":
        return cavity, aerated, np.zeros_like(cavity)
    table = lung.aerated.table.copy()
    table[2:] = np.maximum(table[2:] - PLEURA, 1e-2)
    core = clip(Stack(table, lung.aerated.depth).interval(rays), part)
    return cavity, aerated, np.maximum(aerated - free(core), 0)


def _bones(anatomy: Anatomy, view: View, rays: Rays, size: int) -> tuple[Array, dict[str, Mask], int]:
    """Path in bone (as cortical bone), masks, ribs visible."""
    skeleton = anatomy.skeleton
    ribs, rib_cover = splat_tubes(join_tubes(skeleton.ribs), view, size)
    clavicles, clavicle_cover = splat_tubes(join_tubes(skeleton.clavicles), view, size)
    wide = [tubes.height.max() > WIDE_BONE for tubes in skeleton.others]
    others = np.zeros_like(ribs)
    for group in (True, False):
        members = [tubes for tubes, is_wide in zip(skeleton.others, wide, strict=True) if is_wide == group]
        others = others + splat_tubes(join_tubes(members), view, size)[0]
    level = skeleton.spine.level(rays.z + skeleton.spine.depth * rays.slope_z)
    spine = _chord(skeleton.spine, rays)
    visible = 0
    for rib in skeleton.ribs:
        place, _ = view.project(rib.nodes, size)
        visible += bool(((place > 0) & (place < size - 1)).all(axis=1).mean() >= 0.5)
    bone = ribs + clavicles + others + SPINE_MARROW * spine * skeleton.spine_bone.astype(np.float32)[level]
    masks = {"spine": spine > 0, "ribs": rib_cover > 0.5, "clavicles": clavicle_cover > 0.5}
    return bone, masks, visible


def _vessel_path(lung: Lung, view: View, size: int) -> Array:
    """Path in the vessels, mm; the few wide ones apart, since they need more samples across."""
    vessels = join_tubes(lung.vessels)
    wide = vessels.height[vessels.links].max(axis=1) > WIDE_VESSEL
    path = np.zeros((size, size), np.float32)
    for links in (vessels.links[wide], vessels.links[~wide]):
        if len(links):
            path += splat_tubes(replace(vessels, links=links), view, size)[0]
    return path


def _texture(rays: Rays, texture: Array) -> Array:
    """The patient's own fine lung texture at each ray."""
    scale = texture.shape[0] / TEXTURE_FIELD
    middle = texture.shape[0] / 2
    place = [middle - rays.z * scale, middle + rays.x * scale]
    return np.asarray(map_coordinates(texture, place, order=1, mode="wrap"))


def _soft_tissue(anatomy: Anatomy, rays: Rays) -> tuple[Array, Array]:
    """Path in the body, and in the fat of the trunk, mm."""
    body = np.zeros_like(rays.x)
    middle = int(np.searchsorted(rays.x[rays.x.shape[0] // 2], 0))
    for half, limbs in zip((slice(0, middle), slice(middle, None)), anatomy.limbs, strict=True):
        part = rays.crop((slice(None), half))
        body[:, half] = union_depth([solid.interval(part) for solid in (*anatomy.body, *limbs)]) * part.stretch
    fat = _chord(anatomy.body[0], rays) - _chord(anatomy.muscle, rays)
    return body, np.maximum(fat, 0)


def project(anatomy: Anatomy, view: View, energy: float, texture: Array, size: int) -> Projection:
    """Send one ray to each pixel.

    Args:
        anatomy: the patient.
        view: geometry of the exposure.
        energy: effective energy, keV.
        texture: (N, N) noise of mean 0 and variance 1, the patient's fine lung structure.
        size: pixels along a side.

    Returns:
        Line integrals and masks.
    """
    rays, mu = cast_rays(view, size), attenuation_coefficients(energy)
    body, fat = _soft_tissue(anatomy, rays)
    bone, masks, ribs_visible = _bones(anatomy, view, rays, size)
    total = mu["soft"] * body - (mu["soft"] - mu["fat"]) * fat + (mu["bone"] - mu["soft"]) * bone
    heart = np.any([_chord(solid, rays) > 0 for solid in anatomy.heart], axis=0)
    mediastinum = np.any([_chord(solid, rays) > MEDIASTINUM_DEPTH for solid in anatomy.vessels], axis=0)
    domes = [_chord(dome, rays) for dome in anatomy.domes]
    masks |= {"heart": heart, "abdomen": (domes[0] > 0) | (domes[1] > 0), "lesion": np.zeros_like(heart)}
    for side, lung in zip(SIDES, anatomy.lungs, strict=True):
        name = "right_lung" if side < 0 else "left_lung"
        low, high = sorted((anatomy.midline() - side * 12.0, side * 152.0))
        window = window_of(view, (low, -100, -212), (high, 100, 156), size)
        part = rays.crop(window)
        beyond = (part.x - anatomy.midline()) * side <= 0
        cavity, aerated, edge = _lung_paths(lung, beyond, anatomy.obstacles(side), part)
        gradient = 1 - BASE_DENSITY * np.clip(part.z / 150, -1, 1)
        tissue = lung.density * gradient * (1 + TEXTURE_CONTRAST * _texture(part, texture))
        total[window] -= (mu["soft"] - mu["lung"] * tissue) * aerated
        if lung.filling == "air":
            total[window] += mu["soft"] * (edge - (cavity - aerated))
        total += (mu["soft"] - mu["lung"]) * _vessel_path(lung, view, size)
        field = np.zeros_like(heart)
        field[window] = cavity > LUNG_MASK_DEPTH
        masks[name] = field & ~heart & ~masks["abdomen"] & ~mediastinum
        lesion = (cavity - aerated) > LESION_MASK_DEPTH
        if lung.filling == "air":
            lesion &= aerated < LESION_MASK_DEPTH  # what a reader outlines: air with no lung before or behind it
        masks["lesion"][window] |= lesion
    for nodule in anatomy.nodules:
        chord = _chord(nodule, rays)
        total += (mu["soft"] - mu["lung"]) * chord
        masks["lesion"] |= chord > 0
    airways, _ = splat_tubes(join_tubes(anatomy.air), view, size)
    total -= mu["soft"] * airways
    for bubble in anatomy.gas:
        total -= mu["soft"] * _chord(bubble, rays)
    return Projection(np.maximum(total, 0), {name: masks[name] for name in MASK_NAMES}, ribs_visible)
