"""Varied versions of a radiograph that stay anatomy: turned, zoomed, shifted and exposed a little, never mirrored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

COARSE = 1.5  # source pixels per pixel of the result from which a cubic filter alone would alias


@dataclass(frozen=True)
class Augmentation:
    """A random similarity and exposure of a radiograph, resampled once, by a cubic filter.

    The result never shows the outside of the image: the zoom is drawn first, and the rotation and the shift go no
    further than it leaves room. None is mirrored, since laterality is anatomy.

    Args:
        zoom: largest magnification, at least 1; drawn from 1 to it.
        rotation: largest rotation to either side, degrees.
        shift: largest displacement along each axis, share of the short side.
        gamma: largest exponent of the grey values, at least 1; drawn from 1 / gamma to it, evenly in the logarithm.
        gain: largest change of the brightness, share; values beyond 1 are cut.

    Raises:
        ValueError: a value is out of its range.
    """

    zoom: float = 1.1
    rotation: float = 5.0
    shift: float = 0.04
    gamma: float = 1.2
    gain: float = 0.08

    def __post_init__(self) -> None:
        if min(self.zoom, self.gamma) < 1:
            raise ValueError(f"zoom is {self.zoom} and gamma {self.gamma}; give both at least 1")
        if min(self.rotation, self.shift, self.gain) < 0 or self.gain >= 1:
            raise ValueError(
                f"rotation {self.rotation}, shift {self.shift}, gain {self.gain}: give 0 or more, gain < 1"
            )

    def __call__(self, image: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
        """Make one version.

        Args:
            image: (1, H, W) in [0, 1], not cropped: what lies beyond the square may come into it.
            size: side of the result, pixels.
            generator: of the draws.

        Returns:
            float32 (1, size, size) in [0, 1].
        """
        uniform = torch.rand(6, generator=generator).tolist()
        zoom = 1 + (self.zoom - 1) * uniform[0]
        turn, right, down, exponent, gain = (2 * value - 1 for value in uniform[1:])
        angle = turn * min(math.radians(self.rotation), _room_to_turn(zoom))
        square = self._square(image.shape[1:], zoom, angle, right, down)  # (1, 2, 3)
        varied = _resampled(image.float()[None], square, size, zoom)[0]  # (1, size, size)
        return (varied ** (self.gamma**exponent) * (1 + self.gain * gain)).clamp(0, 1)

    def _square(self, shape: torch.Size, zoom: float, angle: float, right: float, down: float) -> torch.Tensor:
        """Map the result's coordinates in [-1, 1] to those of the image, as (1, 2, 3) for `affine_grid`."""
        height, width = shape
        short = min(height, width)
        side = short / zoom
        cosine, sine = side * math.cos(angle), side * math.sin(angle)
        reach = abs(cosine) + abs(sine)  # side of the upright square around the turned one
        x, y = (
            share * max(0.0, min(self.shift * short, (length - reach) / 2))
            for share, length in ((right, width), (down, height))
        )
        rows = [[cosine / width, -sine / width, 2 * x / width], [sine / height, cosine / height, 2 * y / height]]
        return torch.tensor([rows])


def _room_to_turn(zoom: float) -> float:
    """Compute the largest angle, in radians, by which a square zoomed into by `zoom` turns and stays inside."""
    return math.asin(min(1.0, zoom / math.sqrt(2))) - math.pi / 4


def _resampled(image: torch.Tensor, square: torch.Tensor, size: int, zoom: float) -> torch.Tensor:
    """Sample (1, 1, H, W) to (1, 1, size, size), finer and averaged where pixels would be passed over."""
    ratio = min(image.shape[2:]) / zoom / size
    fine = round(ratio) if ratio > COARSE else 1
    grid = F.affine_grid(square, [1, 1, fine * size, fine * size], align_corners=False)  # (1, S, S, 2)
    found = F.grid_sample(image, grid, mode="bicubic", padding_mode="border", align_corners=False)  # (1, 1, S, S)
    # A cubic filter overshoots at edges.
    found = found.clamp(float(image.min()), float(image.max()))
    return F.avg_pool2d(found, fine) if fine > 1 else found  # (1, 1, size, size)
