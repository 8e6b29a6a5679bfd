"""Whether two sets of feature maps have the same texture, wherever each of its threads lies."""

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
