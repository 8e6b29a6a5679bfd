"""Augmented versions of a training set: what they may change, and how they are cached."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anatodiff.autoencoders import LatentDataset, latent_scale, load_autoencoder
from anatodiff.data import make_datalist
from anatodiff.draws import generator
from anatodiff.transforms import Augmentation, radiograph_transforms

PLAIN = Augmentation(gamma=1, gain=0)  # moves alone


def draws(seed: int) -> torch.Generator:
    return generator(seed, 0, "test")


def ramps(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (1, H, W) that show where a pixel lies, in pixels over 1,000."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return y[None] / 1000, x[None] / 1000


@pytest.mark.parametrize("shape", [(320, 320), (320, 400), (500, 320)])
def test_a_version_shows_nothing_beyond_the_image_and_is_not_mirrored(shape: tuple[int, int]) -> None:
    for seed in range(40):
        y, x = (1000 * PLAIN(ramp, 64, draws(seed))[0] for ramp in ramps(*shape))
        step = 320 / 64
        # Beyond the border a pixel would repeat, and its neighbours would not differ.
        along, across = x[:, 1:] - x[:, :-1], y[1:] - y[:-1]
        assert step / 1.1 * 0.96 < float(along.min()) and float(along.max()) < step * 1.04
        assert step / 1.1 * 0.96 < float(across.min()) and float(across.max()) < step * 1.04
        centre = torch.stack([y.mean() - shape[0] / 2, x.mean() - shape[1] / 2])
        assert float(centre.abs().max()) <= 0.04 * 320 + 0.1


def test_content_beyond_the_square_comes_in_along_the_long_side() -> None:
    seen = [1000 * PLAIN(ramps(320, 400)[1], 64, draws(seed))[0] for seed in range(60)]
    assert min(float(x.min()) for x in seen) < 40 - 2  # the square alone is columns 40 to 360
    assert max(float(x.max()) for x in seen) > 360 + 2


def test_exposure_alone_keeps_black_and_the_order_of_the_greys() -> None:
    grey = torch.linspace(0, 1, 64).repeat(64, 1)[None]  # (1, 64, 64)
    still = Augmentation(zoom=1, rotation=0, shift=0)
    for seed in range(20):
        row = still(grey, 64, draws(seed))[0, 32]
        assert float(row[0]) == 0 and float(row.max()) <= 1
        assert bool((row[1:] >= row[:-1]).all())
        assert 0.02 < float((row - grey[0, 0]).abs().max()) < 0.2 or seed > 0


def test_without_changes_it_is_the_shared_preprocessing(small_images: Path) -> None:
    item = make_datalist(small_images, test_fraction=0).train[0]
    expected = radiograph_transforms(64)({"image": item["image"]})["image"].as_tensor()
    made = Augmentation(zoom=1, rotation=0, shift=0, gamma=1, gain=0)(expected, 64, draws(0))
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


def test_a_large_image_is_averaged_and_not_sampled() -> None:
    stripes = torch.zeros(1, 640, 640)
    stripes[:, :, ::2] = 1
    for seed in range(5):
        assert float((PLAIN(stripes, 64, draws(seed)) - 0.5).abs().max()) < 0.15


@pytest.mark.parametrize("setting", [{"zoom": 0.9}, {"gamma": 0.5}, {"rotation": -1}, {"shift": -0.1}, {"gain": 1.0}])
def test_a_setting_out_of_its_range_is_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        Augmentation(**setting)


def dataset(images: Path, cache: Path, weights: dict[str, str], **more: int | Augmentation) -> LatentDataset:
    items = make_datalist(images, test_fraction=0.2).train
    return LatentDataset(items, 64, cache, load_autoencoder(weights["autoencoder_path"]), **more)  # type: ignore[arg-type]


def test_rows_are_the_images_as_they_are_and_then_each_version(
    small_images: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    plain, three = (dataset(small_images, tmp_path, small_weights, versions=n) for n in (1, 3))
    n = len(plain)
    assert (len(three), len(three.images)) == (3 * n, n)
    rows = three.gather(torch.arange(3 * n))
    assert rows["mean"].dtype == torch.float32
    torch.testing.assert_close(rows["mean"][:n], plain.mean, atol=2e-3, rtol=2e-3)
    assert torch.equal(rows["label"], plain.labels.repeat(3))
    changes = [(rows["mean"][k * n : (k + 1) * n] - plain.mean).abs().mean((1, 2, 3)) for k in (1, 2)]
    assert all(float(change.min()) > 1e-3 for change in changes)  # every image, in every version
    between = (plain.mean - plain.mean.roll(2, 0)).abs().mean()
    assert max(float(change.mean()) for change in changes) < 2 * float(between)
    assert latent_scale(three) == pytest.approx(float((rows["mean"].var() + rows["logvar"].exp().mean()) ** -0.5), 1e-4)


def test_more_versions_use_those_that_are_cached_and_other_settings_do_not(
    small_images: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    two = dataset(small_images, tmp_path, small_weights, versions=2)
    first = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    three = dataset(small_images, tmp_path, small_weights, versions=3)
    assert {file: file.stat().st_mtime_ns for file in first} == first
    assert len(list(tmp_path.iterdir())) == len(first) + 1
    assert torch.equal(three.mean[: len(two)], two.mean)
    turned = dataset(small_images, tmp_path, small_weights, versions=2, augmentation=Augmentation(rotation=1))
    assert len({two.key, three.key, turned.key}) == 3
    assert not torch.equal(turned.mean, two.mean)
    with pytest.raises(ValueError, match="augmented_versions is 0"):
        dataset(small_images, tmp_path, small_weights, versions=0)


def test_a_version_depends_on_the_image_and_not_on_its_place(
    small_images: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    items = make_datalist(small_images, test_fraction=0.2).train
    codec = load_autoencoder(small_weights["autoencoder_path"])
    there, back = (LatentDataset(some, 64, tmp_path, codec, versions=2) for some in (items, items[::-1]))
    n = len(items)
    torch.testing.assert_close(there.mean[n:].flip(0), back.mean[n:], atol=2e-3, rtol=2e-3)
