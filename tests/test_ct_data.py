"""CT in and out: one orientation whatever the file, HU exact, and one line for each file that cannot be used."""

from __future__ import annotations

import gzip
import logging
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import RLELossless, generate_uid

from anatodiff.data import (
    HU_WINDOWS,
    CTError,
    CTVolume,
    DatasetError,
    HUWindow,
    find_ct,
    read_ct,
    read_ct_item,
    read_ct_mask,
    write_ct,
    write_ct_mask,
)
from anatodiff.data.dicom_file import write_dicom

SPACING = (2.5, 0.7, 0.9)
SHAPE = (5, 40, 56)
FACTS = {"seed": 7, "weights_hash": "ab12" * 16, "recipe": "cd34" * 16, "label": "tüberculosis"}


def hu(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1024, 3000, shape).astype(np.float32)


def series(folder: Path, **facts: Any) -> Path:
    return write_ct(folder, hu(), SPACING, body_part="ABDOMEN", **facts)


def change(folder: Path, number: int, edit: Callable[[pydicom.Dataset], None]) -> None:
    """Edit one slice of a series on disk, counted from the feet."""
    path = folder / f"slice_{number + 1:04d}.dcm"
    dataset = pydicom.dcmread(path)
    edit(dataset)
    write_dicom(dataset, str(path))


def nifti(path: Path, values: np.ndarray, affine: np.ndarray, codes: tuple[int, int] = (1, 0)) -> Path:
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    nib.save(image, path)
    return path


def one_line(error: pytest.ExceptionInfo[CTError], path: Path) -> str:
    text = str(error.value)
    assert str(path) in text and "\n" not in text and error.value.cure in text
    return text


@pytest.mark.parametrize("name", ["a", "a.nii", "a.nii.gz"])
def test_what_is_written_is_read_back_exactly(tmp_path: Path, name: str) -> None:
    body_part = "ABDOMEN" if name == "a" else None
    path = write_ct(tmp_path / "new" / name, hu(), SPACING, body_part=body_part, **FACTS)
    volume = read_ct(path)
    assert volume.slices.dtype == np.float32
    np.testing.assert_array_equal(volume.slices, hu())
    assert volume.spacing == pytest.approx(SPACING)
    assert volume.affine is not None
    again = write_ct(tmp_path / f"second_{name}", volume.slices, volume.spacing, affine=volume.affine)
    np.testing.assert_allclose(read_ct(again).affine, volume.affine, atol=1e-4)


def test_hu_that_are_not_whole_stay_so_in_nifti_and_are_rounded_in_dicom(tmp_path: Path) -> None:
    values = hu() + 0.25
    np.testing.assert_array_equal(read_ct(write_ct(tmp_path / "a.nii", values, SPACING)).slices, values)
    np.testing.assert_array_equal(read_ct(write_ct(tmp_path / "a", values, SPACING)).slices, hu())


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a"])
def test_same_input_same_bytes(tmp_path: Path, name: str) -> None:
    first, again, other = (
        write_ct(tmp_path / folder / name, hu(), SPACING, **{**FACTS, "seed": seed})
        for folder, seed in (("1", 7), ("2", 7), ("3", 8))
    )
    files = [sorted(path.iterdir()) if path.is_dir() else [path] for path in (first, again, other)]
    contents = [[file.read_bytes() for file in some] for some in files]
    assert contents[0] == contents[1] != contents[2]


