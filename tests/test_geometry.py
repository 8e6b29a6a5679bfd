"""From files to square images: resizing, the reader inside MONAI, the shared preprocessing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.transforms import LoadImaged, Spacing

from anatodiff.data import RadiographError, RadiographReader, read_radiograph, write_radiograph
from anatodiff.transforms import ResizeShortSide, ResizeShortSided, radiograph_transforms


def smooth(height: int, width: int) -> torch.Tensor:
    rows = torch.linspace(0, 1, height)[:, None]
    columns = torch.linspace(0, 1, width)[None, :]
    return (0.5 + 0.3 * torch.sin(5 * rows) * torch.cos(4 * columns))[None]


@pytest.mark.parametrize("shape", [(64, 64), (40, 90), (333, 97), (32, 33), (700, 1021), (2000, 50)])
@pytest.mark.parametrize("size", [32, 64, 256])
def test_short_side_is_exact_and_aspect_stays(shape: tuple[int, int], size: int) -> None:
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)).round()  # hard edges, the worst case
    resized = ResizeShortSide(size)(image)
    assert min(resized.shape[1:]) == size
    assert resized.shape[1] / resized.shape[2] == pytest.approx(shape[0] / shape[1], rel=0.5 / size)
    assert resized.dtype == torch.float32 and resized.min() >= 0 and resized.max() <= 1


@pytest.mark.parametrize("size", [17, 64, 300])
def test_constant_stays_constant_to_the_border(size: int) -> None:
    assert (ResizeShortSide(size)(torch.full((1, 200, 310), 0.7)) == 0.7).all()


def test_smooth_content_keeps_its_place() -> None:
    torch.testing.assert_close(ResizeShortSide(64)(smooth(192, 256)), _sampled(64, 85, 3.0), atol=4e-3, rtol=0)


def _sampled(height: int, width: int, ratio: float) -> torch.Tensor:
    """The same function at the centres of the larger pixels."""
    rows = ((torch.arange(height) + 0.5) * ratio - 0.5) / 191
    columns = ((torch.arange(width) + 0.5) * 256 / width - 0.5) / 255
    return (0.5 + 0.3 * torch.sin(5 * rows[:, None]) * torch.cos(4 * columns[None, :]))[None]


def test_fine_stripes_become_gray_not_moire() -> None:
    stripes = torch.arange(512).remainder(2).float().expand(1, 512, 512)
    resized = ResizeShortSide(200)(stripes)
    assert (resized - 0.5).abs().max() < 0.12


def test_unchanged_size_returns_the_image() -> None:
    image = torch.rand(1, 48, 60)
    torch.testing.assert_close(ResizeShortSide(48)(image), image)


@pytest.mark.parametrize("size", [0, -3, 2.5])
def test_bad_size(size: float) -> None:
    with pytest.raises(ValueError, match="size"):
        ResizeShortSide(size)  # type: ignore[arg-type]


def test_bad_shape() -> None:
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        ResizeShortSide(8)(torch.rand(16, 16))


@pytest.mark.parametrize("ending", [".dcm", ".png", ".nii.gz"])
def test_reader_gives_rows_and_columns_and_spacing(tmp_path: Path, ending: str) -> None:
    path = write_radiograph(tmp_path / f"a{ending}", smooth(60, 90)[0].numpy(), spacing=(0.4, 0.2))
    load = LoadImaged(keys="image", reader=RadiographReader, image_only=True, ensure_channel_first=True)
    image = load({"image": str(path)})["image"]
    assert isinstance(image, MetaTensor) and image.shape == (1, 60, 90)
    np.testing.assert_array_equal(image[0].numpy(), read_radiograph(path).pixels)
    np.testing.assert_allclose(image.pixdim, [0.4, 0.2], rtol=1e-6)
    # Index (row 1, column 2) lies 0.4 mm to the left and 0.4 mm below the first pixel; RAS counts right and up.
    np.testing.assert_allclose(image.affine @ torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64), [-0.4, -0.4, 1])


def test_reader_refuses_and_no_other_reader_takes_over(tmp_path: Path) -> None:
    dicom = write_radiograph(tmp_path / "a.dcm", smooth(64, 64)[0].numpy())
    dataset = pydicom.dcmread(dicom)
    dataset.Modality = "CT"
    dataset.save_as(dicom)
    load = LoadImaged(keys="image", reader=RadiographReader, image_only=True, ensure_channel_first=True)
    with pytest.raises(RadiographError, match="not a projection radiograph"):
        load({"image": str(dicom)})


def test_reader_stacks_channels_of_one_size_only(tmp_path: Path) -> None:
    paths = [
        write_radiograph(tmp_path / f"{width}{copy}.png", smooth(40, width)[0].numpy())
        for width in (50, 60)
        for copy in "ab"
    ]
    reader = RadiographReader()
    pixels, meta = reader.get_data(reader.read([str(path) for path in paths[:2]]))
    assert pixels.shape == (2, 40, 50) and meta["original_channel_dim"] == 0
    with pytest.raises(ValueError, match="sizes"):
        reader.get_data(reader.read([str(path) for path in paths]))
    with pytest.raises(ValueError, match="no option"):
        reader.read(str(paths[0]), swap=True)


def test_resizing_keeps_the_place_in_the_patient(tmp_path: Path) -> None:
    path = write_radiograph(tmp_path / "a.dcm", smooth(128, 160)[0].numpy(), spacing=(0.4, 0.2))
    load = LoadImaged(keys="image", reader=RadiographReader, image_only=True, ensure_channel_first=True)
    full = load({"image": str(path)})["image"]
    half = ResizeShortSided("image", 64)({"image": full})["image"]
    np.testing.assert_allclose(half.pixdim, [0.8, 0.4], rtol=1e-6)
    middle = torch.tensor([63.5, 79.5, 1.0], dtype=torch.float64)
    middle_half = torch.tensor([31.5, 39.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(full.affine @ middle, half.affine @ middle_half)
    assert Spacing(pixdim=(0.4, 0.4))(full).shape == (1, 128, 80)


def test_preprocessing_batches_mixed_formats(tmp_path: Path) -> None:
    items = []
    for index, ending in enumerate((".dcm", ".png", ".nii.gz", ".dcm")):
        pixels = smooth(50 + 30 * index, 90)[0].numpy()
        spacing = (0.2, 0.2) if index else None
        items.append(
            {"image": str(write_radiograph(tmp_path / f"{index}{ending}", pixels, spacing=spacing)), "label": 1}
        )
    data = CacheDataset(items, radiograph_transforms(48), progress=False)
    batch = next(iter(DataLoader(data, batch_size=4)))
    assert batch["image"].shape == (4, 1, 48, 48) and batch["image"].dtype == torch.float32
    assert batch["image"].min() >= 0 and batch["image"].max() <= 1


def test_preprocessing_keeps_the_middle_of_the_long_side(tmp_path: Path) -> None:
    pixels = np.zeros((64, 192))
    pixels[:, 64:128] = 1
    path = write_radiograph(tmp_path / "a.png", pixels)
    assert (radiograph_transforms(64)({"image": str(path)})["image"] == 1).all()


def test_preprocessing_names_the_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.dcm"
    path.write_bytes(b"")
    with pytest.raises(RuntimeError) as caught:
        radiograph_transforms(64)({"image": str(path)})
    assert isinstance(caught.value.__cause__, RadiographError) and "bad.dcm: empty file" in str(caught.value.__cause__)
