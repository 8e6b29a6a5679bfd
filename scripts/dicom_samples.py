"""DICOM files of every transfer syntax that can be encoded here, for the tests and for `fuzz_reader.py`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)

from anatodiff.data.dicom_file import write_dicom

CR_CLASS = "1.2.840.10008.5.1.4.1.1.1"
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
LOSSLESS = (RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless)
LOSSY = (JPEGBaseline8Bit, JPEGLSNearLossless, JPEG2000)


def scene(bits: int, signed: bool, shape: tuple[int, int] = (33, 47)) -> np.ndarray:
    """A smooth image over the full range of its bits, with an odd number of pixels."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    unit = (np.sin(x / 7.0) + np.cos(y / 5.0) + 2) / 4
    unit = (unit - unit.min()) / (unit.max() - unit.min())
    levels = np.rint(unit * (2**bits - 1)).astype(np.int64) - (2 ** (bits - 1) if signed else 0)
    return levels.astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")


def plain_dataset(stored: np.ndarray, bits: int) -> FileDataset:
    """An uncompressed, explicit little endian radiograph, not anybody's."""
    dataset = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=bytes(128))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CR_CLASS
    uid = generate_uid(entropy_srcs=[stored.tobytes().hex()])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = uid
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.Modality = "CR"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * stored.dtype.itemsize, bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PatientName, dataset.PatientID = "Nobody", "0"
    content = stored.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB" if stored.dtype.itemsize == 1 else "OW"
    return dataset


def write_encoded(path: Path, stored: np.ndarray, bits: int, syntax: str) -> Path:
    """Write stored values in a transfer syntax."""
    dataset = plain_dataset(stored, bits)
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        return _by_gdcm(path, dataset, syntax)
    if syntax in NATIVE:
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian and stored.dtype.itemsize == 2:
            dataset.PixelData = stored.astype(stored.dtype.newbyteorder(">")).tobytes()
            dataset["PixelData"].VR = "OW"
    elif syntax == JPEGBaseline8Bit:
        buffer = io.BytesIO()
        Image.fromarray(stored).save(buffer, format="JPEG", quality=95)
        dataset.PixelData = encapsulate([buffer.getvalue()])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        options: dict[str, Any] = {
            RLELossless: {"encoding_plugin": "pydicom"},  # GDCM's aborts the process on odd widths
            JPEG2000: {"j2k_cr": [4]},
            JPEGLSNearLossless: {"jls_error": 1},
        }.get(syntax, {})
        dataset.compress(syntax, generate_instance_uid=False, **options)
    write_dicom(dataset, str(path))
    return path


def _by_gdcm(path: Path, dataset: FileDataset, syntax: str) -> Path:
    import gdcm

    write_dicom(dataset, str(path))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    # GDCM names the file anew at each call, and says that it is derived; only its pixels are wanted.
    dataset.PixelData = pydicom.dcmread(path).PixelData
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    write_dicom(dataset, str(path))
    return path