def test_the_series_says_synthetic_and_nothing_that_nobody_gave(tmp_path: Path) -> None:
    slices = [pydicom.dcmread(file) for file in sorted(series(tmp_path / "a", **FACTS).iterdir())]
    first = slices[0]
    assert first.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2" and first.Modality == "CT"
    assert all(one[0x0008001C].value == "YES" for one in slices)
    assert list(first.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert all(word in first.DerivationDescription for word in ("seed 7", "ab12" * 16, "cd34" * 16))
    assert str(first.PatientName) == "SYNTHETIC^NOT A PATIENT" and first.StudyDate == ""
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert len({one[keyword].value for one in slices}) == 1
    assert len({one.SOPInstanceUID for one in slices}) == SHAPE[0] and first.SOPInstanceUID.is_valid
    assert [one.InstanceNumber for one in slices] == [1, 2, 3, 4, 5]
    assert [float(one.ImagePositionPatient[2]) for one in slices] == [0, 2.5, 5, 7.5, 10]
    assert (first.RescaleIntercept, first.RescaleSlope, first.RescaleType) == (-1024, 1, "HU")
    assert float(first.SliceThickness) == 2.5 and first.KVP is None and first.PatientPosition == ""
    other = pydicom.dcmread(write_ct(tmp_path / "b", hu(seed=1), SPACING) / "slice_0001.dcm")
    assert other.PatientID != first.PatientID and "BodyPartExamined" not in other
    invented = ("ExposureTime", "XRayTubeCurrent", "ConvolutionKernel", "StationName", "GantryDetectorTilt")
    assert not [name for name in invented if name in first]


def test_nifti_is_marked(tmp_path: Path) -> None:
    for path in (
        write_ct(tmp_path / "a.nii.gz", hu(), SPACING, **FACTS),
        write_ct_mask(tmp_path / "m.nii.gz", np.ones(SHAPE), SPACING),
    ):
        header = nib.load(path).header
        assert header["descrip"].item().decode().startswith("SYNTHETIC")
        assert "not of a patient" in header.extensions[0].get_content().decode()
    assert nib.load(tmp_path / "a.nii.gz").get_data_dtype() == np.int16


def test_the_series_conforms_and_other_readers_agree(tmp_path: Path) -> None:
    folder = series(tmp_path / "a", **FACTS)
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    for file in sorted(folder.iterdir()):
        run = subprocess.run(["dciodvfy", "-new", str(file)], capture_output=True, check=False, timeout=60)
        lines = (run.stdout + run.stderr).decode(errors="replace").splitlines()
        # It is older than (0008,001C).
        assert "CTImage" in lines and not [x for x in lines if x.startswith("Error") and "(0008,001c)" not in x]
    itk = pytest.importorskip("itk")
    names = itk.GDCMSeriesFileNames.New()
    names.SetDirectory(str(folder))
    (uid,) = names.GetSeriesUIDs()
    image = itk.imread(list(names.GetFileNames(uid)))
    np.testing.assert_array_equal(itk.array_from_image(image), hu())
    volume = read_ct(folder)
    assert volume.affine is not None
    np.testing.assert_allclose(list(image.GetSpacing()), SPACING[::-1])
    np.testing.assert_allclose(list(image.GetOrigin()), volume.affine[:3, 3] * [-1, -1, 1])  # ITK counts as DICOM
    nifti_image = itk.imread(str(write_ct(tmp_path / "a.nii", hu(), SPACING)))
    np.testing.assert_array_equal(itk.array_from_image(nifti_image), hu())
    np.testing.assert_allclose(list(nifti_image.GetOrigin()), list(image.GetOrigin()), atol=1e-4)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAI", "SRP", "PIR", "ASL"])
def test_nifti_of_any_orientation_is_the_same_volume(tmp_path: Path, axes: str) -> None:
    volume = read_ct(write_ct(tmp_path / "a.nii", hu(), SPACING))
    image = nib.load(tmp_path / "a.nii")
    target = nib.orientations.axcodes2ornt(axes)
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), target))
    nib.save(turned, tmp_path / "b.nii")
    other = read_ct(tmp_path / "b.nii")
    np.testing.assert_array_equal(other.slices, volume.slices)
    assert other.spacing == pytest.approx(SPACING)
    np.testing.assert_allclose(other.affine, volume.affine, atol=1e-4)


def test_a_mark_at_the_patients_left_front_is_at_the_upper_right(tmp_path: Path) -> None:
    values = np.full((40, 48, 6), -1000, np.int16)  # right, anterior, superior
    values[4, 40, 5] = 500
    path = nifti(tmp_path / "a.nii", values, np.diag([1.0, 1.0, 3.0, 1.0]))
    volume = read_ct(path)
    assert volume.slices.shape == (6, 48, 40)
    assert np.argwhere(volume.slices == 500).tolist() == [[5, 7, 35]]


