"""The distance by gudhi and SciPy: for machines without numba, and for volumes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gudhi.sklearn.cubical_persistence import CubicalPersistence
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from anatodiff.losses.topology.settings import GROUND_NORMS, GroundNorm, Metric


class Pairs(NamedTuple):
    """The finite points of one diagram, each by the two pixels whose values are its birth and its death.

    Both arrays have shape (n,) and hold row-major flat indices.
    """

    birth: np.ndarray
    death: np.ndarray


class Persistence(NamedTuple):
    """The diagrams of one image, as pixels.

    ``groups`` holds H0 and H1, and H2 of a volume; ``lowest`` is the pixel that gives birth to the essential component,
    ``highest`` the last pixel to enter the filtration.
    """

    groups: tuple[Pairs, ...]
    lowest: int
    highest: int


def persistence_pairs(images: np.ndarray) -> list[Persistence]:
    """Find the pixels that give birth and death to each point of the sublevel persistence diagrams (eq. 15-17).

    A pixel is a closed square (``top_dimensional_cells``): components of H0 are 8-connected, the bright islands that H1
    stands for are 4-connected. A voxel is a closed cube. Equal pixels enter in row-major order; points of no
    persistence are left out.

    Args:
        images: (N, H, W) or (N, D, H, W), finite.

    Returns:
        One ``Persistence`` for each image.
    """
    values = images.reshape(len(images), -1)
    order = np.argsort(values, axis=1, kind="stable")
    # On the image of ranks every birth and death is a rank, so that it names its pixel, and ties are broken once and
    # for all; the fast two-dimensional algorithm behind CubicalPersistence gives values only, no pixels.
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, np.arange(values.shape[1], dtype=ranks.dtype)[None], axis=1)
    groups = list(range(images.ndim - 1))
    diagrams = CubicalPersistence(groups).fit_transform(list(ranks.reshape(images.shape)))
    found = []
    for value, pixels, diagram in zip(values, order, diagrams, strict=True):
        pairs = tuple(_finite_pairs(value, pixels, points) for points in diagram)
        found.append(Persistence(pairs, int(pixels[0]), int(pixels[-1])))
    return found


def _finite_pairs(values: np.ndarray, order: np.ndarray, diagram: np.ndarray) -> Pairs:
    finite = diagram[np.isfinite(diagram[:, 1])].astype(np.intp)
    birth, death = order[finite[:, 0]], order[finite[:, 1]]
    persists = values[birth] < values[death]
    return Pairs(birth[persists], death[persists])


def match(points: np.ndarray, others: np.ndarray, ground_norm: int | str = 1) -> tuple[np.ndarray, np.ndarray]:
    """Match two diagrams at the least total cost (the bijection of eq. 18 with p = 1), exactly.

    Start with every point on the diagonal: matching i with j then saves ``diagonal_i + diagonal_j - cost_ij``. The
    largest total saving is an assignment problem of n x m instead of (n + m) x (n + m).

    Args:
        points: (n, 2) births and deaths.
        others: (m, 2) births and deaths.
        ground_norm: 1, 2 or "inf".

    Returns:
        Row and column indices of the points that are matched with each other; all others belong to the diagonal.
    """
    norm = GROUND_NORMS[ground_norm]
    to_diagonal = norm.to_diagonal * (points[:, 1] - points[:, 0])
    others_to_diagonal = norm.to_diagonal * (others[:, 1] - others[:, 0])
    saving = to_diagonal[:, None] + others_to_diagonal[None, :] - cdist(points, others, norm.metric)  # (n, m)
    np.maximum(saving, 0.0, out=saving)
    # A point that saves nothing with any partner is on the diagonal in every optimal matching: a smaller problem.
    rows, columns = np.flatnonzero(saving.any(axis=1)), np.flatnonzero(saving.any(axis=0))
    reduced = saving[np.ix_(rows, columns)]
    i, j = linear_sum_assignment(reduced, maximize=True)
    useful = reduced[i, j] > 0.0
    return rows[i[useful]], columns[j[useful]]


def compare(images: np.ndarray, targets: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Compute the distance of each image to its target (eq. 18, p = 1), and its subgradient.

    Args:
        images: (N, H, W) or (N, D, H, W) float64, finite.
        targets: of the same shape.
        metric: what to compare by.

    Returns:
        (N,) distances, and subgradients in the shape of the images.
    """
    values, gradients = np.zeros(len(images)), np.zeros((len(images), images[0].size))
    sides = zip(persistence_pairs(images), persistence_pairs(targets), strict=True)
    for k, (found, wanted) in enumerate(sides):
        image, target, gradient = images[k].ravel(), targets[k].ravel(), gradients[k]
        for group in metric.homology:
            pixels, others = _group_pixels(found, group, metric), target[_group_pixels(wanted, group, metric)]
            values[k] += _transport(image, pixels, others, GROUND_NORMS[metric.ground_norm], metric, gradient)
        if metric.essential == "birth" and 0 in metric.homology:
            gap = image[found.lowest] - target[wanted.lowest]
            values[k] += abs(gap)
            gradient[found.lowest] += np.sign(gap)
    return values, gradients.reshape(images.shape)


def _transport(
    image: np.ndarray,
    pixels: np.ndarray,
    others: np.ndarray,
    norm: GroundNorm,
    metric: Metric,
    gradient: np.ndarray,
) -> float:
    """Move one diagram, (n, 2) pixels of the image, into another, (m, 2) values; adds to the gradient."""
    points = image[pixels]  # (n, 2)
    rows, columns = match(points, others, metric.ground_norm)
    moved = points[rows] - others[columns]  # (a, 2)
    lone, others_lone = np.delete(points, rows, axis=0), np.delete(others, columns, axis=0)
    change = np.empty(points.shape)  # (n, 2)
    change[:] = (-norm.to_diagonal, norm.to_diagonal)
    change[rows] = _direction(moved, norm)
    np.add.at(gradient, pixels, change)
    lives = (lone[:, 1] - lone[:, 0]).sum() + (others_lone[:, 1] - others_lone[:, 0]).sum()
    return float(np.linalg.norm(moved, norm.order, axis=1).sum() + norm.to_diagonal * lives)


def _direction(moved: np.ndarray, norm: GroundNorm) -> np.ndarray:
    """Subgradient of the norm at (a, 2) vectors: zero at zero, and shared where both parts are the largest."""
    if norm.order == 2:
        length = np.linalg.norm(moved, axis=1, keepdims=True)
        return np.divide(moved, length, out=np.zeros_like(moved), where=length > 0)
    if norm.order == 1:
        return np.sign(moved)
    largest = np.abs(moved) == np.abs(moved).max(axis=1, keepdims=True)
    return np.sign(moved) * largest / largest.sum(axis=1, keepdims=True)


def _group_pixels(persistence: Persistence, group: int, metric: Metric) -> np.ndarray:
    pixels = np.stack(persistence.groups[group], axis=1)  # (n, 2)
    if group == 0 and metric.essential == "max":
        pixels = np.concatenate([pixels, [[persistence.lowest, persistence.highest]]])
    return pixels
