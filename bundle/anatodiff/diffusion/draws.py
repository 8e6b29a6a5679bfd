"""Draws of the diffusion: noise, times and orders, each a function of (seed, step, what)."""

from __future__ import annotations

import torch

from anatodiff.draws import generator

GOLDEN_RATIO = (5**0.5 - 1) / 2  # its multiples modulo 1 are the most evenly spread


def normal(shape: tuple[int, ...], seed: int, step: int, what: str) -> torch.Tensor:
    """Draw standard normal noise.

    Args:
        shape: shape of the result.
        seed: the run's seed.
        step: training step or image number.
        what: name of the draw.

    Returns:
        float32 tensor of `shape` on the CPU.
    """
    return torch.randn(shape, generator=generator(seed, step, what))


def normal_each(shape: tuple[int, ...], seed: int, positions: torch.Tensor, what: str) -> torch.Tensor:
    """Draw standard normal noise for each image of a batch on its own.

    Args:
        shape: shape of one image's noise.
        seed: the run's seed.
        positions: (B,) positions of the images in the run: step * batch size + place in the batch.
        what: name of the draw.

    Returns:
        (B, *shape) float32 tensor on the CPU.
    """
    return torch.stack([normal(shape, seed, position, what) for position in positions.tolist()])


def uniform_each(seed: int, positions: torch.Tensor, what: str) -> torch.Tensor:
    """Draw one uniform number for each image of a batch.

    Args:
        seed: the run's seed.
        positions: (B,) positions of the images in the run.
        what: name of the draw.

    Returns:
        (B,) float64 numbers in [0, 1).
    """
    draws = [torch.rand((), generator=generator(seed, p, what), dtype=torch.float64) for p in positions.tolist()]
    return torch.stack(draws)


def even_each(seed: int, positions: torch.Tensor, what: str) -> torch.Tensor:
    """Draw one uniform number for each image of a batch, evenly spread over any consecutive images.

    They are the multiples of the golden ratio modulo 1, from a random start (a Kronecker sequence).

    Args:
        seed: the run's seed.
        positions: (B,) positions of the images in the run.
        what: name of the draw.

    Returns:
        (B,) float64 numbers in [0, 1).
    """
    start = torch.rand((), generator=generator(seed, 0, what), dtype=torch.float64)
    return (start + GOLDEN_RATIO * positions) % 1  # (B,)


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> torch.Tensor:
    """Choose the images of a training step: consecutive passes over random orders of all n images.

    Args:
        n: number of images.
        batch_size: images per step; may be larger than n.
        seed: the run's seed.
        step: training step, from 0.

    Returns:
        (batch_size,) int64 indices in [0, n).
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"cannot draw batches of {batch_size} from {n} images; both must be at least 1")
    return ordered(n, torch.arange(step * batch_size, (step + 1) * batch_size), seed, "order")


def ordered(n: int, positions: torch.Tensor, seed: int, what: str) -> torch.Tensor:
    """Choose images by their positions in consecutive passes over random orders of all n images.

    Args:
        n: number of images.
        positions: (B,) places in the passes, from 0.
        seed: the run's seed.
        what: name of the orders.

    Returns:
        (B,) int64 indices in [0, n).
    """
    indices = torch.empty_like(positions)
    for epoch in (positions // n).unique().tolist():
        order = torch.randperm(n, generator=generator(seed, epoch, what))
        here = positions // n == epoch
        indices[here] = order[positions[here] % n]
    return indices
