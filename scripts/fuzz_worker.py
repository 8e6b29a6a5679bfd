"""The part of `fuzz_reader.py` that reads the files: a process of its own, which may die of one."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from anatodiff.data import RadiographError, decoding, read_radiograph
from fuzz_mutations import generated_seeds, hostile_seeds, mutant

MAX_SECONDS = 5.0
MAX_BYTES = 512 << 20
MAX_SHOWN = 300  # bytes of what was printed
SAMPLE_SECONDS = 0.004
SEED_BYTES = 3 << 20  # larger real files would make mutants slow to write, not to read
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
WATCHED = ("os.remove", "os.rename", "os.mkdir", "os.link", "os.symlink", "os.system", "socket.connect", "socket.bind")


class Watch:
    """What a read does besides reading: files opened for writing, connections, output, memory."""

    def __init__(self) -> None:
        self.deeds: list[str] = []
        self.active = False
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = any(letter in (mode or "") for letter in "wax+") or (flags or 0) & WRITING
            if writes and path != os.devnull and not isinstance(path, int):
                self.deeds.append(f"opens {path} for writing")
        elif event in WATCHED:
            self.deeds.append(event)


class Memory:
    """The peak of this process and of the decoder's forks above what they had at the start, in bytes."""

    def __init__(self) -> None:
        self.forks = 0
        self._stop = threading.Event()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        self.start = _status(os.getpid(), "VmRSS")
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            for decoder in list(decoding._all):
                pid = decoder.process.pid
                before = _status(pid, "VmRSS")
                for fork in _children(pid):
                    self.forks = max(self.forks, _status(fork, "VmHWM") - before)

    def peak(self) -> int:
        """Stop looking, and return the peak."""
        self._stop.set()
        self._thread.join()
        return _status(os.getpid(), "VmHWM") - self.start + self.forks


def _status(pid: int, name: str) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) << 10
    except OSError:  # gone
        pass
    return 0


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def examine(read: Callable[[Path], Any], path: Path, watch: Watch, output: Any = None) -> dict[str, Any]:
    """Read one file and judge what happened.

    Args:
        read: the reader.
        path: the file.
        watch: notes what else it does.
        output: the file that standard output and error go to, or None if nobody looks.

    Returns:
        `outcome` ("read" or the reason of the refusal), `seconds`, `bytes` and `findings`.
    """
    findings: list[str] = []
    outcome, printed = "read", os.fstat(output.fileno()).st_size if output else 0
    memory = Memory()
    watch.deeds, watch.active = [], True
    start = time.perf_counter()
    try:
        findings += _faults_of(read(path).pixels)
    except RadiographError as error:
        outcome = error.reason
        if len(str(error).splitlines()) != 1 or not error.cure or not str(error).isprintable():
            findings.append(f"message is not one line with a cure: {error!r}")
    except BaseException as error:
        outcome = "another error"
        findings.append(f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - start
    watch.active = False
    used = memory.peak()
    findings += watch.deeds
    if seconds > MAX_SECONDS:
        findings.append(f"took {seconds:.1f} s")
    if used > MAX_BYTES:
        findings.append(f"took {used >> 20} MB")
    if output and os.fstat(output.fileno()).st_size > printed:
        output.seek(printed)
        findings.append(f"printed {output.read()[:MAX_SHOWN]!r}")
    return {"outcome": outcome, "seconds": seconds, "bytes": used, "findings": findings}


def _faults_of(pixels: np.ndarray) -> Iterable[str]:
    if pixels.dtype != np.float32 or pixels.ndim != 2:
        yield f"pixels are {pixels.dtype} of shape {pixels.shape}"
    elif not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
        yield f"pixels from {pixels.min()} to {pixels.max()}"


def all_seeds(folder: Path | None) -> tuple[list[bytes], list[bytes]]:
    """Collect good files, real ones too, and hostile ones."""
    real = [] if folder is None else [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return generated_seeds() + [f.read_bytes() for f in real if 0 < f.stat().st_size <= SEED_BYTES], hostile_seeds()


def work(options: argparse.Namespace) -> int:
    """Examine the files whose numbers come in, one on each line; write one line of JSON for each."""
    answers = os.fdopen(os.dup(1), "w")
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    output = open(folder / "output", "w+b")  # noqa: SIM115
    with warnings.catch_warnings():  # of writing; those of reading are what is looked for
        warnings.simplefilter("ignore")
        seeds, hostile = all_seeds(options.seeds)
    path = folder / "mutant"
    path.write_bytes(seeds[0])
    read_radiograph(path)  # what is loaded once is no file's doing
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    watch = Watch()
    for line in sys.stdin:
        data = mutant(seeds, hostile, options.seed, int(line))
        path.write_bytes(data)
        if options.keep:  # before it is read, since that may be the end
            (options.keep / f"{options.seed}-{int(line)}").write_bytes(data)
        del data
        result = examine(read_radiograph, path, watch, output)
        if extra := set(os.listdir(folder)) - {"mutant", "output"}:
            result["findings"].append(f"left {sorted(extra)}")
        if options.keep and not result["findings"]:
            (options.keep / f"{options.seed}-{int(line)}").unlink()
        print(json.dumps(result), file=answers, flush=True)
    return 0


def main() -> int:
    """Run by `fuzz_reader.py`; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seeds", type=Path, default=None)
    parser.add_argument("--keep", type=Path, default=None)
    parser.add_argument("--folder", type=Path, required=True)
    return work(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
