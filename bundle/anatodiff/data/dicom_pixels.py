"""From the stored values of a DICOM image to the values that a viewer displays (PS3.3 C.7.6.3, C.11.1, C.11.2)."""

from __future__ import annotations

import math

import numpy as np
from pydicom.dataset import Dataset

from anatodiff.data.dicom_file import decode_pixels
from anatodiff.data.errors import Refusal
from anatodiff.data.terms import WINDOW_FUNCTIONS

WORD = 1 << 16
MIN_LINEAR_WIDTH = 1.0
BLOCK = 1 << 20  # pixels at once


def displayed_pixels(dataset: Dataset) -> tuple[np.ndarray, str]:
    """Decode one single-frame gray DICOM image and bring it to the values that a viewer displays.

    The order: stored values -> modality LUT or rescale -> padding -> VOI LUT, else the first usable window, else the
    range of the unpadded pixels -> one inversion if MONOCHROME1 or PresentationLUTShape INVERSE. A VOI LUT or window
    that leaves a single gray level (it was made for other values) is skipped, and the returned text says so.

    Args:
        dataset: the data set with its pixel data.

    Returns:
        The pixels, float32 (H, W) in [0, 1], larger is brighter, padding 0; and how the display range was chosen.

    Raises:
        Refusal: if the pixels cannot be decoded, are not finite, or are all alike.
    """
    stored = decode_pixels(dataset)
    levels = _levels(stored)
    with np.errstate(over="ignore", invalid="ignore"):  # a huge slope is refused below, and not also printed
        shown, voi = _shown(levels, dataset)
    return _looked_up(stored, levels, shown), voi


def _shown(levels: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, str]:
    """Bring stored values (n,) to displayed ones in [0, 1], and say how the display range was chosen."""
    padding = padding_mask(levels, dataset)
    if padding.all():
        raise Refusal("every pixel is padding", "correct PixelPaddingValue (0028,0120) or leave the file out")
    values = modality_values(levels, dataset)
    inside = values[~padding]
    if not np.isfinite(inside).all() or not math.isfinite(inside.max() - inside.min()):
        raise Refusal("the pixels are not all finite", "correct the rescale values or leave the file out")
    if inside.min() == inside.max():
        raise Refusal(f"every pixel has the same value {inside[0]:g}", "leave the file out")
    shown, voi = _apply_voi(values, padding, dataset)
    if _is_inverted(dataset):
        shown = 1.0 - shown
    shown[padding] = 0.0
    return shown, voi


def _levels(stored: np.ndarray) -> np.ndarray:
    """The values that occur, each once, (n,): what follows is a function of the value, so it is computed for these."""
    flat = stored.reshape(-1).view(f"u{stored.dtype.itemsize}")
    seen = np.zeros(1 << 8 * stored.dtype.itemsize, dtype=bool)
    for start in range(0, flat.size, BLOCK):  # an index takes eight bytes for each pixel
        seen[flat[start : start + BLOCK]] = True
    return np.flatnonzero(seen).astype(flat.dtype).view(stored.dtype)


