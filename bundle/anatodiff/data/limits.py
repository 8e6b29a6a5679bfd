"""What one image file may cost: bytes on disk and unpacked, pixels, parts."""

from __future__ import annotations

import io
import os
import stat
import zlib
from pathlib import Path

from anatodiff.data.errors import Refusal

MAX_FILE_BYTES = 128 << 20  # on disk, and again unpacked
# Above any radiograph (24 x 30 cm at 50 micrometres are 29 million), below what takes 512 MB to read.
MAX_PIXELS = 38_000_000
MIN_SIDE = 32  # pixels; the networks divide the image by 8 and by a patch
MAX_READS = 60_000  # of headers and values; a radiograph needs some hundred, a PNG three for each 8 KB
INFLATE_BLOCK = 1 << 20  # bytes


class CountedBytes(io.BytesIO):
    """A file in memory that ends a reader that takes too many small steps, as millions of empty parts make it."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read like any file.

        Args:
            size: bytes to read.

        Returns:
            as many as there are.

        Raises:
            Refusal: after MAX_READS.
        """
        self._reads += 1
        if self._reads > MAX_READS:
            raise Refusal(f"the file has more than {MAX_READS} parts", "export the image again, without its extras")
        return super().read(size)


def file_bytes(path: Path) -> bytes:
    """Read a file whole, if it is one: never a pipe, a device or a socket, which may block or never end.

    Args:
        path: the file; a link to a file will do.

    Returns:
        its content, not empty.

    Raises:
        Refusal: it is missing, no regular file, not readable, empty or larger than MAX_FILE_BYTES.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Refusal("not a file", "give one image file")
        # Without waiting, should a pipe take its place meanwhile.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Refusal("not a file", "give one image file")
            data = file.read(MAX_FILE_BYTES + 1) if status.st_size <= MAX_FILE_BYTES else None
    except FileNotFoundError as error:
        raise Refusal("no such file", "check the path") from error
    except OSError as error:
        raise Refusal(f"cannot be opened ({error.strerror})", "check its permissions") from error
    except ValueError as error:  # a name with a zero byte
        if isinstance(error, Refusal):
            raise
        raise Refusal("no such file", "check the path") from error
    if data is None or len(data) > MAX_FILE_BYTES:
        raise Refusal(
            f"a file of more than {MAX_FILE_BYTES >> 20} MB", "export the image alone, compressed or with 16 bits"
        )
    if not data:
        raise Refusal("empty file", "send it again from its source")
    return data


def inflated(data: bytes, start: int, window_bits: int) -> bytes:
    """Unpack deflated bytes, but never more than a file may have.

    Args:
        data: holds the packed bytes.
        start: where they begin.
        window_bits: as zlib takes it: negative for bare data, above 15 for gzip.

    Returns:
        the unpacked bytes.

    Raises:
        Refusal: they are more than MAX_FILE_BYTES, broken or cut off.
    """
    unpacker, parts, total = zlib.decompressobj(window_bits), [], 0
    packed = memoryview(data)[start:]
    try:
        while packed:
            tail: bytes | memoryview = packed[:INFLATE_BLOCK]
            packed = packed[INFLATE_BLOCK:]
            while tail and not unpacker.eof:
                parts.append(unpacker.decompress(tail, INFLATE_BLOCK))
                tail = unpacker.unconsumed_tail
                total += len(parts[-1])
                if total > MAX_FILE_BYTES:
                    raise Refusal(f"unpacks to more than {MAX_FILE_BYTES >> 20} MB", "export the image uncompressed")
    except zlib.error as error:
        raise Refusal(f"the compressed content is broken ({error})", "send it again from its source") from error
    if not unpacker.eof:
        raise Refusal("the compressed content is cut off", "send it again from its source")
    return b"".join(parts)


def check_size(rows: int, columns: int) -> None:
    """Refuse images that are too small to train on or too large to be a radiograph.

    Args:
        rows: image height, pixels.
        columns: image width, pixels.

    Raises:
        Refusal: below MIN_SIDE on a side or above MAX_PIXELS in all.
    """
    if min(rows, columns) < MIN_SIDE:
        raise Refusal(f"image of {rows} x {columns} pixels", f"use images of at least {MIN_SIDE} x {MIN_SIDE}")
    if rows * columns > MAX_PIXELS:
        raise Refusal(f"image of {rows} x {columns} pixels", f"scale it below {MAX_PIXELS} pixels in all")
