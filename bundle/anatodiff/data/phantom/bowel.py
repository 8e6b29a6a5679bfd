"""Gas and stool in stomach, small bowel and colon; lengths in mm for an adult, the middle of L3 at z = 0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from .rays import Array
from .tubes import ACROSS, Tubes, join_tubes

NODE_SPACING = 1.6  # mm along a gut
COLON = np.array(
    [
        [-88, 10, -102],
        [-98, 10, -62],
        [-106, 0, -20],
        [-104, -5, 28],
        [-84, 10, 58],
        [-46, 48, 36],
        [0, 58, 18],
        [48, 50, 40],
        [88, 20, 86],
        [106, -12, 78],
        [113, -22, 28],
        [112, -16, -30],
        [100, -4, -84],
        [66, 14, -112],
        [28, 22, -106],
        [2, 8, -122],
        [0, -22, -146],
        [0, -36, -182],
    ],
    dtype=float,
)
COLON_RADIUS = np.array([27.0, 27, 24, 22, 21, 20, 20, 20, 20, 19, 16, 15, 15, 15, 15, 17, 19, 17])
STOMACH = np.array([[66, -20, 142], [70, 0, 118], [62, 26, 88], [40, 46, 62], [8, 52, 52], [-22, 46, 62]], dtype=float)
STOMACH_RADIUS = np.array([30.0, 31, 27, 22, 17, 11])
FIELD_LOW, FIELD_HIGH = np.array([-92.0, 0, -112]), np.array([92.0, 70, 66])  # where the small bowel lies, mm
END_TAPER = 12.0  # mm over which a pocket of gas closes at least


@dataclass(frozen=True)
class Bowel:
    """What the gut of one patient holds.

    Args:
        stomach: pockets of gas.
        small: pockets of gas in the small bowel.
        colon: pockets of gas in the colon.
        stool: small bubbles in stool.
        small_pockets: number of pockets in the small bowel.
        colon_pockets: number of pockets in the colon.
    """

    stomach: Tubes | None
    small: Tubes | None
    colon: Tubes | None
    stool: Tubes | None
    small_pockets: int
    colon_pockets: int


def _sampled(points: Array, radius: Array) -> tuple[Array, Array, Array]:
    """Nodes on a smooth line, their radius, and the way along it."""
    way = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    fine = np.arange(0, way[-1], NODE_SPACING)
    # A gut never bends so sharply that its walls would cut each other.
    nodes = gaussian_filter1d(CubicSpline(way, points)(fine), 0.7 * float(np.mean(radius)) / NODE_SPACING, axis=0)
    return nodes, np.interp(fine, way, np.broadcast_to(radius, way.shape)), fine


def _haustra(fine: Array, rng: np.random.Generator, period: float, depth: float) -> Array:
    """Radius against the widest: rounded sacs between narrow folds, unevenly spaced."""
    drift = gaussian_filter1d(rng.standard_normal(len(fine)), 24)
    phase = np.cumsum(NODE_SPACING / period * np.exp(0.25 * drift / max(float(drift.std()), 1e-6))) + rng.random()
    return np.asarray(1 - depth * (1 - np.abs(np.sin(np.pi * phase)) ** 0.7))


def _pockets(filled: Array, fewest: int) -> list[slice]:
    """Runs of nodes that hold gas, short ones left out."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], filled.astype(int), [0]])))
    return [slice(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= fewest]


def _pocket(nodes: Array, radius: Array, flat: float) -> Tubes:
    """One pocket of gas with round ends, flattened by the fluid below it."""
    count = len(nodes)
    way = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(nodes, axis=0), axis=1))])
    taper = min(max(END_TAPER, 0.9 * float(radius.mean())), max(way[-1] / 2, 1e-3))
    end = np.minimum(way, way[-1] - way) / taper
    wide = np.maximum(radius * np.sqrt(1 - (1 - np.clip(end, 0, 1)) ** 2), 0.3)
    order = np.arange(count)
    links = np.stack([order[:-1], order[1:]], axis=1)
    # Gas rises to the front of somebody who lies on the back.
    nodes = nodes + np.array([0.0, 1.0, 0.0]) * ((1 - flat) * float(radius.mean()))
    up = np.broadcast_to(np.asarray(ACROSS), (count, 3))
    tangent = np.gradient(nodes, axis=0)
    across = np.stack([-tangent[:, 2], np.zeros(count), tangent[:, 0]], axis=1)
    across[np.linalg.norm(across, axis=1) < 1e-3] = up[0]
    return Tubes(nodes, wide, flat * wide, np.zeros(count), np.ones(count), links, across)


def _colon(rng: np.random.Generator, gas: float, wide: float) -> tuple[list[Tubes], list[Tubes]]:
    """Gas and stool of the colon frame, its course drawn."""
    points = COLON + rng.normal(0, [5.0, 4, 6], COLON.shape)
    points[5:8, 2] -= rng.uniform(-12, 42)  # the transverse colon hangs more or less
    points[13:16, :] += rng.normal(0, [14, 5, 14])
    nodes, radius, fine = _sampled(points, COLON_RADIUS * wide * rng.normal(1, 0.08, len(COLON)))
    radius = radius * _haustra(fine, rng, rng.uniform(20, 28), rng.uniform(0.22, 0.4))
    wave = gaussian_filter1d(rng.standard_normal(len(fine)), 22)
    wave = wave / wave.std()
    # Most gas lies in the transverse colon, which is the foremost part.
    level = wave + 0.012 * (nodes[:, 1] - 20)
    filled = level > np.quantile(level, 1 - gas)
    pockets = [_pocket(nodes[part], radius[part] * 0.95, rng.uniform(0.7, 0.95)) for part in _pockets(filled, 9)]
    stool = [_mottle(rng, nodes[part], radius[part]) for part in _pockets(~filled & (wave < 0.1), 22)]
    return pockets, [tubes for tubes in stool if tubes is not None]


