"""DICOM files: reading with the checks of the header, decompression to stored values, writing."""

from __future__ import annotations

import logging
import re
import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from anatodiff.data.decoding import decode
from anatodiff.data.decoding.worker import Encoded
from anatodiff.data.errors import Refusal
from anatodiff.data.limits import CountedBytes, check_size, inflated

PROJECTION_MODALITIES = frozenset({"CR", "DX", "DR", "RG", "IO", "PX", "MG"})
CAPTURE_MODALITY = "OT"
MODALITIES = PROJECTION_MODALITIES | {CAPTURE_MODALITY}
GRAY = frozenset({"MONOCHROME1", "MONOCHROME2"})
PROJECTION_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
        "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray, for processing
        "1.2.840.10008.5.1.4.1.1.1.2",  # Digital Mammography, for presentation
        "1.2.840.10008.5.1.4.1.1.1.2.1",  # Digital Mammography, for processing
        "1.2.840.10008.5.1.4.1.1.1.3",  # Digital Intra-Oral, for presentation
        "1.2.840.10008.5.1.4.1.1.1.3.1",  # Digital Intra-Oral, for processing
    }
)
CAPTURE_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
        "1.2.840.10008.5.1.4.1.1.7.2",  # Multi-frame Grayscale Byte Secondary Capture
        "1.2.840.10008.5.1.4.1.1.7.3",  # Multi-frame Grayscale Word Secondary Capture
    }
)
NATIVE_SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
# Of the same length, so that the header around it stays as it is.
DEFLATED_UID = str(DeflatedExplicitVRLittleEndian).encode()
PLAIN_UID = str(ExplicitVRLittleEndian).encode().ljust(len(DEFLATED_UID), b"\0")
# All that is ever taken from a file; the rest is passed over unread, names and private elements among it.
READ_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "BodyPartExamined", "ViewPosition", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "ImagerPixelSpacing",
    "NominalScannedPixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "BurnedInAnnotation", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence", "VOILUTSequence",
    "PresentationLUTShape", "PixelData",
)  # fmt: skip
KNOWN_MODALITY = re.compile(r"[A-Z]{2}|RT[A-Z]+")  # only such a code is quoted: free text may be a name
KNOWN_PHOTOMETRIC = re.compile(r"RGB|YBR_[A-Z0-9_]+|PALETTE COLOR|ARGB|HSV|CMYK|XYB|MONOCHROME[12]")
MAX_SEQUENCE_BYTES = 1 << 20  # of a sequence of lookup tables, each of at most 128 KB
BITS_ALLOCATED = (8, 16)
# pydicom 3 logs a traceback for each decoder that fails; the error that it then raises says the same in one line.
logging.getLogger("pydicom.pixels.decoders.base").setLevel(logging.CRITICAL)
# Its warnings quote the values of broken elements, and so could put a name into a log.
warnings.filterwarnings("ignore", module=r"pydicom\.")
logging.getLogger("pydicom").addFilter(lambda record: record.levelno >= logging.ERROR)


class _DeflatedError(Exception):
    """The data set from a position on is deflated."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class _DicomBytes(CountedBytes):
    """A DICOM file in memory; pydicom takes all that is left at once only to inflate it, and without a bound."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise _DeflatedError(self.tell())
        return super().read(size)


def read_elements(data: bytes, keywords: Sequence[str]) -> FileDataset:
    """Read some elements of a DICOM file, within limits on what it unpacks to and on the number of its parts.

    Args:
        data: the file; without a preamble it is read as a bare data set.
        keywords: the elements; the others are passed over.

    Returns:
        Those of them that the file has.

    Raises:
        Refusal: a limit is passed.
        Exception: whatever pydicom raises for a broken file.
    """
    wanted = list(keywords)
    try:
        dataset = pydicom.dcmread(_DicomBytes(data), force=True, specific_tags=wanted)
    except _DeflatedError as deflated:
        header = data[: deflated.position].replace(DEFLATED_UID, PLAIN_UID)
        whole = header + inflated(data, deflated.position, -zlib.MAX_WBITS)
        dataset = pydicom.dcmread(_DicomBytes(whole), force=True, specific_tags=wanted)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    for name in ("ModalityLUTSequence", "VOILUTSequence"):
        value = getattr(dataset.get_item(name), "value", None) if name in dataset else None
        if isinstance(value, bytes) and len(value) > MAX_SEQUENCE_BYTES:  # not yet taken apart
            raise Refusal(f"{name} has {len(value)} bytes", "export the image again, without lookup tables")
    return dataset


