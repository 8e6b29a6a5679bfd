"""Photographs as CT: the noise of each dose, the same whatever the batch, the order and the place of the files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anatodiff.autoencoders import EmulatedPhotographs
from anatodiff.data import RadiographError, make_datalist, read_radiograph
from anatodiff.files import sha256_of
from anatodiff.transforms import EmulateCTNoise, NoiseMap, emulated_photographs, radiograph_transforms

DOSES = (0.05, 0.25, 0.75)
SIDE = 48


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five smooth photographs, not square."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = []
    for i in range(5):
        coarse = np.random.default_rng(i).integers(0, 256, (6, 8), dtype=np.uint8)
        paths.append(folder / f"photograph{i}.jpg")
        Image.fromarray(coarse).resize((80, 64), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def emulated(files: list[Path]) -> dict[str, torch.Tensor]:
    return emulated_photographs(files, SIDE, DOSES, seed=3)


def test_each_is_what_the_transform_makes_of_it(files: list[Path], emulated: dict[str, torch.Tensor]) -> None:
    assert emulated["images"].shape == emulated["noise"].shape == (15, 1, SIDE, SIDE)
    assert emulated["images"].dtype == emulated["noise"].dtype == torch.float16
    assert emulated["doses"].tolist() == pytest.approx(list(DOSES) * 5)
    for i, file in enumerate(files):
        clean = radiograph_transforms(SIDE)({"image": str(file)})["image"].as_tensor()
        for j, dose in enumerate(DOSES):
            noisy, noise = EmulateCTNoise(dose, seed=3)(clean, sha256_of(file))
            row = i * len(DOSES) + j
            torch.testing.assert_close(emulated["images"][row], noisy.clamp(0, 1).half())
            torch.testing.assert_close(emulated["noise"][row], (NoiseMap()(noise) * 400).half())


@pytest.mark.parametrize("batch", [1, 2])
def test_batch_order_and_place_change_nothing(
    files: list[Path], emulated: dict[str, torch.Tensor], tmp_path: Path, batch: int
) -> None:
    copies = [shutil.copy(file, tmp_path / f"{i}.jpg") for i, file in enumerate(reversed(files))]
    other = emulated_photographs(copies, SIDE, DOSES, seed=3, batch=batch)
    for name in ("images", "noise"):
        expected = emulated[name].unflatten(0, (5, 3)).flip(0).flatten(0, 1)
        torch.testing.assert_close(other[name], expected)


def test_noise_falls_with_the_dose_and_the_photons(files: list[Path], emulated: dict[str, torch.Tensor]) -> None:
    power = emulated["noise"].double().square().unflatten(0, (5, 3)).mean(dim=(0, 2, 3, 4))
    # 5 x 48 x 48 pixels, of which about a quarter are independent: a few per cent.
    assert (power * torch.tensor(DOSES)).tolist() == pytest.approx([float(power[0]) * DOSES[0]] * 3, rel=0.15)
    brighter = emulated_photographs(files, SIDE, DOSES, seed=3, photons=4e5)["noise"].double().square().mean()
    assert float(brighter / power.mean()) == pytest.approx(1 / 4, rel=0.15)
    other = emulated_photographs(files, SIDE, DOSES, seed=4)["noise"]
    assert not torch.equal(other, emulated["noise"])


def test_the_map_is_to_the_window_as_the_noise_to_the_image(files: list[Path]) -> None:
    """What 400 HU are to a pixel's noise, the range of an image is to its noise."""
    one = emulated_photographs(files[:1], SIDE, [0.75], seed=3)
    clean = radiograph_transforms(SIDE)({"image": str(files[0])})["image"].as_tensor()
    _, noise = EmulateCTNoise(0.75, seed=3)(clean, sha256_of(files[0]))
    inside = slice(8, -8)
    level = float(one["noise"][0, 0, inside, inside].double().square().mean().sqrt())
    assert level / 400 == pytest.approx(float(noise[0, inside, inside].std()), rel=0.1)
    wide = emulated_photographs(files[:1], SIDE, [0.75], seed=3, window_width=1500)
    torch.testing.assert_close(wide["noise"], one["noise"] * (1500 / 400), rtol=2e-3, atol=0)
    assert torch.equal(wide["images"], one["images"])


