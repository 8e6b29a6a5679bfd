"""The radiograph reader as MONAI's loaders call it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from anatodiff.data.radiograph import read_radiograph

PathLike = str | os.PathLike[str]
NO_CHANNEL = float("nan")


class RadiographReader(ImageReader):
    """Read radiographs with `read_radiograph` inside MONAI's `LoadImage` and `LoadImaged`.

    The file is opened in `get_data`, not in `read`: MONAI answers an error in `read` by trying its other readers, which
    would read a CT slice that was refused here, or leave a MONOCHROME1 image uninverted.

    The metadata has no identity of its own; MONAI's loaders add the file's name to it as `filename_or_obj`.

    Args:
        allow_burned_in: read DICOM images that say that annotation is burned into their pixels.
        allow_colour: read PNG and JPEG files in colour, such as photographs, as their luma.
    """

    def __init__(self, allow_burned_in: bool = False, allow_colour: bool = False) -> None:
        self.allow_burned_in, self.allow_colour = allow_burned_in, allow_colour

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Say that any name may be a radiograph: the content decides, and DICOM files often have no ending.

        Args:
            filename: file name or names.

        Returns:
            True, unless a name is a folder.
        """
        return not any(Path(name).is_dir() for name in _names(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> list[Path]:
        """Take the files to read.

        Args:
            data: one file name, or several of one size that become the channels of one image.
            kwargs: none is known; part of MONAI's interface.

        Returns:
            The files, for `get_data`.

        Raises:
            ValueError: for an unknown option.
        """
        if kwargs:
            raise ValueError(f"RadiographReader has no option {sorted(kwargs)[0]!r}; remove it")
        return [Path(name) for name in _names(data)]

    def get_data(self, img: list[Path]) -> tuple[np.ndarray, dict[str, Any]]:
        """Read the files.

        Args:
            img: what `read` returned.

        Returns:
            float32 (H, W) in [0, 1], or (C, H, W) of several files; and the metadata with `affine` (mm; 1 where the
            spacing is unknown), `spatial_shape`, `original_channel_dim`, and the text facts `format`, `modality`,
            `photometric` and `voi`.

        Raises:
            RadiographError: see `read_radiograph`.
            ValueError: if the files differ in size.
        """
        radiographs = [read_radiograph(path, self.allow_burned_in, self.allow_colour) for path in img]
        shapes = {radiograph.pixels.shape for radiograph in radiographs}
        if len(shapes) != 1:
            raise ValueError(f"{img[0]}: files of sizes {sorted(shapes)} cannot be one image; load them apart")
        first = radiographs[0]
        affine = _affine(first.spacing or (1.0, 1.0))
        meta: dict[str, Any] = {
            MetaKeys.AFFINE.value: affine,
            MetaKeys.ORIGINAL_AFFINE.value: affine.copy(),
            MetaKeys.SPACE.value: SpaceKeys.RAS.value,
            MetaKeys.SPATIAL_SHAPE.value: np.asarray(first.pixels.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM.value: NO_CHANNEL if len(radiographs) == 1 else 0,
            # Always the same keys, so that batches of mixed formats collate.
            **{key: first.meta.get(key, "") for key in ("format", "modality", "photometric", "voi")},
        }
        pixels = first.pixels if len(radiographs) == 1 else np.stack([radiograph.pixels for radiograph in radiographs])
        return pixels, meta


def _names(filename: Sequence[PathLike] | PathLike) -> Sequence[PathLike]:
    return [filename] if isinstance(filename, str | os.PathLike) else filename


def _affine(spacing: tuple[float, float]) -> np.ndarray:
    """Index (row, column) to RAS mm: rows run down (to posterior, -A), columns to the patient's left (-R)."""
    row, column = spacing
    return np.array([[0.0, -column, 0.0], [-row, 0.0, 0.0], [0.0, 0.0, 1.0]])
