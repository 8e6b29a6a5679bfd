"""Synthetic radiographs on disk: DICOM Secondary Capture, PNG or NIfTI, each marked as synthetic inside the file."""

from __future__ import annotations

import gzip
import io
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Extension
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from anatodiff.data.dicom_synthetic import DicomSettings, dicom_bytes
from anatodiff.data.errors import RadiographError, Refusal
from anatodiff.data.origin import NAME, Origin, cut, plain_text
from anatodiff.data.raster import SPACING_KEY
from anatodiff.files import replaced_when_whole

PNG_BITS = 16
NIFTI_DESCRIP_BYTES = 79
DESCRIPTION_BYTES = 64
MAX_SIDE = 65535  # Rows and Columns are 16-bit


def write_radiograph(
    path: str | os.PathLike[str],
    pixels: np.ndarray,
    *,
    spacing: Sequence[float] | None = None,
    description: str = "radiograph",
    seed: int | None = None,
    weights_hash: str | None = None,
    label: str | None = None,
    number: int | None = None,
    recipe: str | None = None,
    dicom: DicomSettings | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one synthetic radiograph, whole or not at all; the same arguments give the same bytes.

    `.dcm`: a Secondary Capture (PS3.3 A.8.1), or DX For Presentation (A.26) where `dicom` asks for it, MONOCHROME2,
    12 of 16 bits, SyntheticData YES, a placeholder patient of its own, no date. `.png`: 16 bits, with text entries.
    `.nii`, `.nii.gz`: float32, the mark in `descrip` and, with all facts, in a comment extension.

    Args:
        path: the file; its ending chooses the format; missing folders are made.
        pixels: (H, W) in [0, 1], larger is brighter.
        spacing: mm between rows and between columns, or None if unknown.
        description: a few words, 64 bytes at most; the file says SYNTHETIC before them.
        seed: the seed of the sample.
        weights_hash: hash of the weights that drew it.
        label: the class it was drawn for; any text, of which control characters are left out.
        number: of the sample within its class.
        recipe: hash of all that fixes the pixels, which the UIDs are derived from, too.
        dicom: kind of DICOM object and its anatomy; None is a Secondary Capture that says nothing of anatomy.
        overwrite: replace an existing file.

    Returns:
        The path that was written.

    Raises:
        RadiographError: if the file exists and overwrite is False, the ending is not one of the above, the pixels are
            not (H, W), finite and in [0, 1], the spacing is not two positive numbers, or a DX image has none.
    """
    target = Path(path)
    try:
        encode = _encoder(target, dicom or DicomSettings())
        values = _checked_pixels(pixels)
        words = cut(plain_text(description), DESCRIPTION_BYTES)  # what follows it must not be cut
        origin = Origin(_checked_spacing(spacing), words, seed, number, weights_hash, recipe, label)
        if target.exists() and not overwrite:
            raise Refusal("the file exists", "choose another name or pass overwrite=True")
        content = encode(values, origin)
    except Refusal as refusal:
        raise RadiographError.of(target, refusal) from refusal
    with replaced_when_whole(target) as temporary:
        temporary.write_bytes(content)
    return target


def _encoder(target: Path, dicom: DicomSettings) -> Callable[[np.ndarray, Origin], bytes]:
    encoders: dict[str, Callable[[np.ndarray, Origin], bytes]] = {
        ".dcm": partial(dicom_bytes, settings=dicom),
        ".png": _png_bytes,
        ".nii": _nifti_bytes,
        ".nii.gz": _nifti_gz_bytes,
    }
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


def _checked_spacing(spacing: Sequence[float] | None) -> tuple[float, float] | None:
    if spacing is None:
        return None
    try:
        row, column = (float(side) for side in spacing)
    except (TypeError, ValueError):
        row = column = math.nan
    if not (math.isfinite(row) and math.isfinite(column) and min(row, column) > 0):
        raise Refusal(f"spacing {spacing}", "give two positive numbers, in mm")
    return row, column


def _png_bytes(values: np.ndarray, origin: Origin) -> bytes:
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


def _nifti_bytes(values: np.ndarray, origin: Origin) -> bytes:
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


def _nifti_gz_bytes(values: np.ndarray, origin: Origin) -> bytes:
    return gzip.compress(_nifti_bytes(values, origin), mtime=0)  # no time stamp: the same input, the same bytes


def _quantised(values: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(values * (2**bits - 1)).astype(np.uint16)
