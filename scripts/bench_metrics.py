"""Time the measures of features, and the memory that they take: random features, each measure in a process of its own.

The peak is of the whole process: Python, PyTorch, both sets of features in float32, and the measure. A measure that is
stopped by --limit has a peak, too: all of them go through their blocks in loops of constant memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from anatodiff.metrics import (
    cmmd,
    density_coverage,
    frechet_distance,
    improved_precision_recall,
    kernel_distance,
)

METRICS: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "fid": frechet_distance,
    "kid": kernel_distance,
    "cmmd": cmmd,
    "precision_recall": improved_precision_recall,
    "density_coverage": density_coverage,
}
SHIFT = 0.1  # between the two sets, in standard deviations
KIB, GIB = 2**10, 2**30  # ru_maxrss counts KiB on Linux


def measure(name: str, images: int, dimensions: int) -> None:
    """Compute one measure of random features and print its value and the seconds it took."""
    generator = torch.Generator().manual_seed(0)
    real, synthetic = (torch.randn(images, dimensions, generator=generator) for _ in range(2))  # (N, D) float32
    synthetic += SHIFT
    started = time.perf_counter()
    value = METRICS[name](real, synthetic)
    print(f"{time.perf_counter() - started:8.1f} s  {value}", end="", flush=True)


def in_own_process(name: str, images: int, dimensions: int, limit: float) -> str:
    """Measure in a process of its own.

    Args:
        name: out of `METRICS`.
        images: number of features in each of both sets.
        dimensions: of a feature.
        limit: seconds after which it is stopped.

    Returns:
        what it printed or that it was stopped, and the peak of its memory.
    """
    command = [sys.executable, str(Path(__file__).resolve()), "--images", str(images), "--dimensions", str(dimensions)]
    process = subprocess.Popen([*command, "--only", name], stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(limit, process.kill)
    timer.start()
    assert process.stdout is not None
    said = process.stdout.read()  # until it ends
    _, status, usage = os.wait4(process.pid, 0)  # unlike Popen.wait, with the peak of a process that was killed, too
    process.returncode = os.waitstatus_to_exitcode(status)
    stopped = not timer.is_alive()
    timer.cancel()
    if process.returncode and not stopped:
        return f"failed with exit status {process.returncode}"
    return f"{peak(usage):5.2f} GiB {said or f'{limit:8.1f} s  stopped here'}"


def peak(usage: resource.struct_rusage) -> float:
    """Return the peak of the memory of a process in GiB."""
    return usage.ru_maxrss * KIB / GIB


def main() -> None:
    """Read the command line, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="features in each of both sets")
    parser.add_argument("--dimensions", type=int, default=2048, help="of a feature")
    parser.add_argument("--metrics", nargs="+", choices=list(METRICS), default=list(METRICS), help="which")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which a measure is stopped")
    parser.add_argument(
        "--only", choices=list(METRICS), help="measure this one in this process (for the script itself)"
    )
    args = parser.parse_args()
    if args.only:
        measure(args.only, args.images, args.dimensions)
        return
    both = 2 * args.images * args.dimensions * torch.float32.itemsize / GIB
    print(f"2 x {args.images:,} x {args.dimensions:,} in float32: {both:.2f} GiB", flush=True)
    for name in args.metrics:
        print(f"{name:<17} {in_own_process(name, args.images, args.dimensions, args.limit)}", flush=True)


if __name__ == "__main__":
    main()
