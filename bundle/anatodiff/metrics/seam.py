"""The seam index: how much more images change at the borders of a network's tokens than elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["CELL", "SeamIndex", "seam_index"]

CELL = 8  # pixels of a latent pixel's side: the autoencoder's own grid is on both sides of the ratio


@dataclass(frozen=True)
class SeamIndex:
    """The index and its standard error over the images."""

    value: float
    stderr: float


def seam_index(images: torch.Tensor, token_size: int) -> SeamIndex:
    """Divide the change across the tokens' borders by that across the other borders of latent pixels.

    Both are mean absolute differences of the two pixels beside a border, over all borders, both axes and all images;
    1 is no seam.

    Args:
        images: (N, 1, H, W), N >= 1, in [0, 1].
        token_size: side of a token, pixels: a multiple of 8 from 16 to below H and W.

    Returns:
        the ratio, and its standard error by the delta method.

    Raises:
        ValueError: the token size is none of these.
    """
    if token_size % CELL or not CELL < token_size < min(images.shape[2:]):
        raise ValueError(
            f"token_size is {token_size}; give a multiple of {CELL} from {2 * CELL} to below the images' side "
            f"{min(images.shape[2:])}"
        )
    at_tokens, elsewhere = (torch.zeros(len(images), dtype=torch.float64) for _ in range(2))  # (N,) each
    for maps in (images.double(), images.double().mT):  # (N, 1, H, W), (N, 1, W, H)
        change = (maps[..., CELL::CELL] - maps[..., CELL - 1 : -1 : CELL]).abs().mean(dim=(1, 2))  # (N, borders)
        border = CELL * torch.arange(1, change.shape[1] + 1)  # (borders,)
        is_seam = border % token_size == 0  # (borders,)
        at_tokens += change[:, is_seam].mean(dim=1)
        elsewhere += change[:, ~is_seam].mean(dim=1)
    ratio = at_tokens.mean() / elsewhere.mean()
    residual = (at_tokens - ratio * elsewhere) / elsewhere.mean()  # (N,)
    stderr = residual.std() / len(images) ** 0.5 if len(images) > 1 else torch.tensor(float("nan"))
    return SeamIndex(float(ratio), float(stderr))
