"""Writing synthetic radiographs: round trips, the marks inside the files, conformance, whole files or none."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from anatodiff.data import RadiographError, read_radiograph, write_radiograph

ENDINGS = (".dcm", ".png", ".nii", ".nii.gz")
HALF_STEP = {".dcm": 0.5 / 4095, ".png": 0.5 / 65535, ".nii": 1e-7, ".nii.gz": 1e-7}
FACTS = {"seed": 7, "weights_hash": "ab12" * 16, "label": "tüberculosis"}


def pixels() -> np.ndarray:
    values = np.random.default_rng(0).random((40, 56))
    values[0, :2] = 0.0, 1.0
    return values


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("spacing", [None, (0.2, 0.35)])
def test_round_trip(tmp_path: Path, ending: str, spacing: tuple[float, float] | None) -> None:
    path = write_radiograph(tmp_path / f"new/a{ending}", pixels(), spacing=spacing, **FACTS)
    read = read_radiograph(path)
    np.testing.assert_allclose(read.pixels, pixels(), atol=HALF_STEP[ending] + 1e-7)
    assert read.spacing == (None if spacing is None else pytest.approx(spacing))


@pytest.mark.parametrize("ending", ENDINGS)
def test_values_that_do_not_fill_the_range_come_back_unstretched(tmp_path: Path, ending: str) -> None:
    path = write_radiograph(tmp_path / f"a{ending}", 0.3 + 0.2 * pixels())
    np.testing.assert_allclose(read_radiograph(path).pixels, 0.3 + 0.2 * pixels(), atol=HALF_STEP[ending] + 1e-7)


@pytest.mark.parametrize("ending", ENDINGS)
def test_same_input_same_bytes_and_another_seed_other_bytes(tmp_path: Path, ending: str) -> None:
    first = write_radiograph(tmp_path / f"a{ending}", pixels(), **FACTS).read_bytes()
    again = write_radiograph(tmp_path / f"b{ending}", pixels(), **FACTS).read_bytes()
    other = write_radiograph(tmp_path / f"c{ending}", pixels(), **{**FACTS, "seed": 8}).read_bytes()
    assert first == again != other


def test_dicom_says_synthetic_and_where_it_comes_from(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_radiograph(tmp_path / "a.dcm", pixels(), description="chest radiograph", **FACTS))
    assert dataset[0x0008001C].value == "YES"
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert (dataset.Modality, dataset.ConversionType, dataset.BurnedInAnnotation) == ("OT", "SYN", "NO")
    assert list(dataset.ImageType) == ["DERIVED", "SECONDARY"]
    assert (dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit) == (16, 12, 11)
    assert dataset.SeriesDescription == "SYNTHETIC chest radiograph"
    assert all(word in dataset.DerivationDescription for word in ("seed 7", "ab12" * 16, "tüberculosis"))
    purpose = dataset.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0]
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109100", "DCM")
    assert "SYNTHETIC" in str(dataset.PatientName) and dataset.StudyDate == ""


def test_dicom_uids_are_valid_and_differ_between_images(tmp_path: Path) -> None:
    one = pydicom.dcmread(write_radiograph(tmp_path / "1.dcm", pixels(), seed=1))
    two = pydicom.dcmread(write_radiograph(tmp_path / "2.dcm", pixels(), seed=2))
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        assert one[keyword].value.is_valid and one[keyword].value != two[keyword].value
    assert one.PatientID != two.PatientID
    assert len({one.SOPInstanceUID, one.StudyInstanceUID, one.SeriesInstanceUID}) == 3
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID


def test_png_and_nifti_are_marked(tmp_path: Path) -> None:
    with Image.open(write_radiograph(tmp_path / "a.png", pixels(), **FACTS)) as image:
        assert image.mode.startswith("I;16")
        assert image.text["synthetic"] == "yes"  # type: ignore[attr-defined]
        assert image.text["label"] == "tüberculosis" and image.text["seed"] == "7"  # type: ignore[attr-defined]
    header = nib.load(write_radiograph(tmp_path / "a.nii.gz", pixels(), **FACTS)).header
    assert header["descrip"].item().startswith(b"SYNTHETIC")
    assert b"seed 7" in header.extensions[0].get_content()


def test_dicom_passes_the_conformance_checker(tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    path = write_radiograph(tmp_path / "a.dcm", pixels(), spacing=(0.2, 0.3), **FACTS)
    lines = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False).stderr.splitlines()
    assert "SCImage" in lines
    errors = [line for line in lines if line.startswith("Error") and "0x0008,0x001c" not in line]
    assert errors == []  # (0008,001C) Synthetic Data is newer than the checker


@pytest.mark.parametrize(
    ("name", "values", "options", "reason"),
    [
        ("a.jpg", pixels(), {}, "ending"),
        ("a", pixels(), {}, "ending"),
        ("a.png", pixels()[None], {}, "shape"),
        ("a.png", pixels() + 0.5, {}, "clip"),
        ("a.dcm", np.full((40, 40), np.nan), {}, "finite"),
        ("a.dcm", pixels(), {"spacing": (0.1, 0.0)}, "spacing"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_left(
    tmp_path: Path, name: str, values: np.ndarray, options: dict, reason: str
) -> None:
    with pytest.raises(RadiographError, match=reason):
        write_radiograph(tmp_path / name, values, **options)
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_kept_unless_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    with pytest.raises(RadiographError, match="exists"):
        write_radiograph(path, pixels())
    assert path.read_bytes() == b"precious"
    write_radiograph(path, pixels(), overwrite=True)
    assert read_radiograph(path).pixels.shape == (40, 56)


def test_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_radiograph(tmp_path / "a.dcm", pixels())
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_radiograph(path, 1 - pixels(), overwrite=True)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
