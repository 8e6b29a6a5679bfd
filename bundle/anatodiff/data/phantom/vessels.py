"""Pulmonary vessels: trees grown from the hilum to points all over the lung."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .rays import Array, Mask
from .tubes import ACROSS, Tubes

DIRECTNESS = 0.55  # weight of the way from the hilum against the length of new vessel (0: spanning tree, 1: star)
NODE_SPACING = 9.0  # mm
LEAF_RADIUS = 0.92  # mm
MURRAY_EXPONENT = 2.25  # r^k of a parent is the sum of its children's; 2 to 3 in the lung
LARGEST_RADIUS = 8.0  # mm


def sample_inside(
    rng: np.random.Generator, contains: Callable[[Array], Mask], low: Array, high: Array, count: int
) -> Array:
    """Points spread evenly over a region.

    Args:
        rng: generator.
        contains: (N, 3) points to (N,) bool.
        low: (3,), corner of a box around the region, mm.
        high: (3,), the opposite corner, mm.
        count: how many points.

    Returns:
        (count, 3), mm; fewer where the region fills hardly any of the box.
    """
    points = rng.uniform(low, high, size=(count * 14, 3))
    return points[contains(points)][:count]


def grow_tree(rng: np.random.Generator, root: Array, targets: Array) -> tuple[Array, Array]:
    """Join targets to a root, nearest first, each at the node with the shortest new vessel and way from the root.

    Args:
        rng: generator, for the bends of the branches.
        root: (3,), mm.
        targets: (T, 3), mm.

    Returns:
        (N, 3) nodes with the root first, and (N,) the index of each node's parent (the root's is itself).
    """
    spacing = np.linalg.norm(targets - root, axis=1)
    capacity = 2 + int((spacing / NODE_SPACING + 2).sum())
    nodes, way = np.empty((capacity, 3)), np.zeros(capacity)
    parent = np.zeros(capacity, dtype=int)
    nodes[0], count = root, 1
    for target in targets[np.argsort(spacing)]:
        gap = nodes[:count] - target
        distance = np.sqrt(np.einsum("ij,ij->i", gap, gap))
        at = int((distance + DIRECTNESS * way[:count]).argmin())
        pieces = int(distance[at] // NODE_SPACING) + 1
        share = (np.arange(1, pieces + 1) / pieces)[:, None]
        bend = rng.normal(0, 0.035, 3) * distance[at] * np.sin(np.pi * share)
        nodes[count : count + pieces] = nodes[at] + share * (target - nodes[at]) + bend
        parent[count : count + pieces] = [at, *range(count, count + pieces - 1)]
        way[count : count + pieces] = way[at] + share[:, 0] * distance[at]
        count += pieces
    return nodes[:count], parent[:count]


def tree_to_tubes(nodes: Array, parent: Array, leaf_radius: float = LEAF_RADIUS) -> Tubes:
    """Give a tree its calibres by Murray's law.

    Args:
        nodes: (N, 3), mm, parents before children.
        parent: (N,), index of each node's parent.
        leaf_radius: radius of the last branches, mm.

    Returns:
        Round solid tubes. Source of the law: C. D. Murray, PNAS 12 (1926) 207-214.
    """
    flow = np.zeros(len(nodes))
    has_child = np.zeros(len(nodes), dtype=bool)
    has_child[parent[1:]] = True
    flow[~has_child] = leaf_radius**MURRAY_EXPONENT
    for child in range(len(nodes) - 1, 0, -1):
        flow[parent[child]] += flow[child]
    radius = np.minimum(flow ** (1 / MURRAY_EXPONENT), LARGEST_RADIUS)
    children = np.arange(1, len(nodes))
    # A branch starts with its own calibre, not with its parent's: so each link owns its first node.
    links = np.stack([len(nodes) + children - 1, children], axis=1)
    all_nodes, all_radii = np.concatenate([nodes, nodes[parent[1:]]]), np.concatenate([radius, radius[1:]])
    up = np.broadcast_to(np.asarray(ACROSS), all_nodes.shape)
    return Tubes(all_nodes, all_radii, all_radii, np.zeros_like(all_radii), np.ones_like(all_radii), links, up)
