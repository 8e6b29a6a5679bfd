"""What every distance between two sets of features asks of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

Features = torch.Tensor | np.ndarray
BLOCK = 4096  # rows in float64 at a time: 50,000 of 2,048 features would take 0.8 GB


def checked_pair(
    x: Features, y: Features, min_samples: int, names: tuple[str, str] = ("x", "y")
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check two sets of features and bring them to one device; `float64_blocks` makes float64 of them.

    Args:
        x: (n, D) features.
        y: (m, D) features.
        min_samples: the fewest samples that either set may have.
        names: what the caller's user calls the two sets.

    Returns:
        both, detached, on the device of `x`, floats of any precision as they came and all else as float64.

    Raises:
        ValueError: the shapes do not fit, there are too few samples, or a feature is NaN or infinite.
    """
    first = torch.as_tensor(x).detach()
    second = torch.as_tensor(y).detach().to(first.device)
    first, second = _checked(names[0], first, min_samples), _checked(names[1], second, min_samples)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{names[0]} has {first.shape[1]} features and {names[1]} has {second.shape[1]}: use one encoder for both."
        )
    return first, second


def _checked(name: str, features: torch.Tensor, min_samples: int) -> torch.Tensor:
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{name} has shape {tuple(features.shape)}, not (samples, features).")
    if len(features) < min_samples:
        raise ValueError(f"{name} has {len(features)} samples: the measure needs at least {min_samples}.")
    if not features.is_floating_point():
        features = features.to(torch.float64)
    for number, block in enumerate(features.split(BLOCK)):
        bad = ~torch.isfinite(block).all(dim=1)
        if bool(bad.any()):
            first = number * BLOCK + int(bad.nonzero()[0])
            raise ValueError(f"{name} has NaN or infinite features, first in sample {first}: check the encoder.")
    return features


def float64_blocks(features: torch.Tensor, rows: int = BLOCK) -> Iterator[torch.Tensor]:
    """Yield the rows of features (n, D) in order, at most so many at a time, as float64."""
    for block in features.split(rows):
        yield block.to(torch.float64)


def float64_mean(features: torch.Tensor) -> torch.Tensor:
    """Average features (n, D) over the samples in float64, (D,)."""
    total = features.new_zeros(features.shape[1], dtype=torch.float64)
    for block in float64_blocks(features):
        total += block.sum(dim=0)
    return total / len(features)
