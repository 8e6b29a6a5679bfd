"""Every transfer syntax gives the right pixels, whatever bits, sign and size; the truth is what was encoded."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSNearLossless

from anatodiff.data import RadiographError, decoding, read_radiograph
from anatodiff.data.dicom_file import write_dicom
from dicom_samples import LOSSLESS, LOSSY, NATIVE, plain_dataset, scene, write_encoded

SYNTAXES = (*NATIVE, *LOSSLESS, *LOSSY)
TOLERANCE = 0.01  # of the range, what a lossy syntax may change


def truth(stored: np.ndarray) -> np.ndarray:
    values = stored.astype(np.float64)
    return (values - values.min()) / (values.max() - values.min())


def stored_for(syntax: str, bits: int, signed: bool) -> np.ndarray:
    # GDCM encodes no 8-bit JPEG Lossless of an odd number of pixels.
    even = syntax in (JPEGLossless, JPEGLosslessSV1) and bits == 8
    stored = scene(bits, signed, (33, 48) if even else (33, 47))
    if signed and syntax == JPEGLSNearLossless:  # at the ends of the range an error of one would change the sign
        stored = (stored * 0.9).astype(stored.dtype)
    return stored


CASES = [
    pytest.param(syntax, bits, signed, id=f"{syntax.keyword}-{bits}-{'signed' if signed else 'unsigned'}")
    for syntax in SYNTAXES
    for bits in (8, 10, 12, 14, 16)
    for signed in (False, True)
    if syntax != JPEGBaseline8Bit or (bits, signed) == (8, False)  # it has nothing else
]


@pytest.mark.parametrize(("syntax", "bits", "signed"), CASES)
def test_pixels_are_what_was_encoded(tmp_path: Path, syntax: str, bits: int, signed: bool) -> None:
    stored = stored_for(syntax, bits, signed)
    read = read_radiograph(write_encoded(tmp_path / "a.dcm", stored, bits, syntax))
    tolerance = TOLERANCE if syntax in LOSSY else 1e-6
    np.testing.assert_allclose(read.pixels, truth(stored), atol=tolerance)
    assert read.meta["transfer_syntax"] == syntax
    assert read.meta["bits_stored"] == bits


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.keyword)
def test_garbage_above_the_stored_bits_does_not_count(tmp_path: Path, syntax: str, signed: bool) -> None:
    stored = scene(12, signed)
    overlay = np.where(np.arange(stored.size).reshape(stored.shape) % 3 == 0, 0xA000, 0).astype(np.uint16)
    dirty = ((stored.view(np.uint16) & 0x0FFF) | overlay).view(stored.dtype)
    read = read_radiograph(write_encoded(tmp_path / "a.dcm", dirty, 12, syntax))
    np.testing.assert_allclose(read.pixels, truth(stored), atol=1e-6)


def test_12_bit_jpeg_extended_is_the_same_with_and_without_itk(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gdcm", reason="python-gdcm decodes 12-bit JPEG Extended")
    path = shared_data / "dicom" / "RG3_JPLY"
    there = read_radiograph(path).pixels
    decoding.close_decoders()
    (tmp_path / "itk.py").write_text("raise ImportError('hidden')")
    monkeypatch.syspath_prepend(str(tmp_path))  # here and, as it takes over this path, in the decoder
    monkeypatch.setitem(sys.modules, "itk", None)
    np.testing.assert_array_equal(read_radiograph(path).pixels, there)
    decoding.close_decoders()


def test_htj2k_reaches_its_decoder_and_colour_in_it_is_refused(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "dicom" / "HTJ2K_08_RGB.dcm"
    dataset = pydicom.dcmread(path)
    dataset.Modality = "CR"
    write_dicom(dataset, str(tmp_path / "colour.dcm"))
    with pytest.raises(RadiographError, match=r"colour image"):
        read_radiograph(tmp_path / "colour.dcm")
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"  # not what the codestream says
    write_dicom(dataset, str(tmp_path / "gray.dcm"))
    with pytest.raises(RadiographError, match=r"cannot be decoded \(High-Throughput JPEG 2000"):
        read_radiograph(tmp_path / "gray.dcm")


@pytest.mark.parametrize(
    "character_set",
    ["ISO_IR 100", "ISO_IR 192", ["", "ISO 2022 IR 87"], "GB18030", "NO_SUCH_SET", ["ISO_IR 100", "\\", "?"], "0" * 40],
)
def test_character_sets_do_not_matter(tmp_path: Path, character_set: object) -> None:
    stored = scene(12, False)
    write_encoded(tmp_path / "a.dcm", stored, 12, ExplicitVRLittleEndian)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.add_new(0x00080005, "CS", character_set)
    dataset.add_new(0x00100010, "PN", b"M\xfcller^\x1b$B;3ED\x1b(B\xff\xfe")
    dataset.ViewPosition = "PA"
    write_dicom(dataset, str(tmp_path / "b.dcm"))
    read = read_radiograph(tmp_path / "b.dcm")
    np.testing.assert_allclose(read.pixels, truth(stored), atol=1e-6)
    assert read.meta["view_position"] == "PA"


def test_private_elements_do_not_matter(tmp_path: Path) -> None:
    stored = scene(12, False)
    dataset = plain_dataset(stored, 12)
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", bytes(range(256)))
    block.add_new(0x20, "SQ", [pydicom.Dataset()])
    block.add_new(0x30, "UN", b"\xff" * 33)
    dataset.add_new(0x00190010, "LO", "SOMEBODY ELSE")
    write_dicom(dataset, str(tmp_path / "a.dcm"))
    np.testing.assert_allclose(read_radiograph(tmp_path / "a.dcm").pixels, truth(stored), atol=1e-6)


@pytest.mark.parametrize("syntax", NATIVE[:3], ids=lambda syntax: syntax.keyword)
def test_no_preamble_and_no_file_ending(tmp_path: Path, syntax: str) -> None:
    stored = scene(12, False)
    whole = write_encoded(tmp_path / "a.dcm", stored, 12, syntax).read_bytes()
    meta_length = struct.unpack("<I", whole[140:144])[0]
    for name, content in (("1.2.840.77", whole[144 + meta_length :]), ("IM0001", whole[132:])):
        (tmp_path / name).write_bytes(content)  # without meta information, and with it but without a preamble
        np.testing.assert_allclose(read_radiograph(tmp_path / name).pixels, truth(stored), atol=1e-6)


def test_a_high_bit_elsewhere_is_refused(tmp_path: Path) -> None:
    """Left-aligned values and a wrong element look the same; one of them would give the wrong image."""
    dataset = plain_dataset(scene(12, False), 12)
    dataset.HighBit = 15
    write_dicom(dataset, str(tmp_path / "a.dcm"))
    with pytest.raises(RadiographError, match=r"HighBit .* is 15 with 12 bits stored; correct it"):
        read_radiograph(tmp_path / "a.dcm")