def test_a_slight_tilt_stays_and_an_oblique_volume_is_refused(tmp_path: Path) -> None:
    def tilted(degrees: float) -> np.ndarray:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1.0]])

    values = hu((40, 40, 5)).astype(np.int16)
    slight = read_ct(nifti(tmp_path / "a.nii", values, tilted(5)))
    assert slight.slices.shape == (5, 40, 40)
    with pytest.raises(CTError, match=r"oblique slices, 25 degrees .* resample") as error:
        read_ct(nifti(tmp_path / "b.nii", values, tilted(25)))
    one_line(error, tmp_path / "b.nii")


def test_nifti_of_unknown_or_contradicting_orientation_is_refused(tmp_path: Path) -> None:
    values, affine = hu((40, 40, 5)).astype(np.int16), np.diag([1.0, 1.0, 2.0, 1.0])
    with pytest.raises(CTError, match="neither sform nor qform"):
        read_ct(nifti(tmp_path / "a.nii", values, affine, (0, 0)))
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine @ np.diag([-1.0, -1.0, 1.0, 1.0]), 1)
    nib.save(image, tmp_path / "b.nii")
    with pytest.raises(CTError, match="sform and qform name different axes"):
        read_ct(tmp_path / "b.nii")
    assert read_ct(nifti(tmp_path / "c.nii", values, affine, (0, 1))).spacing == (2.0, 1.0, 1.0)


def test_nifti_that_is_no_volume_of_hu_is_refused(tmp_path: Path) -> None:
    affine = np.eye(4)
    cases = {
        "series of volumes": np.zeros((40, 40, 5, 2), np.int16),
        "no volume": np.zeros((40, 40), np.int16),
        "not all finite": np.full((40, 40, 5), np.nan, np.float32),
        "the same value": np.zeros((40, 40, 5), np.int16),
        "axial slices of 8 x 40": np.zeros((40, 8, 5), np.int16),
    }
    for reason, values in cases.items():
        with pytest.raises(CTError, match=reason) as error:
            read_ct(nifti(tmp_path / "a.nii", values, affine))
        one_line(error, tmp_path / "a.nii")
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(b"nothing"))
    with pytest.raises(CTError, match="not a readable NIfTI"):
        read_ct(tmp_path / "b.nii.gz")
    with pytest.raises(CTError, match="no such file or folder"):
        read_ct(tmp_path / "none.nii")


def test_slices_are_sorted_by_position_whatever_their_names_and_numbers(tmp_path: Path) -> None:
    folder = series(tmp_path / "a")
    for number, name in enumerate(("9", "z", "1", "m", "0")):
        change(folder, number, lambda one, name=name: setattr(one, "InstanceNumber", ord(name)))
        (folder / f"slice_{number + 1:04d}.dcm").rename(folder / name)
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "readme.txt").write_text("not an image")
    volume = read_ct(folder)
    np.testing.assert_array_equal(volume.slices, hu())
    assert volume.spacing == pytest.approx(SPACING)


def test_a_series_from_head_to_feet_and_mirrored_rows_comes_out_the_same(tmp_path: Path) -> None:
    folder = series(tmp_path / "a")
    for number in range(SHAPE[0]):

        def mirror(one: pydicom.Dataset) -> None:
            one.PixelData = one.pixel_array[:, ::-1].tobytes()
            one.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
            x, y, z = (float(part) for part in one.ImagePositionPatient)
            one.ImagePositionPatient = [x + 55 * 0.9, y, z]

        change(folder, number, mirror)
    np.testing.assert_array_equal(read_ct(folder).slices, hu())


def test_compressed_slices_rescale_and_padding(tmp_path: Path) -> None:
    folder = series(tmp_path / "a")

    def compress(one: pydicom.Dataset) -> None:
        stored = one.pixel_array.copy()
        stored[0, :3] = -2000
        one.PixelPaddingValue = -2000
        one["PixelPaddingValue"].VR = "SS"
        one.PixelData = stored.tobytes()
        one.RescaleSlope, one.RescaleIntercept = 2, -1000
        one.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)

    if int(pydicom.__version__.split(".")[0]) < 3:
        pytest.skip("pydicom 2 compresses with other arguments")
    for number in range(SHAPE[0]):
        change(folder, number, compress)
    volume = read_ct(folder)
    wanted = (hu() + 1024) * 2 - 1000
    wanted[:, 0, :3] = -1024
    np.testing.assert_array_equal(volume.slices, wanted)
    assert volume.meta["transfer_syntax"] == RLELossless


