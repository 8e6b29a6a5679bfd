"""Compare the Radon transform and the filtered back projection with scikit-image's: values and time.

Both take turns in one run, and ratios are medians over the rounds, so that a busy machine slows both. scikit-image
takes images one by one: its time for a batch is that of one image times their number. Needs the extra `test`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from skimage.transform import iradon as reference_iradon
from skimage.transform import radon as reference_radon

from anatodiff.transforms import iradon, radon

ANGLES = 180


def phantom(size: int) -> np.ndarray:
    """A disk of water with bones, air and texture, (size, size) in [0, 1]."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    image = 0.5 * (x**2 + (1.3 * y) ** 2 < 0.2) + 0.1 * np.random.default_rng(0).random((size, size))
    for cx, cy, radius, value in ((0, 0.2, 0.06, 0.3), (-0.2, -0.05, 0.1, -0.4), (0.2, -0.05, 0.1, -0.4)):
        image += value * ((x - cx) ** 2 + (y - cy) ** 2 < radius**2)
    return image.clip(0, 1)


def seconds(work: Callable[[], object], device: str) -> float:
    """Time one call, with all that it has queued on the device."""
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def compare_values(size: int, device: str) -> str:
    """One row: the largest and the root mean square difference, relative to the largest value."""
    image, degrees = phantom(size), np.arange(ANGLES) * (180 / ANGLES)
    sinogram = reference_radon(image, degrees, circle=False)
    back = reference_iradon(sinogram, degrees, filter_name="hann", circle=False)
    cells = []
    for dtype in (torch.float32, torch.float64):
        mine = radon(torch.from_numpy(image).to(device, dtype), degrees)
        again = iradon(torch.from_numpy(sinogram).to(device, dtype), degrees)
        for one, other in ((mine, sinogram), (again, back)):
            error = np.abs(one.cpu().numpy() - other) / np.abs(other).max()
            cells.append(f"{error.max():.1e}, {np.sqrt((error**2).mean()):.1e}")
    trip = iradon(mine, degrees).cpu().numpy() - image
    cells.append(f"{np.sqrt((trip**2).mean()):.3f}")
    return f"| {size} | " + " | ".join(cells) + " |"


def compare_times(size: int, batch: int, rounds: int, device: str) -> str:
    """One row: milliseconds per image of both, and their ratio, for both directions."""
    image, degrees = phantom(size).astype(np.float32), np.arange(ANGLES) * (180 / ANGLES)
    images = torch.from_numpy(image).to(device).expand(batch, -1, -1).contiguous()
    sinograms = radon(images, degrees)
    sinogram = sinograms[0].cpu().numpy()
    pairs: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (lambda: reference_radon(image, degrees, circle=False), lambda: radon(images, degrees)),
        (
            lambda: reference_iradon(sinogram, degrees, filter_name="hann", circle=False),
            lambda: iradon(sinograms, degrees),
        ),
    ]
    cells = []
    for theirs, mine in pairs:
        mine()  # warms up
        times = [(seconds(theirs, "cpu"), seconds(mine, device) / batch) for _ in range(rounds)]
        cells += [f"{1000 * median(column):.1f}" for column in zip(*times, strict=True)]
        cells.append(f"{median(a / b for a, b in times):.1f}")
    return f"| {size} x {size}, batch {batch} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="sides of the images, pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="images at a time")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each row")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; scikit-image uses one")
    parser.add_argument("--device", default="cpu", help="where torch computes: cpu, cuda, cuda:1 ...")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"differences from scikit-image, relative to the largest value: largest, root mean square; {ANGLES} angles\n")
    print("| size | radon, float32 | iradon, float32 | radon, float64 | iradon, float64 | there and back, rms |")
    print("|---|---|---|---|---|---|")
    for size in options.sizes:
        print(compare_values(size, options.device), flush=True)
    print(f"\nmilliseconds per image, float32, on {options.device} with {options.threads} thread(s)\n")
    print("| images | radon: scikit-image | here | ratio | iradon: scikit-image | here | ratio |")
    print("|---|---|---|---|---|---|---|")
    for size in options.sizes:
        for batch in options.batches:
            print(compare_times(size, batch, options.rounds, options.device), flush=True)


if __name__ == "__main__":
    main()