def test_colour_becomes_luma(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    colour = Image.fromarray(values).resize((64, 64), Image.Resampling.BICUBIC)
    (tmp_path / "a").mkdir()
    colour.save(tmp_path / "a" / "colour.png")
    colour.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a" / "other.png")
    with pytest.raises(RadiographError, match="colour image"):
        read_radiograph(tmp_path / "a" / "colour.png")
    luma = read_radiograph(tmp_path / "a" / "colour.png", allow_colour=True).pixels
    weighted = np.asarray(colour, dtype=float) @ [0.299, 0.587, 0.114] / 255  # ITU-R BT.601
    np.testing.assert_allclose(luma, weighted, atol=1.5 / 255)
    rows = make_datalist(tmp_path / "a", test_fraction=0, allow_colour=True).train
    images = emulated_photographs([row["image"] for row in rows], 64, [1.0], seed=0)["images"]
    assert float((images[0, 0].float() - torch.from_numpy(luma)).abs().mean()) < 0.1


def dataset(files: list[Path], cache: Path, **options: Any) -> EmulatedPhotographs:
    items = [{"image": str(file), "label": i % 2} for i, file in enumerate(files)]
    return EmulatedPhotographs(items, SIDE, cache, **{"doses": DOSES, "seed": 3, **options})


def test_the_dataset_has_what_slices_of_ct_have(
    files: list[Path], emulated: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    photographs = dataset(files, tmp_path)
    assert len(photographs) == len(photographs.items) == 15
    assert torch.equal(photographs.images, emulated["images"]) and torch.equal(photographs.noise, emulated["noise"])
    assert photographs.labels.tolist() == [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3 + [0] * 3
    assert photographs.mask.shape == (15, SIDE, SIDE) and not photographs.mask.any()
    assert photographs.mask.untyped_storage().nbytes() == 1
    assert photographs.has_noise.all() and not photographs.has_mask.any() and photographs.organs == []
    assert photographs.window.high - photographs.window.low == 400
    assert [row["dose"] for row in photographs.items[:3]] == list(DOSES)
    assert photographs.items[3]["image"] == str(files[1])


def test_the_cache_is_used_again_for_the_same_alone(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dataset(files[:2], tmp_path)
    others = [
        {"doses": (0.05,)}, {"seed": 4}, {"window_width": 350.0}, {"photons": 2e5},
    ]  # fmt: skip
    keys = {dataset(files[:2], tmp_path, **options).key for options in others} | {dataset(files[:1], tmp_path).key}
    assert len(keys | {first.key}) == 6

    def fail(*arguments: object, **named: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("anatodiff.autoencoders.photographs.emulated_photographs", fail)
    moved = [Path(shutil.copy(file, tmp_path / file.name)) for file in files[:2]]
    again = dataset(moved, tmp_path)
    assert again.key == first.key and torch.equal(again.images, first.images)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"doses": (0.25, 0.0)}, r"dose=0.0 is not in \(0, 1\]"),
        ({"doses": (25,)}, r"dose=25 is not in \(0, 1\]"),
        ({"doses": ()}, "give at least one"),
        ({"doses": (0.1, 0.1)}, "each of them once"),
        ({"window_width": 0}, "window_width=0 is not a positive number"),
        ({"photons": -1}, "photons=-1 is not a positive number"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    given = {"doses": (0.1,), "seed": 0, **options}
    with pytest.raises(ValueError, match=message):
        emulated_photographs([tmp_path / "none.jpg"], SIDE, **given)
    with pytest.raises(ValueError, match="no photographs"):
        EmulatedPhotographs([], SIDE, tmp_path)


def test_a_batch_needs_a_name_for_each_image() -> None:
    with pytest.raises(ValueError, match="a name for each image"):
        EmulateCTNoise().batch(torch.zeros(2, 1, 32, 32), ["a"], [0.5])
