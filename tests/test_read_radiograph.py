"""Reading radiographs: the DICOM display rules against hand-computed values, other formats, refusals, real files."""

from __future__ import annotations

import csv
import gzip
import math
import pickle
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from anatodiff.data import RadiographError, read_radiograph
from anatodiff.data.dicom_file import write_dicom

CR_CLASS = "1.2.840.10008.5.1.4.1.1.1"
DX_CLASS = "1.2.840.10008.5.1.4.1.1.1.1"
CAPTURE_CLASS = "1.2.840.10008.5.1.4.1.1.7"
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
PDF_CLASS = "1.2.840.10008.5.1.4.1.1.104.1"
ECG_CLASS = "1.2.840.10008.5.1.4.1.1.9.1.1"
SIDE = 32


def ramp() -> np.ndarray:
    """Stored values 0..1023, each once."""
    return np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)


def make_dicom(path: Path, stored: np.ndarray | None = None, **elements: object) -> Path:
    stored = ramp() if stored is None else stored
    dataset = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=bytes(128))
    dataset.SOPClassUID = elements.pop("SOPClassUID", CR_CLASS)
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.Modality = "CR"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[:2]
    bits = 8 * stored.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(np.issubdtype(stored.dtype, np.signedinteger))
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "SECRET-17"
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        elif isinstance(value, tuple):  # (VR, value) of an element whose VR depends on the pixels' sign
            dataset.add_new(pydicom.datadict.tag_for_keyword(keyword), *value)
        else:
            setattr(dataset, keyword, value)
    write_dicom(dataset, str(path))
    return path


def lut(data: list[int], first: int, bits: int = 16) -> Sequence:
    item = Dataset()
    item.add_new(0x00283002, "SS" if first < 0 else "US", [len(data), first, bits])
    item.add_new(0x00283006, "OW", np.asarray(data, dtype="<u2").tobytes())
    return Sequence([item])


def unit(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / (values.max() - values.min())


def test_without_a_window_the_pixel_range_is_shown(tmp_path: Path) -> None:
    read = read_radiograph(make_dicom(tmp_path / "a.dcm", PixelSpacing=[0.2, 0.3], ViewPosition="PA"))
    np.testing.assert_allclose(read.pixels, ramp() / 1023, atol=1e-6)
    assert read.pixels.dtype == np.float32
    assert read.spacing == (0.2, 0.3)
    assert read.meta["voi"] == "pixel range 0..1023"
    assert read.meta["view_position"] == "PA"


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME1", "INVERSE", True),  # said twice, done once
    ],
)
def test_polarity(tmp_path: Path, photometric: str, shape: str | None, inverted: bool) -> None:
    extra = {"PresentationLUTShape": shape} if shape else {}
    path = make_dicom(tmp_path / "a.dcm", SOPClassUID=DX_CLASS, PhotometricInterpretation=photometric, **extra)
    expected = ramp() / 1023
    np.testing.assert_allclose(read_radiograph(path).pixels, 1 - expected if inverted else expected, atol=1e-6)


def test_same_scene_in_both_polarities_is_displayed_alike(tmp_path: Path) -> None:
    window = {"WindowCenter": 400, "WindowWidth": 300}
    one = read_radiograph(make_dicom(tmp_path / "1", 1023 - ramp(), PhotometricInterpretation="MONOCHROME1"))
    two = read_radiograph(make_dicom(tmp_path / "2"))
    np.testing.assert_allclose(one.pixels, two.pixels, atol=1e-6)
    windowed = read_radiograph(make_dicom(tmp_path / "3", PhotometricInterpretation="MONOCHROME1", **window))
    plain = read_radiograph(make_dicom(tmp_path / "4", **window))
    np.testing.assert_allclose(windowed.pixels, 1 - plain.pixels, atol=1e-6)


