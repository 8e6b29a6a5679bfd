"""Synthetic CT on disk: NIfTI or a DICOM series, each marked as synthetic inside the files."""

from __future__ import annotations

import gzip
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import Nifti1Extension

from anatodiff.data.ct.dicom_series import Placement, series_bytes
from anatodiff.data.ct.read import is_nifti
from anatodiff.data.ct.volume import canonical, centred_affine
from anatodiff.data.dicom_synthetic import REGIONS
from anatodiff.data.errors import CTError, Refusal
from anatodiff.data.origin import Origin, cut, plain_text
from anatodiff.data.write import DESCRIPTION_BYTES, NIFTI_DESCRIP_BYTES
from anatodiff.files import named_if_full, replaced_when_whole

SCANNER_SPACE = 1  # NIfTI's code of an affine to scanner coordinates
SPACING_TOLERANCE = 1e-4  # of a side
SLICE_NAME = "slice_{:04d}.dcm"
MASK_LABELS = 65536


def write_ct(
    path: str | os.PathLike[str],
    slices_hu: np.ndarray,
    spacing: Sequence[float],
    *,
    affine: np.ndarray | None = None,
    thickness: float | None = None,
    body_part: str | None = None,
    description: str = "CT",
    seed: int | None = None,
    weights_hash: str | None = None,
    label: str | None = None,
    number: int | None = None,
    recipe: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write synthetic CT slices, whole or not at all; the same arguments give the same bytes.

    `.nii`, `.nii.gz`: int16 where all values are whole HU, else float32; the mark in `descrip` and, with all facts, in
    a comment extension. A name without ending: a folder with a DICOM CT series (PS3.3 A.3), a file for each slice,
    values rounded to whole HU, SyntheticData YES, a placeholder patient of its own, no date, no scanner.

    Args:
        path: the file, or the folder, which must not be there yet; missing folders above it are made.
        slices_hu: (N, H, W) HU, from the feet to the head; rows run to posterior, columns to the patient's left.
        spacing: mm between slices, rows and columns.
        affine: where the slices lie, as `CTVolume.affine`; None: around the axis of the scanner.
        thickness: of a slice, mm; None: the spacing, so that slices touch. DICOM only.
        body_part: one of `anatodiff.data.dicom_synthetic.REGIONS`; None is not said. DICOM only.
        description: a few words, 64 bytes at most; the file says SYNTHETIC before them.
        seed: the seed of the sample.
        weights_hash: hash of the weights that drew it.
        label: the class it was drawn for.
        number: of the sample within its class.
        recipe: hash of all that fixes the pixels, which the UIDs are derived from, too.
        overwrite: replace an existing file; a folder is never replaced.

    Returns:
        The path that was written.

    Raises:
        CTError: it exists, the ending is another, the slices are not finite HU of shape (N, H, W), the spacing, the
            affine or the thickness is not usable, the affine has another spacing, or the body part is not known.
    """
    target = Path(path)
    try:
        values, sides = _checked(slices_hu), _checked_spacing(spacing)
        placed = _checked_affine(values, sides, affine)
        words = cut(plain_text(description), DESCRIPTION_BYTES)
        origin = Origin(sides[1:], words, seed, number, weights_hash, recipe, label)
        folder = not is_nifti(target)
        _check_target(target, folder, overwrite)
        if not folder:
            if thickness is not None or body_part is not None:
                raise Refusal("NIfTI has no place for thickness and body_part", "leave them out, or write a series")
            whole = np.array_equal(values, np.rint(values)) and np.abs(values).max() <= np.iinfo(np.int16).max
            content = _nifti_bytes(target, values.astype(np.int16 if whole else np.float32), placed, origin)
        else:
            placement = Placement(_tuples(placed), _checked_thickness(thickness, sides[0]), _checked_part(body_part))
            files = series_bytes(values, origin, placement)
    except Refusal as refusal:
        raise CTError.of(target, refusal) from refusal
    if folder:
        _write_folder(target, files)
    else:
        _write_file(target, content)
    return target


def write_ct_mask(
    path: str | os.PathLike[str],
    labels: np.ndarray,
    spacing: Sequence[float],
    *,
    affine: np.ndarray | None = None,
    description: str = "CT mask",
    overwrite: bool = False,
) -> Path:
    """Write a label map of synthetic CT slices as NIfTI, whole or not at all.

    Args:
        path: .nii or .nii.gz.
        labels: (N, H, W) whole numbers from 0 to 65535, in the order of the slices.
        spacing: mm between slices, rows and columns.
        affine: that of the image; None: around the axis of the scanner, as for `write_ct`.
        description: a few words, 64 bytes at most; the file says SYNTHETIC before them.
        overwrite: replace an existing file.

    Returns:
        The path that was written.

    Raises:
        CTError: as for `write_ct`, or the labels are not whole numbers in range.
    """
    target = Path(path)
    try:
        values = _checked(labels)
        if values.min() < 0 or values.max() >= MASK_LABELS or not np.array_equal(values, np.rint(values)):
            raise Refusal("the labels are not whole numbers from 0 to 65535", "give one label per voxel")
        stored = values.astype(np.uint8 if values.max() <= np.iinfo(np.uint8).max else np.uint16)
        content = _map_bytes(target, stored, spacing, affine, description, overwrite)
    except Refusal as refusal:
        raise CTError.of(target, refusal) from refusal
    _write_file(target, content)
    return target


def write_ct_noise(
    path: str | os.PathLike[str],
    noise_hu: np.ndarray,
    spacing: Sequence[float],
    *,
    affine: np.ndarray | None = None,
    description: str = "CT noise map",
    overwrite: bool = False,
) -> Path:
    """Write maps of the noise of synthetic CT slices as NIfTI of float32, whole or not at all.

    Args:
        path: .nii or .nii.gz.
        noise_hu: (N, H, W) root mean square of the noise, HU, not negative, in the order of the slices.
        spacing: mm between slices, rows and columns.
        affine: that of the image; None: around the axis of the scanner, as for `write_ct`.
        description: a few words, 64 bytes at most; the file says SYNTHETIC before them.
        overwrite: replace an existing file.

    Returns:
        The path that was written.

    Raises:
        CTError: as for `write_ct`, or the noise is negative.
    """
    target = Path(path)
    try:
        values = _checked(noise_hu).astype(np.float32)
        if values.min() < 0:
            raise Refusal(f"noise of {values.min():g} HU", "give its root mean square, which is not negative")
        content = _map_bytes(target, values, spacing, affine, description, overwrite)
    except Refusal as refusal:
        raise CTError.of(target, refusal) from refusal
    _write_file(target, content)
    return target


def check_writing(spacing: Sequence[float], body_part: str | None) -> tuple[float, float, float]:
    """Check how slices are to be written before there are any.

    Args:
        spacing: mm between slices, rows and columns.
        body_part: as for `write_ct`.

    Returns:
        the spacing.

    Raises:
        ValueError: one of them is not usable.
    """
    try:
        _checked_part(body_part)
        return _checked_spacing(spacing)
    except Refusal as refusal:
        raise ValueError(f"{refusal.reason}: {refusal.cure}") from refusal


def _check_target(target: Path, folder: bool, overwrite: bool) -> None:
    if folder and target.suffix:
        raise Refusal("the ending names no format to write", "use .nii or .nii.gz, or none for a folder of DICOM files")
    if target.exists() and (folder or not overwrite or target.is_dir()):
        cure = "choose another name" if folder else "choose another name or pass overwrite=True"
        raise Refusal("the folder exists" if target.is_dir() else "the file exists", cure)


def _checked(slices: np.ndarray) -> np.ndarray:
    values = np.asarray(slices)
    if values.ndim != 3 or min(values.shape) < 1 or values.dtype.kind not in "biuf":
        raise Refusal(f"slices of shape {values.shape}, {values.dtype}", "give numbers of shape (N, H, W)")
    if not np.isfinite(values).all():
        raise Refusal("the values are not all finite", "replace NaN and infinity")
    return values


def _checked_spacing(spacing: Sequence[float]) -> tuple[float, float, float]:
    try:
        z, y, x = (float(side) for side in spacing)
    except (TypeError, ValueError):
        z = y = x = math.nan
    if not (math.isfinite(z + y + x) and min(z, y, x) > 0):
        raise Refusal(f"spacing {spacing}", "give three positive numbers, mm between slices, rows and columns")
    return z, y, x


def _checked_affine(values: np.ndarray, sides: tuple[float, float, float], affine: np.ndarray | None) -> np.ndarray:
    if affine is None:
        return centred_affine(values.shape, sides)
    placed = np.asarray(affine, dtype=np.float64)
    if placed.shape != (4, 4):
        raise Refusal(f"affine of shape {placed.shape}", "give the affine of a CTVolume, (4, 4)")
    turned = canonical(np.broadcast_to(np.float32(0), values.shape[::-1]), placed)[2]
    if not np.allclose(turned, placed):
        raise Refusal("the affine is not that of axial slices", "give the affine of a CTVolume from read_ct")
    if not np.allclose(voxel_sizes(placed)[::-1], sides, rtol=SPACING_TOLERANCE):
        raise Refusal(f"the affine has the spacing {voxel_sizes(placed)[::-1]}, not {sides}", "let them agree")
    return placed


def _checked_thickness(thickness: float | None, spacing: float) -> float:
    value = spacing if thickness is None else float(thickness)
    if not (math.isfinite(value) and value > 0):
        raise Refusal(f"thickness {thickness}", "give a positive number, in mm")
    return value


def _checked_part(body_part: str | None) -> str | None:
    if body_part is not None and body_part not in REGIONS:
        raise Refusal(f"body_part {body_part!r}", f"give None or one of {', '.join(REGIONS)}")
    return body_part


def _tuples(affine: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(part) for part in row) for row in affine)


def _map_bytes(
    target: Path, values: np.ndarray, spacing: Sequence[float], affine: np.ndarray | None, words: str, overwrite: bool
) -> bytes:
    if not is_nifti(target):
        raise Refusal("a mask or a map is written as NIfTI", "use .nii or .nii.gz")
    _check_target(target, False, overwrite)
    sides = _checked_spacing(spacing)
    origin = Origin(sides[1:], cut(plain_text(words), DESCRIPTION_BYTES))
    return _nifti_bytes(target, values, _checked_affine(values, sides, affine), origin)


def _nifti_bytes(target: Path, values: np.ndarray, affine: np.ndarray, origin: Origin) -> bytes:
    image = nib.Nifti1Image(values.transpose(2, 1, 0), affine)
    image.set_sform(affine, SCANNER_SPACE)
    image.set_qform(affine, SCANNER_SPACE)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = origin.sentence().encode("ascii", "replace")[:NIFTI_DESCRIP_BYTES]
    image.header.extensions.append(Nifti1Extension("comment", origin.sentence().encode()))  # descrip is cut short
    content = image.to_bytes()
    # No time stamp: the same input, the same bytes.
    return gzip.compress(content, mtime=0) if target.name.lower().endswith(".gz") else content


def _write_file(target: Path, content: bytes) -> None:
    with replaced_when_whole(target) as temporary:
        temporary.write_bytes(content)


def _write_folder(target: Path, files: Iterator[bytes]) -> None:
    """Write all slices into a folder beside the target, which then takes its name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    with named_if_full(target):
        temporary.mkdir()
        try:
            for number, content in enumerate(files):
                _write_file(temporary / SLICE_NAME.format(number + 1), content)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
