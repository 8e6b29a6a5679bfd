"""The process in which compressed pixel data is decoded; `anatodiff.data.decoding` starts it and talks to it.

It is a program of its own, run by its path, and imports nothing of this package: torch would cost seconds. It decodes
each image in a fork of itself, so that a codec that crashes, hangs or corrupts its memory harms nothing but that image.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import resource
import signal
import struct
import sys
import warnings
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

# Both sides are one machine, so the native order of bytes will do: transfer syntax, Rows, Columns, BitsAllocated,
# BitsStored, PixelRepresentation, bytes of memory, seconds of computing and of waiting, length of the pixel data.
REQUEST = struct.Struct("=64s5HQddQ")
REPLY = struct.Struct("=B4sQ")  # status, dtype, length of the pixels or of the reason that follows
DECODED, REFUSED, OUT_OF_MEMORY, CRASHED, TOO_SLOW = range(5)
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_EXTENDED_DEPTHS = (8, 12)  # bits
# The same pixels as by GDCM, which pydicom asks first, for a third of its memory.
FRUGAL_PLUGINS = {
    **{f"1.2.840.10008.1.2.4.{number}": "pyjpegls" for number in (80, 81)},
    **{f"1.2.840.10008.1.2.4.{number}": "pylibjpeg" for number in (90, 91, 201, 202, 203)},
}
MAX_REASON = 160  # characters
UNHELPFUL = (
    (r"Unable to decode as exceptions were raised by all available plugins:", ""),
    (r"'NoneType' object has no attribute 'encode'", "broken data"),  # GDCM gives nothing instead of an error
    (r"<\S+ object at 0x[0-9a-f]+>", "data"),
)
TIMERS = (signal.SIGPROF, signal.SIGALRM, signal.SIGXCPU)


@dataclass(frozen=True)
class Encoded:
    """Compressed pixel data of one gray image, with what its header says of it."""

    syntax: str
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    pixel_representation: int
    data: bytes


def main() -> None:
    """Decode what comes in on standard input until it ends."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Codecs print what they think of a file; on standard output that would be taken for pixels.
    for number in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    warnings.simplefilter("ignore")
    _load_codecs()
    while True:
        header = requests.read(REQUEST.size)
        if len(header) < REQUEST.size:
            return
        syntax, *numbers, memory, computing, waiting, length = REQUEST.unpack(header)
        data = requests.read(length)
        if len(data) < length:
            return
        rows, columns, allocated, stored, sign = numbers
        image = Encoded(syntax.rstrip(b"\0").decode(), rows, columns, allocated, stored, sign, data)
        _decode_in_fork(image, (memory, computing, waiting), replies)
        del data, image  # idle, it holds nothing


def _load_codecs() -> None:
    # Before the first fork, so that no image pays for it.
    with contextlib.suppress(ImportError):  # pydicom 2.4 has no such module
        import pydicom.pixels.decoders  # noqa: F401
    logging.disable(logging.CRITICAL)  # pydicom 3 logs a traceback for each decoder that fails


def _decode_in_fork(image: Encoded, limits: tuple[int, float, float], replies: BinaryIO) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _limit(*limits)
            reply = _decoded(image)
            _stop_timers()
            _send(replies, *reply)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return
    if -code in TIMERS:
        _send(replies, TOO_SLOW, "", b"")
    else:
        _send(replies, CRASHED, "", (signal.Signals(-code).name if code < 0 else f"exit code {code}").encode())


def _limit(memory: int, computing: float, waiting: float) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # a codec has nothing to write
    with contextlib.suppress(OSError, ValueError):  # not every system counts address space
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    signal.setitimer(signal.ITIMER_PROF, computing)
    signal.setitimer(signal.ITIMER_REAL, waiting)


def _stop_timers() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)


def _decoded(image: Encoded) -> tuple[int, str, bytes]:
    try:
        extended = image.syntax == JPEG_EXTENDED and image.bits_stored > JPEG_EXTENDED_DEPTHS[0]
        stored = _by_gdcm(image) if extended else _by_pydicom(image)
        shape = (image.rows, image.columns)
        if stored.shape != shape and stored.shape != (1, *shape):
            return REFUSED, "", f"decoded to {stored.shape}, the header says {shape}".encode()
        stored = np.ascontiguousarray(stored, dtype=stored.dtype.newbyteorder("="))
        return DECODED, stored.dtype.str[1:], stored.data.cast("B")  # type: ignore[return-value]
    except MemoryError:
        return OUT_OF_MEMORY, "", b""
    except BaseException as error:  # pylibjpeg-rle panics with one
        return REFUSED, "", _reason(f"{error}").encode("utf-8", "replace")


def _reason(text: str) -> str:
    """Shorten what pydicom's plugins say to what helps a person, the same each time."""
    for unhelpful, helpful in UNHELPFUL:
        text = re.sub(unhelpful, helpful, text)
    return " ".join(text.split())[:MAX_REASON]


def _by_pydicom(image: Encoded) -> np.ndarray:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(image.syntax)
    dataset.Rows, dataset.Columns = image.rows, image.columns
    dataset.BitsAllocated, dataset.BitsStored = image.bits_allocated, image.bits_stored
    dataset.HighBit, dataset.PixelRepresentation = image.bits_stored - 1, image.pixel_representation
    dataset.SamplesPerPixel, dataset.NumberOfFrames = 1, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = image.data
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    _choose_plugin(dataset, image.syntax)
    return np.asarray(dataset.pixel_array)


def _choose_plugin(dataset: Dataset, syntax: str) -> None:
    plugin = FRUGAL_PLUGINS.get(syntax)
    with contextlib.suppress(ImportError):  # pydicom 2.4 leaves no choice
        from pydicom.pixels import get_decoder

        if plugin and plugin in get_decoder(UID(syntax)).available_plugins:
            dataset.pixel_array_options(decoding_plugin=plugin)


def _by_gdcm(image: Encoded) -> np.ndarray:
    """Decode 12-bit JPEG Extended, which GDCM does and pydicom does not ask it for."""
    try:
        import gdcm
    except ImportError as error:
        raise ValueError("12-bit JPEG Extended is decoded by python-gdcm, which is not installed") from error

    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(_frame(image.data))
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    picture = gdcm.Image()
    picture.SetNumberOfDimensions(2)
    picture.SetDimensions((image.columns, image.rows, 1))
    picture.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    picture.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    picture.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(image.syntax)))
    bits = (image.bits_allocated, image.bits_stored, image.bits_stored - 1, image.pixel_representation)
    picture.SetPixelFormat(gdcm.PixelFormat(1, *bits))
    buffer = picture.GetBuffer().encode("utf-8", "surrogateescape")
    dtype = np.dtype(f"{'i' if image.pixel_representation else 'u'}{image.bits_allocated // 8}")
    size = math.prod((image.rows, image.columns, dtype.itemsize))
    if len(buffer) != size:
        raise ValueError(f"decoded to {len(buffer)} bytes, the header says {size}")
    return np.frombuffer(buffer, dtype).reshape(image.rows, image.columns)


def _frame(data: bytes) -> bytes:
    try:
        from pydicom.encaps import generate_frames

        return next(generate_frames(data, number_of_frames=1))
    except ImportError:  # pydicom 2.4
        from pydicom.encaps import generate_pixel_data_frame

        return next(generate_pixel_data_frame(data, 1))


def _send(replies: BinaryIO, status: int, dtype: str, content: bytes) -> None:
    replies.write(REPLY.pack(status, dtype.encode(), len(content)))
    replies.write(content)
    replies.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # whoever asked is gone
        main()
    sys.exit(0)
