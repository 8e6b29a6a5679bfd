"""The seam index: squares are seen, smooth images have none."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from anatodiff.metrics import image_measures, seam_index


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def tiles(side: int, n: int = 6) -> torch.Tensor:
    means = torch.rand(n, 1, 128 // side, 128 // side)
    return functional.interpolate(means, size=128, mode="nearest")  # (n, 1, 128, 128)


def smooth(n: int = 40) -> torch.Tensor:
    """Random fields that are as smooth everywhere."""
    frequency = torch.fft.fftfreq(128, 1 / 128)
    low = torch.exp(-(frequency[:, None] ** 2 + frequency**2) / 72)  # (128, 128)
    fields = torch.fft.ifft2(torch.fft.fft2(torch.randn(n, 1, 128, 128)) * low).real  # (n, 1, 128, 128)
    return 0.5 + 0.15 * fields / fields.std()


def test_tiles_of_the_tokens_size_show() -> None:
    grain = 0.01 * torch.randn(6, 1, 128, 128)
    assert seam_index(tiles(32) + grain, 32).value > 10
    half = seam_index(smooth(6) + 0.2 * tiles(32), 32).value
    assert 1.2 < half < seam_index(smooth(6) + 0.5 * tiles(32), 32).value


def test_images_without_seams_have_an_index_of_one() -> None:
    for images in (smooth(), torch.rand(40, 1, 128, 128)):
        found = seam_index(images, 32)
        assert abs(found.value - 1) < max(0.04, 3 * found.stderr)
    assert seam_index(tiles(8, 200), 32).value == pytest.approx(1, abs=0.02)  # the autoencoder's own grid


def test_both_axes_and_no_other_period_count() -> None:
    rows = torch.rand(4, 1, 4, 1).repeat_interleave(32, dim=2).expand(-1, -1, -1, 128)
    images = smooth(4) + 0.4 * rows
    assert seam_index(images, 32).value > 1.5
    assert seam_index(images.mT, 32).value == pytest.approx(seam_index(images, 32).value)
    assert seam_index(images, 48).value < 1.5


def test_error_is_that_of_repeated_draws() -> None:
    images = smooth(400)
    found = [seam_index(part, 32) for part in images.split(20)]
    spread = torch.tensor([one.value for one in found]).std()
    assert torch.tensor([one.stderr for one in found]).mean() == pytest.approx(float(spread), rel=0.4)


@pytest.mark.parametrize("token_size", [8, 20, 128])
def test_a_token_size_without_borders_of_both_kinds_is_refused(token_size: int) -> None:
    with pytest.raises(ValueError, match="token_size"):
        seam_index(smooth(2), token_size)


def test_it_is_measured_where_an_image_has_several_tokens() -> None:
    images = smooth(3)
    found = image_measures(images, images, token_size=32)["seam_index"]
    assert found.value == seam_index(images, 32).value
    assert "seam_index" not in image_measures(images[..., :32, :32], images[..., :32, :32], token_size=32)
