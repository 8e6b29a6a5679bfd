"""Quantum noise of a CT scanner: photons counted behind the patient, and filtered backprojection of their noise.

Filtered backprojection is linear, so the noise of an image is the reconstruction of the noise of its line integrals:
nothing of the anatomy is reconstructed, and the noise-free slice stays exact. What this holds: Poisson counts behind
the real attenuation of the slice, hence more noise in the middle and streaks between dense bones; the ramp filter's
correlation of neighbouring pixels; low-dose counts that are a part of the same photons. What it leaves out: electronic
noise, scatter, beam hardening, bow-tie filter, tube current modulation and the fan of a real beam.
"""

from __future__ import annotations

import math

import numpy as np

from ..rays import Array

WATER = 0.02  # linear attenuation per mm, at about 65 keV
ANGLES = 360  # over half a turn
COARSE_ANGLES = 90  # at which the attenuation is computed: it changes little between them
COARSE_PIXELS = 128  # along a side, of the slice for that
FINER = 4  # places between two detector bins that are looked up without interpolation
PHOTONS = 5e5  # for each ray and angle at full dose: a standard deviation of about 12 HU in a liver at 256 pixels
FEWEST = 1.0  # photons; a ray without any would have no logarithm


def dose_pair(
    hu: Array, pixel: float, dose: float, rng: np.random.Generator, photons: float = PHOTONS
) -> tuple[Array, Array]:
    """Scan noise-free slices at full dose, and look at a part of the photons alone.

    Args:
        hu: (N, H, W) noise-free HU, H = W.
        pixel: mm along a side of a pixel.
        dose: share of the photons that the low-dose scan counts, above 0 and at most 1.
        rng: generator of the photons.
        photons: for each ray at full dose, without a patient.

    Returns:
        (N, H, W) float32 HU at full and at low dose.

    Raises:
        ValueError: for another dose.
    """
    if not 0 < dose <= 1:
        raise ValueError(f"dose {dose:g}: give a share of the full dose, above 0 and at most 1")
    paths = line_integrals(WATER * (1 + hu / 1000.0), pixel)
    mean = photons * np.exp(-paths)
    counted = rng.poisson(mean)
    kept = rng.binomial(counted, dose)  # photons are independent: a part of a Poisson count is one again
    full, low = (
        hu + backproject(np.log(total / np.maximum(counts, FEWEST)) - paths, pixel, hu.shape[-1]) * (1000.0 / WATER)
        for counts, total in ((counted, photons), (kept, photons * dose))
    )
    return full.astype(np.float32), low.astype(np.float32)


def line_integrals(mu: Array, pixel: float) -> Array:
    """Integrate along parallel rays.

    Args:
        mu: (N, S, S) linear attenuation per mm.
        pixel: mm.

    Returns:
        (N, ANGLES, D), one detector bin for each pixel's width, D bins across the diagonal.
    """
    size, bins = mu.shape[-1], detector_bins(mu.shape[-1])
    step = max(size // COARSE_PIXELS, 1)
    coarse = np.clip(mu, 0, None)[:, : size // step * step, : size // step * step]
    side = coarse.shape[-1] // step
    coarse = coarse.reshape(len(mu), side, step, side, step).mean(axis=(2, 4)).astype(np.float32)
    wide = detector_bins(side)
    found = np.zeros((len(mu), COARSE_ANGLES + 1, wide), np.float32)
    flat = coarse.reshape(len(mu), -1)
    axis = np.arange(side) - (side - 1) / 2
    x, y = np.meshgrid(axis, -axis)
    for index, angle in enumerate(np.linspace(0, np.pi, COARSE_ANGLES, endpoint=False)):
        # Each pixel falls on two bins, in shares.
        place = (x * math.cos(angle) + y * math.sin(angle)).ravel() + (wide - 1) / 2
        left = place.astype(np.intp)
        share = place - left
        for which, values in enumerate(flat):
            found[which, index] = np.bincount(left, values * (1 - share), wide)
            found[which, index] += np.bincount(left + 1, values * share, wide)
    found *= pixel * step
    found[:, -1] = found[:, 0, ::-1]  # half a turn later the same rays come from the other side
    fine = np.linspace(0, COARSE_ANGLES, ANGLES, endpoint=False)
    low, share = fine.astype(int), (fine % 1)[:, None].astype(np.float32)
    turned_all = found[:, low] * (1 - share) + found[:, low + 1] * share
    places = (np.arange(bins) - (bins - 1) / 2) / step + (wide - 1) / 2
    left = np.clip(places.astype(int), 0, wide - 2)
    weight = np.clip(places - left, 0, 1).astype(np.float32)
    return np.asarray(turned_all[..., left] * (1 - weight) + turned_all[..., left + 1] * weight, dtype=np.float64)


def detector_bins(size: int) -> int:
    """Number of bins that see the whole of a square slice from every side."""
    return math.ceil(size * math.sqrt(2)) + 2


def ramp_filter(bins: int, pixel: float) -> Array:
    """The ramp with a Hann window, up to the highest frequency of the detector.

    Args:
        bins: of the detector.
        pixel: mm between two of them.

    Returns:
        (F,) per mm, for a real Fourier transform of twice as many bins and more.
    """
    length = 1 << (2 * bins - 1).bit_length()
    frequency = np.fft.rfftfreq(length, pixel)
    return np.asarray(frequency * 0.5 * (1 + np.cos(np.pi * frequency / frequency[-1])))


def backproject(paths: Array, pixel: float, size: int) -> Array:
    """Filtered backprojection.

    Args:
        paths: (N, ANGLES, D) line integrals.
        pixel: mm.
        size: S, pixels along a side.

    Returns:
        (N, S, S) per mm.
    """
    bins = paths.shape[-1]
    weights = ramp_filter(bins, pixel)
    length = 2 * (len(weights) - 1)
    filtered = np.fft.irfft(np.fft.rfft(paths, length) * weights, length)[..., :bins]
    fine = np.arange(FINER * (bins - 1)) / FINER
    left = fine.astype(int)
    share = (fine - left).astype(np.float32)
    table = (filtered[..., left] * (1 - share) + filtered[..., left + 1] * share).astype(np.float32)
    axis = (np.arange(size) - (size - 1) / 2).astype(np.float32)
    x, y = np.meshgrid(axis, -axis)
    total = np.zeros((len(paths), size * size), np.float32)
    for index, angle in enumerate(np.linspace(0, np.pi, ANGLES, endpoint=False)):
        place = (x * math.cos(angle) + y * math.sin(angle)).ravel() + (bins - 1) / 2
        total += table[:, index].take((FINER * place + 0.5).astype(np.intp), axis=1)
    return total.reshape(len(paths), size, size) * (np.pi / ANGLES)
