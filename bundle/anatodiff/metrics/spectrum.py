"""The radial power spectrum: how much of each fineness images have."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["RadialSpectrum", "radial_spectrum", "spectrum_error"]


@dataclass(frozen=True)
class RadialSpectrum:
    """Power by spatial frequency.

    Args:
        frequency: (R,) cycles per image side, 1 to half the side.
        mean: (R,) mean over the images of log10 of the power.
        std: (R,) its standard deviation over the images.
    """

    frequency: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor


def radial_spectrum(images: torch.Tensor) -> RadialSpectrum:
    """Average the power of square images over all directions.

    Each image is taken less its mean and faded out towards its borders by a Hann window, so that opposite borders that
    do not fit together are not taken for fine detail.

    Args:
        images: (N, 1, H, H), N >= 1, H >= 4, in [0, 1].

    Returns:
        the spectrum, whole frequencies.

    Raises:
        ValueError: the images are not square or there are none.

    References:
        Capitao et al., Anatomy-compliant medical image synthesis by latent diffusion models, Fig. 2 (c, d).
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3] or images.shape[2] < 4 or len(images) == 0:
        raise ValueError(f"images are {tuple(images.shape)}; give (N, 1, H, H) with at least one and H at least 4")
    side = images.shape[2]
    hann = torch.hann_window(side, dtype=torch.float64)
    frequency = torch.fft.fftfreq(side, 1 / side, dtype=torch.float64)
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt().round().long().flatten()  # (H * H,)
    rows = []
    for image in images.double():
        windowed = (image[0] - image[0].mean()) * hann[:, None] * hann  # (H, H)
        power = torch.fft.fft2(windowed).abs().square().flatten() / side**2  # (H * H,)
        rows.append(torch.bincount(radius, power) / torch.bincount(radius))
    logs = torch.stack(rows)[:, 1 : side // 2 + 1].clamp_min(torch.finfo(torch.float64).tiny).log10()  # (N, R)
    return RadialSpectrum(torch.arange(1, side // 2 + 1), logs.mean(dim=0), logs.std(dim=0, correction=0))


def spectrum_error(real: RadialSpectrum, synthetic: RadialSpectrum) -> float:
    """Return the mean absolute difference of two mean spectra, in decades; 0.3 is twice or half the power.

    Raises:
        ValueError: the images had other sizes.
    """
    if len(real.mean) != len(synthetic.mean):
        raise ValueError(f"spectra have {len(real.mean)} and {len(synthetic.mean)} frequencies; use images of one size")
    return float((real.mean - synthetic.mean).abs().mean())
