"""Slices of any shape on a square grid of a given side."""

from __future__ import annotations

import torch
import torch.nn.functional as F

MODES = ("bilinear", "nearest")


def to_square(images: torch.Tensor, size: int, mode: str = "bilinear", fill: float = 0.0) -> torch.Tensor:
    """Pad slices to a square, in the middle, and resize them.

    Args:
        images: (N, C, H, W), floating point for "bilinear".
        size: S, side of the result in pixels.
        mode: "bilinear", without aliasing where it shrinks, or "nearest", for labels.
        fill: value of what is padded.

    Returns:
        (N, C, S, S) of the kind of `images`.

    Raises:
        ValueError: another mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    height, width = images.shape[-2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = F.pad(images, (left, side - width - left, top, side - height - top), value=fill)  # (N, C, side, side)
    if side == size:
        return square
    if mode == "nearest":
        return F.interpolate(square.float(), size=(size, size), mode="nearest-exact").to(images.dtype)  # (N, C, S, S)
    return F.interpolate(square, size=(size, size), mode="bilinear", antialias=size < side)  # (N, C, S, S)
