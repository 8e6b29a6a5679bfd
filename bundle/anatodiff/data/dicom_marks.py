"""What every synthetic DICOM object says of itself, of whatever kind it is: no patient, no date, and what drew it."""

from __future__ import annotations

import hashlib

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from anatodiff.data.origin import NAME, Origin, cut, tool_version

SAMPLE_PATIENT = "SYNTHETIC-"  # each sample is a patient of its own; the hash of what made it follows
SYNTHETIC_DATA = 0x0008001C  # pydicom 2.4 does not know the keyword
# Type 2 elements of the patient, study and series: present, empty. No date: nothing happened to anybody.
EMPTY_KEYWORDS = (
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "AccessionNumber",
)
LONG_STRING_BYTES = 64  # VR LO
SHORT_TEXT_BYTES = 1024  # VR ST
LONG_TEXT_BYTES = 10240  # VR LT


def marked_dataset(sop_class: str, sample: list[str], instance: list[str], origin: Origin) -> FileDataset:
    """Start a data set with all that says that it is synthetic; the same arguments give the same identifiers.

    A sample is a patient, a study and a series of its own: readers that split by patient must not see one giant
    patient, and a study is of one patient (PS3.3 A.1.2).

    Args:
        sop_class: SOP Class UID.
        sample: what fixes the sample, all its pixels among it: two different objects must never share a UID.
        instance: what fixes this object of the sample.
        origin: where it comes from.

    Returns:
        Patient, study, series, equipment and SOP common; the image is to be added.
    """
    dataset = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=bytes(128))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 192"
    _add_patient_study_series(dataset, sample, origin)
    _add_common(dataset, sop_class, instance, origin)
    return dataset


def _add_patient_study_series(dataset: Dataset, entropy: list[str], origin: Origin) -> None:
    dataset.PatientName = "SYNTHETIC^NOT A PATIENT"
    dataset.PatientID = SAMPLE_PATIENT + hashlib.sha256("".join(entropy).encode()).hexdigest()[:16].upper()
    # No PatientIdentityRemoved: it would say that there was an identity to remove.
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[*entropy, "study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[*entropy, "series"])
    dataset.StudyID = "SYNTHETIC"
    for keyword in EMPTY_KEYWORDS:
        setattr(dataset, keyword, "")
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.Manufacturer = NAME
    dataset.SoftwareVersions = tool_version()
    # The backslash separates values of LO.
    words = cut(f"SYNTHETIC {origin.description}".replace("\\", "/"), LONG_STRING_BYTES)
    dataset.StudyDescription = dataset.SeriesDescription = words


def _add_common(dataset: FileDataset, sop_class: str, entropy: list[str], origin: Origin) -> None:
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[*entropy, "instance"])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.add_new(SYNTHETIC_DATA, "CS", "YES")
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    # No DerivationCodeSequence: all codes of CID 7203 say what was done to source images, and there are none.
    dataset.DerivationDescription = origin.sentence(SHORT_TEXT_BYTES)
    if origin.label is not None:
        dataset.ImageComments = cut(f"SYNTHETIC, drawn for the class: {origin.facts()['label']}", LONG_TEXT_BYTES)
    dataset.ContributingEquipmentSequence = DicomSequence([_equipment(origin)])


def _equipment(origin: Origin) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = DicomSequence(
        [code_item("109100", "DCM", "Synthesizing Equipment")]
    )  # CID 7005
    item.Manufacturer = item.ManufacturerModelName = NAME
    item.SoftwareVersions = tool_version()
    item.ContributionDescription = origin.sentence(SHORT_TEXT_BYTES)
    return item


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """Build one item of a code sequence.

    Args:
        value: the code.
        scheme: that it belongs to.
        meaning: in words.
    """
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
