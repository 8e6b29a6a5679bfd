"""One way to read CT, whatever its file format."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from anatodiff.data.ct.arrays import read_arrays
from anatodiff.data.ct.nifti import read_nifti_labels, read_nifti_map, read_nifti_volume
from anatodiff.data.ct.series import read_series
from anatodiff.data.ct.volume import CTVolume, check_labels
from anatodiff.data.errors import CTError, Refusal

NIFTI_ENDINGS = (".nii", ".nii.gz")
ARRAY_ENDING = ".npz"


def read_ct(path: str | os.PathLike[str], allow_burned_in: bool = False) -> CTVolume:
    """Read CT as axial slices in Hounsfield units, always in the same orientation.

    NIfTI (`.nii`, `.nii.gz`): see `anatodiff.data.ct.nifti.read_nifti_volume`. Arrays (`.npz`): see
    `anatodiff.data.ct.arrays.read_arrays`. Any other file, or a folder: a DICOM CT series, see
    `anatodiff.data.ct.series.read_series`; compressed pixels are decoded in a process of their own.

    Args:
        path: the file, or the folder of one DICOM series.
        allow_burned_in: read DICOM images that say that annotation is burned into their pixels.

    Returns:
        The slices; names, dates, identifiers and free text never enter them.

    Raises:
        CTError: it is missing, broken, not CT in HU, oblique, of several series, or has a gap; one line with the
            path, the reason and the cure.
    """
    place = Path(path)
    try:
        if not place.exists():
            raise Refusal("no such file or folder", "check the path")
        if is_nifti(place):
            return _made("NIfTI", *read_nifti_volume(place))
        if place.name.lower().endswith(ARRAY_ENDING):
            return _made("NumPy", *read_arrays(place))
        return _made("DICOM", *read_series(place, allow_burned_in))
    except Refusal as refusal:
        raise CTError.of(place, refusal) from refusal
    except Exception as error:
        broken = Refusal(f"broken file ({type(error).__name__})", "send it again from its source")
        raise CTError.of(place, broken) from error


def read_ct_labels(path: str | os.PathLike[str], n_labels: int | None = None) -> CTVolume:
    """Read a label map that stands alone: NIfTI, or a DICOM CT series whose values are labels.

    Args:
        path: the file, or the folder of one series.
        n_labels: number of labels with the background: they must be below it; None: any.

    Returns:
        A volume whose slices are the labels, uint16.

    Raises:
        CTError: as for `read_ct`, not whole numbers, or a label out of range.
    """
    volume = _read_map(Path(path))
    try:
        check_labels(volume.slices, n_labels)
    except Refusal as refusal:
        raise CTError.of(path, refusal) from refusal
    return replace(volume, slices=volume.slices.astype(np.uint16))


def read_ct_noise(path: str | os.PathLike[str]) -> CTVolume:
    """Read maps of the noise: NIfTI, or a DICOM CT series, in HU.

    Args:
        path: the file, or the folder of one series.

    Returns:
        A volume whose slices are the root mean square of the noise, float32.

    Raises:
        CTError: as for `read_ct`, or a value is negative or not finite.
    """
    volume = _read_map(Path(path))
    noise = volume.slices.astype(np.float32)
    wrong = int((~np.isfinite(noise) | (noise < 0)).sum())
    if wrong:
        refusal = Refusal(f"{wrong} voxels of the noise are negative or not finite", "give its root mean square in HU")
        raise CTError.of(path, refusal)
    return replace(volume, slices=noise)


def _read_map(place: Path) -> CTVolume:
    """Read values that are no HU of a patient: they may all be one, and none is expected below 0."""
    if not is_nifti(place):
        return read_ct(place)
    try:
        values, spacing, affine = read_nifti_map(place)
    except Refusal as refusal:
        raise CTError.of(place, refusal) from refusal
    except Exception as error:
        broken = Refusal(f"broken file ({type(error).__name__})", "send it again from its source")
        raise CTError.of(place, broken) from error
    return _made("NIfTI", np.ascontiguousarray(values), spacing, affine, {})


def read_ct_mask(path: str | os.PathLike[str], image: CTVolume, n_labels: int | None = None) -> np.ndarray:
    """Read a segmentation of an image: NIfTI, one integer label per voxel, on the same grid.

    Args:
        path: .nii or .nii.gz.
        image: the CT, from `read_ct`.
        n_labels: number of labels with the background: they must be below it; None: any.

    Returns:
        uint16 (N, H, W), voxel by voxel on `image.slices`.

    Raises:
        CTError: no NIfTI, another grid than the image's, not whole numbers, or a label out of range.
    """
    place = Path(path)
    try:
        if not is_nifti(place):
            raise Refusal("not a NIfTI file", "give the mask as .nii or .nii.gz")
        return read_nifti_labels(place, image, n_labels)
    except Refusal as refusal:
        raise CTError.of(place, refusal) from refusal
    except Exception as error:
        broken = Refusal(f"broken file ({type(error).__name__})", "send it again from its source")
        raise CTError.of(place, broken) from error


def is_nifti(path: Path) -> bool:
    """Tell NIfTI by the ending."""
    return path.name.lower().endswith(NIFTI_ENDINGS)


def _made(name: str, slices: np.ndarray, spacing: object, affine: object, facts: dict) -> CTVolume:
    return CTVolume(slices, spacing, affine, {"format": name, **facts})  # type: ignore[arg-type]
