"""NIfTI radiographs: single 2-D images, turned to the way a viewer shows them."""

from __future__ import annotations

import logging
import math
from typing import Any, cast

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from anatodiff.data.errors import Refusal
from anatodiff.data.limits import CountedBytes, check_size

NIFTI2_HEADER = 540  # bytes
MM_PER_UNIT = {"mm": 1.0, "meter": 1000.0, "micron": 0.001}
# Viewers show the patient's left on the right, posterior below, inferior below.
AS_DISPLAYED = ("L", "P", "I")
BLOCK = 1 << 20  # pixels at once
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it writes to standard error what it mends in a header
# A header without orientation codes is taken as stored: first axis to the right, second axis down.
STORED_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_nifti(data: bytes) -> tuple[np.ndarray, tuple[float, float] | None, dict[str, Any]]:
    """Read a 2-D NIfTI image (or 3-D with one slice) as rows and columns as displayed.

    nibabel's array is indexed [i, j, k], and the affine says to which patient direction each index runs. The array is
    first turned so that its axes run to Left, Posterior and Inferior, the axis of length one is dropped, and the other
    two are swapped: of an axial or coronal image the columns then run to the patient's left and the rows downwards. An
    image written by ITK or by this package (i to the left, j to posterior) is therefore just transposed. Without qform
    and sform codes the first axis is the columns and the second the rows, not flipped.

    The display range is cal_min..cal_max where the header has one, else the range of the pixels.

    Args:
        data: the file, unpacked.

    Returns:
        The pixels, float (H, W) in [0, 1]; spacing (row, column) in mm or None where the header has no unit; facts.

    Raises:
        Refusal: a volume, a series, colour, complex or non-finite values, one gray level, or a broken file.
    """
    try:
        image = _kind(data).from_stream(CountedBytes(data))
        _check_kind(image)
        stored = cast(ArrayProxy, image.dataobj)
        values, slope, intercept = stored.get_unscaled(), float(stored.slope), float(stored.inter)
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(f"not a readable NIfTI file ({error})", "the file is cut off or broken: send it again") from error
    low, high = _range(values, slope, intercept)
    cal_low, cal_high = float(image.header["cal_min"]), float(image.header["cal_max"])
    given = -math.inf < cal_low < cal_high < math.inf
    voi = f"pixel range {low:g}..{high:g}"
    if given:
        low, high, voi = cal_low, cal_high, f"cal_min..cal_max {cal_low:g}..{cal_high:g}"
    pixels, spacing = _as_displayed(_windowed(values, slope, intercept, low, high), image)
    return pixels, spacing, {"photometric": "MONOCHROME2", "voi": voi}


def _kind(data: bytes) -> type[nib.Nifti1Image]:
    sizes = (int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big"))
    return nib.Nifti2Image if NIFTI2_HEADER in sizes else nib.Nifti1Image


def _range(values: np.ndarray, slope: float, intercept: float) -> tuple[float, float]:
    """The smallest and the largest scaled value; refuses what is not finite or all alike."""
    ends = (float(values.min()), float(values.max()))  # NaN if any value is
    low, high = sorted(end * slope + intercept for end in ends)
    if not all(map(math.isfinite, (*ends, low, high, high - low))):
        raise Refusal("the pixels are not all finite", "replace NaN and infinity or leave the file out")
    if low == high:
        raise Refusal(f"every pixel has the same value {low:g}", "leave the file out")
    return low, high


def _windowed(values: np.ndarray, slope: float, intercept: float, low: float, high: float) -> np.ndarray:
    """Scale and bring low..high to 0..1 in float64, some at a time since that takes eight bytes for each pixel."""
    flat = values.reshape(-1)
    pixels = np.empty(flat.size, dtype=np.float32)
    for start in range(0, flat.size, BLOCK):
        with np.errstate(over="ignore"):  # of a range that is nearly nothing; infinity is clipped, and not also printed
            scaled = flat[start : start + BLOCK].astype(np.float64) * slope + intercept
            pixels[start : start + BLOCK] = np.clip((scaled - low) / (high - low), 0.0, 1.0)
    return pixels.reshape(values.shape)


def _check_kind(image: nib.Nifti1Image) -> None:
    dtype = image.get_data_dtype()
    if dtype.fields is not None or np.issubdtype(dtype, np.complexfloating):
        raise Refusal(f"colour or complex NIfTI ({dtype})", "store one gray value per pixel")
    sides = [side for side in image.shape if side != 1]
    if len(sides) != 2 or len(image.shape) > 3:
        raise Refusal(f"NIfTI of shape {image.shape}", "only single 2-D images are read: export one projection")
    check_size(*sides)


def _as_displayed(values: np.ndarray, image: nib.Nifti1Image) -> tuple[np.ndarray, tuple[float, float] | None]:
    header = image.header
    coded = int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0
    volume = values.reshape(values.shape + (1,) * (3 - values.ndim))  # (I, J, K), one of them 1
    turn = ornt_transform(io_orientation(image.affine if coded else STORED_AFFINE), axcodes2ornt(AS_DISPLAYED))
    zooms = np.ones(3)
    zooms[: values.ndim] = header.get_zooms()[: values.ndim]
    turned_zooms = np.empty(3)
    turned_zooms[turn[:, 0].astype(int)] = zooms
    turned = apply_orientation(volume, turn)
    columns, rows = (axis for axis in range(3) if turned.shape[axis] != 1)
    pixels = turned.reshape(turned.shape[columns], turned.shape[rows]).T  # (H, W)
    scale = MM_PER_UNIT.get(header.get_xyzt_units()[0])
    if scale is None or not (np.isfinite(zooms).all() and (zooms > 0).all()):
        return pixels, None
    return pixels, (float(turned_zooms[rows] * scale), float(turned_zooms[columns] * scale))
