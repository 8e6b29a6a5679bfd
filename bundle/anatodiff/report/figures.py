"""Figures of a report, each as the bytes of one PNG."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from PIL import Image
from sklearn.decomposition import PCA

from anatodiff.losses import persistence_pairs
from anatodiff.metrics import RadialSpectrum

COLOURS = {"real": "#1f5ab4", "training": "#7a7a7a", "synthetic": "#d2691e"}
SIZE, DPI = (6.4, 4.0), 110  # inches, pixels per inch
GAP = 3  # pixels between images
DIAGRAM_SIDE = 64  # pixels of the images whose diagrams are drawn


def _png(canvas: Canvas) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(canvas).print_png(buffer)
    return buffer.getvalue()


def grid_figure(rows: Sequence[torch.Tensor], side: int = 160) -> bytes:
    """Lay out rows of images without words.

    Args:
        rows: (N, 1, H, W) in [0, 1], one tensor a row.
        side: pixels of a square.

    Returns:
        a grey PNG.
    """
    columns = max(len(row) for row in rows)
    sheet = Image.new("L", (columns * (side + GAP) - GAP, len(rows) * (side + GAP) - GAP), 255)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            pixels = (255 * image[0].float().clamp(0, 1)).round().byte().numpy()
            tile = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(tile, (c * (side + GAP), r * (side + GAP)))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def spectrum_figure(spectra: dict[str, RadialSpectrum]) -> bytes:
    """Draw radial spectra by name ("real", "training" or "synthetic"), the mean with a standard deviation around it."""
    canvas = Canvas(SIZE, DPI, layout="constrained")
    axes = canvas.subplots()
    for name, spectrum in spectra.items():
        x, mean, std = (part.numpy() for part in (spectrum.frequency, spectrum.mean, spectrum.std))
        axes.plot(x, mean, color=COLOURS[name], label=name)
        axes.fill_between(x, mean - std, mean + std, color=COLOURS[name], alpha=0.15, linewidth=0)
    axes.set(xscale="log", xlabel="cycles per image", ylabel="log10 of the power")
    axes.legend()
    return _png(canvas)


def embedding_figure(features: dict[str, torch.Tensor]) -> bytes:
    """Draw features by name in the plane of the first two principal components of the real ones.

    Args:
        features: (N, D) each; "real" sets the plane.
    """
    plane = PCA(2, random_state=0).fit(features["real"].double().numpy())
    canvas = Canvas(SIZE, DPI, layout="constrained")
    axes = canvas.subplots()
    for name, rows in features.items():
        points = plane.transform(rows.double().numpy())
        axes.scatter(points[:, 0], points[:, 1], s=12, alpha=0.6, color=COLOURS[name], label=name, linewidths=0)
    shares = 100 * plane.explained_variance_ratio_
    axes.set(xlabel=f"first component ({shares[0]:.0f} %)", ylabel=f"second component ({shares[1]:.0f} %)")
    axes.legend()
    return _png(canvas)


def diagrams_figure(images: dict[str, torch.Tensor]) -> bytes:
    """Draw the points of all persistence diagrams by name, H0 at the left and H1 at the right.

    Args:
        images: (N, 1, H, W) in [0, 1] each; as many of each kind, or one looks denser. Brought to 64 x 64.
    """
    canvas = Canvas((2 * SIZE[1], SIZE[1]), DPI, layout="constrained")
    panels = canvas.subplots(1, 2, sharex=True, sharey=True)
    for name, batch in images.items():
        small = torch.nn.functional.interpolate(
            batch.float(), (DIAGRAM_SIDE, DIAGRAM_SIDE), mode="bilinear", antialias=True
        )[:, 0]  # (N, 64, 64)
        found = persistence_pairs(small.double().numpy())
        for group, axes in enumerate(panels):
            points = [
                np.stack([image.numpy().ravel()[pixels] for pixels in one.groups[group]], axis=1)
                for image, one in zip(small, found, strict=True)
            ]
            births, deaths = np.concatenate(points).T
            axes.scatter(births, deaths, s=4, alpha=0.3, color=COLOURS[name], label=name, linewidths=0)
    for axes, title in zip(panels, ("H0: components", "H1: loops"), strict=True):
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
        axes.set(xlabel="birth", ylabel="death", title=title)
    panels[0].legend()
    return _png(canvas)


def losses_figure(path: Path) -> bytes | None:
    """Draw the columns of a run's `losses.csv` over the steps, smoothed; None where there is no such file or no row."""
    if not path.is_file():
        return None
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return None
    names = [name for name in rows[0] if name not in ("step", "learning_rate")]
    canvas = Canvas((SIZE[0], 1.4 * len(names) + 0.6), DPI, layout="constrained")
    panels = np.atleast_1d(canvas.subplots(len(names), 1, sharex=True))
    steps = np.array([float(row["step"]) for row in rows])
    width = max(len(rows) // 50, 1)
    for axes, name in zip(panels, names, strict=True):
        values = np.array([float(row[name] or "nan") for row in rows])
        axes.plot(steps, values, color="#cccccc", linewidth=0.6)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], smooth, color=COLOURS["real"], linewidth=1.2)
        axes.set_ylabel(name, fontsize=8)
    panels[-1].set_xlabel("step")
    return _png(canvas)
