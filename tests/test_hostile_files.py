"""Files that are made to harm, or look like it: each is refused within its limits; what the fuzzer found stays here."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
)

from anatodiff.data import RadiographError, read_radiograph
from anatodiff.data.dicom_file import write_dicom
from anatodiff.data.limits import MAX_FILE_BYTES, MAX_READS
from dicom_samples import plain_dataset, scene, write_encoded

LARGE = bytes(MAX_FILE_BYTES + (1 << 20))
STORED = scene(12, False)


def dicom(change: Callable[[pydicom.FileDataset], None] = lambda dataset: None) -> bytes:
    dataset, buffer = plain_dataset(STORED, 12), io.BytesIO()
    change(dataset)
    write_dicom(dataset, buffer)
    return buffer.getvalue()


def body_start(data: bytes) -> int:
    return 144 + struct.unpack("<I", data[140:144])[0]


def deflated_bomb() -> bytes:
    data = dicom(lambda dataset: setattr(dataset.file_meta, "TransferSyntaxUID", DeflatedExplicitVRLittleEndian))
    plain = dicom()
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return data[: body_start(data)] + packer.compress(plain[body_start(plain) :] + LARGE) + packer.flush()


def nifti_bomb() -> bytes:
    return gzip.compress(nib.Nifti1Image(np.zeros((40, 50), np.int16), np.eye(4)).to_bytes() + LARGE, 1)


def nifti_sides(*sides: int) -> bytes:
    image = nib.Nifti1Image(np.zeros((40, 50), np.int16), np.eye(4))
    data = bytearray(image.to_bytes())
    struct.pack_into("<8h", data, 40, len(sides), *sides, *[1] * (7 - len(sides)))
    return bytes(data)


def png(kind: bytes, content: bytes, times: int = 1) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(scene(8, False)).save(buffer, format="PNG")
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return buffer.getvalue()[:33] + chunk * times + buffer.getvalue()[33:]


def png_sides(side: int) -> bytes:
    data = bytearray(png(b"tEXt", b""))
    struct.pack_into(">2I", data, 16, side, side)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


def jpeg_scans() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(scene(8, False)).save(buffer, format="JPEG", progressive=True)
    data = buffer.getvalue()
    first = data.index(b"\xff\xda")
    return data[:-2] + data[first : data.index(b"\xff\xda", first + 2)] * 200 + data[-2:]


def elements(count: int) -> bytes:
    data = dicom()
    return data[: body_start(data)] + struct.pack("<HH2sH", 0x0009, 0x0010, b"LO", 0) * count + data[body_start(data) :]


def nested(tag: int, depth: int) -> bytes:
    data = dicom()
    opened = struct.pack("<HH2sHIHHI", tag >> 16, tag & 0xFFFF, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    return data[: body_start(data)] + opened * depth


def long_element() -> bytes:
    data = dicom()
    place = data.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    return data[: place + 8] + struct.pack("<I", 0xFFFFFFF0) + data[place + 12 : -100]


def large_tables(dataset: pydicom.FileDataset) -> None:
    dataset.VOILUTSequence = [Dataset() for _ in range(40)]
    for item in dataset.VOILUTSequence:
        item.add_new(0x00283006, "OW", bytes(1 << 16))


def hostile_rle(dataset: pydicom.FileDataset) -> None:
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([struct.pack("<16L", 2, 64, 0xFFFFFFF0, *[0xFFFFFFFF] * 13) + b"\x81\x00" * 99])
    dataset["PixelData"].VR = "OB"


def huge_slope(dataset: pydicom.FileDataset) -> None:
    dataset.RescaleSlope, dataset.RescaleIntercept = "1e307", 0


def sides(rows: int, columns: int) -> Callable[[pydicom.FileDataset], None]:
    def change(dataset: pydicom.FileDataset) -> None:
        dataset.Rows, dataset.Columns = rows, columns

    return change


def changed_codestream(syntax: str, start: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A compressed file, changed from the place where its codestream has `start`."""
    with tempfile.TemporaryDirectory() as folder:
        data = write_encoded(Path(folder) / "a.dcm", scene(12, True), 12, syntax).read_bytes()
    place = data.index(start, body_start(data))
    return data[:place] + change(data[place:])


def endless_jpeg_ls() -> bytes:
    """Three bytes more, and pyjpegls does not end."""
    return changed_codestream(JPEGLSLossless, b"\xff\xd8\xff\xf7", lambda code: code[:73] + b"\xda\x72\x34" + code[73:])


