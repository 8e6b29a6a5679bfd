"""How unlike each other the images of one set are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics.regression import compute_ms_ssim

__all__ = ["Diversity", "mean_over_pairs", "ms_ssim_diversity"]

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, Wang et al.
KERNEL, KERNEL_SIGMA = 11, 1.5  # pixels
MIN_SIDE = (KERNEL - 1) * 2 ** (len(WEIGHTS) - 1) + 1
BATCH = 16
MIN_IMAGES = 3  # leaving one out must leave a pair


@dataclass(frozen=True)
class Diversity:
    """Mean similarity or distance of random pairs, and its standard error.

    Args:
        value: the mean; where all images are the same, 1 of a similarity and 0 of a distance.
        stderr: a jackknife over images.
        pairs: how many were compared.
    """

    value: float
    stderr: float
    pairs: int


def ms_ssim_diversity(images: torch.Tensor, pairs: int = 200, seed: int = 0) -> Diversity:
    """Average the multi-scale structural similarity over random pairs of one set; lower is more diverse.

    Compare it with that of as many real images: both a higher and a lower one is a difference.

    Args:
        images: (N, 1, H, W) in [0, 1], N >= 3, sides of at least 161 pixels: the coarsest scale must hold the kernel.
        pairs: most pairs to compare; all of them where there are fewer.
        seed: of the choice.

    Returns:
        the mean and its standard error.

    Raises:
        ValueError: too few or too small images.

    References:
        Wang et al., Multiscale structural similarity for image quality assessment, 2003.
        Odena et al., Conditional image synthesis with auxiliary classifier GANs, 2017: as a measure of diversity.
    """
    if images.ndim != 4 or len(images) < MIN_IMAGES or min(images.shape[2:]) < MIN_SIDE:
        raise ValueError(
            f"images are {tuple(images.shape)}; give at least {MIN_IMAGES}, of at least {MIN_SIDE} x {MIN_SIDE}"
        )

    def similarities(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return _similarity(images[first], images[second])

    return mean_over_pairs(similarities, len(images), pairs, seed, BATCH)


def mean_over_pairs(
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
    count: int,
    pairs: int,
    seed: int,
    batch: int,
) -> Diversity:
    """Average a measure of two images over random pairs out of one set.

    Args:
        measure: of the numbers of the first and of the second images, (B,) each, to their values (B,).
        count: images in the set, at least 3.
        pairs: most pairs to measure; all of them where there are fewer.
        seed: of the choice.
        batch: pairs to measure at once.

    Returns:
        the mean and its standard error.

    Raises:
        ValueError: too few images, or no pairs.
    """
    if count < MIN_IMAGES or pairs < 1:
        raise ValueError(f"there are {count} images and {pairs} pairs of them; give at least {MIN_IMAGES} and 1")
    first, second = np.triu_indices(count, k=1)
    chosen = np.random.default_rng(seed).permutation(len(first))[:pairs]
    first, second = first[chosen], second[chosen]
    parts = [slice(start, start + batch) for start in range(0, len(first), batch)]
    values = np.concatenate([measure(first[part], second[part]) for part in parts])
    # Two pairs with an image in common are not independent: leave out one image, not one pair, at a time.
    touched = [(first == image) | (second == image) for image in range(count)]
    without = np.array([values[~mask].mean() for mask in touched if mask.any() and not mask.all()])
    stderr = np.sqrt((len(without) - 1) * without.var()) if len(without) > 1 else float("nan")
    return Diversity(float(values.mean()), float(stderr), len(values))


def _similarity(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    found = compute_ms_ssim(
        a.float(), b.float(), spatial_dims=2, kernel_size=KERNEL, kernel_sigma=KERNEL_SIGMA, weights=WEIGHTS
    )  # (B, 1)
    return found.flatten().double().numpy()
