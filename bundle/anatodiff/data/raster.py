"""PNG and JPEG radiographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from anatodiff.data.dicom_file import check_size
from anatodiff.data.errors import Refusal

SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B")
GRAY_MODES = ("1", "L", "LA")
OPAQUE = 255
# Gray levels of 255, mean over the image of the largest minus the smallest channel. A gray image saved as colour JPEG
# stays below 1, coloured marks on a gray film below 4; tinted films and photographs are above.
MAX_MEAN_CHROMA = 4.0
SPACING_KEY = "spacing_mm"  # text entry of the PNG files that this package writes


def read_raster(path: Path) -> tuple[np.ndarray, tuple[float, float] | None, dict[str, Any]]:
    """Read a PNG or JPEG file as a gray image on the full range of its bits (no stretching to the pixels' range).

    Colour files are accepted if they are gray in colour's clothing: the mean difference between a pixel's largest and
    smallest channel is at most MAX_MEAN_CHROMA gray levels of 255 (coloured marks on a gray film pass); they become
    luma. The EXIF orientation is applied. The dots per inch of such files are not the detector's, so the spacing is
    unknown, except in the PNG files of this package.

    Args:
        path: the file.

    Returns:
        The pixels, float (H, W) in [0, 1]; spacing (row, column) in mm or None; allow-listed facts.

    Raises:
        Refusal: colour, transparency, several frames, a size out of bounds, or a file that is cut off.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as opened:
            check_size(opened.height, opened.width)
            if opened.format == "PNG" and getattr(opened, "n_frames", 1) > 1:
                raise Refusal("animated PNG", "export the frame you need as one image")
            opened.load()
            spacing = _spacing(opened)
            image = ImageOps.exif_transpose(opened)
    except Refusal:
        raise
    except Image.DecompressionBombError as error:
        raise Refusal("too many pixels for a radiograph", "scale the image down first") from error
    except Exception as error:
        raise Refusal(f"not a readable image ({error})", "the file is cut off or broken: send it again") from error
    pixels, bits = _gray(image)
    return pixels, spacing, {"photometric": "MONOCHROME2", "bits_stored": bits, "voi": f"full range of {bits} bits"}


def _gray(image: Image.Image) -> tuple[np.ndarray, int]:
    _refuse_transparency(image)
    if image.mode in SIXTEEN_BIT_MODES:
        return np.asarray(image, dtype=np.float64) / 65535.0, 16
    if image.mode not in GRAY_MODES:
        if image.mode not in ("RGB", "RGBA", "P", "PA"):
            raise Refusal(f"colour image ({image.mode})", "convert it to gray")
        colour = np.asarray(image.convert("RGB"), dtype=np.int16)  # (H, W, 3)
        chroma = float((colour.max(axis=2) - colour.min(axis=2)).mean())
        if chroma > MAX_MEAN_CHROMA:
            raise Refusal(f"colour image (channels differ by {chroma:.1f} of 255 on average)", "convert it to gray")
        image = image.convert("RGB")
    return np.asarray(image.convert("L"), dtype=np.float64) / 255.0, 8


def _refuse_transparency(image: Image.Image) -> None:
    transparent = False
    if image.mode in SIXTEEN_BIT_MODES:
        level = image.info.get("transparency")
        transparent = level is not None and bool((np.asarray(image) == level).any())
    elif "A" in image.getbands() or "transparency" in image.info:
        transparent = int(np.asarray(image.convert("RGBA").getchannel("A")).min()) < OPAQUE
    if transparent:
        raise Refusal("the image has transparent pixels", "flatten it to an opaque gray image")


def _spacing(image: Image.Image) -> tuple[float, float] | None:
    text = getattr(image, "text", {}).get(SPACING_KEY, "") if image.format == "PNG" else ""
    try:
        row, column = (float(part) for part in text.split("x"))
    except ValueError:
        return None
    return (row, column) if row > 0 and column > 0 else None
