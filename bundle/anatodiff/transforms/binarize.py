"""Threshold an image on the 0-255 scale, so that only the bright outline of the anatomy is left."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils.enums import TransformBackends

__all__ = ["Binarize", "Binarized"]

EIGHT_BIT_MAX = 255
# How far outside [0, 1] an image may lie: rounding of an interpolation, not another intensity scale.
RANGE_TOLERANCE = 1e-3


class Binarize(Transform):
    """Set what is brighter than the threshold to 1 and all else to 0.

    The comparison is strict, as in OpenCV's ``THRESH_BINARY``: a pixel that equals the threshold becomes 0.

    Args:
        threshold: grey level on the 0-255 scale, 0 <= threshold <= 255.

    Raises:
        ValueError: the threshold is outside 0..255.

    References:
        AnatoDiff, section III.B, and section IV.C for the value of 150.
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]  # noqa: RUF012 - MONAI's own declaration

    def __init__(self, threshold: float = 150) -> None:
        if not 0 <= threshold <= EIGHT_BIT_MAX:
            raise ValueError(f"threshold={threshold} is outside 0..{EIGHT_BIT_MAX}: give it as an 8-bit grey level.")
        self.threshold = threshold

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Binarize one image.

        Args:
            img: any shape, floating point, in [0, 1].

        Returns:
            float32 of the same shape and kind (array, tensor or MetaTensor), each value 0 or 1.

        Raises:
            ValueError: the image is empty, not in [0, 1], or has NaN.
        """
        if 0 in img.shape:
            raise ValueError(f"img of shape {tuple(img.shape)} is empty.")
        low, high = float(img.min()), float(img.max())
        # Written so that NaN, which compares false with everything, is refused too.
        if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
            raise ValueError(f"img lies in [{low:g}, {high:g}], not in [0, 1]: scale it before it is binarized.")
        # The threshold is divided and not the image multiplied: for an 8-bit level k, k / 255 has one rounding on both
        # sides, while k / 255 * 255 may come out above k.
        if isinstance(img, torch.Tensor):
            return (img > torch.tensor(self.threshold / EIGHT_BIT_MAX, dtype=img.dtype, device=img.device)).float()
        return (img > img.dtype.type(self.threshold / EIGHT_BIT_MAX)).astype(np.float32)


class Binarized(MapTransform):
    """``Binarize`` for the named entries of a dictionary.

    Args:
        keys: entries to binarize.
        threshold: grey level on the 0-255 scale, 0 <= threshold <= 255.
        allow_missing_keys: pass over an entry that is not there, in place of raising a KeyError.
    """

    backend = Binarize.backend

    def __init__(self, keys: KeysCollection, threshold: float = 150, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.binarize = Binarize(threshold)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Binarize the entries.

        Args:
            data: the dictionary; it is not changed.

        Returns:
            A copy with the named entries binarized.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.binarize(result[key])
        return result
