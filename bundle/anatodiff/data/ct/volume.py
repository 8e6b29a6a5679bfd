"""CT slices in one orientation, whatever the file had: feet to head, anterior above, the patient's left at right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from anatodiff.data.errors import Refusal
from anatodiff.data.limits import MIN_SIDE

# Columns run to the patient's left, rows to posterior, slices to the head, as axial CT is displayed.
CANONICAL = ("L", "P", "S")
# degrees; a tilted gantry or an oblique couch is left as it is up to here, beyond it slices are not axial any more
MAX_TILT = 10.0
# The largest scans have 512 x 512 x 1,500 voxels, 1.6 GB as float32.
MAX_VOXELS = 400_000_000
MAX_LABEL = 65535
MAX_MISPLACED = 0.1  # voxels between two grids that are still the same


@dataclass(frozen=True, eq=False)
class CTVolume:
    """Axial CT slices in Hounsfield units.

    Attributes:
        slices: float32 (N, H, W) HU, from the feet to the head; rows run to posterior, columns to the patient's left.
        spacing: mm between slices, rows and columns; None where the file does not say (an array of single slices).
        affine: float64 (4, 4), from (column, row, slice) to mm to the patient's right, anterior and head as in NIfTI
            (RAS+); None where `spacing` is.
        meta: facts without identity, of the keys `format`, `modality`, `body_part`, `transfer_syntax` and
            `slice_thickness` (mm); unknown ones are left out.
    """

    slices: np.ndarray
    spacing: tuple[float, float, float] | None
    affine: np.ndarray | None
    meta: dict[str, Any] = field(default_factory=dict)


def centred_affine(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> np.ndarray:
    """Place slices that nobody has placed: the axis of the scanner through their middle, the first one at 0 mm.

    Args:
        shape: (N, H, W).
        spacing: mm between slices, rows and columns.

    Returns:
        The affine of a `CTVolume`.
    """
    z, y, x = spacing
    affine = np.diag([-x, -y, z, 1.0])
    affine[:2, 3] = x * (shape[2] - 1) / 2, y * (shape[1] - 1) / 2
    return affine


def canonical(values: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray]:
    """Turn an array of voxels to axial slices, without resampling.

    Axes are swapped and flipped until each lies as near as it can to left, posterior and superior. A tilt of at most
    MAX_TILT degrees stays, and the affine says it.

    Args:
        values: (I, J, K), any axes.
        affine: (4, 4), from (i, j, k) to mm in RAS+.

    Returns:
        A view (N, H, W) of the values; spacing (slice, row, column) in mm; the affine of a `CTVolume`.

    Raises:
        Refusal: the affine is not usable, or the axes are oblique.
    """
    affine = np.asarray(affine, np.float64)
    sizes = voxel_sizes(affine)
    if not np.isfinite(affine).all() or not (sizes > 0).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise Refusal("the orientation and spacing make no space", "correct the affine of the header")
    cosines = np.abs(affine[:3, :3] / sizes)
    tilt = float(np.degrees(np.arccos(np.clip(cosines.max(axis=0), 0, 1))).max())
    if tilt > MAX_TILT:
        raise Refusal(
            f"oblique slices, {tilt:.0f} degrees off the patient's axes (at most {MAX_TILT:g})",
            "resample the volume to axial slices first",
        )
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(CANONICAL))
    turned = affine @ inv_ornt_aff(turn, values.shape)
    x, y, z = (float(size) for size in voxel_sizes(turned))
    return apply_orientation(values, turn).transpose(2, 1, 0), (z, y, x), turned


def check_voxels(shape: tuple[int, ...]) -> None:
    """Refuse volumes that are too large to hold, or whose slices are too small to use.

    Args:
        shape: (N, H, W).

    Raises:
        Refusal: below MIN_SIDE on a side of the slices, without slices, or above MAX_VOXELS in all.
    """
    if min(shape[1:]) < MIN_SIDE or shape[0] < 1:
        raise Refusal(
            f"{shape[0]} axial slices of {shape[1]} x {shape[2]} pixels",
            f"use at least one of {MIN_SIDE} x {MIN_SIDE}",
        )
    if int(np.prod(shape, dtype=np.int64)) > MAX_VOXELS:
        raise Refusal(f"{shape[0]} slices of {shape[1]} x {shape[2]} pixels", f"cut it below {MAX_VOXELS} voxels")


def check_same_grid(
    shape: tuple[int, ...], affine: np.ndarray, image: CTVolume, cure: str, name: str = "its image"
) -> None:
    """Refuse what does not lie voxel by voxel on an image.

    Args:
        shape: (N, H, W) of the other volume, turned by `canonical`.
        affine: of the other volume.
        image: the CT.
        cure: what the user can do about it.
        name: what to call the image.

    Raises:
        Refusal: another shape, or a corner is more than MAX_MISPLACED voxels off.
    """
    if shape != image.slices.shape:
        raise Refusal(f"{_size(shape)} voxels, but {name} has {_size(image.slices.shape)}", cure)
    if image.affine is None or image.spacing is None:
        return
    n, h, w = shape
    corners = np.array([(x, y, z, 1) for x in (0, w - 1) for y in (0, h - 1) for z in (0, n - 1)]).T
    off = float(np.abs(np.linalg.solve(image.affine, affine @ corners) - corners).max())
    if off > MAX_MISPLACED:
        raise Refusal(f"another place in space than {name}, a corner is {off:.1f} voxels off", cure)


def check_labels(values: np.ndarray, n_labels: int | None) -> None:
    """Refuse what are no labels.

    Args:
        values: of the voxels, any shape.
        n_labels: number of labels with the background: they must be below it; None: any.

    Raises:
        Refusal: a value is not whole, or out of range.
    """
    whole = np.issubdtype(values.dtype, np.integer)
    if not whole and not (np.isfinite(values).all() and np.array_equal(values, np.rint(values))):
        raise Refusal("the labels are not whole numbers", "store one label per voxel (not probabilities)")
    low, high = int(values.min()), int(values.max())
    most = MAX_LABEL if n_labels is None else n_labels - 1
    if low < 0 or high > most:
        wrong = low if low < 0 else high
        raise Refusal(f"label {wrong} is out of range", f"use labels from 0 to {most}, or map this one to one of them")


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
