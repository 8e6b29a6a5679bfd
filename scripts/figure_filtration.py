"""Draw the filtration of a radiograph with its persistence barcode and diagram, as in Fig. 3 of the paper.

Without a file it draws a phantom. A picture of a patient's radiograph is that patient's data: keep it out of the
repository.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from anatodiff.data import read_radiograph
from anatodiff.data.phantom import make_phantom
from anatodiff.losses.topology import persistence_pairs

COLOURS = ((31, 90, 180), (30, 140, 60))  # H0 blue, H1 green, as in the paper
NAMES = ("H0: components", "H1: loops")
TILE, GAP, PLOT = 192, 16, 400  # pixels
BARS = 60  # longest ones that are drawn
INK, FAINT = (40, 40, 40), (190, 190, 190)


def persistence(image: np.ndarray) -> list[np.ndarray]:
    """Births and deaths (n, 2) in H0 and H1 of (H, W); the component that never dies ends at the maximum, first."""
    (found,) = persistence_pairs(image[None])
    points = [image.ravel()[np.stack(pairs, axis=1)].reshape(-1, 2) for pairs in found.groups]
    whole = np.array([[image.ravel()[found.lowest], image.ravel()[found.highest]]])
    return [np.concatenate([whole, points[0]]), points[1]]


def tile(pixels: np.ndarray) -> Image.Image:
    """Grey picture of values in [0, 1]."""
    grey = Image.fromarray((255 * pixels.clip(0, 1)).astype(np.uint8))
    return grey.resize((TILE, TILE), Image.Resampling.NEAREST).convert("RGB")


def draw_barcode(draw: ImageDraw.ImageDraw, left: int, top: int, diagrams: list[np.ndarray]) -> None:
    """Draw the longest bars of both groups, from birth to death."""
    bars = [(death - birth, birth, death, group) for group in (0, 1) for birth, death in diagrams[group]]
    longest = sorted(bars, reverse=True)[:BARS]
    chosen = sorted(longest, key=lambda bar: (bar[3], bar[1], -bar[2]))
    step = (PLOT - 2 * GAP) / max(len(chosen), 1)
    draw.rectangle((left, top, left + PLOT, top + PLOT), outline=INK)
    for k, (_, birth, death, group) in enumerate(chosen):
        y = top + GAP + k * step
        draw.rectangle((left + birth * PLOT, y, left + death * PLOT, y + max(step * 0.6, 1)), fill=COLOURS[group])


def draw_diagram(draw: ImageDraw.ImageDraw, left: int, top: int, diagrams: list[np.ndarray]) -> None:
    """Draw the points of both groups, death over birth, above the diagonal."""
    draw.rectangle((left, top, left + PLOT, top + PLOT), outline=INK)
    draw.line((left, top + PLOT, left + PLOT, top), fill=FAINT)
    for group, points in enumerate(diagrams):
        for birth, death in points:
            x, y = left + birth * PLOT, top + (1 - death) * PLOT
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=COLOURS[group])


def figure(image: np.ndarray, thresholds: int = 5) -> Image.Image:
    """Draw image (H, W) in [0, 1], its sublevel sets at some thresholds, its barcode and its diagram."""
    diagrams = persistence(image)
    levels = np.quantile(image, np.linspace(0, 1, thresholds + 2)[1:-1])
    tiles = [tile(image), *(tile(np.where(image <= level, image * 0.6, 1.0)) for level in levels)]
    width = len(tiles) * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, TILE + PLOT + 6 * GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for k, picture in enumerate(tiles):
        left = GAP + k * (TILE + GAP)
        sheet.paste(picture, (left, 2 * GAP))
        words = "image" if k == 0 else f"pixels up to t = {levels[k - 1]:.2f}"
        draw.text((left, GAP - 6), words, fill=INK, font=font)
    top, first, second = TILE + 4 * GAP, GAP, 2 * GAP + PLOT + 2 * GAP
    draw.text((first, top - GAP - 4), f"barcode ({BARS} longest bars) over the threshold t", fill=INK, font=font)
    draw.text((second, top - GAP - 4), "diagram: death over birth", fill=INK, font=font)
    draw_barcode(draw, first, top, diagrams)
    draw_diagram(draw, second, top, diagrams)
    for left in (first, second):  # both axes run from 0 to 1
        for share in (0, 1):
            draw.text((left + share * (PLOT - 8), top + PLOT + 2), str(share), fill=INK, font=font)
    for group, points in enumerate(diagrams):
        longest = ", ".join(f"{d - b:.2f}" for b, d in sorted(points, key=lambda p: p[0] - p[1])[:5])
        words = f"{NAMES[group]}: {len(points)} points\nlongest: {longest}"
        draw.text((second + PLOT + 2 * GAP, top + 4 * group * GAP), words, fill=COLOURS[group], font=font)
    return sheet


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="picture to write, .png")
    parser.add_argument("--input", type=Path, help="a radiograph (DICOM, PNG, JPEG, NIfTI); without it a phantom")
    parser.add_argument("--size", type=int, default=64, help="side to which the image is reduced")
    options = parser.parse_args(arguments)
    try:
        phantom = options.input is None
        pixels = make_phantom(3, "normal", 256, 0).pixels if phantom else read_radiograph(options.input).pixels
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    size = (options.size, options.size)
    small = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(pixels))[None], size)[0]
    figure(small.double().numpy()).save(options.output)
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
