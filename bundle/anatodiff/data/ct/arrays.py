"""CT slices as NumPy arrays in one file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from anatodiff.data.ct.volume import MAX_VOXELS, centred_affine, check_voxels
from anatodiff.data.errors import Refusal

HU_KEY, SPACING_KEY, PATIENT_KEY = "hu", "spacing", "patient"
MAX_BYTES = 4 * MAX_VOXELS
CURE = "save it by np.savez_compressed with hu (N, H, W)"


def read_arrays(
    path: Path,
) -> tuple[np.ndarray, tuple[float, float, float] | None, np.ndarray | None, dict[str, Any]]:
    """Read axial slices from an .npz file: `hu` (N, H, W), from the feet to the head as displayed, and perhaps
    `spacing` (3,) mm between slices, rows and columns.

    Args:
        path: the file.

    Returns:
        Slices float32 (N, H, W), spacing, affine and facts of a `CTVolume`.

    Raises:
        Refusal: with the reason.
    """
    found = load_arrays(path, (HU_KEY, SPACING_KEY))
    if HU_KEY not in found:
        raise Refusal(f"no array {HU_KEY!r}", CURE)
    hu = found[HU_KEY]
    if hu.ndim != 3 or hu.dtype.kind not in "iuf":
        raise Refusal(f"hu of shape {hu.shape} and type {hu.dtype}", CURE)
    check_voxels(hu.shape)
    slices = np.ascontiguousarray(hu, dtype=np.float32)
    if not np.isfinite(slices).all():
        raise Refusal("the voxels are not all finite", "replace NaN and infinity, for instance by -1024 HU")
    if SPACING_KEY not in found:
        return slices, None, None, {"modality": "CT"}
    spacing = np.asarray(found[SPACING_KEY], dtype=float).ravel()
    if spacing.shape != (3,) or not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise Refusal("spacing is not three positive numbers", "give mm between slices, rows and columns")
    z, y, x = (float(side) for side in spacing)
    return slices, (z, y, x), centred_affine(slices.shape, (z, y, x)), {"modality": "CT"}


def load_arrays(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Load some arrays of an .npz file; pickled ones are refused.

    Args:
        path: the file.
        keys: their names.

    Returns:
        Those of them that the file has.

    Raises:
        Refusal: missing, broken or too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.file_size > MAX_BYTES for entry in archive.infolist()):
                raise Refusal(f"unpacks to more than {MAX_BYTES >> 20} MB", "split it into several files")
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in keys if key in arrays}
    except Refusal:
        raise
    except FileNotFoundError as error:
        raise Refusal("no such file", "check the path") from error
    except Exception as error:
        raise Refusal(f"not a readable .npz file ({type(error).__name__})", CURE) from error
