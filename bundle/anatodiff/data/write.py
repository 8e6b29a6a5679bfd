"""Synthetic radiographs on disk: DICOM Secondary Capture, PNG or NIfTI, each marked as synthetic inside the file."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Extension
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from anatodiff.data.dicom_file import write_dicom
from anatodiff.data.errors import RadiographError, Refusal
from anatodiff.data.raster import SPACING_KEY
from anatodiff.files import replaced_when_whole

DICOM_BITS = 12
PNG_BITS = 16
SYNTHETIC_DATA = 0x0008001C  # pydicom 2.4 does not know the keyword
# Type 2 elements of the patient, study and series: present, empty. No date: nothing happened to anybody.
EMPTY_KEYWORDS = (
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "ReferringPhysicianName",
    "AccessionNumber",
    "Laterality",
)
LONG_STRING_CHARS = 64  # VR LO
SHORT_TEXT_CHARS = 1024  # VR ST
NIFTI_DESCRIP_BYTES = 79
MAX_SIDE = 65535  # Rows and Columns are 16-bit
NAME = "AnatoDiff"


@dataclass(frozen=True)
class _Origin:
    """What the file says about where the image comes from."""

    spacing: tuple[float, float] | None
    description: str
    seed: int | None
    weights_hash: str | None
    label: str | None

    def facts(self) -> dict[str, str]:
        named = {"label": self.label, "seed": self.seed, "weights_hash": self.weights_hash}
        return {key: str(value) for key, value in named.items() if value is not None}

    def sentence(self) -> str:
        facts = "".join(f", {key} {value}" for key, value in self.facts().items())
        return f"SYNTHETIC {self.description}, made by {NAME} {_version()}, not of a patient{facts}"


def write_radiograph(
    path: str | os.PathLike[str],
    pixels: np.ndarray,
    *,
    spacing: tuple[float, float] | None = None,
    description: str = "radiograph",
    seed: int | None = None,
    weights_hash: str | None = None,
    label: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one synthetic radiograph, whole or not at all; the same arguments give the same bytes.

    `.dcm`: a Secondary Capture (PS3.3 A.8.1), MONOCHROME2, 12 of 16 bits, SyntheticData YES, a placeholder patient of
    its own, no date. `.png`: 16 bits, with text entries. `.nii`, `.nii.gz`: float32, the mark in `descrip` and,
    with all facts, in a comment extension.

    Args:
        path: the file; its ending chooses the format; missing folders are made.
        pixels: (H, W) in [0, 1], larger is brighter.
        spacing: mm between rows and between columns, or None if unknown.
        description: a few words; the file says SYNTHETIC before them.
        seed: the seed of the sample.
        weights_hash: hash of the weights that drew it.
        label: the class it was drawn for.
        overwrite: replace an existing file.

    Returns:
        The path that was written.

    Raises:
        RadiographError: if the file exists and overwrite is False, the ending is not one of the above, the pixels are
            not (H, W), finite and in [0, 1], or the spacing is not two positive numbers.
    """
    target = Path(path)
    try:
        encode = _encoder(target)
        values = _checked_pixels(pixels)
        words = " ".join(description.replace("\\", "/").split())
        origin = _Origin(_checked_spacing(spacing), words, seed, weights_hash, label)
        if target.exists() and not overwrite:
            raise Refusal("the file exists", "choose another name or pass overwrite=True")
    except Refusal as refusal:
        raise RadiographError.of(target, refusal) from refusal
    with replaced_when_whole(target) as temporary:
        temporary.write_bytes(encode(values, origin))
    return target


def _encoder(target: Path) -> Callable[[np.ndarray, _Origin], bytes]:
    encoders = {".dcm": _dicom_bytes, ".png": _png_bytes, ".nii": _nifti_bytes, ".nii.gz": _nifti_gz_bytes}
    for ending, encode in encoders.items():
        if target.name.lower().endswith(ending):
            return encode
    raise Refusal("the ending names no format to write", "use .dcm, .png, .nii or .nii.gz")


def _checked_pixels(pixels: np.ndarray) -> np.ndarray:
    values = np.asarray(pixels, dtype=np.float64)
    if values.ndim != 2 or not 0 < min(values.shape) <= max(values.shape) <= MAX_SIDE:
        raise Refusal(f"pixels of shape {values.shape}", "give one image of shape (H, W)")
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise Refusal(f"pixels from {values.min():g} to {values.max():g}", "give finite values in [0, 1] (clip them)")
    return values


def _checked_spacing(spacing: tuple[float, float] | None) -> tuple[float, float] | None:
    if spacing is None:
        return None
    if len(spacing) != 2 or not all(np.isfinite(side) and side > 0 for side in spacing):
        raise Refusal(f"spacing {spacing}", "give two positive numbers, in mm")
    return float(spacing[0]), float(spacing[1])


