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


def make_diagrams(images: np.ndarray) -> Diagrams:
    """Find the persistence diagrams (eq. 15-17) of images (N, H, W), float64 and finite."""
    n_images, n_pixels = len(images), images[0].size
    # Each point but one of H0 begins at a pixel that enters before all its neighbours: at most every second one.
    room = n_pixels // 2 + 2
    found = Diagrams(
        np.empty((n_images, 2, room, 2), np.int32),
        np.empty((n_images, 2), np.int32),
        np.empty((n_images, 2), np.int32),
    )
    find_diagrams(images, *found)
    return found


def _compare_chunk(images: np.ndarray, targets: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    # The code is compiled for one type and layout.
    images, targets = (np.ascontiguousarray(side, np.float64) for side in (images, targets))
    flat = (images.reshape(len(images), -1), targets.reshape(len(images), -1))  # 2 x (N, H * W)
    values, gradients = np.empty(len(images)), np.zeros(flat[0].shape)
    found, wanted = make_diagrams(images), make_diagrams(targets)
    groups = np.array([group in metric.homology for group in (0, 1)])
    codes = list(GROUND_NORMS).index(metric.ground_norm), ESSENTIALS.index(metric.essential)
    compare_diagrams(*flat, found[:], wanted[:], groups, *codes, values, gradients)
    return values, gradients.reshape(images.shape)


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
    threads = min(torch.get_num_threads(), len(images))
    if threads == 1:
        return _compare_chunk(images, targets, metric)
    _free_cores()
    bounds = np.linspace(0, len(images), threads + 1).astype(int)
    parts = [(images[a:b], targets[a:b]) for a, b in pairwise(bounds)]
    # The calling thread takes the last part itself.
    futures = [_pool(torch.get_num_threads()).submit(_compare_chunk, *part, metric) for part in parts[:-1]]
    last = _compare_chunk(*parts[-1], metric)
    values, gradients = zip(*[future.result() for future in futures], last, strict=True)
    return np.concatenate(values), np.concatenate(gradients)
