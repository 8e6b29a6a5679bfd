from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image
from support import ROOT

from anatodiff.transforms import EmulateCTNoise, EmulateCTNoised, LowDose, LowDosed, NoiseMap, NoiseMapd

DOSES = (0.05, 0.1, 0.25, 0.5, 0.75)
SIGMA = 12.0  # HU, of the full-dose image
PIXELS = 300
# A sample variance of n independent normal values has the relative standard error sqrt(2 / n): four of them.
BAND = 4 * math.sqrt(2 / PIXELS**2)


def pair(available: float = 0.25, size: int = PIXELS) -> tuple[torch.Tensor, torch.Tensor]:
    """A full-dose image of 40 HU, and one of a lower dose, which is it plus independent noise."""
    random = torch.Generator().manual_seed(3)
    full = 40 + SIGMA * torch.randn(1, size, size, generator=random, dtype=torch.float64)
    inserted = torch.randn(1, size, size, generator=random, dtype=torch.float64)
    return full, full + SIGMA * math.sqrt(1 / available - 1) * inserted


@pytest.mark.parametrize("available", [0.1, 0.25, 0.6])
@pytest.mark.parametrize("dose", DOSES)
def test_variances_follow_the_dose(dose: float, available: float) -> None:
    full, low = pair(available)
    image, noise = LowDose(dose, available)(full, low)
    assert float((image - full).var()) == pytest.approx(SIGMA**2 * (1 / dose - 1), rel=BAND)
    # The two noises are independent but for the chance of this draw, which adds its share to the error.
    assert float(image.var()) == pytest.approx(SIGMA**2 / dose, rel=2 * BAND)
    assert float(noise.var()) == pytest.approx(SIGMA**2 / dose, rel=BAND)


def test_the_full_dose_is_the_image_and_the_available_dose_the_other() -> None:
    full, low = pair()
    assert torch.equal(LowDose(1.0)(full, low)[0], full)
    torch.testing.assert_close(LowDose(0.25)(full, low)[0], low)


@pytest.mark.parametrize("kind", ["array", "integers", "tensor", "meta"])
def test_low_dose_keeps_the_kind(kind: str) -> None:
    full, low = (x.round().float() for x in pair(size=8))
    make = {
        "array": lambda x: x.numpy(),
        "integers": lambda x: x.numpy().astype(np.int16),
        "tensor": lambda x: x,
        "meta": lambda x: MetaTensor(x, meta={"site": 3}),
    }[kind]
    image, noise = LowDose(0.1)(make(full), make(low))
    expected = LowDose(0.1)(full, low)
    for one, other in zip((image, noise), expected, strict=True):
        assert type(one) is type(make(full)) and str(one.dtype).endswith("float32")
        np.testing.assert_allclose(np.asarray(one), other.numpy(), rtol=1e-5, atol=1e-4)
    assert kind != "meta" or image.meta["site"] == 3


