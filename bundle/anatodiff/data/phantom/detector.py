"""From line integrals to the picture on the screen: scatter, blur, quanta, display, collimation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from .rays import Array, Mask

SCATTER_WIDTH = 28.0  # mm, standard deviation of the scatter's spread
SCATTER_GRID = 40  # pixels along a side at which scatter is computed: it has no detail
CURVE_SLOPE = 3.0  # of the display curve; towards 0 it is a straight line
EQUALISE_WIDTH = 38.0  # mm, structures wider than this are evened out
EQUALISE_GRID = 64  # pixels along a side at which that is computed
LEAST_SIGNAL = 1e-5  # of the open beam, keeps the logarithm finite


@dataclass(frozen=True)
class Exposure:
    """Settings of the X-ray unit and of the display.

    Args:
        energy: effective energy, keV.
        quanta: detected photons per mm^2 of the open beam.
        scatter: scatter over primary where the primary is even.
        blur: standard deviation of focal spot and detector, mm.
        low: where black lies below the lungs, as a share of the range of the image.
        high: where white lies above the mediastinum, the same.
        equalise: share of the slow variation taken out.
        sharpen: gain of fine detail.
        gamma: exponent of the display curve.
        shutters: (4,) share of the image covered from the top, bottom, left, right.
        turn: angle of the shutters, degrees.
    """

    energy: float
    quanta: float
    scatter: float
    blur: float
    low: float
    high: float
    equalise: float
    sharpen: float
    gamma: float
    shutters: tuple[float, float, float, float]
    turn: float


def draw_exposure(rng: np.random.Generator) -> Exposure:
    """Draw the settings of one exposure.

    Args:
        rng: the view's generator.

    Returns:
        Settings between 70 and 120 kVp, whose effective energies are about half the voltage.
    """
    covered = rng.uniform(0, 0.05, 4) * (rng.random(4) < 0.5) * (rng.random() < 0.35)
    return Exposure(
        energy=rng.uniform(38, 60),
        quanta=10 ** rng.uniform(5.2, 6.2),
        scatter=rng.uniform(0.35, 1.3),
        blur=rng.uniform(0.15, 0.55),
        low=rng.uniform(0.12, 0.34),
        high=rng.uniform(0.05, 0.25),
        equalise=rng.uniform(0.3, 0.75),
        sharpen=rng.uniform(0.3, 1.8),
        gamma=float(np.exp(rng.normal(0.0, 0.16))),
        shutters=(covered[0], covered[1], covered[2], covered[3]),
        turn=rng.normal(0, 0.8),
    )


def _resize(image: Array, shape: tuple[int, ...]) -> Array:
    factors = [new / old for new, old in zip(shape, image.shape, strict=True)]
    return np.asarray(zoom(image, factors, order=1, grid_mode=True, mode="nearest"))


def detect(attenuation: Array, exposure: Exposure, spacing: float, rng: np.random.Generator) -> Array:
    """Expose a detector.

    Args:
        attenuation: (H, W) line integrals.
        exposure: settings.
        spacing: mm per pixel.
        rng: generator of the quanta.

    Returns:
        (H, W) minus the logarithm of the signal over the open beam.
    """
    primary = np.exp(-attenuation)
    sigma = exposure.blur / spacing
    if sigma > 0.1:
        primary = gaussian_filter(primary, sigma)
    coarse = _resize(gaussian_filter(primary, primary.shape[0] / SCATTER_GRID / 3), (SCATTER_GRID, SCATTER_GRID))
    coarse_spacing = spacing * primary.shape[0] / SCATTER_GRID
    # The open beam beside the patient makes no scatter: what leaves a body is at most what passes through tissue.
    veil = gaussian_filter(np.minimum(coarse, 0.25), SCATTER_WIDTH / coarse_spacing)
    signal = primary + exposure.scatter * _resize(veil, primary.shape)
    quanta = exposure.quanta * spacing**2
    counted = rng.poisson(signal * quanta) / quanta
    return np.asarray(-np.log(np.maximum(counted, LEAST_SIGNAL)))


def _shutter_mask(shape: tuple[int, int], exposure: Exposure) -> Array:
    """1 in the opening of the collimator, 0 behind its blades, with an edge of one pixel."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    v, u = (rows + 0.5) / shape[0], (columns + 0.5) / shape[1]
    lean = np.tan(np.radians(exposure.turn))
    top, bottom, left, right = exposure.shutters
    edges = [v - top + lean * (u - 0.5), 1 - bottom - v + lean * (u - 0.5), u - left + lean * (v - 0.5), 1 - right - u]
    opening = np.ones(shape)
    for share, edge in zip((top, bottom, left, right), edges, strict=True):
        if share > 0:
            opening = np.minimum(opening, np.clip(edge * shape[0] + 0.5, 0, 1))
    return opening


def display(log_signal: Array, lungs: Mask, exposure: Exposure, spacing: float) -> Array:
    """Grey values as a radiograph is shown: bone bright, air black.

    Args:
        log_signal: (H, W) from detect.
        lungs: (H, W) bool, the lung fields, by which the window is set.
        exposure: settings.
        spacing: mm per pixel.

    Returns:
        (H, W) float32 in [0, 1].
    """
    inside = log_signal > 0.4
    black, white = np.percentile(log_signal[lungs], 4), np.percentile(log_signal[inside], 97)
    tissue = np.clip(log_signal, black - 0.4 * (white - black), None)
    coarse = _resize(gaussian_filter(tissue, len(tissue) / EQUALISE_GRID / 3), (EQUALISE_GRID, EQUALISE_GRID))
    slow = _resize(gaussian_filter(coarse, EQUALISE_WIDTH * EQUALISE_GRID / (spacing * len(tissue))), tissue.shape)
    fine = tissue - gaussian_filter(tissue, 2.6 / spacing)
    shown = tissue - exposure.equalise * (slow - slow[lungs].mean()) + exposure.sharpen * fine
    black, white = np.percentile(shown[lungs], 3), np.percentile(shown[inside], 96)
    span = white - black
    scaled = (shown - (black - exposure.low * span)) / (span * (1 + exposure.low + exposure.high))
    # A soft shoulder and toe instead of hard clipping, as the characteristic curve of film has them.
    curved = 1 / (1 + np.exp(-CURVE_SLOPE * (scaled - 0.5)))
    floor = 1 / (1 + np.exp(CURVE_SLOPE / 2))
    grey = np.clip((curved - floor) / (1 - 2 * floor), 0, 1) ** exposure.gamma
    height, width = grey.shape
    return (grey * _shutter_mask((height, width), exposure)).astype(np.float32)
