"""Slices of any shape to squares: padded, never stretched."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["to_square"]

MODES = ("bilinear", "nearest")


def to_square(x: torch.Tensor, size: int, mode: str = "bilinear", value: float = 0.0) -> torch.Tensor:
    """Pad images to squares, evenly on both sides, and resize these.

    Args:
        x: (N, 1, H, W), any real or integer type.
        size: side of the result, pixels.
        mode: "bilinear", which averages where it shrinks (antialiased), or "nearest", which makes no new values.
        value: what to pad with: background, as 0 of a mask or the HU of air.

    Returns:
        (N, 1, size, size), the type of `x` with "nearest", else float32.

    Raises:
        ValueError: the shape, the size or the mode is another.
    """
    if x.ndim != 4 or x.shape[1] != 1 or 0 in x.shape:
        raise ValueError(f"x of shape {tuple(x.shape)} holds no images: give (N, 1, H, W), none of them empty.")
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is not one of {', '.join(map(repr, MODES))}.")
    if size < 1:
        raise ValueError(f"size={size} is not a positive number of pixels.")
    height, width = x.shape[-2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    padded = F.pad(x, (left, side - width - left, top, side - height - top), value=value)  # (N, 1, side, side)
    if side == size:
        return padded if mode == "nearest" else padded.float()
    if mode == "bilinear":
        return F.interpolate(padded.float(), (size, size), mode="bilinear", antialias=True)  # (N, 1, size, size)
    # Indexed, not interpolated: that would take labels of few integer types. A pixel takes what lies at its middle.
    place = ((torch.arange(size, device=x.device) + 0.5) * (side / size)).long()
    return padded[:, :, place][..., place]  # (N, 1, size, size)