# Values of x = 399, 400, 401 and of the ends, computed by hand from PS3.3 C.11.2.1.2 and C.11.2.1.3.
@pytest.mark.parametrize(
    ("function", "center", "width", "expected"),
    [
        ("LINEAR", 400, 101, {0: 0.0, 349: 0.0, 400: 0.505, 450: 1.0, 1023: 1.0}),
        ("LINEAR", 400, 1, {0: 0.0, 399: 0.0, 400: 1.0, 1023: 1.0}),
        ("LINEAR_EXACT", 400, 100, {0: 0.0, 350: 0.0, 375: 0.25, 400: 0.5, 450: 1.0}),
        ("LINEAR_EXACT", 400.25, 0.5, {400: 0.0, 401: 1.0}),
        ("SIGMOID", 400, 100, {400: 0.5, 425: 1 / (1 + math.exp(-1)), 375: 1 / (1 + math.exp(1)), 1023: 1.0}),
    ],
)
def test_window_functions(
    tmp_path: Path, function: str, center: float, width: float, expected: dict[int, float]
) -> None:
    path = make_dicom(tmp_path / "a.dcm", WindowCenter=center, WindowWidth=width, VOILUTFunction=function)
    pixels = read_radiograph(path).pixels.ravel()
    for value, level in expected.items():
        assert pixels[value] == pytest.approx(level, abs=1e-6)


def test_window_applies_after_the_rescale(tmp_path: Path) -> None:
    path = make_dicom(tmp_path / "a", RescaleSlope=2, RescaleIntercept=-100, WindowCenter=500.5, WindowWidth=1001)
    expected = np.clip((2.0 * ramp() - 100) / 1000, 0, 1)
    np.testing.assert_allclose(read_radiograph(path).pixels, expected, atol=1e-6)


def test_negative_slope_turns_the_image_over(tmp_path: Path) -> None:
    path = make_dicom(tmp_path / "a", RescaleSlope=-1, RescaleIntercept=1023)
    np.testing.assert_allclose(read_radiograph(path).pixels, 1 - ramp() / 1023, atol=1e-6)


def test_first_usable_window_is_taken_and_the_skipped_one_said(tmp_path: Path) -> None:
    path = make_dicom(tmp_path / "a", WindowCenter=[100, 512, 90], WindowWidth=[0, 1025, 10])
    read = read_radiograph(path)
    np.testing.assert_allclose(read.pixels, np.clip((ramp() - 511.5) / 1024 + 0.5, 0, 1), atol=1e-6)
    assert read.meta["voi"].startswith("window 512/1025 LINEAR (skipped window 100/0 LINEAR: width too small")


def test_window_made_for_other_values_is_skipped_and_said(tmp_path: Path) -> None:
    read = read_radiograph(make_dicom(tmp_path / "a", WindowCenter=-5000, WindowWidth=100))
    np.testing.assert_allclose(read.pixels, ramp() / 1023, atol=1e-6)
    assert "leaves one gray level" in read.meta["voi"]


def test_padding_is_black_and_outside_the_range(tmp_path: Path) -> None:
    stored = ramp() + 100
    stored[0] = 0
    read = read_radiograph(make_dicom(tmp_path / "a", stored, PixelPaddingValue=("US", 0)))
    np.testing.assert_allclose(read.pixels[1:], unit(stored[1:].astype(float)), atol=1e-6)
    inverted = make_dicom(tmp_path / "b", stored, PixelPaddingValue=("US", 0), PhotometricInterpretation="MONOCHROME1")
    assert (read_radiograph(inverted).pixels[0] == 0).all()
    assert read_radiograph(inverted).pixels[1, 0] == 1


def test_padding_range_and_sign(tmp_path: Path) -> None:
    stored = ramp().astype(np.int16)
    stored[0] = -2000
    stored[1] = -1990
    path = make_dicom(tmp_path / "a", stored, PixelPaddingValue=("SS", -2000), PixelPaddingRangeLimit=("SS", -1990))
    read = read_radiograph(path)
    assert (read.pixels[:2] == 0).all()
    np.testing.assert_allclose(read.pixels[2:], unit(ramp()[2:].astype(float)), atol=1e-6)
    # The same value in an unsigned element, as some devices write it.
    one = make_dicom(tmp_path / "b", np.where(stored == -1990, 5, stored), PixelPaddingValue=("US", 65536 - 2000))
    assert (read_radiograph(one).pixels[0] == 0).all()


def test_signed_pixels(tmp_path: Path) -> None:
    stored = ramp().astype(np.int16) - 500
    np.testing.assert_allclose(read_radiograph(make_dicom(tmp_path / "a", stored)).pixels, ramp() / 1023, atol=1e-6)


