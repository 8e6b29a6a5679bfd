"""Parallel-beam Radon transform and filtered back projection of batches, in torch, as scikit-image defines them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from anatodiff.transforms.angles import after_projection, angle_groups, before_projection, is_reversed

__all__ = ["iradon", "radon"]

FILTERS = ("hann", "ramp", None)
MIN_FILTER_SIZE = 64
# Pixels of 0 around the table of radon: taps that fall outside are moved there.
BORDER = 2
# Grid points whose taps are found at a time: on a CPU so many stay in its cache, on a GPU fewer launches count.
CPU_TILE, GPU_TILE = 2**16, 2**23


def radon(images: torch.Tensor, angles: Sequence[float] | torch.Tensor, circle: bool = False) -> torch.Tensor:
    """Project images along parallel rays: each image is turned with linear interpolation and its rows are summed.

    Geometry and values are those of ``skimage.transform.radon``. Differentiable in `images`.

    Args:
        images: (..., H, W), any device; float64 stays, all else becomes float32.
        angles: A angles, degrees.
        circle: the image is 0 outside the circle in its middle; a projection then has min(H, W) detectors. If not,
            it has as many as the diagonal of the larger side's square has pixels, so that no corner is lost.

    Returns:
        (..., detectors, A) sums of pixel values along rays, in pixels; the turning axis is at detectors // 2.

    Raises:
        ValueError: the shape is not (..., H, W), or an angle is not finite.
    """
    if images.ndim < 2 or 0 in images.shape:
        raise ValueError(f"images of shape {tuple(images.shape)} cannot be projected: give (..., H, W), none empty.")
    degrees = _degrees(angles)
    lead = images.shape[:-2]
    x = _as_real(images).reshape(-1, *images.shape[-2:])  # (B, H, W)
    if circle:
        x = _crop_to_circle(x)
    side = max(x.shape[-2:])
    detectors = side if circle else math.ceil(math.sqrt(2) * side)
    half = detectors // 2
    table = _centre_square(x, side // 2 + BORDER)  # (B, n, n)
    result = x.new_zeros(len(degrees), len(x), detectors)
    for group in angle_groups(degrees):
        turned = torch.stack([before_projection(k, table) for k in group.symmetries])  # (K, B, n, n)
        rows = turned.flatten(0, 1).flatten(1).T.contiguous()  # (n * n, K * B)
        for base, places in zip(group.bases, group.angle, strict=True):
            first, sums = _ray_sums(rows, base, side // 2, detectors)  # (rays, K * B)
            sums = F.pad(sums, (0, 0, first + half, half - (first + len(sums) - 1)))  # (2 * half + 1, K * B)
            for k, place in enumerate(places):
                if place >= 0:
                    one = sums[:, k * len(x) : (k + 1) * len(x)]
                    one = one.flip(0) if is_reversed(group.symmetries[k]) else one
                    result[place] = one[:detectors].T
    return result.permute(1, 2, 0).reshape(*lead, detectors, len(degrees))


def iradon(
    sinograms: torch.Tensor,
    angles: Sequence[float] | torch.Tensor,
    filter: str | None = "hann",
    circle: bool = False,
    output_size: int | None = None,
) -> torch.Tensor:
    """Reconstruct images by filtered back projection with linear interpolation.

    Geometry and values are those of ``skimage.transform.iradon``. Differentiable in `sinograms`.

    Args:
        sinograms: (..., detectors, A) as `radon` gives them; float64 stays, all else becomes float32.
        angles: A angles, degrees.
        filter: "hann" (ramp times a Hann window), "ramp", or None for no filter.
        circle: the sinograms are of images that are 0 outside the circle; so is the result.
        output_size: side of the result, pixels; None: `detectors` with `circle`, else detectors / sqrt(2).

    Returns:
        (..., output_size, output_size).

    Raises:
        ValueError: the shape does not fit the angles, an angle is not finite, or an option is not one of those above.
    """
    degrees = _degrees(angles)
    if sinograms.ndim < 2 or 0 in sinograms.shape or sinograms.shape[-1] != len(degrees):
        raise ValueError(
            f"sinograms of shape {tuple(sinograms.shape)} do not fit {len(degrees)} angles: give (..., detectors, "
            f"{len(degrees)})."
        )
    if filter not in FILTERS:
        raise ValueError(f"filter={filter!r} is not one of {', '.join(map(repr, FILTERS))}.")
    detectors = sinograms.shape[-2]
    size = output_size if output_size is not None else detectors if circle else math.floor(detectors / math.sqrt(2))
    if size < 1:
        raise ValueError(f"output_size={size} is not a positive number of pixels.")
    x = _as_real(sinograms).reshape(-1, *sinograms.shape[-2:]).mT  # (B, A, detectors)
    filtered = _filtered(_widened(x) if circle else x, filter)  # (B, A, D)
    radius = size // 2
    side = 2 * radius + 1  # odd, so that every symmetry maps the grid onto itself
    result = x.new_zeros(len(x), side, side)
    for group in angle_groups(degrees):
        rows = filtered[:, group.angle]  # (B, bases, K, D)
        if (group.angle < 0).any():
            rows = rows * torch.from_numpy(group.angle >= 0).to(rows)[..., None]
        rows = rows.permute(1, 3, 2, 0).flatten(2)  # (bases, D, K * B)
        back = _spread(rows, group.bases, radius)  # (side * side, K * B)
        turned = back.T.reshape(len(group.symmetries), len(x), side, side)
        for k, symmetry in enumerate(group.symmetries):
            result = result + after_projection(symmetry, turned[k])
    result = result[:, :size, :size] * (math.pi / (2 * len(degrees)))
    if circle:
        axis = torch.arange(size, device=x.device) - radius
        result = result * (axis[:, None] ** 2 + axis**2 <= radius**2)
    return result.reshape(*sinograms.shape[:-2], size, size)


def _as_real(x: torch.Tensor) -> torch.Tensor:
    return x.as_subclass(torch.Tensor).to(torch.float64 if x.dtype == torch.float64 else torch.float32)


def _degrees(angles: Sequence[float] | torch.Tensor) -> np.ndarray:
    degrees = np.asarray(angles.cpu() if isinstance(angles, torch.Tensor) else angles, dtype=np.float64)  # (A,)
    if degrees.ndim != 1 or not len(degrees) or not np.isfinite(degrees).all():
        raise ValueError(f"angles of shape {degrees.shape} are not a list of finite numbers: give degrees.")
    return degrees


def _crop_to_circle(x: torch.Tensor) -> torch.Tensor:
    """The square in the middle of (B, H, W)."""
    side = min(x.shape[-2:])
    axes = [torch.arange(n, device=x.device) - n // 2 for n in x.shape[-2:]]
    outside = axes[0][:, None] ** 2 + axes[1] ** 2 > (side // 2) ** 2
    if bool((x * outside).any()):
        warnings.warn(
            "radon: an image is not 0 outside the circle; what lies there is not projected whole.", stacklevel=3
        )
    top, left = (math.ceil((n - side) / 2) for n in x.shape[-2:])
    return x[:, top : top + side, left : left + side]


def _centre_square(x: torch.Tensor, radius: int) -> torch.Tensor:
    """Pad (B, H, W) with 0 to (B, 2 * radius + 1, 2 * radius + 1), its turning axis in the middle."""
    height, width = x.shape[-2:]
    top, left = radius - height // 2, radius - width // 2
    side = 2 * radius + 1
    return F.pad(x, (left, side - left - width, top, side - top - height))


def _ray_sums(rows: torch.Tensor, base: float, radius: int, detectors: int) -> tuple[int, torch.Tensor]:
    """Sum images along the rays at an angle of 0..45 degrees.

    Args:
        rows: (n * n, C) pixels of C images with n = 2 * (radius + BORDER) + 1.
        base: the angle, degrees.
        radius: how far the images reach from their middle, pixels.
        detectors: number of detectors, which is the number of samples along a ray, too.

    Returns:
        the first ray's distance from the middle, and (rays, C) sums; all other rays miss the images.
    """
    cos, sin = math.cos(math.radians(base)), math.sin(math.radians(base))
    half, reach = detectors // 2, radius + 1  # beyond `reach` nothing is left to interpolate
    last = min(half, math.ceil(reach * (cos + sin)))
    ray = torch.arange(-last, last + 1, device=rows.device, dtype=rows.dtype)  # (rays,)
    # A ray rises by cos per sample, so it crosses the images within so many samples, from here on.
    samples = min(detectors, math.ceil(2 * reach / cos) + 1)
    start = ((ray * sin - reach) / cos).ceil().clamp(-half, detectors - half - samples)
    along = torch.arange(samples, device=rows.device, dtype=rows.dtype)
    columns, lines = ray * cos + start * sin, start * cos - ray * sin
    middle = radius + BORDER
    last_floor, side = 2 * middle - 1, 2 * middle + 1
    shifts = torch.tensor([0, 1, side, side + 1], dtype=torch.int32, device=rows.device)[:, None]
    parts = []
    for part in _tiles(len(ray), samples, rows):
        x = (columns[part, None] + middle) + along * sin  # (rays, samples)
        y = (lines[part, None] + middle) + along * cos
        x_floor, y_floor = x.floor(), y.floor()
        x -= x_floor
        y -= y_floor
        corner = torch.add(x_floor.clamp_(0, last_floor), y_floor.clamp_(0, last_floor), alpha=side)
        both = x * y
        # Taps by corner and not by sample: the loops inside then run over many samples, not over four taps.
        weights = x.new_empty(len(x), len(shifts), samples)
        both = torch.mul(x, y, out=weights[:, 3])
        below = torch.sub(y, both, out=weights[:, 2])
        torch.sub(x, both, out=weights[:, 1])
        torch.sub(1 - x, below, out=weights[:, 0])
        pixels = corner.to(torch.int32)[:, None] + shifts
        parts.append(_weighted_sums(rows, pixels, weights))
    return -last, torch.cat(parts)


def _spread(rows: torch.Tensor, bases: list[float], radius: int) -> torch.Tensor:
    """Add up, in each pixel of a square, what the projections hold where its rays meet the detectors.

    Args:
        rows: (bases, D, C) projections of C images.
        bases: their angles, degrees.
        radius: the square's side is 2 * radius + 1, pixels.

    Returns:
        ((2 * radius + 1) ** 2, C) sums over the angles.
    """
    detectors = rows.shape[1]
    radians = torch.deg2rad(torch.tensor(bases, dtype=torch.float64))
    cos, sin = radians.cos().to(rows), radians.sin().to(rows)  # (bases,)
    axis = torch.arange(-radius, radius + 1, device=rows.device, dtype=rows.dtype)
    # Half a diagonal longer than half the detectors: some pixels get nothing from some projections.
    beyond = radius * math.sqrt(2) > detectors - 1 - detectors // 2
    offsets = torch.arange(len(bases), device=rows.device, dtype=torch.int32) * detectors
    table, parts = rows.flatten(0, 1).contiguous(), []
    for part in _tiles(len(axis), len(axis) * len(bases), rows):
        place = axis[:, None] * cos - (axis[part, None, None] * sin - detectors // 2)  # (lines, columns, bases)
        floor = place.floor().clamp_(0, max(detectors - 2, 0))
        right = place - floor
        weights = torch.stack([1 - right, right], dim=2)  # (lines, columns, 2, bases)
        if beyond:
            weights *= ((place >= 0) & (place <= detectors - 1))[:, :, None]
        left = floor.to(torch.int32) + offsets
        bins = torch.stack([left, (left + 1).clamp_(max=len(table) - 1)], dim=2)
        parts.append(_weighted_sums(table, bins.flatten(0, 1), weights.flatten(0, 1)))
    return torch.cat(parts)


def _tiles(lines: int, points: int, like: torch.Tensor) -> Iterator[slice]:
    """Cut lines of so many points each into parts."""
    step = max(1, (CPU_TILE if like.device.type == "cpu" else GPU_TILE) // points)
    for start in range(0, lines, step):
        yield slice(start, start + step)


def _weighted_sums(rows: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sums (N, C) of rows (R, C) at indices (N, ...), times weights (N, ...)."""
    return F.embedding_bag(indices.flatten(1), rows, per_sample_weights=weights.flatten(1), mode="sum")