def _looked_up(stored: np.ndarray, levels: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Put the displayed values (n,) of the levels (n,) in the place of the stored ones, float32 (H, W)."""
    flat = stored.reshape(-1).view(f"u{stored.dtype.itemsize}")
    table = np.zeros(1 << 8 * stored.dtype.itemsize, dtype=np.float32)
    table[levels.view(flat.dtype)] = shown
    pixels = np.empty(flat.size, dtype=np.float32)
    for start in range(0, flat.size, BLOCK):
        pixels[start : start + BLOCK] = table[flat[start : start + BLOCK]]
    return pixels.reshape(stored.shape)


def modality_values(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Apply the modality LUT sequence, else the rescale slope and intercept (PS3.3 C.11.1).

    Args:
        stored: stored values, integer, any shape.
        dataset: the data set they come from.

    Returns:
        The values in the modality's units, float64, the shape of `stored`.

    Raises:
        Refusal: if the slope is zero or the slope or intercept is not a finite number.
    """
    if dataset.get("ModalityLUTSequence"):
        return _look_up(stored, dataset.ModalityLUTSequence[0])[0]
    slope = _number(dataset, "RescaleSlope", 1.0)
    intercept = _number(dataset, "RescaleIntercept", 0.0)
    if not math.isfinite(slope) or slope == 0 or not math.isfinite(intercept):
        raise Refusal(
            f"rescale slope {slope:g} and intercept {intercept:g} do not give an image",
            "correct RescaleSlope (0028,1053) and RescaleIntercept (0028,1052)",
        )
    return stored.astype(np.float64) * slope + intercept


def window_values(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Apply one display window (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Args:
        values: values after the modality LUT, any shape.
        center: window centre, in the units of `values`.
        width: window width, in the units of `values`; at least 1 for LINEAR, above 0 for the others.
        function: LINEAR, LINEAR_EXACT or SIGMOID.

    Returns:
        float64 in [0, 1], the shape of `values`.
    """
    if function == "SIGMOID":
        # The clip keeps exp() finite; the sigmoid is flat there in float64.
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700.0, 700.0)))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    if width == MIN_LINEAR_WIDTH:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)


def _apply_voi(values: np.ndarray, padding: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, str]:
    skipped: list[str] = []

    def shows_something(shown: np.ndarray, name: str) -> bool:
        inside = shown[~padding]
        if inside.max() > inside.min():
            return True
        skipped.append(f"{name}: leaves one gray level")
        return False

    def said(name: str) -> str:
        return f"{name} (skipped {'; '.join(skipped)})" if skipped else name

    if dataset.get("VOILUTSequence"):
        table, depth = _look_up(values, dataset.VOILUTSequence[0])
        shown = np.clip(table / max(2.0**depth - 1.0, table.max()), 0.0, 1.0)
        if shows_something(shown, "VOI LUT"):
            return shown, "VOI LUT"
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    for center, width in zip(_numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth"), strict=False):
        name = f"window {center:g}/{width:g} {function if function in WINDOW_FUNCTIONS else 'OF ANOTHER FUNCTION'}"
        if function not in WINDOW_FUNCTIONS:
            skipped.append(name)
        elif not math.isfinite(center) or not math.isfinite(width):
            skipped.append(f"{name}: not a number")
        elif width <= 0 or (function == "LINEAR" and width < MIN_LINEAR_WIDTH):
            skipped.append(f"{name}: width too small")
        else:
            shown = window_values(values, center, width, function)
            if shows_something(shown, name):
                return shown, said(name)
    low, high = float(values[~padding].min()), float(values[~padding].max())
    return np.clip((values - low) / (high - low), 0.0, 1.0), said(f"pixel range {low:g}..{high:g}")


def _is_inverted(dataset: Dataset) -> bool:
    # A DX object states its polarity twice (MONOCHROME1 and INVERSE): that is one inversion, not two.
    shape = str(dataset.get("PresentationLUTShape") or "").upper()
    return str(dataset.PhotometricInterpretation).strip() == "MONOCHROME1" or shape == "INVERSE"


def padding_mask(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Say where stored values are padding (PS3.3 C.7.5.1.1.2).

    Args:
        stored: values before the modality LUT, any shape.
        dataset: says which value, or which range of values, is padding.

    Returns:
        bool, the shape of `stored`.
    """
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    last = dataset.get("PixelPaddingRangeLimit")
    ends = [_as_stored(int(value), stored.dtype) for value in (first, first if last is None else last)]
    return (stored >= min(ends)) & (stored <= max(ends))


def _as_stored(value: int, dtype: np.dtype) -> int:
    """Undo the wrong sign of a value whose VR (US or SS) does not agree with the pixels' sign."""
    if np.issubdtype(dtype, np.signedinteger):
        return value - WORD if value >= WORD // 2 else value
    return value + WORD if value < 0 else value


def _look_up(values: np.ndarray, item: Dataset) -> tuple[np.ndarray, int]:
    """Map `values` through a LUT item; returns float64 of the same shape and the depth of an entry in bits."""
    entries, first, depth = (int(value) for value in item.LUTDescriptor)
    entries = entries % WORD or WORD  # 0 stands for 65536, and a signed VR turns large counts negative
    if first >= WORD // 2 and values.min() < 0:
        first -= WORD
    table = _lut_table(item, entries)
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    return table[index].astype(np.float64), depth


def _lut_table(item: Dataset, entries: int) -> np.ndarray:
    data = item.LUTData
    if isinstance(data, bytes):
        table = np.frombuffer(data, dtype="<u2" if len(data) >= 2 * entries else "u1").astype(np.int64)
    else:
        table = np.atleast_1d(np.asarray(data, dtype=np.int64)) % WORD
        if len(table) * 2 == entries:  # 8-bit entries, two to a word
            table = np.stack([table & 0xFF, table >> 8], axis=1).ravel()
    if len(table) < entries:
        raise Refusal(f"a lookup table has {len(table)} of its {entries} entries", "send it again from its source")
    return table[:entries]


def _number(dataset: Dataset, keyword: str, default: float) -> float:
    value = dataset.get(keyword)
    return default if value is None or value == "" else float(value)


def _numbers(dataset: Dataset, keyword: str) -> list[float]:
    value = dataset.get(keyword)
    if value is None or value == "":
        return []
    return [float(v) for v in value] if hasattr(value, "__iter__") and not isinstance(value, str) else [float(value)]
