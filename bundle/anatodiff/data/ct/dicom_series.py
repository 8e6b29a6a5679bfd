"""Synthetic CT as a DICOM series: CT Image Storage, a file for each slice."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from nibabel.affines import voxel_sizes
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, generate_uid

from anatodiff.data.ct.series import TO_RAS
from anatodiff.data.dicom_file import write_dicom
from anatodiff.data.dicom_marks import marked_dataset
from anatodiff.data.dicom_synthetic import millimetres
from anatodiff.data.errors import Refusal
from anatodiff.data.origin import Origin

CT_BITS = 16
INTERCEPT = -1024  # HU that is stored as 0, as scanners do
# The window of the abdomen, for viewers; it changes no value.
WINDOW_CENTRE, WINDOW_WIDTH = 40, 400
SMALLEST, LARGEST = np.iinfo(np.int16).min + INTERCEPT, np.iinfo(np.int16).max + INTERCEPT


@dataclass(frozen=True)
class Placement:
    """Where slices lie and what they show.

    Args:
        affine: (4, 4) of a `CTVolume`, as nested tuples.
        thickness: of a slice, mm.
        body_part: DICOM's word, or None where it is not said.
    """

    affine: tuple[tuple[float, ...], ...]
    thickness: float
    body_part: str | None


def series_bytes(slices: np.ndarray, origin: Origin, placement: Placement) -> Iterator[bytes]:
    """Encode slices as whole DICOM files, from the feet to the head; the same arguments give the same bytes.

    Values are rounded to whole HU. No fact about a scanner or an exposure is made up: KVP and PatientPosition are
    empty.

    Args:
        slices: (N, H, W) HU.
        origin: where they come from.
        placement: where they lie.

    Returns:
        The files.

    Raises:
        Refusal: HU that 16 bits cannot hold.
    """
    hu = np.rint(slices)
    if hu.min() < SMALLEST or hu.max() > LARGEST:
        raise Refusal(f"HU from {hu.min():g} to {hu.max():g}", f"give values from {SMALLEST} to {LARGEST} (clip them)")
    stored = (hu - INTERCEPT).astype("<i2")
    # The pixels, too: another machine rounds otherwise, and two different objects must never share a UID.
    pixels = hashlib.sha256(stored.tobytes()).hexdigest()
    sample = [pixels, str(stored.shape), repr(origin), repr(placement)]
    return (_slice_bytes(stored[number], number, sample, origin, placement) for number in range(len(stored)))


def _slice_bytes(stored: np.ndarray, number: int, sample: list[str], origin: Origin, placement: Placement) -> bytes:
    dataset = marked_dataset(CTImageStorage, sample, [*sample, str(number)], origin)
    dataset.InstanceNumber = number + 1
    dataset.Modality = "CT"
    # PRIMARY would be a direct result of an examination of a patient (PS3.3 C.7.6.1.1.2), and there was none.
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    if placement.body_part is not None:
        dataset.BodyPartExamined = placement.body_part
    else:  # of type 2C: it may be a paired part, and nobody says
        dataset.Laterality = ""
    # Of type 2: there was no tube, no acquisition and nobody who lay in a scanner.
    dataset.KVP, dataset.AcquisitionNumber, dataset.PatientPosition = None, None, ""
    _add_plane(dataset, number, sample, placement)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = CT_BITS, CT_BITS, CT_BITS - 1
    dataset.PixelRepresentation = 1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = INTERCEPT, 1, "HU"
    dataset.WindowCenter, dataset.WindowWidth = WINDOW_CENTRE, WINDOW_WIDTH
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    write_dicom(dataset, buffer)
    return buffer.getvalue()


def _add_plane(dataset: Dataset, number: int, sample: list[str], placement: Placement) -> None:
    affine = TO_RAS @ np.asarray(placement.affine)
    sizes = voxel_sizes(affine)
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[*sample, "frame of reference"])
    dataset.PositionReferenceIndicator = ""
    dataset.PixelSpacing = millimetres((float(sizes[1]), float(sizes[0])))
    dataset.SliceThickness = millimetres((placement.thickness,))[0]
    cosines = affine[:3, :2] / sizes[:2]
    dataset.ImageOrientationPatient = millimetres([float(part) for part in cosines.T.ravel() + 0.0])
    place = affine @ [0, 0, number, 1]
    dataset.ImagePositionPatient = millimetres([float(part) for part in place[:3] + 0.0])
