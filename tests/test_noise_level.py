from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from anatodiff.metrics import Measure, dose_response, noise_level

SIDE = 128


def disk(radius: float, images: int) -> torch.Tensor:
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    return torch.from_numpy(x**2 + y**2 < radius**2).expand(images, -1, -1)


def noise(images: int, grain: float, seed: int = 0) -> torch.Tensor:
    """Noise of standard deviation 1: white, or smoothed by a Gaussian of `grain` pixels."""
    drawn = np.random.default_rng(seed).standard_normal((images, 1, SIDE, SIDE))
    smooth = gaussian_filter(drawn, (0, 0, grain, grain), mode="wrap")
    return torch.from_numpy(smooth / smooth.std()).float()


@pytest.mark.parametrize("grain", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("level", [4.0, 40.0])
@pytest.mark.parametrize("radius", [20, 50])
def test_known_noise_is_measured(grain: float, level: float, radius: float) -> None:
    measured, _ = noise_level(60 + level * noise(24, grain), disk(radius, 24))
    assert float(measured.mean()) == pytest.approx(level, rel=0.04)


def test_shading_changes_little() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    shading = 30 * x + 20 * y.square() + 10 * torch.sin(2 * x)  # tens of HU across the organ
    grain, mask = 10 * noise(16, 0.7), disk(50, 16)
    plain, _ = noise_level(grain, mask)
    shaded, _ = noise_level(grain + shading, mask)
    assert float((shaded / plain - 1).abs().max()) < 0.02
    assert float((grain + shading)[mask[:, None]].std()) > 1.3 * float(plain.mean())


def test_what_lies_outside_of_the_organ_is_not_seen() -> None:
    mask = disk(30, 2)
    images = 5 * noise(2, 0.7)
    beside = images.masked_fill(~mask[:, None], 3000.0)
    assert torch.allclose(noise_level(images, mask)[0], noise_level(beside, mask)[0])
    # The rim of the mask is not trusted, either: it may be a pixel or two off.
    rim = mask & ~disk(28, 2)
    blurred = images.masked_fill(rim[:, None], 3000.0)
    assert torch.allclose(noise_level(images, mask)[0], noise_level(blurred, mask)[0])


def test_a_small_region_is_not_measured() -> None:
    masks = torch.cat([disk(8, 1), disk(20, 1), torch.zeros(1, SIDE, SIDE, dtype=torch.bool)])
    measured, requested = noise_level(noise(3, 0), masks, requested=torch.full((3, 1, SIDE, SIDE), 12.0))
    assert measured.isnan().tolist() == requested.isnan().tolist() == [True, False, True]
    assert float(requested[1]) == 12
    assert noise_level(noise(3, 0), masks, min_pixels=9)[0].isnan().tolist() == [False, False, True]


def test_the_request_is_that_of_the_same_region() -> None:
    requested = torch.full((1, 1, SIDE, SIDE), 500.0).masked_fill(disk(30, 1)[:, None], 20.0)
    assert float(noise_level(noise(1, 0), disk(30, 1), requested=requested)[1]) == pytest.approx(20)
    assert bool(noise_level(noise(1, 0), disk(30, 1))[1].isnan())


@pytest.mark.parametrize(
    ("images", "mask", "settings", "message"),
    [
        ((2, 1, 8, 8), (2, 8, 9), {}, "images are"),
        ((2, 3, 8, 8), (2, 8, 8), {}, "images are"),
        ((2, 1, 8, 8), (2, 8, 8), {"window": 4}, "odd"),
        ((2, 1, 8, 8), (2, 8, 8), {"requested": torch.zeros(1, 1, 8, 8)}, "requested are"),
    ],
)
def test_bad_arguments(images: tuple, mask: tuple, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        noise_level(torch.zeros(images), torch.ones(mask, dtype=torch.bool), **settings)


def made_up(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Six images at each of five doses; requested noise as 1 / sqrt(dose)."""
    doses = np.repeat([0.05, 0.1, 0.25, 0.5, 1.0], 6)
    return doses, 10 / np.sqrt(doses) * np.random.default_rng(seed).uniform(0.95, 1.05, len(doses))


def test_dose_response_of_noise_as_requested() -> None:
    doses, requested = made_up()
    found = dose_response(requested, 1.1 * requested + 2, doses.astype(np.float32))
    assert found.correlation == Measure(pytest.approx(1), pytest.approx(0, abs=1e-9))
    assert found.difference.value == pytest.approx((0.1 * requested + 2).mean())
    assert found.falls is True
    assert [level.dose for level in found.levels] == pytest.approx([0.05, 0.1, 0.25, 0.5, 1.0])
    assert [level.images for level in found.levels] == [6] * 5
    first = (1.1 * requested + 2)[:6]
    assert found.levels[0].measured.value == pytest.approx(first.mean())
    assert found.levels[0].measured.stderr == pytest.approx(first.std(ddof=1) / 6**0.5)
    assert found.levels[0].requested == pytest.approx(requested[:6].mean())


def test_dose_response_of_noise_that_does_not_follow() -> None:
    doses, requested = made_up()
    rng = np.random.default_rng(1)
    measured = 20 + rng.standard_normal(len(doses))
    found = dose_response(requested, measured, doses)
    assert abs(found.correlation.value) < 3 * (found.correlation.stderr or 0)
    assert 0.1 < (found.correlation.stderr or 0) < 0.3
    assert dose_response(requested, np.sort(measured), doses).falls is False


def test_error_of_the_correlation_is_its_scatter() -> None:
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        asked = rng.standard_normal(40)
        response = dose_response(asked, asked + rng.standard_normal(40), np.full(40, np.nan))
        found.append((response.correlation.value, response.correlation.stderr))
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.2)


def test_images_without_a_number_are_left_out() -> None:
    nan = float("nan")
    found = dose_response(
        np.array([1.0, 2, 3, 4, nan, 6]), np.array([1.0, 3, 2, 4, 5, nan]), np.array([1.0, 0.5, nan, 0.5, 1, 1])
    )
    assert found.images == 4
    assert found.correlation.value == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert [(level.dose, level.images) for level in found.levels] == [(0.5, 2), (1.0, 1)]
    assert found.levels[1].measured == Measure(1.0, None)
    with pytest.raises(ValueError, match="one of each image"):
        dose_response(np.ones(2), np.ones(3), np.ones(3))


@pytest.mark.parametrize("n", [0, 3])
def test_too_few_images_have_no_correlation(n: int) -> None:
    found = dose_response(np.arange(n), np.arange(n), np.full(n, np.nan))
    assert np.isnan(found.correlation.value)
    assert found.falls is None
