"""One patient: every organ that a ray can cross; lengths in mm."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .geometry import Ellipsoid, Solid, Stack
from .organs import (
    SIDES,
    Traits,
    build_airways,
    build_body,
    build_cavity,
    build_dome,
    build_gas,
    build_great_vessels,
    build_heart,
    build_limbs,
)
from .rays import Array, Mask
from .skeleton import Skeleton, build_skeleton
from .tubes import Tubes
from .vessels import grow_tree, sample_inside, tree_to_tubes

HILA = {-1: (-30.0, -14.0, 30.0), 1: (33.0, -18.0, 40.0)}
VEIN_ROOTS = {-1: (-22.0, -6.0, 2.0), 1: (26.0, -10.0, 6.0)}


@dataclass(frozen=True)
class Lung:
    """One pleural cavity and what it holds.

    Args:
        cavity: the space inside the chest wall, from which the obstacles (heart, diaphragm, ...) are taken away.
        aerated: where the lung still lies in a diseased cavity; None: everywhere.
        filling: what lies between lung and wall: "fluid", "air" or "" (nothing).
        vessels: arteries and veins.
        density: against normally inflated lung.
    """

    cavity: Stack
    vessels: tuple[Tubes, ...]
    density: float
    aerated: Stack | None = None
    filling: str = ""


@dataclass(frozen=True)
class Anatomy:
    """Everything of one patient that a ray can cross.

    Args:
        traits: what it was built from.
        lungs: right and left.
        heart: ellipsoids whose union is the heart.
        vessels: great vessels and mediastinum beside the heart.
        domes: right and left half of the diaphragm with what lies below.
        body: outer surface of trunk and neck.
        limbs: of the right and of the left half: arm, flank, breast.
        muscle: the trunk without its fat.
        air: airways as tubes.
        gas: bubbles below the left dome.
        skeleton: the bones.
        nodules: soft-tissue spheres in a lung.
    """

    traits: Traits
    lungs: tuple[Lung, Lung]
    heart: tuple[Ellipsoid, ...]
    vessels: tuple[Solid, ...]
    domes: tuple[Stack, Stack]
    body: tuple[Solid, ...]
    limbs: tuple[tuple[Solid, ...], tuple[Solid, ...]]
    muscle: Stack
    air: tuple[Tubes, ...]
    gas: tuple[Ellipsoid, ...]
    skeleton: Skeleton
    nodules: tuple[Ellipsoid, ...] = field(default=())

    def midline(self) -> float:
        """Where the two lungs meet before and behind the heart.

        Returns:
            x in mm, 0 unless the mediastinum is displaced.
        """
        return 0.8 * self.traits.shift

    def obstacles(self, side: int) -> tuple[Solid, ...]:
        """What takes room from a lung.

        Args:
            side: -1 right, 1 left.

        Returns:
            Solids, soft tissue all of them.
        """
        return (*self.heart, *self.vessels, self.domes[SIDES.index(side)], self.skeleton.spine)

    def in_lung(self, points: Array, side: int) -> Mask:
        """Which points lie in the aerated part of a lung.

        Args:
            points: (N, 3), mm.
            side: -1 right, 1 left.

        Returns:
            (N,) bool.
        """
        lung = self.lungs[SIDES.index(side)]
        inside = lung.cavity.contains(points) & ((points[:, 0] - self.midline()) * side > 0)
        if lung.aerated is not None:
            inside &= lung.aerated.contains(points)
        for solid in self.obstacles(side):
            inside &= ~solid.contains(points)
        return inside


def grow_vessels(anatomy: Anatomy, side: int, rng: np.random.Generator) -> tuple[Tubes, ...]:
    """Arteries and veins of one healthy lung.

    Args:
        anatomy: the patient, whose lung bounds the vessels.
        side: -1 right, 1 left.
        rng: generator.

    Returns:
        Two trees: arteries, veins.
    """
    low, high = sorted((anatomy.midline() + side * 4.0, side * 142.0))
    count = int(230 * anatomy.traits.markings)
    points = sample_inside(
        rng, lambda p: anatomy.in_lung(p, side), np.array([low, -97, -200]), np.array([high, 97, 150]), 2 * count
    )
    shift = np.array([0.7 * anatomy.traits.shift, 0, 0])
    trees = []
    for root, targets in ((HILA[side], points[::2]), (VEIN_ROOTS[side], points[1::2])):
        trees.append(tree_to_tubes(*grow_tree(rng, np.asarray(root) + shift, targets)))
    return tuple(trees)


def build_anatomy(traits: Traits, bones: np.random.Generator, soft: np.random.Generator) -> Anatomy:
    """Build the organs of one patient, lungs without vessels.

    Args:
        traits: what was drawn.
        bones: generator of the skeleton.
        soft: generator of the soft tissue.

    Returns:
        The patient.
    """
    surface, muscle = build_body(traits)
    lungs = tuple(Lung(build_cavity(side, traits), (), traits.lung_density[which]) for which, side in enumerate(SIDES))
    return Anatomy(
        traits=traits,
        lungs=(lungs[0], lungs[1]),
        heart=build_heart(traits),
        vessels=build_great_vessels(traits),
        domes=(build_dome(-1, traits), build_dome(1, traits)),
        body=surface,
        limbs=build_limbs(traits, soft),
        muscle=muscle,
        air=build_airways(traits),
        gas=build_gas(traits, soft),
        skeleton=build_skeleton(bones),
    )
