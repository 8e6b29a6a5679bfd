"""Radial spectra of waves, noise and blur."""

from __future__ import annotations

import pytest
import torch

from anatodiff.metrics import radial_spectrum, spectrum_error


def test_a_wave_stands_at_its_frequency() -> None:
    row = torch.arange(64) / 64
    wave = 0.5 + 0.4 * torch.sin(2 * torch.pi * 10 * row)[None, None, None] * torch.ones(1, 1, 64, 1)
    found = radial_spectrum(wave)
    assert found.frequency[found.mean.argmax()] == 10
    assert found.mean[9] - found.mean[19] > 6  # decades


def test_white_noise_is_flat_and_a_factor_moves_it() -> None:
    torch.manual_seed(0)
    noise = 0.5 + 0.1 * torch.randn(20, 1, 64, 64)
    found, louder = radial_spectrum(noise), radial_spectrum(0.5 + 10**0.5 * (noise - 0.5))
    assert (found.mean[2:].max() - found.mean[2:].min()) < 0.25
    torch.testing.assert_close(louder.mean - found.mean, torch.ones(32, dtype=torch.float64), atol=1e-3, rtol=0)
    assert spectrum_error(found, louder) == pytest.approx(1, abs=1e-3)
    assert spectrum_error(found, found) == 0


def test_blur_lowers_what_is_fine() -> None:
    torch.manual_seed(0)
    noise = torch.rand(4, 1, 64, 64)
    blurred = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)
    gap = radial_spectrum(blurred).mean - radial_spectrum(noise).mean
    assert gap[2:5].abs().max() < 0.2
    assert gap[-10:].max() < -0.5


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="give"):
        radial_spectrum(torch.rand(2, 1, 64, 32))
    with pytest.raises(ValueError, match="32 and 16 frequencies"):
        spectrum_error(radial_spectrum(torch.rand(2, 1, 64, 64)), radial_spectrum(torch.rand(2, 1, 32, 32)))
