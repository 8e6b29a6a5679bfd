"""CT volumes and masks in NIfTI."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import io_orientation

from anatodiff.data.ct.volume import CTVolume, canonical, check_labels, check_same_grid, check_voxels
from anatodiff.data.errors import Refusal
from anatodiff.data.nifti import MM_PER_UNIT

UNPLACED = "set its sform to the true orientation and spacing, or export it again"
logger = logging.getLogger(__name__)


def read_nifti_volume(path: Path) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray, dict[str, Any]]:
    """Read a 3-D NIfTI file of Hounsfield units.

    The sform places the voxels where its code is set, else the qform; without either a volume is refused, since left
    and right could not be told. Where both are set and name different axes it is refused, too. No unit is mm.

    Args:
        path: .nii or .nii.gz.

    Returns:
        Slices float32 (N, H, W), spacing, affine and facts of a `CTVolume`.

    Raises:
        Refusal: with the reason.
    """
    image, shape, affine = _opened(path)
    _check_kind(image)
    view, spacing, turned = canonical(np.broadcast_to(np.float32(0), shape), affine)
    check_voxels(view.shape)
    values = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
    if not np.isfinite(values).all():
        raise Refusal("the voxels are not all finite", "replace NaN and infinity, for instance by -1024 HU")
    if values.min() == values.max():
        raise Refusal(f"every voxel has the same value {values.min():g}", "leave the file out")
    if values.min() >= 0:
        logger.warning("%s: no value below 0 HU, as there is of air and fat: are these Hounsfield units?", path.name)
    return np.ascontiguousarray(canonical(values, affine)[0]), spacing, turned, {"modality": "CT"}


def read_nifti_labels(path: Path, image: CTVolume, n_labels: int | None) -> np.ndarray:
    """Read a NIfTI file of integer labels that lies on the grid of an image.

    Args:
        path: .nii or .nii.gz.
        image: the CT that it belongs to.
        n_labels: labels must be below it; None: any.

    Returns:
        uint16 (N, H, W), turned as the image's slices.

    Raises:
        Refusal: with the reason.
    """
    cure = "resample it onto the image with nearest neighbours, or give the mask that was drawn on this image"
    view, _, turned = read_nifti_map(path)
    check_same_grid(view.shape, turned, image, cure)
    check_labels(view, n_labels)
    return np.ascontiguousarray(view, dtype=np.uint16)


def read_nifti_map(path: Path) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray]:
    """Read a 3-D NIfTI file of any real numbers, such as labels or noise; its axes are placed as those of a volume.

    Args:
        path: .nii or .nii.gz.

    Returns:
        A view (N, H, W) of the values in the type that the file gives them, spacing and affine of a `CTVolume`.

    Raises:
        Refusal: with the reason.
    """
    stored, shape, affine = _opened(path)
    _check_kind(stored)
    check_voxels(canonical(np.broadcast_to(np.float32(0), shape), affine)[0].shape)
    return canonical(np.asanyarray(stored.dataobj).reshape(shape), affine)


def _opened(path: Path) -> tuple[nib.Nifti1Image, tuple[int, ...], np.ndarray]:
    """Open a file; returns it, its shape with three sides, and its affine in mm."""
    try:
        image = nib.load(path)
    except FileNotFoundError as error:
        raise Refusal("no such file", "check the path") from error
    except (ImageFileError, ValueError, OSError, EOFError) as error:
        raise Refusal(
            f"not a readable NIfTI file ({type(error).__name__})", "the file is cut off or broken: send it again"
        ) from error
    if not isinstance(image, nib.Nifti1Image):
        raise Refusal(f"not a NIfTI file ({type(image).__name__})", "convert it to NIfTI")
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        kind = "a series of volumes" if len(shape) > 3 else "no volume"
        raise Refusal(f"NIfTI of shape {image.shape}, {kind}", "export one 3-D volume")
    scale = MM_PER_UNIT.get(image.header.get_xyzt_units()[0], 1.0)
    return image, shape, np.diag([scale, scale, scale, 1.0]) @ _placed(image)


def _placed(image: nib.Nifti1Image) -> np.ndarray:
    try:
        sform, qform = image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]
    except Exception as error:  # a quaternion that turns nothing
        raise Refusal("the qform is broken", UNPLACED) from error
    if sform is None and qform is None:
        raise Refusal("neither sform nor qform, so left and right cannot be told", UNPLACED)
    if sform is not None and qform is not None and not _same_axes(sform, qform):
        raise Refusal("sform and qform name different axes", UNPLACED)
    return np.asarray(qform if sform is None else sform)


def _same_axes(sform: np.ndarray, qform: np.ndarray) -> bool:
    return bool(np.isfinite([sform, qform]).all()) and np.array_equal(io_orientation(sform), io_orientation(qform))


def _check_kind(image: nib.Nifti1Image) -> None:
    dtype = image.get_data_dtype()
    if dtype.fields is not None or np.issubdtype(dtype, np.complexfloating):
        raise Refusal(f"colour or complex NIfTI ({dtype})", "store one number per voxel")
