"""Noise of CT: images at any dose from a full-dose and a low-dose image, and maps of the noise."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor, ensure_tuple_rep

__all__ = ["LowDose", "LowDosed", "NoiseMap", "NoiseMapd"]


def check_dose(dose: float, name: str = "dose") -> float:
    """Check a dose.

    Args:
        dose: the share of the full dose.
        name: what to call it in the error.

    Returns:
        the dose as a float.

    Raises:
        ValueError: it is not in (0, 1].
    """
    # Written so that NaN, which compares false with everything, is refused too.
    if not 0 < float(dose) <= 1:
        raise ValueError(f"{name}={dose} is not in (0, 1]: give it as a share of the full dose, 0.25 for a quarter.")
    return float(dose)


def dose_of(dose: float | str, data: Mapping[Hashable, Any]) -> float:
    """Find the dose of one item.

    Args:
        dose: the dose itself, or the entry that holds it.
        data: the item.

    Returns:
        the dose, in (0, 1].

    Raises:
        ValueError: it is not in (0, 1].
        KeyError: there is no such entry.
    """
    if not isinstance(dose, str):
        return check_dose(dose)
    if dose not in data:
        raise KeyError(f"the item has no entry {dose!r} that would hold its dose: add it, or give dose as a number.")
    return check_dose(data[dose], dose)


def check_finite(img: NdarrayOrTensor, name: str) -> None:
    """Refuse NaN and infinities.

    Args:
        img: any shape.
        name: what to call it in the error.

    Raises:
        ValueError: there are some.
    """
    wrong = ~torch.isfinite(img) if isinstance(img, torch.Tensor) else ~np.isfinite(img)
    if bool(wrong.any()):
        raise ValueError(f"{int(wrong.sum())} pixels of the {name} are NaN or infinite: mend or leave out this image.")


class LowDose(Transform):
    """Simulate an image of any dose from a full-dose image and one of a lower dose (eq. 7-8).

    With the noise n = low - full that was inserted at the dose `available`, the image at dose d is full + a n with
    a^2 = (1/d - 1) / (1/available - 1), and the noise of that dose is b n with b^2 = (1/d) / (1/available - 1). Both
    hold if the low-dose image is the full-dose image plus independent quantum noise, whose variance goes as 1/dose.

    Args:
        dose: d, the dose to simulate as a share of the full dose, in (0, 1].
        available: dose of the low-dose image, in (0, 1).

    Raises:
        ValueError: a dose is out of range.

    References:
        NA-Diff, section 3.3. Printed, eq. 7 gives a = 1 at every dose and eq. 8 diverges at d = 1: they are read so
        that the variances are those of the text.
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]  # noqa: RUF012 - MONAI's own declaration

    def __init__(self, dose: float, available: float = 0.25) -> None:
        self.dose, self.available = check_dose(dose), check_dose(available, "available")
        if self.available == 1:
            raise ValueError("available=1 is the full dose, whose image differs by no noise: give a lower-dose image.")

    def __call__(  # type: ignore[override]  # two images make a pair
        self, full: NdarrayOrTensor, low: NdarrayOrTensor
    ) -> tuple[NdarrayOrTensor, NdarrayOrTensor]:
        """Simulate one image.

        Args:
            full: full-dose image, any shape; HU, or any scale that is linear in HU.
            low: the same slice at the dose `available`, of the same shape and scale.

        Returns:
            the image at `dose`, at dose 1 exactly `full`; and the noise of that dose, as `NoiseMap` takes it. Both of
            the kind of `full` (array, tensor, MetaTensor); float64 stays, all else becomes float32. Nothing is clipped.

        Raises:
            ValueError: the shapes differ, or a value is NaN or infinite.
        """
        if tuple(full.shape) != tuple(low.shape):
            raise ValueError(
                f"the full-dose image has shape {tuple(full.shape)}, the low-dose image {tuple(low.shape)}: give two "
                "images of one slice on one grid."
            )
        check_finite(full, "full-dose image")
        check_finite(low, "low-dose image")
        double = str(full.dtype).endswith("float64")
        base = convert_to_dst_type(full, full, dtype=np.float64 if double else np.float32)[0]
        inserted = convert_to_dst_type(low, base)[0] - base
        unit = 1 / self.available - 1
        a, b = math.sqrt((1 / self.dose - 1) / unit), math.sqrt(1 / self.dose / unit)
        return base + a * inserted, b * inserted