def _widened(x: torch.Tensor) -> torch.Tensor:
    """Pad projections (B, A, detectors) of a circle to the diagonal of its square."""
    detectors = x.shape[-1]
    diagonal = math.ceil(math.sqrt(2) * detectors)
    before = diagonal // 2 - detectors // 2
    return F.pad(x, (before, diagonal - detectors - before))


def _filtered(x: torch.Tensor, filter: str | None) -> torch.Tensor:
    """Filter projections (B, A, D) along the detectors."""
    if filter is None:
        return x
    detectors = x.shape[-1]
    size = max(MIN_FILTER_SIZE, 2 ** math.ceil(math.log2(2 * detectors)))
    response = filter_response(size, filter).to(x)
    return torch.fft.irfft(torch.fft.rfft(x, n=size) * response, n=size)[..., :detectors]


def filter_response(size: int, filter: str) -> torch.Tensor:
    """Response of the reconstruction filter, twice the ramp |f| at low frequencies.

    The ramp is the transform of its values in space, cut to the detectors, as in Kak and Slaney, eq. 61: so the mean of
    a reconstruction is right, where a ramp that is cut in frequency would lower it.

    Args:
        size: length of the padded projections, even.
        filter: "hann" or "ramp".

    Returns:
        (size // 2 + 1,) float64, at the frequencies 0, 1 / size ... 1 / 2 per pixel.
    """
    place = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64).abs()
    kernel = torch.where(place % 2 == 1, -1 / (math.pi * place.clamp(min=1)) ** 2, 0.0)
    kernel[0] = 0.25
    response = 2 * torch.fft.rfft(kernel).real
    if filter == "hann":
        window = torch.hann_window(size, periodic=False, dtype=torch.float64)
        # scikit-image shifts a window whose middle lies half a step beside 0; what is real of its result has passed the
        # mean of the window and its mirror image.
        shifted = torch.fft.fftshift(window)
        response = response * (shifted + shifted.flip(0).roll(1))[: size // 2 + 1] / 2
    return response
