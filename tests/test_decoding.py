"""Compressed pixels are decoded by a process that may die: crashes, hangs, greed and forks harm nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from monai.data import DataLoader, Dataset
from monai.transforms import LoadImaged
from pydicom.uid import JPEGExtended12Bit, RLELossless

from anatodiff.data import RadiographError, RadiographReader, decoding, read_radiograph, write_radiograph
from anatodiff.data.dicom_file import write_dicom

GRAY = np.linspace(0, 1, 40 * 50).reshape(40, 50)


def rle(path: Path, gray: np.ndarray = GRAY) -> Path:
    dataset = pydicom.dcmread(write_radiograph(path.with_suffix(".plain.dcm"), gray))
    dataset.compress(RLELossless)
    write_dicom(dataset, str(path))
    return path


def extended(path: Path) -> Path:
    """A file that says it is 12-bit JPEG Extended, which goes to GDCM, whatever its content."""
    dataset = pydicom.dcmread(rle(path))
    dataset.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    write_dicom(dataset, str(path))
    return path


@pytest.fixture(autouse=True)
def fresh_decoders() -> Iterator[None]:
    decoding.close_decoders()
    yield
    decoding.close_decoders()


@pytest.fixture
def evil_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a GDCM in the decoder's way that does what a hostile file could make a codec do."""

    def install(deed: str) -> None:
        code = f"""
        import ctypes, os, sys, time
        class Version:
            GetVersion = staticmethod(lambda: "3.2.6")
        def Fragment():
            os.write(1, b"noise" * 1000)
            {deed}
        """
        (tmp_path / "gdcm.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("ctypes.string_at(0)", r"the decoder crashed \(SIGSEGV\)"),
        ("os.abort()", r"the decoder crashed \(SIGABRT\)"),
        ("os._exit(3)", r"the decoder crashed \(exit code 3\)"),
        ("while True: pass", r"decoding takes more than 1 s of computing"),
        ("time.sleep(1000)", r"decoding takes more than 1 s of computing"),
        ("bytearray(4 << 30)", r"decoding needs more than \d+ MB of memory"),
        ("raise BaseException('panic')", "cannot be decoded .*: panic"),
        ("open(__file__ + '.x', 'w').write('x' * 10 ** 6)", "cannot be decoded|the decoder crashed"),
    ],
)
def test_a_codec_that_goes_wrong_is_one_refusal(
    tmp_path: Path, evil_codec: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, deed: str, reason: str
) -> None:
    monkeypatch.setattr(decoding, "BASE_SECONDS", 1)
    monkeypatch.setattr(decoding, "WAITING_FACTOR", 2)
    evil_codec(deed)
    hostile, honest = extended(tmp_path / "hostile.dcm"), rle(tmp_path / "honest.dcm")
    start = time.monotonic()
    with pytest.raises(RadiographError, match=reason) as caught:
        read_radiograph(hostile)
    assert "\n" not in str(caught.value) and time.monotonic() - start < 30
    np.testing.assert_allclose(read_radiograph(honest).pixels, GRAY, atol=1e-3)


def test_without_gdcm_the_refusal_names_what_is_missing(tmp_path: Path, evil_codec: Callable[[str], None]) -> None:
    evil_codec("pass")
    (tmp_path / "gdcm.py").write_text("raise ImportError('No module named gdcm')")
    with pytest.raises(RadiographError, match="python-gdcm"):
        read_radiograph(extended(tmp_path / "a.dcm"))


def test_a_decoder_that_was_killed_is_started_again(tmp_path: Path) -> None:
    path = rle(tmp_path / "a.dcm")
    read_radiograph(path)
    (idle,) = decoding._idle
    os.kill(idle.process.pid, signal.SIGKILL)
    np.testing.assert_allclose(read_radiograph(path).pixels, GRAY, atol=1e-3)


def test_threads_get_their_own_pixels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    grays = [random.random((40, 50)) for _ in range(6)]
    paths = [rle(tmp_path / f"{index}.dcm", gray) for index, gray in enumerate(grays)]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(read_radiograph, paths * 5))
    for radiograph, gray in zip(read, grays * 5, strict=True):
        np.testing.assert_allclose(radiograph.pixels, gray, atol=1e-3)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_processes_decode(tmp_path: Path, method: str) -> None:
    random = np.random.default_rng(0)
    grays = [random.random((40, 50)) for _ in range(6)]
    items = [{"image": str(rle(tmp_path / f"{index}.dcm", gray))} for index, gray in enumerate(grays)]
    read_radiograph(items[0]["image"])  # a decoder of this process, which a fork must leave alone
    transform = LoadImaged(keys="image", reader=RadiographReader, image_only=True)
    context = multiprocessing.get_context(method)
    workers = 2 if method == "fork" else 1  # a spawned one imports everything anew
    loader = DataLoader(Dataset(items, transform), num_workers=workers, multiprocessing_context=context)
    for batch, gray in zip(loader, grays, strict=True):
        np.testing.assert_allclose(batch["image"][0].numpy(), gray, atol=1e-3)
    np.testing.assert_allclose(read_radiograph(items[5]["image"]).pixels, grays[5], atol=1e-3)


def test_the_decoder_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys, signal; from anatodiff.data import read_radiograph, decoding; read_radiograph(sys.argv[1]);"
        "print(decoding._idle[0].process.pid, flush=True); os.fork() or os._exit(0);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(rle(tmp_path / "a.dcm"))], capture_output=True, text=True)
    decoder = int(done.stdout)
    end = time.monotonic() + 10
    while Path(f"/proc/{decoder}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{decoder}").exists()
    assert done.stderr == ""
