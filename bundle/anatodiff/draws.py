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
