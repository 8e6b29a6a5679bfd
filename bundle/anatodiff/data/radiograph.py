"""One way to read a radiograph, whatever its file format."""

from __future__ import annotations

import hashlib
import math
import os
import zlib
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from anatodiff.data.dicom_file import GRAY, MODALITIES, read_dataset
from anatodiff.data.dicom_pixels import displayed_pixels
from anatodiff.data.errors import RadiographError, Refusal
from anatodiff.data.limits import file_bytes, inflated
from anatodiff.data.nifti import read_nifti
from anatodiff.data.raster import read_raster
from anatodiff.data.terms import BODY_PARTS, VIEW_POSITIONS

HEAD_BYTES = 512
DICOM_MAGIC_OFFSET = 128
NIFTI_MAGIC_OFFSET = 344
# The first data element of a DICOM file without preamble is in group 0002 or 0008.
BARE_DICOM_STARTS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
UNREAD_MAGICS = {
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"\x00\x00\x00\x0cjP": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x93NUMPY": "NumPy array",
    b"NRRD": "NRRD",
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP archive",
}
SPACING_KEYWORDS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
GZIP_MAGIC = b"\x1f\x8b"
GZIP_WINDOW = 16 + zlib.MAX_WBITS
MARK_BYTES = 16


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One radiograph as a viewer displays it.

    Attributes:
        pixels: float32 (H, W) in [0, 1], larger is brighter as displayed.
        spacing: mm between rows and between columns, or None where the file does not say.
        meta: facts without identity, of the keys `format`, `modality`, `body_part`, `view_position`, `photometric`,
            `bits_stored`, `transfer_syntax` and `voi` (how the display range was chosen); unknown ones are left out.
            Names, dates, identifiers, free text and the file's name never enter it.
    """

    pixels: np.ndarray
    spacing: tuple[float, float] | None
    meta: dict[str, Any]


def read_radiograph(
    path: str | os.PathLike[str], allow_burned_in: bool = False, allow_colour: bool = False
) -> Radiograph:
    """Read one projection radiograph; the format is told by the content, not by the file's ending.

    DICOM (with or without preamble): see `anatodiff.data.dicom_pixels.displayed_pixels` for the order of the steps.
    PNG and JPEG: the full range of 8 or 16 bits; see `anatodiff.data.raster.read_raster` for colour.
    NIfTI: one 2-D image, turned as displayed; see `anatodiff.data.nifti.read_nifti` for the axes.

    A file is held to the limits of `anatodiff.data.limits` before its pixels are unpacked.

    Args:
        path: the file.
        allow_burned_in: read DICOM images that say that annotation is burned into their pixels.
        allow_colour: read PNG and JPEG files in colour, such as photographs, as their luma.

    Returns:
        The radiograph.

    Raises:
        RadiographError: if the file is missing, broken, beyond a limit, or not a gray single-frame projection
            radiograph of at least 32 x 32 pixels; one line with the file, the reason and the cure.
    """
    return _read(Path(path), allow_burned_in, allow_colour)[0]


def read_with_marks(
    path: str | os.PathLike[str], allow_burned_in: bool = False, allow_colour: bool = False
) -> tuple[Radiograph, list[str]]:
    """Read as `read_radiograph`, and tell by what the same image is known again.

    Args:
        path: the file.
        allow_burned_in: read DICOM images that say that annotation is burned into their pixels.
        allow_colour: read PNG and JPEG files in colour, such as photographs, as their luma.

    Returns:
        The radiograph; and hashes of its pixels and, in DICOM, of its SOP Instance UID, to compare with those of
        other files and not to be kept.

    Raises:
        RadiographError: see `read_radiograph`.
    """
    radiograph, instance = _read(Path(path), allow_burned_in, allow_colour)
    pixels = hashlib.blake2b(repr(radiograph.pixels.shape).encode(), digest_size=MARK_BYTES)
    pixels.update(radiograph.pixels.data)
    marks = [f"pixels {pixels.hexdigest()}"]
    if instance:
        marks.append(f"instance {hashlib.blake2b(instance.encode(), digest_size=MARK_BYTES).hexdigest()}")
    return radiograph, marks


def _read(file: Path, allow_burned_in: bool, allow_colour: bool) -> tuple[Radiograph, str]:
    instance = ""
    try:
        data = file_bytes(file)
        if data.startswith(GZIP_MAGIC):
            data = inflated(data, 0, GZIP_WINDOW)
        name = _format(data[:HEAD_BYTES])
        if name == "DICOM":
            pixels, spacing, meta, instance = _read_dicom(data, allow_burned_in)
        elif name == "NIfTI":
            pixels, spacing, meta = read_nifti(data)
        else:
            pixels, spacing, meta = read_raster(data, allow_colour)
        pixels = np.ascontiguousarray(pixels, dtype=np.float32)
        if pixels.min() == pixels.max():
            raise Refusal("every pixel has the same value", "leave the file out")
    except Refusal as refusal:
        raise RadiographError.of(file, refusal) from refusal
    except Exception as error:
        # Broken headers raise many kinds of errors on access; a user sees one, without the value, maybe a name.
        broken = Refusal(f"broken file ({type(error).__name__})", "send it again from its source")
        raise RadiographError.of(file, broken) from error
    return Radiograph(pixels, spacing, {"format": name, **meta}), instance


def _format(head: bytes) -> str:
    if head[DICOM_MAGIC_OFFSET : DICOM_MAGIC_OFFSET + 4] == b"DICM":
        return "DICOM"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if _is_nifti(head):
        return "NIfTI"
    for magic, name in UNREAD_MAGICS.items():
        if head.startswith(magic):
            raise Refusal(f"{name} files are not read", "convert it to DICOM, PNG, JPEG or NIfTI")
    if head.startswith(BARE_DICOM_STARTS):
        return "DICOM"
    raise Refusal("not a DICOM, PNG, JPEG or NIfTI file", "convert it or leave it out")


def _is_nifti(head: bytes) -> bool:
    if head[NIFTI_MAGIC_OFFSET : NIFTI_MAGIC_OFFSET + 4] == b"ni1\x00":
        raise Refusal("NIfTI in two files (.hdr and .img)", "save it as one .nii file")
    return head[NIFTI_MAGIC_OFFSET : NIFTI_MAGIC_OFFSET + 4] == b"n+1\x00" or head[4:8] == b"n+2\x00"


def _read_dicom(
    data: bytes, allow_burned_in: bool
) -> tuple[np.ndarray, tuple[float, float] | None, dict[str, Any], str]:
    dataset = read_dataset(data, allow_burned_in)
    pixels, voi = displayed_pixels(dataset)
    facts: dict[str, Any] = {
        "modality": _term(dataset, "Modality", MODALITIES),
        "body_part": _term(dataset, "BodyPartExamined", BODY_PARTS),
        "view_position": _term(dataset, "ViewPosition", VIEW_POSITIONS),
        "photometric": _term(dataset, "PhotometricInterpretation", GRAY),
        "bits_stored": int(dataset.BitsStored),
        "transfer_syntax": str(dataset.file_meta.TransferSyntaxUID),
        "voi": voi,
    }
    known = {key: value for key, value in facts.items() if value != ""}
    return pixels, _dicom_spacing(dataset), known, str(dataset.get("SOPInstanceUID") or "").strip()


def _term(dataset: Dataset, keyword: str, known: Set[str]) -> str:
    value = str(dataset.get(keyword) or "").strip().upper()
    return value if value in known else ""


def _dicom_spacing(dataset: Dataset) -> tuple[float, float] | None:
    for keyword in SPACING_KEYWORDS:
        value = dataset.get(keyword)
        if value and len(value) == 2:
            row, column = float(value[0]), float(value[1])
            if math.isfinite(row) and math.isfinite(column) and row > 0 and column > 0:
                return row, column
    return None
