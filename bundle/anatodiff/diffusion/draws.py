"""Every random draw is a function of (seed, step, what): no generator state is ever saved.

So a resumed run, another batch split or another number of processes makes the same draws.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, step: int, what: str) -> torch.Generator:
    """Make the generator of one draw.

    Args:
        seed: the run's seed, any integer.
        step: training step or image number, from 0.
        what: name of the draw, e.g. "noise".

    Returns:
        a CPU generator whose stream depends on the three alone.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{what}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


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
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    indices = torch.empty_like(positions)
    for epoch in (positions // n).unique().tolist():
        order = torch.randperm(n, generator=generator(seed, epoch, "order"))
        here = positions // n == epoch
        indices[here] = order[positions[here] % n]
    return indices