class LowDosed(MapTransform):
    """`LowDose` for the named entries of a dictionary.

    Args:
        keys: entries with full-dose images; the simulated images take their place.
        low_keys: entries with the low-dose images, one for each of `keys`.
        noise_keys: entries to write the noise to, one for each of `keys`.
        dose: dose to simulate, in (0, 1], or the entry that holds it.
        available: dose of the low-dose images, in (0, 1).
        allow_missing_keys: pass over an image that is not there, in place of raising a KeyError.
    """

    backend = LowDose.backend

    def __init__(
        self,
        keys: KeysCollection,
        low_keys: KeysCollection,
        noise_keys: KeysCollection,
        dose: float | str,
        available: float = 0.25,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.low_keys = ensure_tuple_rep(low_keys, len(self.keys))
        self.noise_keys = ensure_tuple_rep(noise_keys, len(self.keys))
        LowDose(1.0 if isinstance(dose, str) else dose, available)  # a wrong dose is refused here, not in mid-run
        self.dose, self.available = dose, available

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Simulate the images of one item.

        Args:
            data: the dictionary; it is not changed.

        Returns:
            A copy with the simulated images and their noise.

        Raises:
            ValueError: a dose is out of range, or a pair of images does not fit.
            KeyError: an image of a pair or the dose is missing.
        """
        item = dict(data)
        simulate = LowDose(dose_of(self.dose, item), self.available)
        for key, low_key, noise_key in self.key_iterator(item, self.low_keys, self.noise_keys):
            if low_key not in item:
                raise KeyError(f"the full-dose image {key!r} has no low-dose image {low_key!r}: give both of a pair.")
            item[key], item[noise_key] = simulate(item[key], item[low_key])
        return item


class NoiseMap(Transform):
    """Map the noise: the root mean square of a noise realisation in a window around each pixel (eq. 9).

    At the border the mean is over the part of the window that lies in the image: nothing is padded, so the map has no
    dark rim, but its values there rest on fewer pixels (at a corner on 9 of 25).

    Args:
        window: k, side of the window in pixels, odd.

    Raises:
        ValueError: the window is not an odd positive number.

    References:
        NA-Diff, eq. 9, with k = 5; printed, it sums to one number.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - MONAI's own declaration

    def __init__(self, window: int = 5) -> None:
        if int(window) != window or window < 1 or window % 2 == 0:
            raise ValueError(f"window={window} has no pixel in its middle: give an odd number of pixels.")
        self.window = int(window)

    def __call__(self, noise: NdarrayOrTensor) -> NdarrayOrTensor:
        """Map one realisation or a batch.

        Args:
            noise: (..., H, W) noise of mean 0, such as `LowDose` gives; any unit.

        Returns:
            the map in the same shape, unit and kind; float64 stays, all else becomes float32.

        Raises:
            ValueError: the shape is wrong, or a value is NaN or infinite.
        """
        if noise.ndim < 2 or 0 in noise.shape:
            raise ValueError(f"noise of shape {tuple(noise.shape)} has no map: give (..., H, W), none of them empty.")
        check_finite(noise, "noise")
        double = str(noise.dtype).endswith("float64")
        x = convert_to_tensor(noise, dtype=torch.float64 if double else torch.float32, track_meta=False)
        power = x.square().reshape(-1, 1, *x.shape[-2:])  # (B, 1, H, W)
        # Columns and rows one after the other: 2 k additions per pixel in place of k^2. Sums of squares have no
        # cancellation, which differences of cumulative sums would have.
        reach = self.window // 2
        for kernel, padding in (((1, self.window), (0, reach)), ((self.window, 1), (reach, 0))):
            power = F.avg_pool2d(power, kernel, stride=1, padding=padding, count_include_pad=False)
        return convert_to_dst_type(power.sqrt().reshape(x.shape), noise, dtype=x.dtype)[0]


class NoiseMapd(MapTransform):
    """`NoiseMap` for the named entries of a dictionary.

    Args:
        keys: entries with noise; the maps take their place.
        window: side of the window in pixels, odd.
        allow_missing_keys: pass over an entry that is not there, in place of raising a KeyError.
    """

    backend = NoiseMap.backend

    def __init__(self, keys: KeysCollection, window: int = 5, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.map = NoiseMap(window)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map the entries.

        Args:
            data: the dictionary; it is not changed.

        Returns:
            A copy with the maps in place of the named entries.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.map(item[key])
        return item