def _png_bytes(values: np.ndarray, origin: _Origin) -> bytes:
    text = PngInfo()
    text.add_text("synthetic", "yes")
    text.add_text("Description", origin.sentence())
    text.add_text("Software", NAME)
    for key, value in origin.facts().items():
        text.add_text(key, value)
    if origin.spacing is not None:
        text.add_text(SPACING_KEY, f"{origin.spacing[0]!r}x{origin.spacing[1]!r}")
    buffer = io.BytesIO()
    Image.fromarray(_quantised(values, PNG_BITS)).save(buffer, format="PNG", pnginfo=text)
    return buffer.getvalue()


def _nifti_bytes(values: np.ndarray, origin: _Origin) -> bytes:
    row, column = origin.spacing or (1.0, 1.0)
    # First axis to the patient's left, second downwards (to posterior): what viewers show as columns and rows.
    affine = np.diag([-column, -row, 1.0, 1.0])
    image = nib.Nifti1Image(values.T.astype(np.float32), affine)
    if origin.spacing is not None:
        image.header.set_xyzt_units("mm")
    image.header["cal_min"], image.header["cal_max"] = 0.0, 1.0
    image.header["descrip"] = origin.sentence().encode("ascii", "replace")[:NIFTI_DESCRIP_BYTES]
    image.header.extensions.append(Nifti1Extension("comment", origin.sentence().encode()))  # descrip is cut short
    return image.to_bytes()


def _nifti_gz_bytes(values: np.ndarray, origin: _Origin) -> bytes:
    return gzip.compress(_nifti_bytes(values, origin), mtime=0)  # no time stamp: the same input, the same bytes


def _dicom_bytes(values: np.ndarray, origin: _Origin) -> bytes:
    stored = _quantised(values, DICOM_BITS)
    entropy = [hashlib.sha256(stored.tobytes()).hexdigest(), str(stored.shape), repr(origin)]
    dataset = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=bytes(128))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[*entropy, "instance"])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.add_new(SYNTHETIC_DATA, "CS", "YES")
    _add_patient_study_series(dataset, entropy, origin)
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.InstanceNumber = 1
    dataset.PatientOrientation = ""
    dataset.ConversionType = "SYN"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.DerivationDescription = origin.sentence()[:SHORT_TEXT_CHARS]
    dataset.ContributingEquipmentSequence = Sequence([_equipment(origin)])
    _add_pixels(dataset, stored, origin.spacing)
    buffer = io.BytesIO()
    write_dicom(dataset, buffer)
    return buffer.getvalue()


def _add_patient_study_series(dataset: Dataset, entropy: list[str], origin: _Origin) -> None:
    # A patient of its own for each image: readers that split by patient must not see one giant patient.
    dataset.PatientName = "SYNTHETIC^NOT A PATIENT"
    dataset.PatientID = "SYNTHETIC-" + hashlib.sha256("".join(entropy).encode()).hexdigest()[:16].upper()
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[*entropy, "study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[*entropy, "series"])
    for keyword in EMPTY_KEYWORDS:
        setattr(dataset, keyword, "")
    dataset.Modality = "OT"
    dataset.SeriesNumber = 1
    dataset.Manufacturer = NAME
    dataset.SoftwareVersions = _version()
    dataset.SeriesDescription = f"SYNTHETIC {origin.description}"[:LONG_STRING_CHARS].strip()


def _equipment(origin: _Origin) -> Dataset:
    purpose = Dataset()  # PS3.16 CID 7005
    purpose.CodeValue, purpose.CodingSchemeDesignator = "109100", "DCM"
    purpose.CodeMeaning = "Synthesizing Equipment"
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([purpose])
    item.Manufacturer = NAME
    item.ManufacturerModelName = NAME
    item.SoftwareVersions = _version()
    item.ContributionDescription = origin.sentence()[:SHORT_TEXT_CHARS]
    return item


def _add_pixels(dataset: Dataset, stored: np.ndarray, spacing: tuple[float, float] | None) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, DICOM_BITS, DICOM_BITS - 1
    dataset.PixelRepresentation = 0
    if spacing is not None:
        dataset.PixelSpacing = [f"{value:.10g}" for value in spacing]
    # The LINEAR window that maps the full range to the full range (PS3.3 C.11.2.1.2).
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (DICOM_BITS - 1), 2**DICOM_BITS
    dataset.PixelData = stored.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"


def _quantised(values: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(values * (2**bits - 1)).astype(np.uint16)


def _version() -> str:
    try:
        return version("anatodiff")
    except PackageNotFoundError:
        return "unreleased"
