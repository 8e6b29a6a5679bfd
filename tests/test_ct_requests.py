"""Requests of CT from files: masks and maps of noise in NIfTI and DICOM, and one line for each that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from anatodiff.data import CTError, read_ct_labels, read_ct_noise, write_ct, write_ct_mask, write_ct_noise
from anatodiff.engines import file_requests
from anatodiff.engines.workflow import OptionError
from anatodiff.transforms import to_square

SPACING = (3.0, 1.5, 1.5)
SHAPE = (3, 40, 64)
ORGANS = {"liver": [5], "kidneys": [2, 3]}


def labels() -> np.ndarray:
    values = np.zeros(SHAPE, np.uint8)
    values[:, 10:20, 4:24] = 5
    values[1, 25:35, 30:40] = 2
    values[1, 25:35, 50:60] = 3
    values[2, :4, 40:60] = 4  # an organ that nobody asks for
    return values


def noise(n: int = SHAPE[0]) -> np.ndarray:
    return 5 + 20 * np.random.default_rng(0).random((n, *SHAPE[1:]), dtype=np.float32)


def mask_file(folder: Path, ending: str = ".nii.gz", values: np.ndarray | None = None, **options: Any) -> Path:
    path = folder / f"mask{ending}"
    given = labels() if values is None else values
    return (write_ct_mask if ending else write_ct)(path, given, SPACING, **options)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ""], ids=["nii.gz", "nii", "dicom"])
def test_a_mask_and_a_map_become_requests(tmp_path: Path, ending: str) -> None:
    given = np.rint(noise())  # DICOM holds whole HU
    path = write_ct(tmp_path / f"noise{ending}", given, SPACING)
    requests = file_requests(mask_file(tmp_path, ending), path, None, ORGANS, 64, 2)
    assert len(requests) == 6 and requests.organs == ["liver", "kidneys"]
    assert requests.mask.shape == (6, 64, 64) and requests.mask.dtype == torch.uint8
    assert requests.noise.shape == (6, 1, 64, 64) and requests.noise.dtype == torch.float32
    assert requests.has_mask.all() and requests.has_noise.all() and requests.doses.isnan().all()
    assert requests.references.tolist() == [-1] * 6 and requests.labels.tolist() == [0] * 6
    expected = np.select([labels() == 5, np.isin(labels(), (2, 3))], [1, 2], 0)
    for row in range(6):  # 12 rows of background above and below
        np.testing.assert_array_equal(requests.mask[row, 12:52], expected[row // 2])
        np.testing.assert_allclose(requests.noise[row, 0, 12:52], given[row // 2], atol=1e-4)
    outside = torch.ones(64, dtype=torch.bool)
    outside[12:52] = False
    assert not requests.mask[:, outside].any() and not requests.noise[:, :, outside].any()


def test_axes_of_the_file_do_not_matter(tmp_path: Path) -> None:
    path = mask_file(tmp_path, ".nii")
    image = nib.load(path)
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("RAI"))
    nib.save(image.as_reoriented(turn), tmp_path / "turned.nii")
    one, other = (file_requests(file, None, 12.5, ORGANS, 64, 1) for file in (path, tmp_path / "turned.nii"))
    assert torch.equal(one.mask, other.mask) and one.mask.any()


def test_one_map_serves_all_slices_and_a_level_needs_none(tmp_path: Path) -> None:
    mask = mask_file(tmp_path)
    path = write_ct_noise(tmp_path / "noise.nii.gz", noise(1), (5.0, 1.5, 1.5))  # thicker: it is for any height
    requests = file_requests(mask, path, None, ORGANS, 64, 1)
    assert torch.equal(requests.noise[0], requests.noise[2])
    np.testing.assert_allclose(requests.noise[0, 0, 12:52], noise(1)[0], rtol=1e-5)
    level = file_requests(mask, None, 12.5, ORGANS, 64, 1)
    assert level.noise.unique().tolist() == [12.5] and level.has_noise.all()
    without = file_requests(mask, None, None, ORGANS, 64, 1)
    assert not without.has_noise.any() and not without.noise.any() and without.has_mask.all()
    alone = file_requests(None, path, None, ORGANS, 64, 3)
    assert len(alone) == 3 and alone.has_noise.all() and not alone.has_mask.any() and not alone.mask.any()
    assert len(file_requests(None, None, 12.5, {}, 64, 4)) == 4


def test_noise_that_is_the_same_everywhere_comes_back(tmp_path: Path) -> None:
    path = write_ct_noise(tmp_path / "noise.nii.gz", np.full(SHAPE, 12.0), SPACING)
    assert nib.load(path).get_data_dtype() == np.float32
    assert nib.load(path).header["descrip"].item().decode().startswith("SYNTHETIC")
    volume = read_ct_noise(path)
    np.testing.assert_array_equal(volume.slices, np.full(SHAPE, 12.0, np.float32))
    with pytest.raises(CTError, match="noise of -1 HU"):
        write_ct_noise(tmp_path / "b.nii", np.full(SHAPE, -1.0), SPACING)


def test_requests_have_the_size_that_is_asked_for(tmp_path: Path) -> None:
    path = write_ct_noise(tmp_path / "noise.nii.gz", noise(), SPACING)
    requests = file_requests(mask_file(tmp_path), path, None, ORGANS, 32, 1)
    assert requests.mask.shape == (3, 32, 32) and requests.noise.shape == (3, 1, 32, 32)
    assert set(requests.mask.unique().tolist()) == {0, 1, 2}
    expected = np.select([labels() == 5, np.isin(labels(), (2, 3))], [1, 2], 0)
    areas = [int((requests.mask == k).sum()) * 4 for k in (1, 2)]
    assert areas == pytest.approx([int((expected == k).sum()) for k in (1, 2)], rel=0.1)
    assert float(requests.noise[:, :, 8:24].mean()) == pytest.approx(float(noise().mean()), rel=0.02)


def nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(
        nib.Nifti1Image(values.transpose(2, 1, 0), np.diag([-1.5, -1.5, 3, 1]) if affine is None else affine), path
    )
    return path


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: mask_file(p, values=labels() + 2), "label 7 is out of range; use labels from 0 to 5"),
        (lambda p: mask_file(p, "", values=labels() + 2), "label 7 is out of range; use labels from 0 to 5"),
        (lambda p: mask_file(p, "", values=labels() - 1.0), "label -1 is out of range"),
        (lambda p: nifti(p / "a.nii", labels() * np.float32(0.5)), "the labels are not whole numbers"),
        (lambda p: nifti(p / "a.nii", np.full(SHAPE, np.nan, np.float32)), "the labels are not whole numbers"),
        (lambda p: p / "none.nii.gz", "no such file"),
        (lambda p: p, "no DICOM CT slices"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    path = make(tmp_path)
    with pytest.raises(CTError, match=message) as error:
        file_requests(path, None, 10.0, ORGANS, 64, 1)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value) and ";" in str(error.value)


def moved(shift: tuple[float, float, float]) -> np.ndarray:
    affine = read_affine().copy()
    affine[:3, 3] += shift
    return affine


def read_affine() -> np.ndarray:
    x, y = ((n - 1) * 0.75 for n in (SHAPE[2], SHAPE[1]))
    return np.array([[-1.5, 0, 0, x], [0, -1.5, 0, y], [0, 0, 3, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: nifti(p, noise() - 10), r"\d+ voxels of the noise are negative or not finite"),
        (lambda p: nifti(p, np.where(noise() > 20, np.nan, noise())), r"\d+ voxels of the noise are negative or not"),
        (lambda p: write_ct(p.with_name("dicom"), np.rint(noise()) - 10, SPACING), "voxels of the noise are negative"),
        (lambda p: nifti(p, noise()[:2], read_affine()), "2 x 40 x 64 voxels, but mask.nii.gz has 3 x 40 x 64"),
        (lambda p: nifti(p, noise()[:, :, :48], read_affine()), "3 x 40 x 48 voxels, but mask.nii.gz has 3 x 40 x 64"),
        (lambda p: nifti(p, noise()[:1, :, :48], read_affine()), "x 40 x 48 voxels, but mask.nii.gz has"),
        (lambda p: nifti(p, noise(), moved((6, 0, 0))), "another place in space than mask.nii.gz"),
        (lambda p: nifti(p, noise(), moved((0, 0, 30))), "another place in space than mask.nii.gz"),
        (lambda p: nifti(p, noise(1), moved((0, 6, 0))), "another place in space than mask.nii.gz"),
        (lambda p: nifti(p, noise(), np.diag([2.0, 2, 1, 1]) @ read_affine()), "another place in space than mask"),
    ],
)  # fmt: skip
def test_noise_that_cannot_be_used_is_refused(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    path = make(tmp_path / "noise.nii")
    with pytest.raises(CTError, match=message) as error:
        file_requests(mask_file(tmp_path), path, None, ORGANS, 64, 1)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_slice_of_any_height_serves(tmp_path: Path) -> None:
    path = nifti(tmp_path / "noise.nii", noise(1), moved((0, 0, 300)))
    assert file_requests(mask_file(tmp_path), path, None, ORGANS, 64, 1).has_noise.all()


def test_labels_of_a_series_are_read_as_they_are(tmp_path: Path) -> None:
    volume = read_ct_labels(mask_file(tmp_path, ""))
    assert volume.slices.dtype == np.uint16
    np.testing.assert_array_equal(volume.slices, labels())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mask_path": None, "noise_level": None}, "nothing is asked for: give mask_path, noise_path or noise_level"),
        ({"noise_path": "a.nii"}, "noise_path and noise_level are both given"),
        ({"noise_level": 0}, "noise_level is 0; give HU above 0 and at most 500"),
        ({"noise_level": 501}, "noise_level is 501; give HU above 0 and at most 500"),
        ({"noise_level": float("nan")}, "noise_level is nan"),
        ({"samples": 0}, "samples is 0; give at least 1"),
        ({"image_size": 0}, "image_size is 0; give at least 1"),
        ({"organs": {}}, "organs names 0 organs"),
        ({"organs": {"a;b": [1]}}, "organs has the name 'a;b'"),
        ({"organs": {"a": []}}, "organs gives a no label"),
        ({"organs": {"a": [0]}}, "organs gives a the label 0; give whole numbers from 1 to 65535"),
        ({"organs": {"a": [1.5]}}, "organs gives a the label 1.5"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "mask_path": tmp_path / "mask.nii.gz", "noise_path": None, "noise_level": 10.0, "organs": ORGANS,
        "image_size": 64, "samples": 1, **options,
    }  # fmt: skip
    with pytest.raises(OptionError, match=message):
        file_requests(**given)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (33, 33)], ids=str)
@pytest.mark.parametrize("size", [16, 40, 100])
def test_squares_are_padded_and_never_stretched(shape: tuple[int, int], size: int) -> None:
    values = torch.ones(2, 1, *shape)
    side = max(shape)
    for mode in ("bilinear", "nearest"):
        square = to_square(values, size, mode)
        assert square.shape == (2, 1, size, size)
        assert float(square.mean()) == pytest.approx(shape[0] * shape[1] / side**2, abs=0.07)
        torch.testing.assert_close(square, square.flip(-1, -2), atol=0.5 if mode == "nearest" else 1e-5, rtol=0.5)
        assert float(to_square(values, size, mode, value=1.0).min()) == pytest.approx(1)
    labelled = torch.randint(0, 5, (1, 1, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert to_square(labelled, size, "nearest").dtype == torch.uint8


def test_shrinking_averages_noise_free_detail() -> None:
    stripes = torch.zeros(1, 1, 64, 64)
    stripes[..., ::2] = 1
    assert float(to_square(stripes, 16).std()) < 0.05


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((torch.ones(3, 8, 8), 8), r"give \(N, 1, H, W\)"),
        ((torch.ones(1, 1, 8, 8), 0), "size=0 is not a positive number"),
        ((torch.ones(1, 1, 8, 8), 8, "cubic"), "mode='cubic' is not one of"),
    ],
)
def test_what_makes_no_square_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_square(*arguments)
