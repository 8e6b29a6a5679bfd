"""Manifolds made of balls: one around each sample of a set, out to its k-th nearest neighbour among the others."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from anatodiff.metrics.pairs import float64_blocks, float64_mean

BLOCK = 512  # rows of the distance matrix in memory at a time
# Squared distances are differences of squared lengths; by this share of the lengths two of them may differ by rounding.
ROUNDING = 1e-12


def memberships(samples: torch.Tensor, manifold: torch.Tensor, k: int) -> Iterator[torch.Tensor]:
    """Tell which balls hold which samples, block by block.

    A sample on the edge of a ball is within it. Equal samples are neighbours at distance 0.

    Args:
        samples: (m, D) features.
        manifold: (n, D) features, n > k.
        k: which neighbour sets the radius.

    Yields:
        (block, n) bool, for the next samples of the order.
    """
    centre = float64_mean(manifold)  # short vectors round least
    # A sample is among its own k + 1 nearest, at distance 0: leaving it out by rank or by index gives the same radius.
    nearest = [distances.kthvalue(k + 1, dim=1).values for distances in _squared_distances(manifold, manifold, centre)]
    radii = torch.cat(nearest).clamp_min(0)  # (n,)
    # A tie counts as within, so what rounding may have added is taken off first.
    for distances in _squared_distances(samples, manifold, centre, ROUNDING):
        yield distances <= radii


def _squared_distances(
    a: torch.Tensor,
    b: torch.Tensor,
    centre: torch.Tensor,
    less: float = 0.0,
) -> Iterator[torch.Tensor]:
    """Yield the squared distances of all of b from the next rows of a, (block, n), less a share of the lengths."""
    for rows in float64_blocks(a, BLOCK):
        rows = rows - centre  # (block, D)
        parts = []
        for columns in float64_blocks(b):
            columns = columns - centre  # (columns, D)
            lengths = rows.square().sum(dim=1)[:, None] + columns.square().sum(dim=1)  # (block, columns)
            parts.append((1 - less) * lengths - 2 * rows @ columns.T)
        yield torch.cat(parts, dim=1)  # (block, n)
