"""CT series in DICOM: one folder of slices, sorted along their normal."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from anatodiff.data.ct.volume import canonical, check_voxels
from anatodiff.data.dicom_file import KNOWN_MODALITY, decode_pixels, read_checked
from anatodiff.data.dicom_pixels import modality_values, padding_mask
from anatodiff.data.errors import Refusal, printable
from anatodiff.data.items import is_image
from anatodiff.data.limits import file_bytes
from anatodiff.data.terms import BODY_PARTS

AIR = -1024.0  # HU, takes the place of padding
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CLASSES = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
CT_KEYWORDS = (
    "SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "BodyPartExamined", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "SliceThickness",
    "ImagePositionPatient", "ImageOrientationPatient", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "BurnedInAnnotation", "RescaleIntercept",
    "RescaleSlope", "RescaleType", "ModalityLUTSequence", "PixelData",
)  # fmt: skip
LOCALIZER, DIRECTORY_FILE = "LOCALIZER", "DICOMDIR"
SAME_PLACE = 0.01  # mm between two slices that are one
SAME_DIRECTION = 1e-3  # of a direction cosine; scanners round them
SAME_SPACING = 1e-4  # mm
GAP = 1.5  # steps of the usual size
UNEVEN = 0.05  # of a step
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM counts to the left and to posterior
Series = tuple[np.ndarray, tuple[float, float, float], np.ndarray, dict[str, Any]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Slice:
    """One decoded slice: its name, its values in HU (H, W), and where it lies."""

    name: str
    series: str
    values: np.ndarray
    position: np.ndarray
    orientation: np.ndarray
    spacing: tuple[float, float]
    thickness: float | None
    facts: dict[str, Any]


def read_series(path: Path, allow_burned_in: bool) -> Series:
    """Read the DICOM CT series of one folder, or one slice.

    All image files of the folder itself must be slices of one series, of one size, orientation and spacing; its
    sub-folders are not looked into. Localizers are left out. Order and spacing come from ImagePositionPatient alone,
    never from the names, the instance numbers or SliceThickness; only a single slice takes its thickness as spacing.

    Args:
        path: folder or file.
        allow_burned_in: read images that say that annotation is burned into their pixels.

    Returns:
        Slices float32 (N, H, W), spacing, affine and facts of a `CTVolume`.

    Raises:
        Refusal: with the reason, and the file in a folder that it is about.
    """
    files = [path] if path.is_file() else _files(path)
    slices: list[_Slice] = []
    for file in files:
        try:
            found = _read_slice(file, allow_burned_in)
        except Refusal as refusal:
            raise _inside(path, file.name, refusal) from refusal
        except Exception as error:
            broken = Refusal(f"broken file ({type(error).__name__})", "send it again from its source")
            raise _inside(path, file.name, broken) from error
        if found is None:
            logger.warning("%s: a localizer, left out", file.name)
            continue
        if slices:
            _check_alike(slices[0], found)
        else:
            check_voxels((len(files), *found.values.shape))
        slices.append(found)
    if not slices:
        raise Refusal("no DICOM CT slices", "give the folder of one CT series, a .nii, a .nii.gz or an .npz file")
    ordered, step = _ordered(slices)
    return _volume(ordered, step)


def _files(folder: Path) -> list[Path]:
    named = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".") and file.name != DIRECTORY_FILE]
    return [file for file in named if is_image(file)]


def _inside(path: Path, name: str, refusal: Refusal) -> Refusal:
    return refusal if path.is_file() else Refusal(f"{printable(name)}: {refusal.reason}", refusal.cure)


def _read_slice(file: Path, allow_burned_in: bool) -> _Slice | None:
    dataset = read_checked(file_bytes(file), CT_KEYWORDS, _check_ct, allow_burned_in)
    if LOCALIZER in [str(value).strip().upper() for value in dataset.get("ImageType") or ()]:
        return None
    kind = str(dataset.get("RescaleType") or "HU").strip().upper()
    if kind != "HU":
        raise Refusal("RescaleType (0028,1054) is not HU", "export the series in Hounsfield units")
    position, orientation = (
        _numbers(dataset, "ImagePositionPatient", 3),
        _numbers(dataset, "ImageOrientationPatient", 6),
    )
    row, column = _numbers(dataset, "PixelSpacing", 2)
    if not (row > 0 and column > 0):
        raise Refusal("PixelSpacing (0028,0030) is not positive", "correct it from the scanner's protocol")
    stored = decode_pixels(dataset)
    values = modality_values(stored, dataset)
    values[padding_mask(stored, dataset)] = AIR
    if not np.isfinite(values).all():
        raise Refusal("the pixels are not all finite", "correct the rescale values")
    body_part = str(dataset.get("BodyPartExamined") or "").strip().upper()
    facts = {"modality": "CT", "transfer_syntax": str(dataset.file_meta.TransferSyntaxUID)}
    thickness = float(dataset.get("SliceThickness") or math.nan)
    return _Slice(
        file.name,
        str(dataset.get("SeriesInstanceUID") or ""),
        values.astype(np.float32),
        position,
        orientation,
        (float(row), float(column)),
        thickness if math.isfinite(thickness) and thickness > 0 else None,
        facts | ({"body_part": body_part} if body_part in BODY_PARTS else {}),
    )


def _check_ct(dataset: Dataset) -> None:
    sop_class, modality = str(dataset.get("SOPClassUID") or ""), str(dataset.get("Modality") or "").strip().upper()
    if sop_class in ENHANCED_CLASSES:
        raise Refusal("an Enhanced CT object of many frames", "export the series as classic CT, one file a slice")
    if modality != "CT" or sop_class not in ("", CT_CLASS):
        shown = modality if KNOWN_MODALITY.fullmatch(modality) else "unknown"
        raise Refusal(f"not a CT slice (Modality {shown})", "leave it out of the folder of the series")


def _numbers(dataset: Dataset, keyword: str, count: int) -> np.ndarray:
    value = dataset.get(keyword)
    if value is None or isinstance(value, str) or not hasattr(value, "__len__") or len(value) != count:
        raise Refusal(f"no {keyword} of {count} numbers", "export the series again with its geometry")
    numbers = np.array([float(part) for part in value])
    if not np.isfinite(numbers).all():
        raise Refusal(f"{keyword} is not finite", "export the series again with its geometry")
    return numbers


def _check_alike(first: _Slice, other: _Slice) -> None:
    cure = "give each series a folder of its own"
    if first.series != other.series:
        raise Refusal(f"{printable(other.name)}: of another series than {printable(first.name)}", cure)
    differences = {
        "size": first.values.shape != other.values.shape,
        "orientation": np.abs(first.orientation - other.orientation).max() > SAME_DIRECTION,
        "pixel spacing": np.abs(np.subtract(first.spacing, other.spacing)).max() > SAME_SPACING,
    }
    for name, differs in differences.items():
        if differs:
            raise Refusal(f"{printable(other.name)}: another {name} than {printable(first.name)}", cure)


def _ordered(slices: list[_Slice]) -> tuple[list[_Slice], np.ndarray | None]:
    """Sort slices along their normal; returns them and the mean way from one to the next, mm (None of a single one)."""
    normal = np.cross(slices[0].orientation[:3], slices[0].orientation[3:])
    ordered = sorted(slices, key=lambda one: float(one.position @ normal))
    if len(ordered) == 1:
        return ordered, None
    steps = np.diff([float(one.position @ normal) for one in ordered])
    closest, widest, usual = int(steps.argmin()), int(steps.argmax()), float(np.median(steps))
    names = [printable(one.name) for one in ordered]
    if steps[closest] < SAME_PLACE:
        raise Refusal(
            f"{names[closest]} and {names[closest + 1]} lie at the same place",
            "keep one reconstruction or phase of the series, each file once",
        )
    if steps[widest] > GAP * usual:
        raise Refusal(
            f"a gap of {steps[widest]:.2f} mm between {names[widest]} and {names[widest + 1]} where slices are "
            f"{usual:.2f} mm apart",
            "send the missing slices again, or give the parts folders of their own",
        )
    if np.abs(steps - usual).max() > UNEVEN * usual:
        logger.warning("slices are %.2f to %.2f mm apart: taken as even", float(steps.min()), float(steps.max()))
    return ordered, (ordered[-1].position - ordered[0].position) / (len(ordered) - 1)


def _volume(
    ordered: list[_Slice], step: np.ndarray | None
) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray, dict]:
    first = ordered[0]
    along_row, along_column = first.orientation[:3], first.orientation[3:]
    if step is None:
        if first.thickness is None:
            raise Refusal("a single slice without SliceThickness", "give the whole series")
        step = np.cross(along_row, along_column) * first.thickness
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along_row * first.spacing[1], along_column * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, first.position
    values = np.stack([one.values for one in ordered], axis=2).transpose(1, 0, 2)  # (column, row, slice)
    turned, spacing, placed = canonical(values, TO_RAS @ affine)
    check_voxels(turned.shape)
    facts = first.facts | ({} if first.thickness is None else {"slice_thickness": first.thickness})
    return np.ascontiguousarray(turned), spacing, placed, facts
