"""How unlike each other the images of one set are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics.regression import compute_ms_ssim

__all__ = ["Diversity", "ms_ssim_diversity"]

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, Wang et al.
KERNEL, KERNEL_SIGMA = 11, 1.5  # pixels
MIN_SIDE = (KERNEL - 1) * 2 ** (len(WEIGHTS) - 1) + 1
BATCH = 16


@dataclass(frozen=True)
class Diversity:
    """Mean similarity of random pairs, and its standard error.

    Args:
        value: in [0, 1]; 1 where all images are the same.
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
    if images.ndim != 4 or len(images) < 3 or min(images.shape[2:]) < MIN_SIDE:
        raise ValueError(f"images are {tuple(images.shape)}; give at least 3, of at least {MIN_SIDE} x {MIN_SIDE}")
    first, second = np.triu_indices(len(images), k=1)
    chosen = np.random.default_rng(seed).permutation(len(first))[:pairs]
    first, second = first[chosen], second[chosen]
    values = np.concatenate([_similarity(images[a], images[b]) for a, b in _batches(first, second)])
    # Two pairs with an image in common are not independent: leave out one image, not one pair, at a time.
    touched = [(first == image) | (second == image) for image in range(len(images))]
    without = np.array([values[~mask].mean() for mask in touched if mask.any() and not mask.all()])
    stderr = np.sqrt((len(without) - 1) * without.var()) if len(without) > 1 else float("nan")
    return Diversity(float(values.mean()), float(stderr), len(values))


def _batches(first: np.ndarray, second: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(first[k : k + BATCH], second[k : k + BATCH]) for k in range(0, len(first), BATCH)]


def _similarity(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    found = compute_ms_ssim(
        a.float(), b.float(), spatial_dims=2, kernel_size=KERNEL, kernel_sigma=KERNEL_SIGMA, weights=WEIGHTS
    )  # (B, 1)
    return found.flatten().double().numpy()
