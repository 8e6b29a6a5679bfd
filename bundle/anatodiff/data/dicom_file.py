"""DICOM files on disk: reading with the checks of the header, decompression to stored values, writing."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    SecondaryCaptureImageStorage,
)

from anatodiff.data.errors import Refusal

MAX_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs, here for every format
MIN_SIDE = 32  # pixels; the networks divide the image by 8 and by a patch

PROJECTION_MODALITIES = frozenset({"CR", "DX", "DR", "RG", "IO", "PX", "MG"})
CAPTURE_MODALITY = "OT"
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
IMAGE_PIXEL_KEYWORDS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
# pydicom 3 logs a traceback for each decoder that fails; the error that it then raises says the same in one line.
logging.getLogger("pydicom.pixels.decoders.base").setLevel(logging.CRITICAL)
_ITK_LOCK = threading.Lock()  # ITK loads its modules on first use, which is not safe in threads


def read_dataset(path: Path) -> FileDataset:
    """Read a DICOM file and refuse what is not a single-frame gray projection radiograph.

    Args:
        path: the file; without a preamble it is read as a bare data set.

    Returns:
        The data set, with a transfer syntax.

    Raises:
        Refusal: with the reason.
    """
    try:
        dataset = pydicom.dcmread(path, force=True)
    except Exception as error:
        raise Refusal(f"not a readable DICOM file ({error})", "send it again from its source") from error
    _check_kind(dataset)
    _check_image(dataset)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        dataset.file_meta.TransferSyntaxUID = _guessed_syntax(dataset)
    return dataset


def decode_pixels(dataset: Dataset) -> np.ndarray:
    """Decode the stored values with pydicom and its plugins; 12-bit JPEG Extended with ITK's GDCM.

    Args:
        dataset: a single-frame gray data set.

    Returns:
        The stored values, integer (H, W).

    Raises:
        Refusal: if the pixel data is truncated, broken, or in a transfer syntax without a decoder here.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    # No decoder of pydicom that is installed with this package takes 12-bit JPEG Extended: ITK first saves the attempt.
    stored = _decode_with_itk(dataset) if syntax == JPEGExtended12Bit else None
    if stored is None:
        try:
            stored = np.asarray(dataset.pixel_array)
        except Exception as error:
            raise Refusal(
                f"the pixel data cannot be decoded ({syntax.name}: {str(error)[:160]})",
                "send the file again from its source, or decompress it first (gdcmconv --raw, dcmdjpeg)",
            ) from error
    shape = (int(dataset.Rows), int(dataset.Columns))
    if stored.shape != shape and stored.shape != (1, *shape):
        raise Refusal(f"the decoded pixels are {stored.shape}, the header says {shape}", "leave the file out")
    return _clear_unused_bits(stored.reshape(shape), int(dataset.BitsStored))


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
    native = stored.astype(stored.dtype.newbyteorder("="))
    shift = 8 * native.dtype.itemsize - bits
    return (native << shift) >> shift if shift > 0 else native


def _check_kind(dataset: Dataset) -> None:
    modality = str(dataset.get("Modality") or "").strip().upper()
    sop_class = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""
    kind = f"{modality or 'no modality'}, {pydicom.uid.UID(str(sop_class)).name or 'no SOP class'}"
    cure = "only CR, DX, RG, IO, PX and MG images, and gray OT secondary captures, are read: leave the file out"
    projection, capture = sop_class in PROJECTION_CLASSES, sop_class in CAPTURE_CLASSES
    if sop_class and not projection and not capture:
        raise Refusal(f"not a projection radiograph ({kind})", cure)
    if not modality and not projection:
        raise Refusal("no Modality (0008,0060)", "set it to CR or DX if it is a radiograph, else leave the file out")
    if modality and modality not in PROJECTION_MODALITIES and not (modality == CAPTURE_MODALITY and sop_class):
        raise Refusal(f"not a projection radiograph ({kind})", cure)


def _check_image(dataset: Dataset) -> None:
    if "PixelData" not in dataset or not dataset.get("Rows") or not dataset.get("Columns"):
        raise Refusal("no pixel data", "the file is cut off or its pixels were removed: send it again from its source")
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip()
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        reason = f"colour image ({photometric})" if photometric else "no PhotometricInterpretation (0028,0004)"
        raise Refusal(reason, "only MONOCHROME1 and MONOCHROME2 are read: convert it to gray or leave the file out")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise Refusal(f"multi-frame image ({dataset.NumberOfFrames} frames)", "export the frame you need as one image")
    check_size(int(dataset.Rows), int(dataset.Columns))


def check_size(rows: int, columns: int) -> None:
    """Refuse images that are too small to train on or too large to be a radiograph.

    Args:
        rows: image height, pixels.
        columns: image width, pixels.

    Raises:
        Refusal: below MIN_SIDE on a side or above MAX_PIXELS in all.
    """
    if min(rows, columns) < MIN_SIDE:
        raise Refusal(f"image of {rows} x {columns} pixels", f"use images of at least {MIN_SIDE} x {MIN_SIDE}")
    if rows * columns > MAX_PIXELS:
        raise Refusal(f"image of {rows} x {columns} pixels", f"scale it below {MAX_PIXELS} pixels in all")


def _guessed_syntax(dataset: Dataset) -> pydicom.uid.UID:
    # pydicom 2.4 and 3 name what the reader found out about a bare data set differently.
    if hasattr(dataset, "original_encoding"):
        implicit, little = dataset.original_encoding
    else:
        implicit, little = dataset.is_implicit_VR, dataset.is_little_endian
    if not little:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


def _decode_with_itk(dataset: Dataset) -> np.ndarray | None:
    """Decode through ITK from a copy that has nothing but the pixels: ITK would rescale and invert by itself."""
    try:
        import itk
    except ImportError:
        return None
    bare = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=bytes(128))
    for keyword in IMAGE_PIXEL_KEYWORDS:
        setattr(bare, keyword, dataset.get(keyword))
    bare.SamplesPerPixel = 1
    bare.PhotometricInterpretation = "MONOCHROME2"
    bare["PixelData"] = dataset["PixelData"]
    bare.SOPClassUID = bare.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    bare.SOPInstanceUID = bare.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    handle, name = tempfile.mkstemp(suffix=".dcm")
    os.close(handle)
    try:
        with _ITK_LOCK:
            write_dicom(bare, name)
            return np.array(itk.array_view_from_image(itk.imread(name, imageio=itk.GDCMImageIO.New())))
    except Exception:  # ITK raises plain RuntimeError; pydicom, asked next, gives the reason
        return None
    finally:
        os.unlink(name)