def test_no_identity_leaves_a_series(tmp_path: Path) -> None:
    folder = series(tmp_path / "a")

    def name(one: pydicom.Dataset) -> None:
        one.PatientName = one.PatientID = one.SeriesDescription = "SECRET"
        one.BodyPartExamined = "SECRET"

    for number in range(SHAPE[0]):
        change(folder, number, name)
    assert set(read_ct(folder).meta) == {"format", "modality", "transfer_syntax", "slice_thickness"}
    change(folder, 2, lambda one: setattr(one, "Modality", "SECRET"))
    with pytest.raises(CTError, match="Modality unknown") as error:
        read_ct(folder)
    assert "SECRET" not in str(error.value)


def _drop(one: pydicom.Dataset, keyword: str) -> None:
    delattr(one, keyword)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda one: setattr(one, "SeriesInstanceUID", generate_uid()), "slice_0003.dcm: of another series"),
        (lambda one: setattr(one, "ImagePositionPatient", [-24.75, -13.65, 2.5]), "lie at the same place"),
        (lambda one: setattr(one, "PixelSpacing", [0.7, 0.8]), "another pixel spacing than slice_0001"),
        (lambda one: setattr(one, "ImageOrientationPatient", [1, 0, 0, 0, 0.96, 0.28]), "another orientation"),
        (lambda one: setattr(one, "Modality", "MR"), "slice_0003.dcm: not a CT slice"),
        (lambda one: setattr(one, "RescaleType", "US"), "RescaleType"),
        (lambda one: setattr(one, "BurnedInAnnotation", "YES"), "BurnedInAnnotation"),
        (lambda one: setattr(one, "NumberOfFrames", 2), "multi-frame"),
        (lambda one: _drop(one, "ImagePositionPatient"), "no ImagePositionPatient"),
        (lambda one: _drop(one, "PixelData"), "no pixel data"),
        (lambda one: setattr(one, "PixelData", one.PixelData[:100]), "100 of its 4480 bytes"),
    ],
)
def test_a_series_that_is_not_one_volume_is_refused(
    tmp_path: Path, edit: Callable[[pydicom.Dataset], None], reason: str
) -> None:
    folder = series(tmp_path / "a")
    change(folder, 2, edit)
    with pytest.raises(CTError, match=reason) as error:
        read_ct(folder)
    one_line(error, folder)


def test_a_gap_is_refused_and_uneven_steps_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = series(tmp_path / "a")
    change(folder, 4, lambda one: setattr(one, "ImagePositionPatient", [-24.75, -13.65, 10.3]))
    with caplog.at_level(logging.WARNING):
        assert len(read_ct(folder).slices) == SHAPE[0]
    assert [record.getMessage() for record in caplog.records] == ["slices are 2.50 to 2.80 mm apart: taken as even"]
    (folder / "slice_0003.dcm").unlink()
    with pytest.raises(CTError, match=r"gap of 5.00 mm between slice_0002.dcm and slice_0004.dcm") as error:
        read_ct(folder)
    one_line(error, folder)


def test_a_localizer_is_left_out_and_a_single_slice_has_its_thickness(tmp_path: Path) -> None:
    folder = series(tmp_path / "a", thickness=2.0)
    change(folder, 4, lambda one: setattr(one, "ImageType", ["DERIVED", "PRIMARY", "LOCALIZER"]))
    assert len(read_ct(folder).slices) == SHAPE[0] - 1
    single = read_ct(folder / "slice_0002.dcm")
    assert single.slices.shape == (1, 40, 56) and single.spacing == pytest.approx((2.0, 0.7, 0.9))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CTError, match="no DICOM CT slices"):
        read_ct(empty)


