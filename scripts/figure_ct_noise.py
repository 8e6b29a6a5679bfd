"""Draw a phantom at several doses, its noise and the map of the noise."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from anatodiff.transforms import EmulateCTNoise, NoiseMap

SIZE, GAP, LINE = 176, 8, 20  # pixels
DOSES = (1.0, 0.25, 0.1, 0.05)
# Densities of water that are black and white, for image, noise and map: steps of a few percent are soft tissue's.
WINDOWS = ((0.7, 1.3), (-0.15, 0.15), (0.0, 0.15))
ROWS = ("image", "noise", "noise map")
INK = 40


def phantom() -> torch.Tensor:
    """A body of water in fat, with a liver and its two lesions, a spine and a pocket of air, (1, SIZE, SIZE)."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    image = np.zeros((SIZE, SIZE), np.float32)
    ellipses = (
        (0, 0, 0.46, 0.36, 0.9), (0, 0, 0.42, 0.32, 1.0), (-0.16, -0.04, 0.2, 0.2, 1.06),
        (-0.2, -0.1, 0.035, 0.035, 1.0), (-0.12, 0.03, 0.05, 0.04, 1.02), (0, 0.2, 0.07, 0.08, 1.3),
        (0.22, -0.12, 0.1, 0.06, 0.1), (0.2, 0.1, 0.08, 0.09, 1.04),
    )  # fmt: skip
    for cx, cy, a, b, density in ellipses:
        image[((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1] = density
    return torch.from_numpy(image)[None]


def figure() -> Image.Image:
    """Draw one column per dose: the image, its noise and the map."""
    image = phantom()
    top = float(image.max())
    width = len(DOSES) * (SIZE + GAP) + GAP
    sheet = Image.new("L", (width, LINE + len(ROWS) * (SIZE + LINE) + GAP), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, dose in enumerate(DOSES):
        # The transform takes grey levels up to 1: the phantom is scaled, and its attenuation with it.
        noisy, noise = (one * top for one in EmulateCTNoise(dose, attenuation=0.02 * top)(image / top, "figure"))
        left = GAP + column * (SIZE + GAP)
        draw.text((left, 4), f"dose {100 * dose:g} %", fill=INK, font=font)
        panels = (noisy, noise, NoiseMap()(noise))
        for row, (panel, (low, high), name) in enumerate(zip(panels, WINDOWS, ROWS, strict=True)):
            grey = (255 * ((panel[0] - low) / (high - low)).clamp(0, 1)).round().byte().numpy()
            y = LINE + row * (SIZE + LINE)
            sheet.paste(Image.fromarray(grey), (left, y))
            words = f"{name}, {low:g} to {high:g}" if column == 0 else ""
            draw.text((left, y + SIZE + 2), words, fill=INK, font=font)
    return sheet


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="picture to write, .png")
    options = parser.parse_args(arguments)
    figure().quantize(16).save(options.output, optimize=True)
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
