"""Decoding of compressed pixel data in a process of its own, which may crash, hang or run out of memory."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
from pydicom.uid import UID

from anatodiff.data.decoding import worker
from anatodiff.data.decoding.worker import REPLY, REQUEST, Encoded
from anatodiff.data.errors import Refusal

DECODER_MEMORY = 448 << 20  # bytes above what a decoder has when it starts
# Seconds of computing: some for any image, and more for what is large as a file or in pixels. Here the slowest codec,
# JPEG 2000, takes at most a fifth of it.
BASE_SECONDS = 1.0
PIXELS_PER_SECOND = 4_000_000
BYTES_PER_SECOND = 500_000
# One that waits instead of computing is ended, too, but a busy machine must not refuse what an idle one reads.
WAITING_FACTOR = 10
START_SECONDS = 60  # for the process to start on a busy machine
CURE = "send the file again from its source, or decompress it first (gdcmconv --raw, dcmdjpeg)"
TRIES = 2


class _DecoderEndedError(Exception):
    """The process ended without an answer; says how."""


class _Decoder:
    """One process; serves one thread at a time."""

    def __init__(self) -> None:
        # The same packages as here, and one thread: a process with threads cannot fork safely.
        paths = os.pathsep.join(path for path in sys.path if path)
        settings = {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, **settings},
            start_new_session=True,  # Ctrl+C is for the program that reads; this one ends with its pipe
        )

    def ask(self, image: Encoded, seconds: float) -> tuple[int, str, bytearray]:
        """Send an image and wait for the answer: status, dtype, and pixels or reason."""
        syntax, numbers = image.syntax.encode("ascii", "replace"), (image.rows, image.columns)
        bits = (image.bits_allocated, image.bits_stored, image.pixel_representation)
        header = REQUEST.pack(
            syntax, *numbers, *bits, DECODER_MEMORY, seconds, WAITING_FACTOR * seconds, len(image.data)
        )
        # The decoder keeps the time itself; this is for one that was stopped from outside.
        watch = threading.Timer(START_SECONDS + 2 * WAITING_FACTOR * seconds, self.process.kill)
        watch.daemon = True
        watch.start()
        try:
            self._write(header)
            self._write(image.data)
            status, dtype, length = REPLY.unpack(self._read(REPLY.size))
            if length > max(image.rows * image.columns * image.bits_allocated // 8, REQUEST.size * worker.MAX_REASON):
                raise _DecoderEndedError("an answer that is too long")
            return status, dtype.rstrip(b"\0").decode("ascii", "replace"), self._read(length)
        except OSError as error:
            raise _DecoderEndedError(self._end()) from error
        finally:
            watch.cancel()

    def close(self) -> None:
        """End the process and wait for it."""
        self.process.kill()
        self.process.wait()
        self.leave()

    def leave(self) -> None:
        """Close the pipes; in a fork of this process, too, else the decoder never sees their end."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _write(self, content: bytes) -> None:
        assert self.process.stdin is not None
        left = memoryview(content)
        while left:
            left = left[self.process.stdin.write(left) :]

    def _read(self, length: int) -> bytearray:
        assert self.process.stdout is not None
        content = bytearray(length)
        left = memoryview(content)
        while left:
            count = self.process.stdout.readinto(left)  # type: ignore[attr-defined]
            if not count:
                raise _DecoderEndedError(self._end())
            left = left[count:]
        return content

    def _end(self) -> str:
        self.process.kill()  # no effect on one that is gone
        code = self.process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


_lock = threading.Lock()
_idle: list[_Decoder] = []
_all: set[_Decoder] = set()


def decode(image: Encoded) -> np.ndarray:
    """Decode the pixel data of one gray image.

    Args:
        image: the pixel data as it lies in the file, and the numbers of its header.

    Returns:
        The stored values, integer (H, W), in the machine's order of bytes.

    Raises:
        Refusal: if the data is broken, no decoder takes it, or the decoder crashed, took too long or too much memory.
    """
    seconds = BASE_SECONDS + image.rows * image.columns / PIXELS_PER_SECOND + len(image.data) / BYTES_PER_SECOND
    status, dtype, content = _answer(image, seconds)
    if status == worker.DECODED:
        stored = np.frombuffer(content, _dtype(dtype))
        if stored.size != image.rows * image.columns:
            raise Refusal(f"the decoder gave {stored.size} pixels of {image.rows} x {image.columns}", CURE)
        return stored.reshape(image.rows, image.columns)
    if status == worker.REFUSED:
        name = UID(image.syntax).name
        raise Refusal(f"the pixel data cannot be decoded ({name}: {content.decode('utf-8', 'replace')})", CURE)
    if status == worker.OUT_OF_MEMORY:
        raise Refusal(f"decoding needs more than {DECODER_MEMORY >> 20} MB of memory", CURE)
    if status == worker.TOO_SLOW:
        raise Refusal(f"decoding takes more than {seconds:.0f} s of computing", CURE)
    raise Refusal(f"the decoder crashed ({content.decode('ascii', 'replace')})", CURE)


def close_decoders() -> None:
    """End the idle decoder processes; the next image starts one again."""
    with _lock:
        ended = _idle[:]
        _idle.clear()
        _all.difference_update(ended)
    for decoder in ended:
        decoder.close()


def _answer(image: Encoded, seconds: float) -> tuple[int, str, bytearray]:
    ended = ""
    for _ in range(TRIES):  # an idle one may have been killed long before this image
        try:
            with _borrowed() as decoder:
                return decoder.ask(image, seconds)
        except _DecoderEndedError as error:
            ended = str(error)
        except OSError as error:
            ended = f"it cannot be started: {error.strerror}"
    return worker.CRASHED, "", bytearray(f"the process ended, {ended}".encode("ascii", "replace"))


@contextlib.contextmanager
def _borrowed() -> Iterator[_Decoder]:
    """Take an idle decoder or start one; one that was not left in order is ended."""
    with _lock:
        decoder = _idle.pop() if _idle else None
    if decoder is None:
        decoder = _Decoder()
        with _lock:
            _all.add(decoder)
    try:
        yield decoder
    except BaseException:  # also an interrupt between question and answer
        with _lock:
            _all.discard(decoder)
        decoder.close()
        raise
    with _lock:
        _idle.append(decoder)


def _dtype(name: str) -> np.dtype:
    if name not in ("u1", "i1", "u2", "i2"):
        raise Refusal(f"pixels of the type {name} are not read", CURE)
    return np.dtype(name)


def _forget_after_fork() -> None:
    """Leave the parent's decoders to the parent: two processes on one pipe would read each other's pixels."""
    global _lock
    _lock = threading.Lock()  # another thread may have held it
    for decoder in _all:
        decoder.leave()
        decoder.process.returncode = 0  # not a child of this process
    _all.clear()
    _idle.clear()


atexit.register(close_decoders)
os.register_at_fork(after_in_child=_forget_after_fork)