@pytest.mark.parametrize(
    ("name", "values", "options", "reason"),
    [
        ("a.mha", hu(), {}, "ending"),
        ("a.nii", hu()[0], {}, "shape"),
        ("a.nii", hu() * np.nan, {}, "finite"),
        ("a", hu() * 100, {}, "clip them"),
        ("a", hu(), {"thickness": 0}, "thickness 0"),
        ("a", hu(), {"body_part": "TAIL"}, "body_part 'TAIL'"),
        ("a", hu(), {"affine": np.eye(4)}, "not that of axial slices"),
        ("a", hu(), {"affine": np.diag([-1.0, -1, 1, 1])}, "has the spacing"),
    ],
)
def test_bad_slices_are_refused_and_nothing_is_left(
    tmp_path: Path, name: str, values: np.ndarray, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CTError, match=reason):
        write_ct(tmp_path / name, values, SPACING, **options)
    with pytest.raises(CTError, match="three positive numbers"):
        write_ct(tmp_path / "b.nii", hu(), (1, 0, 1))
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    folder, file = series(tmp_path / "a"), write_ct(tmp_path / "a.nii", hu(), SPACING)
    with pytest.raises(CTError, match="the folder exists"):
        write_ct(folder, hu(seed=1), SPACING, overwrite=True)
    with pytest.raises(CTError, match="the file exists"):
        write_ct(file, hu(seed=1), SPACING)
    np.testing.assert_array_equal(read_ct(write_ct(file, hu(seed=1), SPACING, overwrite=True)).slices, hu(seed=1))


def test_a_mask_lies_on_its_image_or_is_refused(tmp_path: Path) -> None:
    image = read_ct(write_ct(tmp_path / "a.nii", hu(), SPACING))
    labels = np.random.default_rng(1).integers(0, 4, SHAPE)
    path = write_ct_mask(tmp_path / "m.nii", labels, SPACING)
    np.testing.assert_array_equal(read_ct_mask(path, image, n_labels=4), labels)
    with pytest.raises(CTError, match=r"label 3 is out of range; use labels from 0 to 2") as error:
        read_ct_mask(path, image, n_labels=3)
    one_line(error, path)
    with pytest.raises(CTError, match=r"4 x 40 x 56 voxels, but its image has 5 x 40 x 56; resample"):
        read_ct_mask(write_ct_mask(tmp_path / "n.nii", labels[:4], SPACING), image)
    assert image.affine is not None
    moved = image.affine.copy()
    moved[2, 3] += 5.0
    with pytest.raises(CTError, match=r"another place in space than its image, a corner is 2.0 voxels off"):
        read_ct_mask(write_ct_mask(tmp_path / "o.nii", labels, SPACING, affine=moved), image)
    shares = nifti(tmp_path / "p.nii", np.full((56, 40, 5), 0.5, np.float32), image.affine)
    with pytest.raises(CTError, match="not whole numbers"):
        read_ct_mask(shares, image)
    with pytest.raises(CTError, match="not a NIfTI file"):
        read_ct_mask(tmp_path / "m.png", image)


def test_a_flipped_mask_is_brought_to_its_image(tmp_path: Path) -> None:
    image = read_ct(write_ct(tmp_path / "a.nii", hu(), SPACING))
    labels = np.random.default_rng(1).integers(0, 3, SHAPE)
    mask = nib.load(write_ct_mask(tmp_path / "m.nii", labels, SPACING))
    nib.save(nib.as_closest_canonical(mask), tmp_path / "ras.nii")
    np.testing.assert_array_equal(read_ct_mask(tmp_path / "ras.nii", image), labels)


def test_windows() -> None:
    abdomen = HUWindow.of("abdomen")
    assert (abdomen.low, abdomen.high) == (-160, 240) == (HUWindow.centred(40, 400).low, HUWindow.centred(40, 400).high)
    np.testing.assert_allclose(abdomen.to_unit(np.array([-2000, -160, 40, 240, 9000])), [0, 0, 0.5, 1, 1])
    inside = np.linspace(-160, 240, 50)
    np.testing.assert_allclose(abdomen.to_hu(abdomen.to_unit(inside)), inside, atol=1e-3)
    assert {"abdomen", "lung", "bone"} <= set(HU_WINDOWS)
    for low, high in ((1, 1), (2, 1), (np.nan, 1), (0, np.inf)):
        with pytest.raises(ValueError, match="lower one first"):
            HUWindow(low, high)
    with pytest.raises(ValueError, match="'brain' is unknown: choose one of abdomen"):
        HUWindow.of("brain")


