"""PNG and JPEG radiographs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from anatodiff.data.errors import Refusal
from anatodiff.data.limits import CountedBytes, check_size

SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B")
GRAY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("RGB", "RGBA", "P", "PA")
OPAQUE = 255
SIXTEEN_BITS = 65535.0
TRANSPARENT = ("the image has transparent pixels", "flatten it to an opaque gray image")
# Gray levels of 255, mean over the image of the largest minus the smallest channel. A gray image saved as colour JPEG
# stays below 1, coloured marks on a gray film below 4; tinted films and photographs are above.
MAX_MEAN_CHROMA = 4.0
BLOCK = 1 << 20  # pixels at once
# A progressive JPEG goes over all pixels in each scan, so a small file of thousands of scans would take hours.
MAX_SCANS = 100
SCAN_MARKER = b"\xff\xda"
# Pillow warns on standard error of what is refused here in one line, or is of no concern (broken EXIF entries).
warnings.filterwarnings("ignore", module=r"PIL\.")
SPACING_KEY = "spacing_mm"  # text entry of the PNG files that this package writes


def read_raster(
    data: bytes, allow_colour: bool = False
) -> tuple[np.ndarray, tuple[float, float] | None, dict[str, Any]]:
    """Read a PNG or JPEG file as a gray image on the full range of its bits (no stretching to the pixels' range).

    Colour files are accepted if they are gray in colour's clothing: the mean difference between a pixel's largest and
    smallest channel is at most MAX_MEAN_CHROMA gray levels of 255 (coloured marks on a gray film pass); they become
    luma. The EXIF orientation is applied. The dots per inch of such files are not the detector's, so the spacing is
    unknown, except in the PNG files of this package.

    Args:
        data: the file.
        allow_colour: take any colour image as its luma, such as a photograph.

    Returns:
        The pixels, float (H, W) in [0, 1]; spacing (row, column) in mm or None; allow-listed facts.

    Raises:
        Refusal: colour, transparency, several frames, a size out of bounds, or a file that is cut off.
    """
    try:
        with Image.open(CountedBytes(data), formats=("PNG", "JPEG")) as opened:
            check_size(opened.height, opened.width)
            if opened.format == "PNG" and getattr(opened, "n_frames", 1) > 1:
                raise Refusal("animated PNG", "export the frame you need as one image")
            if opened.format == "JPEG" and data.count(SCAN_MARKER) > MAX_SCANS:
                raise Refusal(f"JPEG of more than {MAX_SCANS} scans", "save it again as a baseline JPEG")
            opened.load()
            spacing = _spacing(opened)
            turn = opened.getexif().get(ExifTags.Base.Orientation, 1)
            image = opened.copy() if opened.mode in ("P", "PA") else opened
            pixels, bits = _gray(image, allow_colour)
    except Refusal:
        raise
    except Image.DecompressionBombError as error:
        raise Refusal("too many pixels for a radiograph", "scale the image down first") from error
    except UnidentifiedImageError as error:
        raise Refusal("not a readable image (broken header)", "the file is cut off or broken: send it again") from error
    except Exception as error:
        raise Refusal(f"not a readable image ({error})", "the file is cut off or broken: send it again") from error
    facts = {"photometric": "MONOCHROME2", "bits_stored": bits, "voi": f"full range of {bits} bits"}
    return _turned(pixels, turn), spacing, facts


def _gray(image: Image.Image, allow_colour: bool) -> tuple[np.ndarray, int]:
    sixteen = image.mode in SIXTEEN_BIT_MODES
    if not sixteen and image.mode not in (*GRAY_MODES, *COLOUR_MODES):
        raise Refusal(f"colour image ({image.mode})", "convert it to gray")
    level = image.info.get("transparency") if sixteen else None
    pixels = np.empty((image.height, image.width), dtype=np.float32)
    chroma, row = 0.0, 0
    for strip in _strips(image):
        if sixteen:
            values = np.asarray(strip)
            if level is not None and (values == level).any():
                raise Refusal(*TRANSPARENT)
        else:
            _refuse_transparency(strip)
            chroma += _chroma(strip)
            values = np.asarray(strip.convert("RGB").convert("L") if strip.mode in COLOUR_MODES else strip.convert("L"))
        pixels[row : row + strip.height] = values / (SIXTEEN_BITS if sixteen else float(OPAQUE))
        row += strip.height
    chroma /= image.height * image.width
    if chroma > MAX_MEAN_CHROMA and not allow_colour:
        raise Refusal(f"colour image (channels differ by {chroma:.1f} of 255 on average)", "convert it to gray")
    return pixels, 16 if sixteen else 8


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    """Yield the image in strips from top to bottom: each step that follows takes several times its memory."""
    height = max(1, BLOCK // image.width)
    for top in range(0, image.height, height):
        strip = image.crop((0, top, image.width, min(top + height, image.height)))
        strip.info = image.info  # an entry about transparency
        yield strip


def _chroma(strip: Image.Image) -> float:
    if strip.mode not in COLOUR_MODES:
        return 0.0
    colour = np.asarray(strip.convert("RGB"), dtype=np.int16)  # (h, W, 3)
    return float((colour.max(axis=2) - colour.min(axis=2)).sum())


def _refuse_transparency(strip: Image.Image) -> None:
    if "A" in strip.getbands() or "transparency" in strip.info:
        alpha = strip.convert("RGBA").getchannel("A")
        if int(np.asarray(alpha).min()) < OPAQUE:
            raise Refusal(*TRANSPARENT)


def _turned(pixels: np.ndarray, orientation: Any) -> np.ndarray:
    """Turn the array as the EXIF orientation says (1 to 8; anything else is as it lies)."""
    turns: dict[Any, np.ndarray] = {
        2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.T,
        6: np.rot90(pixels, -1), 7: pixels[::-1, ::-1].T, 8: np.rot90(pixels),
    }  # fmt: skip
    return turns.get(orientation, pixels) if isinstance(orientation, int) else pixels


def _spacing(image: Image.Image) -> tuple[float, float] | None:
    text = getattr(image, "text", {}).get(SPACING_KEY, "") if image.format == "PNG" else ""
    try:
        row, column = (float(part) for part in text.split("x"))
    except ValueError:
        return None
    return (row, column) if 0 < row < math.inf and 0 < column < math.inf else None