def crashing_jpeg() -> bytes:
    """A Huffman table without its marker, at which GDCM aborts the process."""
    return changed_codestream(JPEGLossless, b"\xff\xc4", lambda code: b"\xff\xff\xff\xfe" + code[4:])


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "deflated bomb": (deflated_bomb, "unpacks to more than"),
    "NIfTI bomb": (nifti_bomb, "unpacks to more than"),
    "NIfTI of huge sides": (lambda: nifti_sides(32767, 32767), "image of 32767 x 32767"),
    "NIfTI of negative sides": (lambda: nifti_sides(-40, 50), "image of -40 x 50|not a readable NIfTI"),
    "NIfTI of more pixels than bytes": (lambda: nifti_sides(5000, 5000), "not a readable NIfTI"),
    "PNG text bomb": (lambda: png(b"zTXt", b"a\0\0" + zlib.compress(LARGE, 1)), "not a readable image"),
    "PNG profile bomb": (lambda: png(b"iCCP", b"a\0\0" + zlib.compress(LARGE, 1)), "not a readable image"),
    "PNG of huge sides": (lambda: png_sides(20_000), "image of 20000 x 20000|too many pixels"),
    "PNG of many chunks": (lambda: png(b"tEXt", b"", MAX_READS), "parts"),
    "JPEG of many scans": (jpeg_scans, "more than 100 scans"),
    "DICOM of many elements": (lambda: elements(2 * MAX_READS), "parts"),
    "nested sequences, skipped": (lambda: nested(0x00081140, 20_000), "not a readable DICOM"),
    "nested sequences, read": (lambda: nested(0x00283010, 20_000), "not a readable DICOM"),
    "element beyond the file": (long_element, "of its 3102 bytes"),
    "huge tables": (lambda: dicom(large_tables), "VOILUTSequence has 262"),
    "more pixels than bytes": (lambda: dicom(sides(6000, 6000)), "has 3102 of its 72000000 bytes"),
    "declared too large": (lambda: dicom(sides(65535, 65535)), "image of 65535 x 65535"),
    "hostile RLE": (lambda: dicom(hostile_rle), "cannot be decoded"),
    "endless JPEG-LS": (endless_jpeg_ls, "decoding takes more than 1 s of computing"),
    "crashing JPEG": (crashing_jpeg, r"the decoder crashed \(SIGABRT\)"),
    "larger than any image": (lambda: dicom() + LARGE, "a file of more than 128 MB; export the image alone"),
    "huge slope": (
        lambda: dicom(
            lambda dataset: (setattr(dataset, "RescaleSlope", "1e307"), setattr(dataset, "RescaleIntercept", 0))
        ),
        "not all finite",
    ),
    "unknown transfer syntax": (
        lambda: dicom().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"),
        "unknown transfer syntax",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_in_time_and_in_silence(
    tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    make, reason = HOSTILE[case]
    path = tmp_path / "hostile"
    path.write_bytes(make())
    start = time.monotonic()
    with pytest.raises(RadiographError, match=reason) as caught:
        read_radiograph(path)
    assert time.monotonic() - start < 5
    assert str(caught.value).isprintable()
    assert capfd.readouterr() == ("", "")
    assert not [warning for warning in recwarn if "pydicom" not in str(warning.filename)]


def test_a_display_range_of_nearly_nothing_warns_of_nothing(tmp_path: Path) -> None:
    values = scene(8, False).astype(np.float64) * 1e280
    image = nib.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.header["cal_min"], image.header["cal_max"] = 0, 1e-40
    nib.save(image, tmp_path / "a.nii")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_radiograph(tmp_path / "a.nii").pixels
    np.testing.assert_array_equal(pixels, (values > 0).T)


ALONE = """
import resource, sys
from anatodiff.data import RadiographError, read_radiograph
small, large = sys.argv[1:]
read_radiograph(small)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20),) * 2)
print(read_radiograph(large).pixels.shape)
"""


def test_a_process_needs_at_most_512_mb_more_and_warns_of_nothing(tmp_path: Path) -> None:
    """36 million pixels of 16 bits, close to the most; and pydicom's warnings, which quote values, are not seen."""
    stored = np.tile(scene(16, False, (60, 60)), (100, 100))
    large = write_encoded(tmp_path / "large.dcm", stored, 16, ExplicitVRLittleEndian)
    dataset = plain_dataset(STORED, 12)
    dataset.add_new(0x00185101, "CS", "Jane Doe, born 17.3.1970")  # ViewPosition
    dataset.add_new(0x00080005, "CS", "Jane Doe")
    write_dicom(dataset, str(tmp_path / "small.dcm"))
    command = [sys.executable, "-c", ALONE, str(tmp_path / "small.dcm"), str(large)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(6000, 6000)\n", "")
