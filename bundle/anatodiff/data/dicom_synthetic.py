"""Synthetic radiographs as DICOM objects: Secondary Capture, or DX For Presentation where it is asked for."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import DigitalXRayImageStorageForPresentation, SecondaryCaptureImageStorage

from anatodiff.data.dicom_file import write_dicom
from anatodiff.data.dicom_marks import code_item, marked_dataset
from anatodiff.data.errors import Refusal
from anatodiff.data.origin import Origin

DICOM_BITS = 12
SOP_CLASSES = {"SC": SecondaryCaptureImageStorage, "DX": DigitalXRayImageStorageForPresentation}
# Body Part Examined (PS3.16 Annex L) -> SNOMED CT code and meaning (PS3.16 CID 4009, as in pydicom 3's dictionary).
REGIONS = {
    "ABDOMEN": ("818981001", "Abdomen"),
    "ANKLE": ("70258002", "Ankle joint"),
    "CHEST": ("816094009", "Chest"),
    "CSPINE": ("122494005", "Cervical spine"),
    "ELBOW": ("16953009", "Elbow joint"),
    "FEMUR": ("71341001", "Femur"),
    "FOOT": ("56459004", "Foot"),
    "HAND": ("85562004", "Hand"),
    "HIP": ("29836001", "Hip"),
    "HUMERUS": ("85050009", "Humerus"),
    "KNEE": ("72696002", "Knee"),
    "LSPINE": ("122496007", "Lumbar spine"),
    "PELVIS": ("816092008", "Pelvis"),
    "SHOULDER": ("16982005", "Shoulder"),
    "SKULL": ("89546000", "Skull"),
    "TSPINE": ("122495006", "Thoracic spine"),
    "WRIST": ("74670003", "Wrist joint"),
}
UNPAIRED = ("ABDOMEN", "CHEST", "CSPINE", "LSPINE", "PELVIS", "SKULL", "TSPINE")
LATERALITIES = ("R", "L", "B", "U")  # right, left, both, unpaired
DIRECTIONS = {"A": "P", "P": "A", "R": "L", "L": "R", "H": "F", "F": "H"}  # each and its opposite


@dataclass(frozen=True)
class DicomSettings:
    """What a DICOM file says of an image that only the user can know.

    `SC`, Secondary Capture, is the default: no viewer and no hanging protocol takes it for a radiograph of a patient.
    A synthetic DX beside real ones in a PACS is the greater risk, so it is written only where it is asked for, and
    only with the facts that the standard requires of it: nothing about a detector or an exposure is made up.

    Args:
        sop_class: "SC" or "DX" (For Presentation).
        body_part: one of `REGIONS`; None is not said.
        laterality: "R", "L", "B" (both) or "U" (unpaired); None follows from an unpaired body part, else is not said.
        orientation: patient directions of the rows and of the columns, such as ("L", "F") for a frontal view whose
            rows run to the patient's left and columns to the feet; None is not said.

    Raises:
        ValueError: a value is not known, or DX lacks one that the standard requires.
    """

    sop_class: str = "SC"
    body_part: str | None = None
    laterality: str | None = None
    orientation: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.sop_class not in SOP_CLASSES:
            raise ValueError(f"dicom_class must be one of {tuple(SOP_CLASSES)}, got {self.sop_class!r}")
        if self.body_part is not None and self.body_part not in REGIONS:
            raise ValueError(f"body_part must be null or one of {', '.join(REGIONS)}, got {self.body_part!r}")
        if self.laterality is not None and self.laterality not in LATERALITIES:
            raise ValueError(f"laterality must be null or one of {LATERALITIES}, got {self.laterality!r}")
        if self.body_part is not None and self.laterality not in (None, *self._sides()):
            raise ValueError(
                f"laterality {self.laterality!r} does not go with body_part {self.body_part!r}: "
                f"give null or one of {self._sides()}"
            )
        self._check_orientation()
        if self.sop_class == "DX" and self.side is None:
            raise ValueError("a DX image says its laterality: set laterality to R, L, B or U, or dicom_class to SC")
        if self.sop_class == "DX" and self.orientation is None:
            raise ValueError(
                'a DX image says how the patient lies in it: set patient_orientation, ["L", "F"] for a frontal view, '
                "or dicom_class to SC"
            )

    def _sides(self) -> tuple[str, ...]:
        return ("U",) if self.body_part in UNPAIRED else ("R", "L", "B")

    def _check_orientation(self) -> None:
        if self.orientation is None:
            return
        row, column = self.orientation if len(self.orientation) == 2 else ("", "")
        if row not in DIRECTIONS or column not in DIRECTIONS or column in (row, DIRECTIONS[row]):
            raise ValueError(
                f"patient_orientation must be null or two directions of {tuple(DIRECTIONS)} across each other, "
                f"got {self.orientation!r}"
            )

    @property
    def side(self) -> str | None:
        """The laterality: as given, or "U" of a body part that there is one of."""
        return "U" if self.laterality is None and self.body_part in UNPAIRED else self.laterality


def dicom_bytes(values: np.ndarray, origin: Origin, settings: DicomSettings) -> bytes:
    """Encode an image as a whole DICOM file; the same arguments give the same bytes.

    Args:
        values: (H, W) in [0, 1], larger is brighter.
        origin: where it comes from.
        settings: kind of object, and its anatomy.

    Raises:
        Refusal: DX without a spacing.
    """
    if settings.sop_class == "DX" and origin.spacing is None:
        # ImagerPixelSpacing (PS3.3 C.8.11.4) is of type 1, and a made-up one would be measured with.
        raise Refusal("a DX image needs its pixel spacing", "set spacing to two numbers in mm, or dicom_class to SC")
    stored = np.rint(values * (2**DICOM_BITS - 1)).astype("<u2")
    # The pixels, too: another machine rounds otherwise, and two different objects must never share a UID.
    entropy = [hashlib.sha256(stored.tobytes()).hexdigest(), str(stored.shape), repr(origin), repr(settings)]
    dataset = marked_dataset(SOP_CLASSES[settings.sop_class], entropy, entropy, origin)
    dataset.PatientOrientation = "" if settings.orientation is None else list(settings.orientation)
    if settings.body_part is not None:
        dataset.BodyPartExamined = settings.body_part
    _add_pixels(dataset, stored)
    (_add_capture if settings.sop_class == "SC" else _add_projection)(dataset, origin.spacing, settings)
    buffer = io.BytesIO()
    write_dicom(dataset, buffer)
    return buffer.getvalue()


def _add_pixels(dataset: Dataset, stored: np.ndarray) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, DICOM_BITS, DICOM_BITS - 1
    dataset.PixelRepresentation = 0
    # The LINEAR window that maps the full range to the full range (PS3.3 C.11.2.1.2).
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (DICOM_BITS - 1), 2**DICOM_BITS
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"


def _add_capture(dataset: Dataset, spacing: tuple[float, float] | None, settings: DicomSettings) -> None:
    """Add what makes it a Secondary Capture (PS3.3 A.8.1)."""
    dataset.Modality, dataset.ConversionType = "OT", "SYN"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    # Of the series, R or L only (PS3.3 C.7.3.1): absent of an unpaired body part, empty where it is both or not known.
    if settings.side != "U":
        dataset.Laterality = settings.side if settings.side in ("R", "L") else ""
    if spacing is not None:
        dataset.PixelSpacing = millimetres(spacing)


def _add_projection(dataset: Dataset, spacing: tuple[float, float] | None, settings: DicomSettings) -> None:
    """Add what makes it a DX image For Presentation (PS3.3 A.26)."""
    dataset.Modality, dataset.PresentationIntentType = "DX", "FOR PRESENTATION"
    # PRIMARY is a direct result of an examination of a patient (PS3.3 C.7.6.1.1.2), and there was none. A DX image
    # has a third value, which is empty (C.8.11.3.1.1).
    dataset.ImageType = ["DERIVED", "SECONDARY", ""]
    dataset.ImageLaterality = settings.side
    region = None if settings.body_part is None else REGIONS[settings.body_part]
    dataset.AnatomicRegionSequence = DicomSequence([] if region is None else [code_item(region[0], "SCT", region[1])])
    dataset.DetectorType = ""  # of type 2: there was no detector
    dataset.ImagerPixelSpacing = millimetres(spacing or ())
    dataset.AcquisitionContextSequence = DicomSequence([])
    # P-values (C.8.11.3.1.2), brighter where a radiograph's beam would be weaker. One of LIN and LOG must be said:
    # gray levels that were made to be looked at are nearer to the logarithm.
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    dataset.PresentationLUTShape = "IDENTITY"


def millimetres(spacing: Sequence[float]) -> list[str]:
    """Write lengths as decimal strings.

    Args:
        spacing: mm, not below 0.
    """
    return [f"{value:.10g}" for value in spacing]  # of 16 characters at most, as DS takes them
