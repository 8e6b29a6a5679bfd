"""What the tests of the anatomical loss share: images, and gudhi + POT as the reference."""

from __future__ import annotations

import gudhi
import numpy as np
import torch
from gudhi.wasserstein import wasserstein_distance

RELATIVE = 1e-9
# POT warns where the finite parts of both diagrams are empty; the distance of zero is right all the same.
POT_WARNINGS = ("ignore:invalid value encountered in divide:RuntimeWarning", "ignore:Problem infeasible:UserWarning")


def draw(shape: tuple[int, ...], kind: str, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng([seed, *shape])
    if kind == "tied":
        return torch.from_numpy(rng.integers(0, 4, shape).astype(np.float64))
    if kind == "half tied":
        return torch.from_numpy(np.round(rng.standard_normal(shape), 1))
    return torch.from_numpy(rng.standard_normal(shape))


def diagram(image: np.ndarray, group: int, essential: str) -> np.ndarray:
    complex_ = gudhi.CubicalComplex(top_dimensional_cells=image)
    complex_.compute_persistence()
    points = complex_.persistence_intervals_in_dimension(group).reshape(-1, 2)
    if essential == "max":
        points = np.where(np.isinf(points), image.max(), points)
    return points[points[:, 0] < points[:, 1]]


def reference(x: torch.Tensor, y: torch.Tensor, homology=(0, 1), norm: int | str = 1, essential: str = "birth"):
    """gudhi + POT on two (H, W) images."""
    order = np.inf if norm == "inf" else norm
    return sum(
        wasserstein_distance(
            diagram(x.numpy(), group, essential),
            diagram(y.numpy(), group, essential),
            order=1,
            internal_p=order,
            keep_essential_parts=essential == "birth",
        )
        for group in homology
    )


def flat_with(*bumps: tuple[int, int, float], size: int = 9) -> torch.Tensor:
    image = torch.zeros(1, 1, size, size, dtype=torch.float64)
    for row, column, height in bumps:
        image[0, 0, row, column] = height
    return image
