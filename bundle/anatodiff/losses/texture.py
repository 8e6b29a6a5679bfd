"""Texture of feature maps and images: Gram matrices, and the share of it that follows a raster."""

from __future__ import annotations

import torch

FLOOR = 1e-3  # of the mean texture: a patch without any must not count a thousandfold


def gram_matrices(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Compute G = F F^T / side^2 of each square of feature maps (Gatys et al., eq. 1).

    Args:
        maps: (B, F, H, W).
        side: of the squares in pixels of the maps; what is left over at the right and below is left out.

    Returns:
        (B, squares, F, F).
    """
    squares = maps.unfold(2, side, side).unfold(3, side, side)  # (B, F, rows, columns, side, side)
    features = squares.permute(0, 2, 3, 1, 4, 5).flatten(4).flatten(1, 2)  # (B, squares, F, side * side)
    return features @ features.transpose(2, 3) / side**2  # (B, squares, F, F)


def texture_error(maps: torch.Tensor, wanted: torch.Tensor, side: int) -> torch.Tensor:
    """Compare the Gram matrices of feature maps with those that are wanted, relative to the latter.

    Maps are taken less the mean of the wanted ones, so that brightness does not count as texture.

    Args:
        maps: (B, F, H, W).
        wanted: (B, F, H, W).
        side: of the squares in which texture is averaged, in pixels of the maps; at most H and W.

    Returns:
        the mean over images and squares, a scalar.

    References:
        Gatys et al., "Texture Synthesis Using Convolutional Neural Networks", https://arxiv.org/abs/1505.07376
        Sajjadi et al., "EnhanceNet", https://arxiv.org/abs/1612.07919: in squares of 16 pixels
    """
    middle = wanted.mean(dim=(2, 3), keepdim=True)  # (B, F, 1, 1)
    mine, theirs = (gram_matrices(one - middle, side) for one in (maps, wanted))  # (B, squares, F, F)
    size = theirs.abs().mean(dim=(2, 3))  # (B, squares)
    return ((mine - theirs).abs().mean(dim=(2, 3)) / (size + FLOOR * size.mean())).mean()


def raster_profile(images: torch.Tensor, period: int) -> torch.Tensor:
    """Compute how large differences of neighbouring pixels are by their place in a raster, relative to their mean.

    Args:
        images: (N, 1, H, W) that begin at a border of the raster.
        period: of the raster, in pixels; what is left over at the right and below is left out.

    Returns:
        (2, period): mean absolute differences of each row to the next and of each column to the next; 1 is their mean.
    """
    profiles = []
    for side in (2, 3):
        length = (images.shape[side] - 1) // period * period
        sizes = images.diff(dim=side).abs().narrow(side, 0, length)  # (N, 1, H', W')
        sizes = sizes.unflatten(side, (-1, period)).movedim(side + 1, 0).flatten(1).mean(dim=1)  # (period,)
        profiles.append(sizes / sizes.mean())
    return torch.stack(profiles)


def alternation(images: torch.Tensor, period: int = 2) -> float:
    """Measure how far grain follows a raster: the largest deviation of `raster_profile` from 1, 0 to period - 1.

    Args:
        images: (N, 1, H, W) that begin at a border of the raster.
        period: of the raster, in pixels: 2 for every second column or row, 8 for patches of 8 x 8.

    Returns:
        the deviation; in real radiographs 0.01 or less.
    """
    return float((raster_profile(images, period) - 1).abs().max())