def _mottle(rng: np.random.Generator, nodes: Array, radius: Array) -> Tubes | None:
    """Many small bubbles in a stretch of colon."""
    count = int(len(nodes) * NODE_SPACING * rng.uniform(0.5, 1.3))
    if rng.random() < 0.3 or count < 4:
        return None
    at = rng.integers(0, len(nodes), count)
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    places = nodes[at] + direction * (radius[at] * 0.8 * rng.random(count) ** 0.4)[:, None]
    size = np.exp(rng.normal(0.75, 0.4, count))
    step = direction[:, [1, 2, 0]] * (0.5 * size)[:, None]
    groups = np.stack([places - 1.6 * step, places - step, places + step, places + 1.6 * step], axis=1)  # (C, 4, 3)
    wide = (size[:, None] * [0.3, 1.0, 1.0, 0.3]).ravel()
    first = 4 * np.arange(count)[:, None]
    links = np.stack([np.add(first, [0, 1, 2]), np.add(first, [1, 2, 3])], axis=-1).reshape(-1, 2)
    total = 4 * count
    up = np.broadcast_to(np.asarray(ACROSS), (total, 3))
    return Tubes(groups.reshape(-1, 3), wide, wide, np.zeros(total), np.ones(total), links, up)


def _meander(rng: np.random.Generator, rows: int, radius: float) -> Array:
    """Points of a gut that runs to and fro across the belly, row below row."""
    low, high = FIELD_LOW, FIELD_HIGH
    heights = np.linspace(high[2], low[2], rows) + rng.normal(0, 0.15 * radius, rows)
    points = []
    for row, z in enumerate(heights):
        direction = 1 if row % 2 else -1
        reach = rng.uniform(0.6, 1.0, 2) * (high[0] - radius)
        along = np.linspace(-1, 1, 4) * direction
        bow = rng.normal(0, 7)
        for share in along:
            x = share * reach[int(share > 0)]
            depth = rng.uniform(low[1] + 8, high[1] - 8)
            points.append([x, depth, z + bow * (1 - share**2) + rng.normal(0, 3)])
    turn = rng.normal(0, 0.35)
    c, s = np.cos(turn), np.sin(turn)
    return np.asarray(np.array(points) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]))


def _small_bowel(rng: np.random.Generator, dilated: bool, child: bool) -> list[Tubes]:
    """Pockets of gas in the small bowel: a few short ones, or long wide loops."""
    radius = rng.uniform(16, 22) if dilated else rng.uniform(8, 12) + (3 if child else 0)
    rows = int(np.clip(round(178 / (2.15 * radius)), 4, 9))
    nodes, wide, fine = _sampled(_meander(rng, rows, radius), np.asarray([radius]))
    wide = wide * (1 + 0.12 * gaussian_filter1d(rng.standard_normal(len(fine)), 14) * 7)
    wide = np.clip(wide, 0.7 * radius, 1.25 * radius)
    if dilated:
        # The folds of the small bowel are fine and close together.
        wide = wide * _haustra(fine, rng, rng.uniform(5.5, 8), 0.11)
    else:
        wide = wide * _haustra(fine, rng, rng.uniform(12, 24), 0.3)
    wave = gaussian_filter1d(rng.standard_normal(len(fine)), 26 if dilated else 12)
    share = rng.uniform(0.72, 0.95) if dilated else rng.uniform(0.04, 0.22)
    if child and not dilated:
        share = rng.uniform(0.5, 0.75)
    filled = wave > np.quantile(wave, 1 - share)
    flat = rng.uniform(0.75, 0.98)
    return [_pocket(nodes[part], wide[part], flat) for part in _pockets(filled, 9 if dilated else 5)]


def build_bowel(dilated: bool, child: bool, anatomy: np.random.Generator, rng: np.random.Generator) -> Bowel:
    """Fill the gut of one patient.

    Args:
        dilated: ileus: wide loops of small bowel, little gas in the colon.
        child: a newborn, whose bowel holds gas everywhere.
        anatomy: generator of the colon and the stomach, the same in health and illness.
        rng: generator of the small bowel.

    Returns:
        Gas and stool.
    """
    gas = anatomy.uniform(0.25, 0.6) if child else anatomy.uniform(0.12, 0.5)
    colon, stool = _colon(anatomy, gas * (0.4 if dilated else 1.0), anatomy.uniform(0.75, 1.05))
    nodes, radius, _ = _sampled(
        STOMACH + anatomy.normal(0, 4, STOMACH.shape), STOMACH_RADIUS * anatomy.uniform(0.6, 1.0)
    )
    start, end = sorted(anatomy.uniform(0, 1, 2))
    part = slice(int(start * 0.4 * len(nodes)), int((0.55 + 0.45 * end) * len(nodes)))
    shown = anatomy.random() < 0.8
    small = _small_bowel(rng, dilated, child)
    return Bowel(
        stomach=_pocket(nodes[part], radius[part], 0.6) if shown else None,
        small=join_tubes(small) if small else None,
        colon=join_tubes(colon) if colon else None,
        stool=join_tubes(stool) if stool and not child else None,
        small_pockets=len(small),
        colon_pockets=len(colon),
    )
