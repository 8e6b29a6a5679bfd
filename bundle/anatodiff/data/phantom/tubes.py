"""Curved tubes (bones, vessels, airways): their path length by splatting ribbons on the detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from .rays import Array, View

SMALLEST_SINE = 0.22  # a tube seen end on is as long as its own curvature allows, not endless
SPLAT_STEP = 0.5  # pixels between two samples along a tube
FEWEST_ACROSS, MOST_ACROSS = 5, 250  # samples over the width; as many as the widest tube needs
UP = (0.0, 0.0, 1.0)
ACROSS = (1.0, 0.0, 0.0)


@dataclass(frozen=True)
class Tubes:
    """Many tubes as one list of nodes.

    Args:
        nodes: (N, 3), centre line, mm.
        height: (N,), semi-axis of the cross-section along `up` made perpendicular to the tube, mm.
        depth: (N,), the other semi-axis, mm.
        wall: (N,), thickness of the shell, mm.
        core: (N,), density of what the shell holds, relative to the shell's.
        links: (M, 2), which nodes are joined.
        up: (N, 3), the direction that `height` follows.
    """

    nodes: Array
    height: Array
    depth: Array
    wall: Array
    core: Array
    links: Array
    up: Array


def straight_tube(points: Array, height: Array, depth: Array, wall: float, core: float, across: bool = True) -> Tubes:
    """A short tube with its nodes just where the points are.

    Args:
        points: (P, 3), mm.
        height: (P,), semi-axis, mm; along x if `across`, else upwards.
        depth: (P,), the other semi-axis, mm.
        wall: thickness of the shell, mm.
        core: density inside the shell relative to the shell's.
        across: see `height`.

    Returns:
        A Tubes of one chain.
    """
    count = len(points)
    order = np.arange(count)
    up = np.broadcast_to(np.asarray(ACROSS if across else UP), (count, 3))
    links = np.stack([order[:-1], order[1:]], axis=1)
    return Tubes(np.asarray(points), height, depth, np.full(count, wall), np.full(count, core), links, up)


def make_tube(
    points: Array,
    height: float | Array,
    depth: float | Array,
    wall: float = 0.0,
    core: float = 1.0,
    nodes: int = 40,
    up: tuple[float, float, float] = UP,
) -> Tubes:
    """One smooth tube through a few points.

    Args:
        points: (P, 3), mm.
        height: semi-axis along `up`, mm; a number or one for each point.
        depth: the other semi-axis, mm; a number or one for each point.
        wall: thickness of the shell, mm.
        core: density inside the shell relative to the shell's; 1 is solid.
        nodes: nodes along the tube.
        up: see Tubes.

    Returns:
        A Tubes of one chain.
    """
    points = np.asarray(points, dtype=float)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    fine = np.linspace(0, along[-1], nodes)
    order = np.arange(nodes)
    return Tubes(
        CubicSpline(along, points)(fine),
        np.interp(fine, along, np.broadcast_to(height, along.shape)),
        np.interp(fine, along, np.broadcast_to(depth, along.shape)),
        np.full(nodes, wall),
        np.full(nodes, core),
        np.stack([order[:-1], order[1:]], axis=1),
        np.broadcast_to(np.asarray(up), (nodes, 3)),
    )


def join_tubes(groups: Sequence[Tubes]) -> Tubes:
    """Put several tubes into one list of nodes: one call projects them all.

    Args:
        groups: what to join.

    Returns:
        One Tubes.
    """
    starts = np.cumsum([0, *(len(tubes.nodes) for tubes in groups)])
    return Tubes(
        np.concatenate([tubes.nodes for tubes in groups]),
        np.concatenate([tubes.height for tubes in groups]),
        np.concatenate([tubes.depth for tubes in groups]),
        np.concatenate([tubes.wall for tubes in groups]),
        np.concatenate([tubes.core for tubes in groups]),
        np.concatenate([tubes.links + start for tubes, start in zip(groups, starts, strict=False)]),
        np.concatenate([tubes.up for tubes in groups]),
    )


def _tangents(tubes: Tubes) -> Array:
    """Unit direction at each node, the mean of its links'."""
    step = tubes.nodes[tubes.links[:, 1]] - tubes.nodes[tubes.links[:, 0]]
    step /= np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-6)
    tangent = np.zeros_like(tubes.nodes)
    for end in (0, 1):
        for axis in range(3):
            tangent[:, axis] += np.bincount(tubes.links[:, end], step[:, axis], minlength=len(tangent))
    return np.asarray(tangent / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-6))