@pytest.mark.parametrize("dose", [0, -0.1, 1.01, 25, float("nan")])
def test_a_dose_out_of_range_is_refused(dose: float) -> None:
    message = r"dose=\S+ is not in \(0, 1\]: give it as a share of the full dose"
    full, low = pair(size=8)
    item = {"image": full, "low": low, "d": dose, "name": "a"}
    for attempt in (
        lambda: LowDose(dose),
        lambda: LowDosed("image", "low", "noise", dose),
        lambda: EmulateCTNoise(dose),
        lambda: EmulateCTNoise()(torch.zeros(1, 8, 8), "a", dose),
        lambda: EmulateCTNoised("image", "noise", "name", dose),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()
    for transform in (LowDosed("image", "low", "noise", "d"), EmulateCTNoised("image", "noise", "name", "d")):
        with pytest.raises(ValueError, match=r"d=\S+ is not in \(0, 1\]"):
            transform(item)


def test_a_pair_that_does_not_fit_is_refused() -> None:
    full, low = pair(size=8)
    with pytest.raises(ValueError, match="available=1 is the full dose"):
        LowDose(0.5, available=1)
    with pytest.raises(ValueError, match="available=0 is not in"):
        LowDose(0.5, available=0)
    with pytest.raises(ValueError, match=r"has shape \(1, 8, 8\), the low-dose image \(1, 8, 7\): give two images"):
        LowDose(0.5)(full, low[..., 1:])
    low[0, 0, 0], low[0, 1, 1] = float("nan"), float("inf")
    with pytest.raises(ValueError, match="2 pixels of the low-dose image are NaN or infinite"):
        LowDose(0.5)(full, low)
    with pytest.raises(ValueError, match="2 pixels of the full-dose image"):
        LowDose(0.5)(low, full)
    with pytest.raises(KeyError, match="'image' has no low-dose image 'low'"):
        LowDosed("image", "low", "noise", 0.5)({"image": full})


def test_dictionaries_hold_the_dose_and_get_noise_and_map() -> None:
    full, low = pair(size=16)
    item = {"image": full, "low": low, "dose": 0.1}
    result = Compose([LowDosed("image", "low", "noise", "dose"), NoiseMapd("noise", window=3)])(item)
    image, noise = LowDose(0.1)(full, low)
    assert torch.equal(result["image"], image) and torch.equal(result["noise"], NoiseMap(3)(noise))
    assert torch.equal(item["image"], full) and "noise" not in item
    assert LowDosed("image", "low", "noise", 0.5, allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError, match="no entry 'dose' that would hold its dose"):
        LowDosed("image", "low", "noise", "dose")({"image": full, "low": low})


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("shape", [(2, 9), (1, 7, 8), (2, 3, 6, 5)], ids=str)
def test_the_map_is_the_root_mean_square_of_what_the_window_holds(shape: tuple[int, ...], window: int) -> None:
    noise = np.random.default_rng(0).standard_normal(shape)
    result = NoiseMap(window)(noise)
    reach = window // 2
    for index in np.ndindex(*shape):
        *lead, row, column = index
        part = noise[tuple(lead)][max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
        assert result[index] == pytest.approx(np.sqrt(np.mean(part**2)), rel=1e-12)


def test_the_map_of_noise_is_its_standard_deviation_at_the_border_too() -> None:
    noise = 20 * torch.randn(400, 64, 64, generator=torch.Generator().manual_seed(0))
    power = NoiseMap()(noise).square().mean(dim=0).sqrt()  # (64, 64)
    # A corner has 9 values in each of the 400 maps: a relative standard error of sqrt(1 / 7200).
    assert float((power / 20 - 1).abs().max()) < 5 * math.sqrt(1 / 7200)


def test_the_map_keeps_the_kind_and_refuses_what_has_none() -> None:
    noise = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert isinstance(NoiseMap()(noise.numpy()), np.ndarray)
    assert isinstance(NoiseMap()(MetaTensor(noise)), MetaTensor)
    assert NoiseMap()(noise.half()).dtype == torch.float32
    np.testing.assert_allclose(NoiseMap()(noise.numpy()), NoiseMap()(noise).numpy())
    for window in (0, 4, 2.5, -1):
        with pytest.raises(ValueError, match="give an odd number of pixels"):
            NoiseMap(window)
    for wrong in (torch.zeros(5), torch.zeros(0, 3)):
        with pytest.raises(ValueError, match="has no map: give"):
            NoiseMap()(wrong)
    with pytest.raises(ValueError, match="1 pixels of the noise are NaN"):
        NoiseMap()(torch.tensor([[0.0, float("nan")]]))


def water(size: int = 96) -> torch.Tensor:
    axis = torch.arange(size) - size // 2
    return (axis[:, None] ** 2 + axis**2 < (0.45 * size) ** 2).float()[None]


def theory(frequency: torch.Tensor, dose: float) -> torch.Tensor:
    """Noise power of a reconstruction from 180 projections of nothing but air, at frequencies per pixel.

    The counts' logarithm has the variance 1 / (dose I0), so a projection has that over mu^2, white. Filtered by 2 |f|
    times the Hann window, interpolated linearly and summed over the angles with the weight pi / (2 * 180), with one
    line through the plane of frequencies from each angle: the power is pi / 180 |f| Hann^2 sinc^4 of that variance.
    """
    hann = 0.5 * (1 + torch.cos(2 * math.pi * frequency))
    return math.pi / 180 * frequency * hann**2 * torch.sinc(frequency) ** 4 / (dose * 1e5 * 0.02**2)


def test_the_power_spectrum_of_emulated_noise_is_that_of_theory() -> None:
    size, dose, repeats = 128, 0.25, 8
    emulate = EmulateCTNoise(dose)
    noises = torch.cat([emulate(torch.zeros(1, size, size), str(k))[1] for k in range(repeats)]).double()
    power = (torch.fft.fft2(noises).abs() ** 2).mean(dim=0) / size**2  # per pixel^2
    axis = torch.fft.fftfreq(size, dtype=torch.float64)
    frequency = (axis[:, None] ** 2 + axis**2).sqrt()
    edges = torch.linspace(0.03, 0.48, 16, dtype=torch.float64)
    ring = torch.bucketize(frequency, edges)
    measured = torch.stack([power[ring == k].mean() for k in range(1, len(edges))])
    expected = torch.stack([theory(frequency, dose)[ring == k].mean() for k in range(1, len(edges))])
    # Rings hold 200 values and more, in pairs, times the repeats: 4 % is four standard errors. Linear interpolation
    # folds a little of the high frequencies back, which is all that is left where the window falls to nothing.
    strong = expected > 0.1 * expected.max()
    assert int(strong.sum()) >= 10
    torch.testing.assert_close(measured[strong], expected[strong], rtol=0.1, atol=0)
    assert float((measured - expected).abs().max()) < 0.05 * float(expected.max())
    # Rises as the ramp at first, and falls to nothing at the end.
    middle = (edges[1:] + edges[:-1]) / 2
    assert float(measured[1] / measured[0]) == pytest.approx(float(middle[1] / middle[0]), rel=0.15)
    assert float(measured[-1]) < 0.02 * float(measured.max())
    variance = 2 * math.pi * torch.trapezoid(theory(f := torch.linspace(0, 0.5, 501).double(), dose) * f, f)
    assert float(noises.var()) == pytest.approx(float(variance), rel=0.03)


def test_the_variance_of_emulated_noise_goes_as_one_over_the_dose() -> None:
    image = water()
    emulate = EmulateCTNoise()
    inner = (slice(None), slice(28, 68), slice(28, 68))
    full = [emulate(image, str(k), 1.0)[1][inner].var() for k in range(8)]
    for dose in DOSES:
        noises = [emulate(image, str(k), dose)[1][inner].var() for k in range(8)]
        ratio = float(torch.stack(noises).mean() / torch.stack(full).mean())
        # About 8 x 1600 / 4 independent values in each: pixels of CT noise are correlated with their neighbours.
        assert ratio == pytest.approx(1 / dose, rel=4 * math.sqrt(2 * 2 / 3200))


def test_the_noise_in_the_middle_of_water_is_that_of_its_rays() -> None:
    size, dose, middle = 96, 0.1, (slice(None), slice(40, 56), slice(40, 56))
    noises = torch.cat([EmulateCTNoise(dose)(water(size), str(k))[1][middle] for k in range(12)])
    f = torch.linspace(0, 0.5, 501).double()
    air = 2 * math.pi * torch.trapezoid(theory(f, dose) * f, f)
    # Through the middle all rays cross the whole disk, and exp(mu * 0.9 * size) times fewer photons arrive.
    expected = float(air) * math.exp(0.02 * 0.9 * size)
    assert float(noises.var()) == pytest.approx(expected, rel=4 * math.sqrt(2 * 4 / noises.numel()))


def test_noise_has_no_mean_and_the_rest_is_the_image() -> None:
    image = water()
    noisy, noise = EmulateCTNoise(0.25)(image, "a")
    assert noisy.shape == noise.shape == image.shape and noisy.dtype == torch.float32
    clean = noisy - noise
    assert float(clean[0, 28:68, 28:68].mean()) == pytest.approx(1, abs=0.01)
    assert abs(float(noise.mean())) < 0.002


def test_a_wide_image_stays_where_it_was() -> None:
    image = torch.zeros(1, 40, 61)
    image[0, 10:20, 40:50] = 1
    noisy, noise = EmulateCTNoise(1.0)(image, "a")
    assert noisy.shape == image.shape
    assert float(((noisy - noise - image) ** 2).mean().sqrt()) < 0.08
    rows, columns = (noisy - noise)[0].clamp(min=0).sum(dim=1), (noisy - noise)[0].clamp(min=0).sum(dim=0)
    assert abs(float((rows * torch.arange(40)).sum() / rows.sum()) - 14.5) < 0.7
    assert abs(float((columns * torch.arange(61)).sum() / columns.sum()) - 44.5) < 0.7


def test_a_draw_depends_on_seed_name_and_dose_alone() -> None:
    image = water(32)
    _, first = EmulateCTNoise(0.25, seed=1)(image, "a")
    torch.manual_seed(5)
    assert torch.equal(EmulateCTNoise(0.25, seed=1)(image, "a")[1], first)
    for other in (
        EmulateCTNoise(0.25, seed=2)(image, "a")[1],
        EmulateCTNoise(0.25, seed=1)(image, "b")[1],
        EmulateCTNoise(0.25, seed=1)(image, "a", 0.26)[1],
    ):
        assert abs(float(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1])) < 0.2


def test_a_ray_without_photons_does_not_end_in_infinity() -> None:
    noisy, _ = EmulateCTNoise(0.05, photons=100)(torch.ones(1, 200, 200), "a")
    assert bool(torch.isfinite(noisy).all())


def test_options_of_the_emulation_do_what_they_say() -> None:
    image = water(48)
    base = EmulateCTNoise(0.25)(image, "a")[1].var()
    assert float(EmulateCTNoise(0.25, photons=4e5)(image, "a")[1].var() / base) == pytest.approx(1 / 4, rel=0.2)
    assert float(EmulateCTNoise(0.25, angles=360)(image, "a")[1].var() / base) == pytest.approx(1 / 2, rel=0.2)
    assert float(EmulateCTNoise(0.25, attenuation=0.01)(image, "a")[1].var() / base) > 2


def test_emulation_of_a_dictionary() -> None:
    image = water(32)
    item = {"image": MetaTensor(image, meta={"site": 3}), "path": "b/c.png", "dose": 0.1}
    result = Compose([EmulateCTNoised("image", "noise", "path", "dose", seed=4), NoiseMapd("noise")])(item)
    noisy, noise = EmulateCTNoise(0.1, seed=4)(image, "image/b/c.png")
    torch.testing.assert_close(result["image"].as_tensor(), noisy)
    torch.testing.assert_close(result["noise"].as_tensor(), NoiseMap()(noise))
    assert result["image"].meta["site"] == 3
    assert EmulateCTNoised("image", "noise", "path", allow_missing_keys=True)({"path": "a"}) == {"path": "a"}
    with pytest.raises(KeyError, match="no entry 'path' that would name its draw"):
        EmulateCTNoised("image", "noise", "path")({"image": image})


def test_wrong_images_and_options_of_the_emulation_are_refused() -> None:
    for shape in ((3, 8, 8), (8, 8), (1, 0, 8)):
        with pytest.raises(ValueError, match=r"not \(1, H, W\): give one grey image"):
            EmulateCTNoise()(torch.zeros(shape), "a")
    with pytest.raises(ValueError, match=r"img lies in \[0, 255\], not in \[0, 1\]: scale it first"):
        EmulateCTNoise()(255 * water(8), "a")
    with pytest.raises(ValueError, match="64 pixels of the image are NaN"):
        EmulateCTNoise()(torch.full((1, 8, 8), float("nan")), "a")
    for option in ({"photons": 0}, {"attenuation": -0.02}, {"angles": 0}, {"photons": float("nan")}):
        with pytest.raises(ValueError, match="is not a positive number"):
            EmulateCTNoise(**option)
    with pytest.raises(ValueError, match=r"angles=2\.5 is not a whole number"):
        EmulateCTNoise(angles=2.5)


def test_the_figure_is_the_one_of_the_page(tmp_path: Path) -> None:
    path = tmp_path / "ct_noise.png"
    assert importlib.import_module("figure_ct_noise").main([str(path)]) == 0
    drawn, kept = (np.asarray(Image.open(file).convert("L")) for file in (path, ROOT / "docs/pictures/ct_noise.png"))
    assert drawn.shape == kept.shape
    # Fonts and rounding may differ by machine; noise of another dose or seed would differ everywhere.
    assert float(np.mean(np.abs(drawn.astype(float) - kept) > 16)) < 0.05
