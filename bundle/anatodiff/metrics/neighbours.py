"""Manifolds made of balls: one around each sample of a set, out to its k-th nearest neighbour among the others."""

from __future__ import annotations

from collections.abc import Iterator

import torch

BLOCK = 512  # rows of the distance matrix in memory at a time
# Squared distances are differences of squared lengths; by this share of the lengths two of them may differ by rounding.
ROUNDING = 1e-12


def memberships(samples: torch.Tensor, manifold: torch.Tensor, k: int) -> Iterator[torch.Tensor]:
    """Tell which balls hold which samples, block by block.

    A sample on the edge of a ball is within it. Equal samples are neighbours at distance 0.

    Args:
        samples: (m, D) float64.
        manifold: (n, D) float64, n > k.
        k: which neighbour sets the radius.

    Yields:
        (block, n) bool, for the next samples of the order.
    """
    centre = manifold.mean(dim=0)  # short vectors round least
    samples, manifold = samples - centre, manifold - centre
    radii = _squared_radii(manifold, k)  # (n,)
    for block in samples.split(BLOCK):
        # A tie counts as within, so what rounding may have added is taken off first.
        yield _squared_distances(block, manifold, ROUNDING) <= radii


def _squared_radii(features: torch.Tensor, k: int) -> torch.Tensor:
    # A sample is among its own k + 1 nearest, at distance 0: leaving it out by rank or by index gives the same radius.
    nearest = [_squared_distances(block, features).kthvalue(k + 1, dim=1).values for block in features.split(BLOCK)]
    return torch.cat(nearest).clamp_min(0)  # (n,)


def _squared_distances(a: torch.Tensor, b: torch.Tensor, less: float = 0.0) -> torch.Tensor:
    lengths = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)  # (block, n)
    return (1 - less) * lengths - 2 * a @ b.T
