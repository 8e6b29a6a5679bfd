"""What every distance between two sets of features asks of them."""

from __future__ import annotations

import numpy as np
import torch

Features = torch.Tensor | np.ndarray


def checked_pair(
    x: Features, y: Features, min_samples: int, names: tuple[str, str] = ("x", "y")
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check two sets of features and bring them to one device and to float64.

    Args:
        x: (n, D) features.
        y: (m, D) features.
        min_samples: the fewest samples that either set may have.
        names: what the caller's user calls the two sets.

    Returns:
        both, detached, float64, on the device of `x`.

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
    bad = ~torch.isfinite(features).all(dim=1)
    if bool(bad.any()):
        raise ValueError(
            f"{name} has NaN or infinite features, first in sample {int(bad.nonzero()[0])}: check the encoder."
        )
    return features.to(torch.float64)
