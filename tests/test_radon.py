from __future__ import annotations

import importlib
import math
import sys

import numpy as np
import pytest
import torch

from anatodiff.transforms import iradon, radon

DEGREES = np.arange(180.0)
# Folded by all symmetries, by some and by none; more than a turn; the same angle twice.
ANGLES = {
    "every degree": DEGREES,
    "91": np.linspace(0, 180, 91, endpoint=False),
    "a whole turn": np.arange(0.0, 360.0, 6.0),
    "at random": np.random.default_rng(0).uniform(-400, 800, 17),
    "twice": np.array([0.0, 0.0, 90.0, 45.0, 360.0, -1e-20]),
}


def in_circle(image: np.ndarray) -> np.ndarray:
    y, x = (np.arange(n) - n // 2 for n in image.shape)
    return image * (y[:, None] ** 2 + x**2 <= (min(image.shape) // 2) ** 2)


def disk(size: int, radius: float, density: float) -> torch.Tensor:
    """A disk around the turning axis whose edge pixels hold the part of them that it covers, (size, size)."""
    fine = 8
    axis = (torch.arange(size * fine) + 0.5) / fine - 0.5 - size // 2
    inside = (axis[:, None] ** 2 + axis**2 <= radius**2).double()
    return density * inside.reshape(size, fine, size, fine).mean(dim=(1, 3))


@pytest.mark.parametrize("angles", ANGLES.values(), ids=ANGLES)
@pytest.mark.parametrize("shape", [(32, 32), (33, 33), (26, 41)], ids=str)
@pytest.mark.parametrize("circle", [False, True])
def test_both_directions_agree_with_scikit_image(shape: tuple[int, int], circle: bool, angles: np.ndarray) -> None:
    reference = pytest.importorskip("skimage.transform", reason="scikit-image is not installed (extra test)")
    random = np.random.default_rng(1)
    image = random.random(shape)
    image = in_circle(image) if circle else image
    expected = reference.radon(image, angles, circle=circle)
    mine = radon(torch.from_numpy(image), angles, circle)
    np.testing.assert_allclose(mine.numpy(), expected, atol=1e-10)
    single = radon(torch.from_numpy(image).float(), angles, circle)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, atol=1e-3)
    sinogram = random.standard_normal(expected.shape)
    for name in ("hann", "ramp", None):
        expected = reference.iradon(sinogram, angles, filter_name=name, circle=circle)
        mine = iradon(torch.from_numpy(sinogram), angles, name, circle)
        np.testing.assert_allclose(mine.numpy(), expected, atol=1e-10)


def test_output_size_is_that_of_scikit_image() -> None:
    reference = pytest.importorskip("skimage.transform", reason="scikit-image is not installed (extra test)")
    sinogram = np.random.default_rng(2).standard_normal((47, 30))
    angles = np.arange(0.0, 180.0, 6.0)
    for size in (1, 20, 33):
        expected = reference.iradon(sinogram, angles, output_size=size, filter_name="hann", circle=False)
        mine = iradon(torch.from_numpy(sinogram), angles, output_size=size)
        np.testing.assert_allclose(mine.numpy(), expected, atol=1e-12)


def test_a_batch_is_its_images_one_by_one() -> None:
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    sinograms = radon(images, DEGREES)
    assert sinograms.shape == (2, 3, math.ceil(24 * math.sqrt(2)), 180)
    assert iradon(sinograms, DEGREES).shape == images.shape
    torch.testing.assert_close(sinograms[1, 2], radon(images[1, 2], DEGREES), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(iradon(sinograms, DEGREES)[1, 2], iradon(sinograms[1, 2], DEGREES), rtol=1e-5, atol=1e-5)


def test_a_projection_of_a_disk_is_its_chord_times_its_density() -> None:
    size, radius, density = 96, 30.0, 0.7
    sinogram = radon(disk(size, radius, density), DEGREES)  # (detectors, A)
    place = torch.arange(len(sinogram)) - len(sinogram) // 2
    chord = 2 * density * (radius**2 - place.double() ** 2).clamp(min=0).sqrt()
    inner = place.abs() < radius - 4
    torch.testing.assert_close(sinogram[inner], chord[inner, None].expand(-1, 180), rtol=0.01, atol=0)
    assert sinogram[place.abs() > radius + 2].abs().max() == 0


def test_every_projection_holds_the_mass_of_the_image() -> None:
    image = torch.zeros(40, 40, dtype=torch.float64)
    image[5:30, 8:36] = torch.rand(25, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    masses = radon(image, DEGREES).sum(dim=0)
    torch.testing.assert_close(masses, image.sum().expand(180), rtol=0.01, atol=0)


def test_there_and_back_gives_the_image() -> None:
    size = 128
    angles = np.linspace(0, 180, 200, endpoint=False)
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float64) - size // 2] * 2, indexing="ij")
    smooth = torch.exp(-((x - 20) ** 2 + y**2) / (2 * 10**2)) + 0.5 * torch.exp(-((x + 25) ** 2 + (y - 15) ** 2) / 72)
    for name, worst in (("ramp", 0.005), ("hann", 0.015)):
        back = iradon(radon(smooth, angles), angles, name)
        assert float((back - smooth).abs().max()) < worst
    flat = disk(size, 45, 1.0)
    back = iradon(radon(flat, angles), angles)
    inner = x**2 + y**2 < 40**2
    assert float(back[inner].mean()) == pytest.approx(1, abs=0.005)


def test_both_are_linear() -> None:
    a, b = torch.rand(2, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(radon(2 * a - 3 * b, DEGREES), 2 * radon(a, DEGREES) - 3 * radon(b, DEGREES))
    p, q = radon(a, DEGREES), radon(b, DEGREES)
    torch.testing.assert_close(iradon(2 * p - 3 * q, DEGREES), 2 * iradon(p, DEGREES) - 3 * iradon(q, DEGREES))


def test_back_projection_without_a_filter_is_nearly_the_adjoint() -> None:
    size, angles = 48, DEGREES
    smooth = torch.nn.functional.avg_pool2d(torch.rand(1, 52, 52, dtype=torch.float64), 5, 1)[0]
    sinogram = radon(smooth, angles)
    other = torch.nn.functional.avg_pool1d(torch.rand(180, len(sinogram) + 4, dtype=torch.float64), 5, 1).T
    forth = (sinogram * other).sum()
    back = (smooth * iradon(other, angles, None, output_size=size)).sum() * (2 * len(angles) / math.pi)
    assert float(back) == pytest.approx(float(forth), rel=0.01)


def test_gradients_are_those_of_the_transform() -> None:
    random = torch.Generator().manual_seed(0)
    angles = [0.0, 20.0, 70.0, 110.0]
    image = torch.rand(2, 6, 6, dtype=torch.float64, generator=random, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: radon(x, angles), image)
    sinogram = torch.rand(2, 9, 4, dtype=torch.float64, generator=random, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: iradon(x, angles), sinogram)


def test_what_lies_outside_the_circle_is_said() -> None:
    with pytest.warns(UserWarning, match="outside the circle"):
        radon(torch.ones(8, 8), DEGREES, circle=True)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(8,\) cannot be projected: give"):
        radon(torch.ones(8), DEGREES)
    with pytest.raises(ValueError, match="none empty"):
        radon(torch.ones(0, 8), DEGREES)
    for angles in ([], [0.0, float("nan")], [[0.0]]):
        with pytest.raises(ValueError, match="give degrees"):
            radon(torch.ones(8, 8), angles)
    with pytest.raises(ValueError, match="do not fit 180 angles"):
        iradon(torch.ones(12, 8), DEGREES)
    with pytest.raises(ValueError, match="is not one of 'hann', 'ramp', None"):
        iradon(torch.ones(12, 180), DEGREES, "shepp")
    with pytest.raises(ValueError, match="output_size=0"):
        iradon(torch.ones(12, 180), DEGREES, output_size=0)


def test_the_benchmark_prints_both_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed (extra test)")
    bench = importlib.import_module("bench_radon")
    monkeypatch.setattr(sys, "argv", ["bench_radon.py", "--sizes", "32", "--batches", "2", "--rounds", "1"])
    bench.main()
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| 32")]
    assert [len(row) for row in rows] == [6, 7]
