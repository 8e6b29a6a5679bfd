"""The distance by numba: a batch in chunks, one thread for each."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from anatodiff.losses.topology.diagrams import find_diagrams
from anatodiff.losses.topology.matching import compare_diagrams
from anatodiff.losses.topology.settings import ESSENTIALS, GROUND_NORMS, Metric


class Diagrams(NamedTuple):
    """Both diagrams of each image of a batch.

    Args:
        pixels: (N, 2, room, 2) pixels of birth and death in H0 and H1, row-major.
        counts: (N, 2) numbers of points.
        extremes: (N, 2) first and last pixel to enter the filtration.
    """

    pixels: np.ndarray
    counts: np.ndarray
    extremes: np.ndarray

    def part(self, part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give some images' rows of all three."""
        return self.pixels[part], self.counts[part], self.extremes[part]


def empty_diagrams(images: np.ndarray) -> Diagrams:
    """Make room for the diagrams of images (N, H, W)."""
    n_images, n_pixels = len(images), images[0].size
    # Each point but one of H0 begins at a pixel that enters before all its neighbours: at most every second one.
    room = n_pixels // 2 + 2
    pixels = np.empty((n_images, 2, room, 2), np.int32)
    return Diagrams(pixels, np.empty((n_images, 2), np.int32), np.empty((n_images, 2), np.int32))


class _Batch(NamedTuple):
    """What the threads share: each fills its images' part."""

    images: np.ndarray
    targets: np.ndarray
    found: Diagrams
    wanted: Diagrams
    groups: np.ndarray
    norm: int
    essential: int
    values: np.ndarray
    gradients: np.ndarray


def _compare_part(batch: _Batch, part: slice) -> None:
    images, targets = batch.images[part], batch.targets[part]  # 2 x (n, H, W)
    found, wanted = batch.found.part(part), batch.wanted.part(part)
    find_diagrams(images, *found)
    find_diagrams(targets, *wanted)
    compare_diagrams(
        images.reshape(len(images), -1),
        targets.reshape(len(images), -1),
        found,
        wanted,
        batch.groups,
        batch.norm,
        batch.essential,
        batch.values[part],
        batch.gradients[part],
    )


@lru_cache(maxsize=1)
def _openmp_pause() -> Callable[[int], int]:
    # Found through torch's own library, so that it is that of the OpenMP which torch runs on and not another's.
    return getattr(ctypes.CDLL(torch._C.__file__), "omp_pause_resource_all", lambda kind: -1)


def _free_cores() -> None:
    """End torch's idle threads: they spin for milliseconds after its last operation, on the cores needed here.

    Torch's next operation on several threads starts them anew, which takes it 0.1 ms.
    """
    soft = 1  # keeps OpenMP's settings (OpenMP 5.0, sec. 3.5.1)
    _openmp_pause()(soft)


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="topology")


def compare(images: np.ndarray, targets: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Compute the distance of each image to its target (eq. 18, p = 1), and its subgradient.

    The batch is shared among as many threads as torch may use; the result is the same to the bit.

    Args:
        images: (N, H, W) float64, finite.
        targets: (N, H, W) float64, finite.
        metric: what to compare by.

    Returns:
        (N,) distances, and (N, H, W) subgradients.
    """
    # The code is compiled for one type and layout.
    images, targets = (np.ascontiguousarray(side, np.float64) for side in (images, targets))
    groups = np.array([group in metric.homology for group in (0, 1)])
    codes = list(GROUND_NORMS).index(metric.ground_norm), ESSENTIALS.index(metric.essential)
    values, gradients = np.empty(len(images)), np.zeros((len(images), images[0].size))
    batch = _Batch(images, targets, empty_diagrams(images), empty_diagrams(images), groups, *codes, values, gradients)
    threads = min(torch.get_num_threads(), len(images))
    bounds = np.linspace(0, len(images), threads + 1).astype(int).tolist()
    first, *others = [slice(a, b) for a, b in pairwise(bounds)]
    # The calling thread takes the first part itself.
    if others:
        _free_cores()
    futures = [_pool(torch.get_num_threads()).submit(_compare_part, batch, part) for part in others]
    _compare_part(batch, first)
    for future in futures:
        future.result()
    return values, gradients.reshape(images.shape)