def _ribbon(tubes: Tubes, view: View, size: int) -> Array:
    """(N, 8) per node: column, row, outer and inner half width (pixels), outer and inner chord (mm), normal x and y."""
    place, scale = view.project(tubes.nodes, size)
    body_scale = np.cbrt(np.linalg.det(view.matrix))
    tangent = _tangents(tubes)
    source = np.linalg.inv(view.matrix) @ (np.array([0.0, view.source, 0.0]) - view.shift)
    ray = tubes.nodes - source
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    across = np.cross(tangent, ray)
    sine = np.linalg.norm(across, axis=1)
    across /= np.maximum(sine, 1e-3)[:, None]
    first = tubes.up - (tangent * tubes.up).sum(axis=1, keepdims=True) * tangent
    weak = np.linalg.norm(first, axis=1) < 0.1  # the tube runs along `up`: any other direction serves
    first[weak] = np.array([0.0, 1.0, 0.0]) - tangent[weak, 1:2] * tangent[weak]
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(tangent, first)
    tip, _ = view.project(tubes.nodes + across, size)
    normal = tip - place
    per_mm = np.maximum(np.linalg.norm(normal, axis=1), 1e-6)
    normal /= per_mm[:, None]
    columns = [place[:, 0], place[:, 1]]
    chords = []
    for shrink in (np.zeros_like(tubes.wall), tubes.wall):
        h, d = np.maximum(tubes.height - shrink, 0), np.maximum(tubes.depth - shrink, 0)
        reach = np.sqrt((h * (across * first).sum(1)) ** 2 + (d * (across * second).sum(1)) ** 2)
        columns.append(reach * scale * body_scale)
        chords.append(2 * h * d / np.maximum(reach, 1e-6) / np.maximum(sine, SMALLEST_SINE) * body_scale)
    chords[1] *= 1 - tubes.core  # what the core lacks against a solid tube
    return np.stack([*columns, *chords, normal[:, 0], normal[:, 1]], axis=1)  # (N, 8)


def _samples(ribbon: Array, links: Array, step: float) -> tuple[Array, Array]:
    """Ribbon values at even steps along every link, and the length of a step in pixels."""
    start, end = ribbon[links[:, 0]], ribbon[links[:, 1]]
    length = np.hypot(end[:, 0] - start[:, 0], end[:, 1] - start[:, 1])
    count = np.maximum(np.ceil(length / step).astype(int), 1)
    which = np.repeat(np.arange(len(links)), count)
    order = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    share = ((order + 0.5) / count[which])[:, None].astype(ribbon.dtype)
    return start[which] * (1 - share) + end[which] * share, (length / count)[which]


def splat_tubes(tubes: Tubes, view: View, size: int) -> tuple[Array, Array]:
    """Project tubes: chord through shell and core, averaged over each pixel.

    Args:
        tubes: what to project.
        view: the exposure's geometry.
        size: pixels along a side.

    Returns:
        (H, W) mm of shell-equivalent path, and (H, W) the share of the pixel that the tubes cover (over 1 where they
        overlap).
    """
    values, length = _samples(_ribbon(tubes, view, size).astype(np.float32), tubes.links, SPLAT_STEP)
    column, row, reach, inner, chord, inner_chord, normal_x, normal_y = values.T
    across = int(np.clip(np.ceil(2 * reach.max() / SPLAT_STEP), FEWEST_ACROSS, MOST_ACROSS))
    offset = ((np.arange(across, dtype=np.float32) + 0.5) / across * 2 - 1)[:, None]  # (A, 1)
    profile = chord * np.sqrt(1 - offset * offset)  # (A, S)
    if tubes.wall.any():
        hollow = 1 - (offset * reach / np.maximum(inner, 1e-6)) ** 2
        profile = profile - inner_chord * np.sqrt(np.maximum(hollow, 0))
    area = np.broadcast_to(2 * reach / across * length, profile.shape)
    x, y = column + offset * reach * normal_x, row + offset * reach * normal_y
    left, top = np.floor(x), np.floor(y)
    keep = (left >= 0) & (left < size - 1) & (top >= 0) & (top < size - 1)
    x, y, left, top, area = x[keep], y[keep], left[keep], top[keep], area[keep]
    right_share, low_share = x - left, y - top
    index = (top * size + left).astype(np.int32)
    path = np.zeros(size * size)
    weight = profile[keep] * area
    for down in (0, 1):
        for right in (0, 1):
            share = (right_share if right else 1 - right_share) * (low_share if down else 1 - low_share)
            path += np.bincount(index + down * size + right, weight * share, minlength=size * size)
    nearest = index + np.where(low_share > 0.5, size, 0) + (right_share > 0.5)
    cover = np.bincount(nearest, area, minlength=size * size)
    return path.reshape(size, size).astype(np.float32), cover.reshape(size, size).astype(np.float32)