def test_arrays(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", hu=hu().astype(np.int16), patient=np.array(["p", "q", "p", "q", "r"]))
    volume = read_ct(tmp_path / "a.npz")
    np.testing.assert_array_equal(volume.slices, hu())
    assert volume.spacing is None and volume.affine is None
    items = find_ct(tmp_path)
    assert sorted(item.rows for item in items if item.rows) == [(0, 2), (1, 3), (4,)]
    case = read_ct_item(next(item for item in items if item.rows == (1, 3)))
    np.testing.assert_array_equal(case.slices, hu()[[1, 3]])
    np.savez(tmp_path / "b.npz", hu=hu(), spacing=np.array(SPACING))
    assert read_ct(tmp_path / "b.npz").spacing == SPACING
    for content, reason in (
        ({"x": hu()}, "no array 'hu'"),
        ({"hu": np.array([None])}, "not a readable"),
        ({"hu": hu()[0]}, "shape"),
    ):
        np.savez(tmp_path / "c.npz", **content)
        with pytest.raises(CTError, match=reason):
            read_ct(tmp_path / "c.npz")


def lits(root: Path, volumes: tuple[int, ...], masks: tuple[int, ...]) -> Path:
    for number in volumes:
        write_ct(root / "batch 1" / f"volume-{number}.nii", hu(seed=number), SPACING)
    for number in masks:
        write_ct_mask(root / "batch 2" / f"segmentation-{number}.nii", np.zeros(SHAPE), SPACING)
    return root


def test_lits(tmp_path: Path) -> None:
    items = find_ct(lits(tmp_path / "a", (0, 2, 10), (0, 2, 10)), needs=("mask",))
    assert [item.image.name for item in items] == ["volume-0.nii", "volume-2.nii", "volume-10.nii"]
    assert [item.mask.name for item in items if item.mask] == [f"segmentation-{n}.nii" for n in (0, 2, 10)]
    assert len({item.patient for item in items}) == 3
    case = read_ct_item(items[1], n_labels=3)
    assert case.mask is not None and case.mask.shape == case.slices.shape == SHAPE and case.in_hu
    with pytest.raises(DatasetError, match=r"volume-1.nii: its partner segmentation-1.nii is missing; add it"):
        find_ct(lits(tmp_path / "b", (0, 1), (0,)))
    with pytest.raises(DatasetError, match=r"segmentation-3.nii: its partner volume-3.nii is missing"):
        find_ct(lits(tmp_path / "c", (0,), (0, 3)))
    assert find_ct(lits(tmp_path / "d", (0, 1), ()))[0].mask is None
    with pytest.raises(DatasetError, match=r"volume-0.nii: has no mask partner"):
        find_ct(tmp_path / "d", needs=("mask",))


def test_ldct_and_projection_data(tmp_path: Path) -> None:
    for patient in ("L004", "C016"):
        study = tmp_path / "LDCT" / patient / "08-21-2018-84608"
        for name, seed in (("1.000000-Full Dose Images-71581", 0), ("1.000000-Low Dose Images-93149", 1)):
            write_ct(study / name.replace(".", "_"), hu(seed=seed), SPACING)
            (study / name.replace(".", "_")).rename(study / name)
        (study / "1.000000-Full dose projections-24362").mkdir()
        shutil.copy(
            next((study / "1.000000-Full Dose Images-71581").iterdir()), study / "1.000000-Full dose projections-24362"
        )
    items = find_ct(tmp_path / "LDCT", needs=("low_dose",))
    assert [item.image.parents[1].name for item in items] == ["C016", "L004"]
    case = read_ct_item(items[0])
    np.testing.assert_array_equal(case.slices, hu())
    np.testing.assert_array_equal(case.low_dose, hu(seed=1))
    low = items[0].low_dose
    assert low is not None
    (low / "slice_0005.dcm").unlink()
    with pytest.raises(CTError, match=r"Low Dose.*4 x 40 x 56 voxels, but its image has 5 x 40 x 56; give"):
        read_ct_item(items[0])
    shutil.rmtree(low)
    with pytest.raises(DatasetError, match="Full Dose Images-71581: the series 'Low Dose Images' of the same patient"):
        find_ct(tmp_path / "LDCT")


def test_named_files_pairs_of_pictures_and_plain_series(tmp_path: Path) -> None:
    write_ct(tmp_path / "p1_ct.nii.gz", hu(), SPACING)
    write_ct(tmp_path / "p1_lowdose.nii.gz", hu(seed=1), SPACING)
    write_ct_mask(tmp_path / "p1_seg104.nii.gz", np.zeros(SHAPE), SPACING)
    write_ct_mask(tmp_path / "p1_aorta.nii.gz", np.zeros(SHAPE), SPACING)
    for what in ("highdose", "lowdose"):
        picture = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"C1_0002_{what}.png")
    series(tmp_path / "scans" / "first")
    named, pair, plain = find_ct(tmp_path)
    assert named.mask and named.low_dose and list(named.organs) == ["aorta"] and plain.image.name == "first"
    assert not pair.in_hu and read_ct_item(pair).slices.shape == (1, 40, 40)
    Image.fromarray(picture[:, :36]).save(tmp_path / "C1_0002_lowdose.png")
    with pytest.raises(CTError, match=r"40 x 36 pixels, but C1_0002_highdose.png has 40 x 40"):
        read_ct_item(pair)
    (tmp_path / "C1_0002_lowdose.png").unlink()
    with pytest.raises(DatasetError, match=r"its partner C1_0002_lowdose.png is missing"):
        find_ct(tmp_path)
    (tmp_path / "C1_0002_highdose.png").unlink()
    (tmp_path / "p1_ct.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"its image p1_ct.nii.gz is missing"):
        find_ct(tmp_path)


def test_a_folder_without_ct_and_unknown_needs(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no CT in a layout that is known"):
        find_ct(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        find_ct(tmp_path / "none")
    with pytest.raises(ValueError, match="choose of mask, low_dose"):
        find_ct(tmp_path, needs=("masks",))


def test_real_volumes_lie_as_anatomy_does(shared_data: Path) -> None:
    items = {item.image.name: item for item in find_ct(shared_data / "ct") if item.rows is None}
    case = read_ct_item(items["ts_abdomen_thorax_sm_ct.nii.gz"], n_labels=118)
    assert case.mask is not None and case.slices.shape == (30, 101, 122) and case.spacing == pytest.approx((3, 3, 3))
    liver, spleen, lung = (np.argwhere(np.isin(case.mask, some)).mean(axis=0) for some in ([5], [1], range(10, 15)))
    assert liver[2] < spleen[2] and lung[0] > liver[0] and liver[1] < spleen[1]  # right, above, in front
    assert 30 < case.slices[case.mask == 5].mean() < 130
    aorta = items["ts_aorta_ct.nii.gz"]
    image = read_ct(aorta.image)
    organs = {name: read_ct_mask(path, image) for name, path in aorta.organs.items()}
    vertebra, vessel = (np.argwhere(organs[name]).mean(axis=0) for name in ("vertebrae_T12", "aorta"))
    assert vessel[1] < vertebra[1]  # the aorta runs before the spine
    pairs = [item for item in items.values() if not item.in_hu]
    assert len(pairs) == 5 and len({item.patient for item in pairs}) == 2


def test_real_thoracic_slices_are_hu_of_many_patients(shared_data: Path) -> None:
    items = [item for item in find_ct(shared_data / "ct") if item.rows is not None]
    volume = read_ct(shared_data / "ct" / "tcga_slices_256.npz")
    assert isinstance(volume, CTVolume) and volume.slices.shape == (80, 256, 256)
    assert sorted(row for item in items for row in item.rows or ()) == list(range(80))
    assert -1024 <= volume.slices.min() < -900 and np.median(volume.slices[:, 100:150, 100:150]) > -1000


def test_what_nifti_has_no_place_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CTError, match=r"no place for thickness and body_part.*; leave them out"):
        write_ct(tmp_path / "a.nii", np.zeros((2, 8, 8), np.float32), (1.0, 1.0, 1.0), thickness=1.0)
    assert not (tmp_path / "a.nii").exists()
