"""A phantom as a DICOM file, as a digital (DX) or computed (CR) radiography unit writes it."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset, validate_file_meta
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from anatodiff.files import replaced_when_whole

from .make import Phantom

CR_STORAGE = UID("1.2.840.10008.5.1.4.1.1.1")
DX_STORAGE = UID("1.2.840.10008.5.1.4.1.1.1.1")  # digital X-ray image, for presentation
UID_NAMESPACE = uuid.UUID("6f0d7a52-3b1c-5a5e-9d0e-0d1f4c2b7a90")  # any fixed value: makes the UIDs repeatable
SYNTHETIC_DATA = 0x0008001C  # younger than pydicom 2.4's dictionary
# By body part examined: code and meaning in SNOMED CT, word for the study, view position. The chest's views are mixed.
REGIONS = {
    "CHEST": ("51185008", "Chest", "chest", ""),
    "ABDOMEN": ("818981001", "Abdomen", "abdomen", "AP"),
    "HUMERUS": ("85050009", "Humerus", "humerus", "AP"),
    "SHOULDER": ("16982005", "Shoulder", "shoulder", "AP"),
}
PAIRED = ("HUMERUS", "SHOULDER")
STUDY_DATE, STUDY_TIME = "20000101", "120000"


@dataclass(frozen=True)
class Encoding:
    """How one file stores its pixels.

    Args:
        dx: Digital X-Ray storage, else Computed Radiography.
        inverted: MONOCHROME1, else MONOCHROME2.
        bits: bits stored in 16.
        compressed: RLE Lossless, else Explicit VR Little Endian.
        window: whether a Computed Radiography file states a window (Digital X-Ray always does).
    """

    dx: bool
    inverted: bool
    bits: int
    compressed: bool
    window: bool


def make_uid(*parts: object) -> str:
    """A valid UID that depends on nothing but its parts.

    Args:
        *parts: what it names.

    Returns:
        A UID under the root 2.25 (a UUID as a number).
    """
    return f"2.25.{uuid.uuid5(UID_NAMESPACE, '/'.join(map(str, parts))).int}"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _describe(ds: Dataset, region: str, patient_id: str, patient_name: str, number: int) -> None:
    """Patient, study, series and equipment: nobody, made by this library."""
    ds.PatientName, ds.PatientID = patient_name, patient_id
    ds.PatientBirthDate, ds.PatientSex = "", ""
    ds.QualityControlSubject = "YES"
    ds.add_new(SYNTHETIC_DATA, "CS", "YES")
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = STUDY_DATE, STUDY_TIME, "", str(number)
    ds.ReferringPhysicianName, ds.StudyDescription = "", f"Phantom {REGIONS[region][2]} radiograph"
    ds.SeriesNumber, ds.InstanceNumber = 1, 1
    ds.AcquisitionDate = ds.ContentDate = STUDY_DATE
    ds.AcquisitionTime = ds.ContentTime = STUDY_TIME
    ds.Manufacturer, ds.ManufacturerModelName = "AnatoDiff", "Phantom"
    ds.BodyPartExamined, ds.ViewPosition = region, REGIONS[region][3]
    ds.PatientOrientation = ["L", "F"]
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"


def _describe_dx(ds: Dataset, inverted: bool, region: str, laterality: str) -> None:
    """What the Digital X-Ray object demands beyond Computed Radiography."""
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.ImageLaterality = laterality or "U"
    ds.AnatomicRegionSequence = [_code(REGIONS[region][0], "SCT", REGIONS[region][1])]
    ds.AcquisitionContextSequence = []
    ds.DetectorType, ds.PositionerType = "DIRECT", ""
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1 if not inverted else 1
    ds.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"


def _store_pixels(ds: Dataset, phantom: Phantom, encoding: Encoding) -> np.ndarray:
    largest = 2**encoding.bits - 1
    values = np.round(phantom.pixels.astype(np.float64) * largest).astype("<u2")
    if encoding.inverted:
        values = (largest - values).astype("<u2")
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME1" if encoding.inverted else "MONOCHROME2"
    ds.Rows, ds.Columns = values.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, encoding.bits, encoding.bits - 1, 0
    spacing = [f"{phantom.spacing:.6f}"] * 2
    ds.ImagerPixelSpacing = spacing
    ds.PixelSpacing = spacing
    if encoding.dx or encoding.window:
        # The whole range: the linear window function then leaves the values as they are.
        ds.WindowCenter, ds.WindowWidth = 2 ** (encoding.bits - 1), 2**encoding.bits
    ds.PixelData = values.tobytes()
    ds["PixelData"].VR = "OW"
    return values


def write_phantom_dicom(
    path: str | os.PathLike[str],
    phantom: Phantom,
    encoding: Encoding,
    patient: tuple[str, str],
    uids: tuple[str, str, str],
    number: int = 1,
) -> None:
    """Write one phantom; the file appears whole or not at all.

    Args:
        path: the file to make.
        phantom: from make_phantom.
        encoding: how to store the pixels.
        patient: id and name.
        uids: of the study, the series and the image.
        number: of the study.
    """
    path = Path(path)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DX_STORAGE if encoding.dx else CR_STORAGE
    meta.MediaStorageSOPInstanceUID = UID(uids[2])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=False, is_little_endian=True)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, uids[2]
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uids[0], uids[1]
    ds.Modality = "DX" if encoding.dx else "CR"
    region = phantom.body_part
    laterality = phantom.side[0].upper() if phantom.side is not None and region in PAIRED else ""
    _describe(ds, region, *patient, number)
    if encoding.dx:
        _describe_dx(ds, encoding.inverted, region, laterality)
    elif laterality:
        ds.Laterality = laterality
    values = _store_pixels(ds, phantom, encoding)
    if encoding.compressed:
        ds.compress(RLELossless, values, encoding_plugin="pydicom")
        # pydicom 3 gives a compressed image a random UID of its own.
        ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = UID(uids[2])
    validate_file_meta(meta, enforce_standard=True)
    meta.FileMetaInformationGroupLength = 0  # pydicom fills it in only where it is present
    with replaced_when_whole(path) as temporary:
        ds.save_as(temporary)