def read_dataset(data: bytes, allow_burned_in: bool = False) -> FileDataset:
    """Read a DICOM file and refuse what is not a single-frame gray projection radiograph.

    Args:
        data: the file; without a preamble it is read as a bare data set.
        allow_burned_in: read images that say that annotation is burned into their pixels.

    Returns:
        The elements of READ_KEYWORDS, with a transfer syntax.

    Raises:
        Refusal: with the reason.
    """
    return read_checked(data, READ_KEYWORDS, _check_kind, allow_burned_in)


def read_checked(
    data: bytes, keywords: Sequence[str], check_kind: Callable[[Dataset], None], allow_burned_in: bool = False
) -> FileDataset:
    """Read a DICOM file and refuse what is not a single-frame gray image of the kind that is wanted.

    Args:
        data: the file; without a preamble it is read as a bare data set.
        keywords: the elements that are taken, those of the pixels among them.
        check_kind: raises a Refusal for an object of another kind.
        allow_burned_in: read images that say that annotation is burned into their pixels.

    Returns:
        The elements, with a transfer syntax.

    Raises:
        Refusal: with the reason.
    """
    try:
        dataset = read_elements(data, keywords)
    except Refusal:
        raise
    except Exception as error:
        # Without the error's text, which may quote a value.
        reason = f"not a readable DICOM file ({type(error).__name__})"
        raise Refusal(reason, "send it again from its source") from error
    check_kind(dataset)
    _check_image(dataset)
    _check_bits(dataset)
    if "YES" in str(dataset.get("BurnedInAnnotation") or "").upper() and not allow_burned_in:
        raise Refusal(
            "BurnedInAnnotation (0028,0301) is YES", "look whether a name is in the pixels; if not, set allow_burned_in"
        )
    if not dataset.file_meta.get("TransferSyntaxUID"):
        dataset.file_meta.TransferSyntaxUID = _guessed_syntax(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.name == str(syntax):  # the dictionary does not know it; what stands there instead may be anything
        raise Refusal("unknown transfer syntax", "export the image again in one of the standard's")
    return dataset


def decode_pixels(dataset: Dataset) -> np.ndarray:
    """Decode the stored values: uncompressed ones here, compressed ones in a process that may die of them.

    Args:
        dataset: a single-frame gray data set; its pixel data is taken out of it.

    Returns:
        The stored values, integer (H, W).

    Raises:
        Refusal: if the pixel data is truncated, broken, or in a transfer syntax without a decoder here.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    shape = (int(dataset.Rows), int(dataset.Columns))
    bits = (int(dataset.BitsAllocated), int(dataset.BitsStored), int(dataset.PixelRepresentation))
    if syntax in NATIVE_SYNTAXES:
        stored = _native_pixels(dataset, shape)
    else:
        stored = decode(Encoded(str(syntax), *shape, *bits, dataset["PixelData"].value))
    del dataset.PixelData  # a large image would be held twice
    return _clear_unused_bits(stored.reshape(shape), int(dataset.BitsStored))


def _native_pixels(dataset: Dataset, shape: tuple[int, int]) -> np.ndarray:
    size = shape[0] * shape[1] * int(dataset.BitsAllocated) // 8
    if len(dataset.PixelData) < size:
        raise Refusal(
            f"the pixel data has {len(dataset.PixelData)} of its {size} bytes", "send the file again from its source"
        )
    try:
        return np.asarray(dataset.pixel_array)
    except Exception as error:
        raise Refusal(f"the pixel data cannot be read ({error})", "send the file again from its source") from error


def write_dicom(dataset: FileDataset, target: str | BinaryIO) -> None:
    """Write a data set as a whole DICOM file, with pydicom 2.4 or 3.

    Args:
        dataset: the data set with its file meta information and transfer syntax.
        target: a path or an open binary file.
    """
    if int(pydicom.__version__.split(".")[0]) >= 3:
        pydicom.dcmwrite(target, dataset, enforce_file_format=True)
    else:
        dataset.is_little_endian = True
        dataset.is_implicit_VR = dataset.file_meta.TransferSyntaxUID.is_implicit_VR
        pydicom.dcmwrite(target, dataset, write_like_original=False)


def _clear_unused_bits(stored: np.ndarray, bits: int) -> np.ndarray:
    """Keep the stored bits with their sign; old files have overlays above them (pydicom 3 does this, 2.4 does not)."""
    native = stored.astype(stored.dtype.newbyteorder("="), copy=not stored.flags.writeable)
    shift = 8 * native.dtype.itemsize - bits
    if shift > 0:
        np.left_shift(native, shift, out=native)
        np.right_shift(native, shift, out=native)
    return native


def _check_kind(dataset: Dataset) -> None:
    modality = str(dataset.get("Modality") or "").strip().upper()
    sop_class = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""
    shown = modality if KNOWN_MODALITY.fullmatch(modality) else "another modality" if modality else "no modality"
    name = pydicom.uid.UID(str(sop_class)).name
    kind = f"{shown}, {'another SOP class' if name == str(sop_class) else name}" if name else f"{shown}, no SOP class"
    cure = "only CR, DX, RG, IO, PX and MG images, and gray OT secondary captures, are read: leave the file out"
    projection, capture = sop_class in PROJECTION_CLASSES, sop_class in CAPTURE_CLASSES
    if sop_class and not projection and not capture:
        raise Refusal(f"not a projection radiograph ({kind})", cure)
    if not modality and not projection:
        raise Refusal("no Modality (0008,0060)", "set it to CR or DX if it is a radiograph, else leave the file out")
    if modality and modality not in PROJECTION_MODALITIES and not (modality == CAPTURE_MODALITY and sop_class):
        raise Refusal(f"not a projection radiograph ({kind})", cure)


def _check_image(dataset: Dataset) -> None:
    if not dataset.get("PixelData") or not dataset.get("Rows") or not dataset.get("Columns"):
        raise Refusal("no pixel data", "the file is cut off or its pixels were removed: send it again from its source")
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip()
    samples, gray = int(dataset.get("SamplesPerPixel") or 1), photometric in GRAY
    if gray and samples != 1:
        raise Refusal(f"{samples} samples for each pixel of a gray image", "send the file again from its source")
    if samples != 1 or not gray:
        shown = photometric if KNOWN_PHOTOMETRIC.fullmatch(photometric) else "another interpretation"
        reason = f"colour image ({shown})" if photometric else "no PhotometricInterpretation (0028,0004)"
        raise Refusal(reason, "only MONOCHROME1 and MONOCHROME2 are read: convert it to gray or leave the file out")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise Refusal(f"multi-frame image ({dataset.NumberOfFrames} frames)", "export the frame you need as one image")
    check_size(int(dataset.Rows), int(dataset.Columns))


def _check_bits(dataset: Dataset) -> None:
    values: dict[str, int] = {}
    for name in ("BitsAllocated", "BitsStored", "PixelRepresentation"):
        value = dataset.get(name)
        if value is None or value == "":
            raise Refusal(f"no {name}", "the header is incomplete: send the file again from its source")
        values[name] = int(value)
    allocated, stored, signed = values.values()
    high = int(dataset.get("HighBit") or stored - 1)
    if allocated not in BITS_ALLOCATED or not 1 <= stored <= allocated or signed not in (0, 1):
        reason = f"{stored} bits stored in {allocated}, PixelRepresentation {signed}"
        raise Refusal(reason, "only 8 or 16 bits, unsigned or signed, are read: export the image again")
    if high != stored - 1:
        reason = f"HighBit (0028,0102) is {high} with {stored} bits stored"
        raise Refusal(reason, f"correct it to {stored - 1} if the values fill the low bits")


def _guessed_syntax(dataset: Dataset) -> pydicom.uid.UID:
    # pydicom 2.4 and 3 name what the reader found out about a bare data set differently.
    if hasattr(dataset, "original_encoding"):
        implicit, little = dataset.original_encoding
    else:
        implicit, little = dataset.is_implicit_VR, dataset.is_little_endian
    if not little:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
