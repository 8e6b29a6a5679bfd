"""Writing synthetic radiographs: round trips, the marks inside the files, conformance, whole files or none."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.datadict import tag_for_keyword
from support import ROOT

from anatodiff.data import DicomSettings, RadiographError, read_radiograph, write_radiograph
from anatodiff.data.dicom_synthetic import REGIONS

ENDINGS = (".dcm", ".png", ".nii", ".nii.gz")
HALF_STEP = {".dcm": 0.5 / 4095, ".png": 0.5 / 65535, ".nii": 1e-7, ".nii.gz": 1e-7}
CHEST = DicomSettings("DX", "CHEST", orientation=("L", "F"))
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


def test_dx_is_written_only_when_asked_and_says_what_it_must(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_radiograph(tmp_path / "a.dcm", pixels(), spacing=(0.2, 0.3), dicom=CHEST, **FACTS))
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1.1"
    assert (dataset.Modality, dataset.PresentationIntentType) == ("DX", "FOR PRESENTATION")
    assert list(dataset.ImageType) == ["DERIVED", "SECONDARY", ""]
    assert (dataset.ImageLaterality, list(dataset.PatientOrientation)) == ("U", ["L", "F"])
    assert dataset.AnatomicRegionSequence[0].CodeMeaning == "Chest"
    assert list(dataset.ImagerPixelSpacing) == [0.2, 0.3]
    assert dataset.DetectorType == ""
    assert dataset[0x0008001C].value == "YES"
    invented = (
        "KVP",
        "ExposureTime",
        "XRayTubeCurrent",
        "DetectorID",
        "DeviceSerialNumber",
        "StationName",
        "PixelSpacing",
    )
    assert not [name for name in invented if name in dataset]


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ({"sop_class": "CR"}, "dicom_class must be one of"),
        ({"body_part": "TAIL"}, "body_part must be null or one of ABDOMEN"),
        ({"laterality": "X"}, "laterality must be null or one of"),
        ({"body_part": "CHEST", "laterality": "L"}, "does not go with body_part 'CHEST'"),
        ({"body_part": "HAND", "laterality": "U"}, "does not go with body_part 'HAND'"),
        ({"orientation": ["L", "R"]}, "across each other"),
        ({"orientation": ["L"]}, "across each other"),
        ({"sop_class": "DX", "body_part": "HAND", "orientation": ["L", "F"]}, "set laterality to R, L, B or U"),
        ({"sop_class": "DX", "body_part": "CHEST"}, "set patient_orientation"),
    ],
)
def test_anatomy_that_is_wrong_or_lacking_is_refused(given: dict[str, Any], cure: str) -> None:
    with pytest.raises(ValueError, match=cure):
        DicomSettings(**given)


def test_a_code_for_each_region_is_that_of_the_dictionary() -> None:
    codes = pytest.importorskip("pydicom.sr").codes.cid4009
    if int(pydicom.__version__.split(".")[0]) < 3:
        pytest.skip("the dictionary of pydicom 2 is older than the codes")
    known = {getattr(codes, name).value: getattr(codes, name).meaning for name in codes.dir()}
    assert {code: known.get(code) for code, _ in REGIONS.values()} == dict(REGIONS.values())


@pytest.mark.parametrize("label", ["x" * 5000, "肺" * 5000, "a\\b\n\x00\x1b\u202ec", "\ud83d half", "", "$x @y %z"])
@pytest.mark.parametrize("dicom", [None, CHEST])
def test_a_label_never_costs_the_seed_or_the_hash(tmp_path: Path, label: str, dicom: DicomSettings | None) -> None:
    facts = {**FACTS, "label": label, "description": label, "recipe": "cd34" * 16}
    dataset = pydicom.dcmread(write_radiograph(tmp_path / "a.dcm", pixels(), spacing=(1, 1), dicom=dicom, **facts))
    assert all(word in dataset.DerivationDescription for word in ("seed 7", "ab12" * 16, "cd34" * 16))
    assert len(dataset.DerivationDescription.encode()) <= 1024
    assert len(dataset.SeriesDescription.encode()) <= 64 and dataset.SeriesDescription.startswith("SYNTHETIC")
    assert not set(str(dataset.ImageComments)) & set("\n\x00\x1b\u202e")
    if label == "x" * 5000:
        assert label in dataset.ImageComments  # whole
    with Image.open(write_radiograph(tmp_path / "a.png", pixels(), **facts)) as image:
        assert image.text["seed"] == "7"  # type: ignore[attr-defined]
    assert read_radiograph(write_radiograph(tmp_path / "a.nii.gz", pixels(), **facts)).pixels.shape == (40, 56)


def test_written_objects_pass_every_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    pytest.importorskip("gdcm")
    pytest.importorskip("itk")
    script, place = runpy.run_path(str(ROOT / "scripts" / "check_written.py")), str(tmp_path / "written")
    assert script["main"](["--count", "30", "--output_dir", place]) == 0
    printed = capsys.readouterr()
    assert printed.out.endswith(" s\n") and "     0  findings" in printed.out and printed.err == ""
    assert script["main"](["--count", "30", "--output_dir", place]) == 2
    assert "holds files already" in capsys.readouterr().err


def test_the_check_of_written_objects_finds_what_is_wrong(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "check_written.py"))
    path = write_radiograph(tmp_path / "a.dcm", pixels(), spacing=(0.2, 0.3), dicom=CHEST, **FACTS)
    dataset = pydicom.dcmread(path)
    assert script["missing"](dataset, "DX") == []
    del dataset.DetectorType
    dataset.ImageLaterality = ""
    del dataset.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeMeaning
    found = script["missing"](dataset, "DX")
    assert len(found) == 3 and all(
        word in " ".join(found) for word in ("DetectorType", "ImageLaterality", "CodeMeaning")
    )
    if shutil.which("dciodvfy") is not None:
        dataset.save_as(path)
        assert any("ImageLaterality" in line for line in script["conformance"](path, "DX")[0])


def test_the_table_of_attributes_is_that_of_gdcm() -> None:
    """GDCM ships the modules' tables (PS3.3 of 2008): what they call type 1 or 2, the table here has, too."""
    gdcm = pytest.importorskip("gdcm")
    tables = Path(gdcm.__file__).parent / "_gdcm" / "XML" / "Part3.xml"
    if not tables.is_file():
        pytest.skip("this GDCM comes without its tables")
    modules = {module.get("ref"): module for module in ElementTree.parse(tables).getroot().iter("module")}
    ours = json.loads((ROOT / "scripts" / "written_attributes.json").read_text())
    checked = 0
    for title, types in [pair for group in ("both", "SC", "DX") for pair in ours[group].items()]:
        if title.split()[0] not in modules or title.startswith("C.12.1"):  # of SOP Common, most is in sequences
            continue
        named = {tag_for_keyword(name.split("/")[0]): type_ for type_, names in types.items() for name in names}
        for entry in modules[title.split()[0]].iter("entry"):
            if entry.get("type") in ("1", "2") and not entry.get("name", "").startswith(">"):
                tag = int(entry.get("group", "") + entry.get("element", ""), 16)
                assert named.get(tag) in (entry.get("type"), "1"), (title, entry.get("name"))
                checked += 1
    assert checked > 30


@pytest.mark.parametrize(
    ("name", "values", "options", "reason"),
    [
        ("a.jpg", pixels(), {}, "ending"),
        ("a", pixels(), {}, "ending"),
        ("a.png", pixels()[None], {}, "shape"),
        ("a.png", pixels() + 0.5, {}, "clip"),
        ("a.dcm", np.full((40, 40), np.nan), {}, "finite"),
        ("a.dcm", pixels(), {"spacing": (0.1, 0.0)}, "spacing"),
        ("a.dcm", pixels(), {"spacing": 0.1}, "spacing"),
        ("a.dcm", pixels(), {"spacing": ["a", "b"]}, "spacing"),
        ("a.dcm", pixels(), {"dicom": CHEST}, "needs its pixel spacing"),
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
