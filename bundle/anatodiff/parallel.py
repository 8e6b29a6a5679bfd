"""Several processes on one training: who writes, who waits, and what they agree on. Alone, all of it does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


def world() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; (0, 1) where there is only one."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_main() -> bool:
    """Tell whether this process is the one that writes files."""
    return world()[0] == 0


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main process do the block before the others, so that they find its cached files."""
    rank, processes = world()
    if rank > 0:
        dist.barrier()
    yield
    if rank == 0 and processes > 1:
        dist.barrier()


def mean_over_processes(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """Average numbers that every process has.

    Args:
        values: name -> number, the same names in every process.
        device: where the processes talk to each other.

    Returns:
        name -> mean; alone, the values untouched.
    """
    _, processes = world()
    if processes == 1:
        return values
    numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    dist.all_reduce(numbers)
    return dict(zip(values, (numbers / processes).tolist(), strict=True))


def any_process(flag: bool, device: torch.device) -> bool:
    """Tell whether the flag is set in any process, so that all stop at the same step."""
    if world()[1] == 1:
        return flag
    answer = torch.tensor(float(flag), device=device)
    dist.all_reduce(answer, op=dist.ReduceOp.MAX)
    return bool(answer)
