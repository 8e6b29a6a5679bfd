"""How much noise CT images have in a region that should be uniform, and whether it is what was asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from anatodiff.metrics.summary import Measure

__all__ = ["DoseLevel", "DoseResponse", "dose_response", "mean_measure", "noise_level"]

EROSION = 3  # pixels off the border, where a mask and an organ need not agree
WINDOW = 21  # pixels: far wider than the grain of CT noise, far narrower than shading
MIN_PIXELS = 100  # of a region; the error of a standard deviation of so many white ones is 7 %
MIN_PAIRS = 4  # of a rank correlation: its error divides by n - 3


@dataclass(frozen=True)
class DoseLevel:
    """What was measured at one dose, in HU.

    Args:
        dose: share of the full dose.
        requested: mean of the requested levels.
        measured: mean of the measured levels, and its standard error (None of a single image).
        images: how many were measured.
    """

    dose: float
    requested: float
    measured: Measure
    images: int


@dataclass(frozen=True)
class DoseResponse:
    """How measured noise follows requested noise.

    Args:
        correlation: Spearman's rank correlation and its standard error; NaN where there are too few images or all
            requests are the same.
        difference: mean of measured less requested, HU, and its standard error.
        levels: by rising dose, of the images whose dose is known.
        falls: whether the mean measured level falls from each dose to the next; None with fewer than two doses.
        images: how many were measured.
    """

    correlation: Measure
    difference: Measure
    levels: tuple[DoseLevel, ...]
    falls: bool | None
    images: int


def noise_level(
    images: torch.Tensor,
    mask: torch.Tensor,
    erosion: int = EROSION,
    window: int = WINDOW,
    min_pixels: int = MIN_PIXELS,
    requested: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Measure the standard deviation of the noise in a region of each image.

    The region's border is taken off, then from each pixel the mean of the region's pixels in the window around it,
    which takes slow shading out. That mean holds 1/n of the pixel itself: of white noise it takes 1/n of the variance,
    which is given back. Noise with a grain of g pixels loses g/n, a few per cent where g is 10 or 20.

    Args:
        images: (N, 1, H, W), HU.
        mask: (N, H, W) bool, the organ.
        erosion: pixels that are taken off the region's border.
        window: side of the window, pixels, odd.
        min_pixels: of the region that is left; NaN for images with fewer.
        requested: (N, 1, H, W) maps of the requested noise, HU; None is not known.

    Returns:
        the measured level (N,) and the mean of the requested map in the same region (N,), HU, float64; NaN where the
        region is too small or nothing is known.

    Raises:
        ValueError: the shapes do not fit, or the window is even or below 3.
    """
    _check(images, mask, requested, window)
    region = _eroded(mask, erosion).double()  # (N, 1, H, W)
    pixels = region.sum(dim=(1, 2, 3))  # (N,)
    # Differences to the region's own mean: numbers near 0 keep their digits.
    values = images.double() - (_summed(images.double() * region) / pixels)[:, None, None, None]
    around = _window_sum(region, window).clamp_min(1)  # (N, 1, H, W)
    rest = values - _window_sum(values * region, window) / around  # (N, 1, H, W)
    variance = _summed(rest.square() * region / (1 - 1 / around.clamp_min(2))) / pixels  # (N,)
    enough = pixels >= max(min_pixels, 2)
    unknown = torch.full_like(variance, torch.nan)  # (N,)
    asked = unknown if requested is None else _summed(requested.double() * region) / pixels  # (N,)
    return torch.where(enough, variance.sqrt(), unknown), torch.where(enough, asked, unknown)


def _check(images: torch.Tensor, mask: torch.Tensor, requested: torch.Tensor | None, window: int) -> None:
    for name, given in (("images", images), ("requested", requested)):
        if given is not None and (given.ndim != 4 or given.shape[1] != 1 or given[:, 0].shape != mask.shape):
            raise ValueError(
                f"{name} are {tuple(given.shape)} and mask is {tuple(mask.shape)}; give (N, 1, H, W) and (N, H, W)"
            )
    if window < 3 or window % 2 == 0:
        raise ValueError(f"window is {window}; give an odd number of pixels, at least 3")


def _eroded(mask: torch.Tensor, erosion: int) -> torch.Tensor:
    """Take pixels off the border of masks (N, H, W); the image's own border is none."""
    outside = 1 - mask[:, None].float()  # (N, 1, H, W)
    return torch.nn.functional.max_pool2d(outside, 2 * erosion + 1, stride=1, padding=erosion) == 0  # (N, 1, H, W)


def _window_sum(values: torch.Tensor, window: int) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(
        values, window, stride=1, padding=window // 2, divisor_override=1
    )  # (N, 1, H, W)


def _summed(values: torch.Tensor) -> torch.Tensor:
    return values.sum(dim=(1, 2, 3))  # (N,)


def dose_response(
    requested: torch.Tensor | np.ndarray,
    measured: torch.Tensor | np.ndarray,
    doses: torch.Tensor | np.ndarray,
) -> DoseResponse:
    """Compare measured with requested noise; images where either is NaN are left out.

    The error of the rank correlation is that of its Fisher transform, sqrt((1 + r^2 / 2) / (n - 3)), brought back. It
    takes images for independent: of several samples of one request, they are not quite.

    Args:
        requested: (N,) levels, HU.
        measured: (N,) levels, HU.
        doses: (N,) shares of the full dose; NaN is not known.

    Returns:
        rank correlation, mean difference, and a row for each dose.

    Raises:
        ValueError: the lengths differ.

    References:
        Bonett and Wright, Sample size requirements for estimating Pearson, Kendall and Spearman correlations, 2000.
    """
    asked, found, shares = (np.asarray(values, dtype=np.float64).ravel() for values in (requested, measured, doses))
    if not len(asked) == len(found) == len(shares):
        raise ValueError(f"{len(asked)} requested, {len(found)} measured, {len(shares)} doses; give one of each image")
    known = np.isfinite(asked) & np.isfinite(found)
    asked, found, shares = asked[known], found[known], shares[known].round(6)  # doses come through float32
    levels = tuple(
        DoseLevel(float(dose), float(asked[at].mean()), mean_measure(found[at]), int(at.sum()))
        for dose in np.unique(shares[np.isfinite(shares)])
        for at in [shares == dose]
    )
    means = [level.measured.value for level in levels]
    falls = bool(np.all(np.diff(means) < 0)) if len(means) > 1 else None
    return DoseResponse(_correlation(asked, found), mean_measure(found - asked), levels, falls, len(asked))


def _correlation(asked: np.ndarray, found: np.ndarray) -> Measure:
    if len(asked) < MIN_PAIRS or np.ptp(asked) == 0 or np.ptp(found) == 0:
        return Measure(float("nan"))
    value = float(stats.spearmanr(asked, found).statistic)
    transformed = ((1 + value**2 / 2) / (len(asked) - 3)) ** 0.5
    return Measure(value, (1 - value**2) * transformed)


def mean_measure(values: np.ndarray) -> Measure:
    """Average the values (N,) that are not NaN, with the standard error of the mean."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if len(known) == 0:
        return Measure(float("nan"))
    return Measure(float(known.mean()), float(stats.sem(known)) if len(known) > 1 else None)
