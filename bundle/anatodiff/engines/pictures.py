"""Pictures that a person looks at: plain grids of radiographs, with a word beside each row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from anatodiff.files import replaced_when_whole

GAP = 4  # pixels between images
TEXT_HEIGHT = 22  # pixels above a row with a title


def save_grid(
    path: str | Path,
    rows: Sequence[Sequence[torch.Tensor]],
    titles: Sequence[str] | None = None,
) -> None:
    """Draw rows of images into one PNG.

    Args:
        path: .png file.
        rows: rows of (1, H, W) images in [0, 1].
        titles: a line above each row; None draws none.
    """
    tiles = [[_tile(image) for image in row] for row in rows]
    side = max(max(tile.size) for row in tiles for tile in row)
    above = TEXT_HEIGHT if titles else 0
    width = max(len(row) for row in tiles) * (side + GAP) + GAP
    height = len(tiles) * (side + GAP + above) + GAP
    sheet = Image.new("L", (width, height), 24)
    draw = ImageDraw.Draw(sheet)
    for r, row in enumerate(tiles):
        top = GAP + r * (side + GAP + above)
        if titles:
            draw.text((GAP, top + 2), titles[r], fill=235, font=ImageFont.load_default(size=14))
        for c, tile in enumerate(row):
            sheet.paste(tile, (GAP + c * (side + GAP), top + above))
    with replaced_when_whole(path) as temporary:
        sheet.save(temporary, format="PNG")


def _tile(image: torch.Tensor) -> Image.Image:
    pixels = (image.detach().float().clamp(0, 1)[0].numpy() * 255).round().astype(np.uint8)
    return Image.fromarray(pixels)