def test_unused_bits_do_not_count(tmp_path: Path) -> None:
    overlay = np.where(ramp() % 7 == 0, 0xF000, 0).astype(np.uint16)
    path = make_dicom(tmp_path / "a", ramp() | overlay, BitsStored=12, HighBit=11)
    np.testing.assert_allclose(read_radiograph(path).pixels, ramp() / 1023, atol=1e-6)
    narrow = ((ramp().astype(np.int16) - 512) & 0x0FFF).astype(np.int16)  # 12-bit two's complement, not extended
    signed = make_dicom(tmp_path / "b", narrow, BitsStored=12, HighBit=11)
    np.testing.assert_allclose(read_radiograph(signed).pixels, ramp() / 1023, atol=1e-6)


def test_modality_lut_sequence(tmp_path: Path) -> None:
    stored = ramp().astype(np.int16) - 512
    table = [round(value**0.5 * 100) for value in range(600)]  # shorter than the range: the ends are held
    path = make_dicom(tmp_path / "a", stored, ModalityLUTSequence=lut(table, -512))
    expected = unit(np.array(table, dtype=float)[np.clip(ramp(), 0, 599)])
    np.testing.assert_allclose(read_radiograph(path).pixels, expected, atol=1e-6)


def test_voi_lut_sequence_wins_over_the_window(tmp_path: Path) -> None:
    table = [min(value**2 // 256, 4095) for value in range(1024)]
    path = make_dicom(tmp_path / "a", VOILUTSequence=lut(table, 0, bits=12), WindowCenter=512, WindowWidth=10)
    read = read_radiograph(path)
    np.testing.assert_allclose(read.pixels, np.array(table).reshape(SIDE, SIDE) / 4095, atol=1e-6)
    assert read.meta["voi"] == "VOI LUT"


def test_voi_lut_applies_to_rescaled_values(tmp_path: Path) -> None:
    table = [0] * 100 + [255] * 100
    path = make_dicom(tmp_path / "a", RescaleSlope=0.5, RescaleIntercept=-40, VOILUTSequence=lut(table, 0, bits=8))
    expected = (0.5 * ramp() - 40 >= 99.5).astype(float)
    np.testing.assert_array_equal(read_radiograph(path).pixels, expected)


def test_bare_data_set_without_preamble_and_ending(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(make_dicom(tmp_path / "a.dcm"))
    whole = (tmp_path / "a.dcm").read_bytes()
    meta_length = struct.unpack("<I", whole[140:144])[0]
    bare = tmp_path / "IM0001"
    bare.write_bytes(whole[144 + meta_length :])
    assert dataset.Rows == SIDE
    np.testing.assert_allclose(read_radiograph(bare).pixels, ramp() / 1023, atol=1e-6)


def test_no_identity_in_the_result(tmp_path: Path) -> None:
    path = make_dicom(tmp_path / "jane.dcm", BodyPartExamined="CHEST", ViewPosition="Jane Doe 17.3.1970")
    read = read_radiograph(path)
    assert read.meta["body_part"] == "CHEST"
    assert not any(word in str(read.meta).lower() for word in ("jane", "doe", "secret", "1970"))


def test_spacing_falls_back_and_ignores_zero(tmp_path: Path) -> None:
    path = make_dicom(tmp_path / "a", PixelSpacing=[0, 0], ImagerPixelSpacing=[0.1, 0.15])
    assert read_radiograph(path).spacing == (0.1, 0.15)


REFUSED = {
    "NaN slope": ({"RescaleSlope": "nan", "RescaleIntercept": 0}, "rescale slope nan"),
    "zero slope": ({"RescaleSlope": 0, "RescaleIntercept": 0}, "rescale slope 0"),
    "CT": ({"SOPClassUID": CT_CLASS, "Modality": "CT"}, "CT Image Storage"),
    "MR capture": ({"SOPClassUID": CAPTURE_CLASS, "Modality": "MR"}, "not a projection radiograph \\(MR"),
    "XA": ({"SOPClassUID": CAPTURE_CLASS, "Modality": "XA"}, "not a projection radiograph \\(XA"),
    "PDF": ({"SOPClassUID": PDF_CLASS, "Modality": "DOC", "PixelData": None}, "Encapsulated PDF Storage"),
    "waveform": ({"SOPClassUID": ECG_CLASS, "Modality": "ECG", "PixelData": None}, "12-lead ECG Waveform Storage"),
    "no modality": ({"SOPClassUID": CAPTURE_CLASS, "Modality": ""}, "no Modality"),
    "no photometric": ({"PhotometricInterpretation": None}, "no PhotometricInterpretation"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour image"),
    "no pixels": ({"PixelData": None}, "no pixel data"),
    "truncated": ({"PixelData": b"\0\0" * 500}, "has 1000 of its 2048 bytes"),
    "frames": ({"NumberOfFrames": 2, "PixelData": bytes(4096)}, "multi-frame"),
    "constant": ({"PixelData": b"\7\0" * 1024}, "same value 7"),
    "padding": ({"PixelData": b"\7\0" * 1024, "PixelPaddingValue": ("US", 7)}, "every pixel is padding"),
    "small": ({"Rows": 16, "Columns": 64}, "16 x 64"),
    "short lut": ({"ModalityLUTSequence": lut([1, 2, 3], 0)}, "lookup table"),
    "colour": ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, r"colour image \(RGB\)"),
    "samples": ({"SamplesPerPixel": 3}, "3 samples for each pixel of a gray image"),
    "32 bits": ({"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}, "32 bits stored in 32"),
    "burned in": ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation .* is YES; look whether .* allow_burned_in"),
    "no bits": ({"BitsStored": None}, "no BitsStored"),
    "empty lut": ({"VOILUTSequence": Sequence([Dataset()])}, "broken file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_dicom(tmp_path: Path, case: str) -> None:
    elements, reason = REFUSED[case]
    if case == "short lut":
        elements["ModalityLUTSequence"][0].LUTDescriptor = [1024, 0, 16]
    path = make_dicom(tmp_path / "a.dcm", **elements)
    with pytest.raises(RadiographError, match=reason) as caught:
        read_radiograph(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "; " in message and "\n" not in message


@pytest.mark.parametrize(("modality", "sop_class"), [("OT", CAPTURE_CLASS), ("DX", CAPTURE_CLASS), ("", DX_CLASS)])
def test_captures_and_classes_that_say_radiograph_are_read(tmp_path: Path, modality: str, sop_class: str) -> None:
    path = make_dicom(tmp_path / "a.dcm", Modality=modality, SOPClassUID=sop_class)
    assert read_radiograph(path).pixels.shape == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "not a DICOM, PNG, JPEG or NIfTI"),
        (b"II*\0" + bytes(100), "TIFF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "not a readable image"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "not a readable image"),
        (bytes(128) + b"DICM" + bytes(40), "no Modality|DICOM"),
        (bytes(128) + b"DICM", "no Modality|DICOM"),
        (b"\x1f\x8bnot gzip at all", "compressed content is broken"),
        (b"\x08\x00" + bytes(range(200)), "no Modality|DICOM"),
    ],
)
def test_broken_files_raise_one_kind_of_error(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "file.dcm"
    path.write_bytes(content)
    with pytest.raises(RadiographError, match=reason):
        read_radiograph(path)


def test_missing_file_folder_and_pickling(tmp_path: Path) -> None:
    with pytest.raises(RadiographError, match="no such file"):
        read_radiograph(tmp_path / "none.dcm")
    with pytest.raises(RadiographError, match="not a file") as caught:
        read_radiograph(tmp_path)
    again = pickle.loads(pickle.dumps(caught.value))  # loader processes send their errors this way
    assert str(again) == str(caught.value) and again.reason == caught.value.reason


def picture() -> np.ndarray:
    return np.linspace(0, 255, 40 * 60).reshape(40, 60).astype(np.uint8)


def test_png_of_8_and_16_bits_keep_their_full_range(tmp_path: Path) -> None:
    Image.fromarray(picture() // 2).save(tmp_path / "8.png")
    np.testing.assert_allclose(read_radiograph(tmp_path / "8.png").pixels, (picture() // 2) / 255, atol=1e-6)
    Image.fromarray(picture().astype(np.uint16) * 100).save(tmp_path / "16.png")
    read = read_radiograph(tmp_path / "16.png")
    np.testing.assert_allclose(read.pixels, picture() * 100.0 / 65535, atol=1e-6)
    assert read.spacing is None and read.meta["bits_stored"] == 16


def test_format_is_told_by_content(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.dcm")
    assert read_radiograph(tmp_path / "a.dcm").meta["format"] == "PNG"


def test_gray_in_colour_is_read_and_colour_is_refused(tmp_path: Path) -> None:
    gray = np.stack([picture()] * 3, axis=2)
    Image.fromarray(gray).save(tmp_path / "gray.jpg", quality=95)
    np.testing.assert_allclose(read_radiograph(tmp_path / "gray.jpg").pixels, picture() / 255, atol=0.02)
    marked = gray.copy()
    marked[2:8, 2:6] = (255, 0, 0)  # a red mark on one hundredth of the film
    Image.fromarray(marked).save(tmp_path / "marked.png")
    assert read_radiograph(tmp_path / "marked.png").pixels.shape == (40, 60)
    photo = gray.copy()
    photo[..., 0] = 255 - photo[..., 0]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    with pytest.raises(RadiographError, match="colour image"):
        read_radiograph(tmp_path / "photo.png")


def test_transparency(tmp_path: Path) -> None:
    opaque = Image.fromarray(picture()).convert("LA")
    opaque.save(tmp_path / "opaque.png")
    np.testing.assert_allclose(read_radiograph(tmp_path / "opaque.png").pixels, picture() / 255, atol=1e-6)
    opaque.putalpha(100)
    opaque.save(tmp_path / "clear.png")
    with pytest.raises(RadiographError, match="transparent"):
        read_radiograph(tmp_path / "clear.png")


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=exif, quality=95)
    np.testing.assert_allclose(read_radiograph(tmp_path / "a.jpg").pixels, np.rot90(picture(), -1) / 255, atol=0.03)


def test_truncated_and_oversized_pictures_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    for name in ("a.jpg", "a.png"):
        Image.fromarray(noise).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(RadiographError, match="not a readable image"):
            read_radiograph(tmp_path / name)
    Image.new("1", (9500, 9500)).save(tmp_path / "bomb.png")
    with pytest.raises(RadiographError, match="9500 x 9500"):
        read_radiograph(tmp_path / "bomb.png")


def scene() -> np.ndarray:
    """Rows and columns as displayed, no symmetry."""
    return np.random.default_rng(1).random((40, 60)).astype(np.float32)


@pytest.mark.parametrize(
    ("axes", "stored"),
    [
        ("LPS", lambda s: s.T),  # ITK's way
        ("RAS", lambda s: s.T[::-1, ::-1]),
        ("LPS", lambda s: s.T[:, :, None]),
        ("PLS", lambda s: s[:, :, None]),
        ("LSP", lambda s: s[::-1].T[:, :, None]),  # a coronal plane in two array axes
        ("LAI", lambda s: s.T[:, None, :]),  # a coronal plane with its slice axis in the middle
    ],
)
def test_nifti_ends_as_displayed(tmp_path: Path, axes: str, stored: object) -> None:
    array = np.ascontiguousarray(stored(scene()))  # type: ignore[operator]
    directions = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    affine = np.eye(4)
    affine[:3, :3] = np.array([directions[axis] for axis in axes]).T
    image = nib.Nifti1Image(array, affine)
    image.header["cal_min"], image.header["cal_max"] = 0, 1
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read_radiograph(tmp_path / "a.nii.gz").pixels, scene(), atol=1e-6)


def test_nifti_spacing_units_and_range(tmp_path: Path) -> None:
    image = nib.Nifti1Image((scene().T * 500 + 3).astype(np.int16), np.diag([-0.3, -0.2, 1, 1]))
    nib.save(image, tmp_path / "unknown.nii")
    assert read_radiograph(tmp_path / "unknown.nii").spacing is None
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "mm.nii")
    read = read_radiograph(tmp_path / "mm.nii")
    assert read.spacing == pytest.approx((0.2, 0.3))
    np.testing.assert_allclose(read.pixels, unit((scene() * 500 + 3).astype(np.int16).astype(float)), atol=1e-6)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((40, 40, 5), np.float32), "shape"),
        (np.zeros((40, 40), np.float32), "same value"),
        (np.full((40, 40), np.nan, np.float32), "not all finite"),
        (np.zeros((10, 40), np.float32), "10 x 40"),
        (np.zeros((40, 40), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colour"),
    ],
)
def test_refused_nifti(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(RadiographError, match=reason):
        read_radiograph(tmp_path / "a.nii")


def test_truncated_nifti(tmp_path: Path) -> None:
    whole = nib.Nifti1Image(scene(), np.eye(4)).to_bytes()
    (tmp_path / "a.nii").write_bytes(whole[:3000])
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(whole)[:3000])
    for name in ("a.nii", "b.nii.gz"):
        with pytest.raises(RadiographError, match=r"not a readable NIfTI|content is cut off"):
            read_radiograph(tmp_path / name)


def test_real_dicom_files_load_or_are_refused_by_name(shared_data: Path) -> None:
    pytest.importorskip("gdcm", reason="python-gdcm decodes the compressed files")

    with open(shared_data / "dicom" / "index.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    loaded = 0
    for row in rows:
        path = shared_data / "dicom" / row["file"]
        radiograph = row["modality"] in ("CR", "DX") and "no pixel data" not in row["pydicom_3_0_2_result"]
        if radiograph and row["file"] != "chrJapMulti.dcm":
            pixels = read_radiograph(path).pixels
            assert np.isfinite(pixels).all() and 0 <= pixels.min() < pixels.max() <= 1, row["file"]
            assert pixels.shape == (int(row["rows"]), int(row["columns"]))
            loaded += 1
        elif row["modality"] == "OT" and row["photometric"].startswith("MONO") and row["bits_stored"]:
            assert read_radiograph(path).pixels.max() == 1
        else:
            with pytest.raises(RadiographError, match=row["file"]):
                read_radiograph(path)
    assert loaded == 15


def test_real_chests_have_dark_lungs(shared_data: Path) -> None:
    pytest.importorskip("gdcm", reason="python-gdcm decodes the compressed files")
    rsna = "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"
    for name in ("cxr.dcm", "RG1_J2KI.dcm", rsna):
        pixels = read_radiograph(shared_data / "dicom" / name).pixels

        def mean(row: float, column: float, pixels: np.ndarray = pixels) -> float:
            at_row, at_column = int(row * pixels.shape[0]), int(column * pixels.shape[1])
            return float(pixels[at_row - 9 : at_row + 9, at_column - 9 : at_column + 9].mean())

        mediastinum = mean(0.65, 0.5)
        assert mean(0.35, 0.25) < mediastinum - 0.1 and mean(0.35, 0.72) < mediastinum - 0.1, name


def test_real_pairs_agree_as_displayed(shared_data: Path) -> None:
    pytest.importorskip("gdcm", reason="python-gdcm decodes the compressed files")
    folder = shared_data / "dicom"

    def pixels(name: str) -> np.ndarray:
        return read_radiograph(folder / name).pixels

    np.testing.assert_array_equal(pixels("cxr.dcm"), pixels("gdcm-CR-MONO1-10-chest.dcm"))
    np.testing.assert_array_equal(pixels("RG3_J2KR.dcm"), pixels("RG3_JPLL"))
    np.testing.assert_array_equal(pixels("RG2_J2KR"), pixels("RG2_JPLL.dcm"))
    relabelled = pixels("1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm")
    np.testing.assert_allclose(pixels("Fake_MONOHR1.dcm"), 1 - relabelled, atol=1e-6)


@pytest.mark.parametrize(("extended", "lossless"), [("RG3_JPLY", "RG3_JPLL"), ("RG2_JPLY.dcm", "RG2_JPLL.dcm")])
def test_12_bit_jpeg_extended_is_like_lossless(shared_data: Path, extended: str, lossless: str) -> None:
    pytest.importorskip("gdcm", reason="python-gdcm decodes the lossless files")

    lossy = read_radiograph(shared_data / "dicom" / extended).pixels
    exact = read_radiograph(shared_data / "dicom" / lossless).pixels
    assert np.corrcoef(lossy.ravel(), exact.ravel())[0, 1] > 0.999
    assert np.abs(lossy - exact).mean() < 0.01
