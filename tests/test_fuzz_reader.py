"""The reader against broken files: a bounded run of `scripts/fuzz_reader.py`, and that it does find what is wrong."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT

import fuzz_worker
from anatodiff.data import Radiograph, RadiographError
from anatodiff.data.errors import Refusal
from fuzz_mutations import generated_seeds, mutant


def test_no_mutant_harms_the_reader() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "fuzz_reader.py"), "--count", "300", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = done.stdout.splitlines()[-1]
    assert "300 files" in counts and "0 findings" in counts
    read = int(counts.split(" read")[0].split()[-1])
    assert 20 < read < 200  # neither all broken nor all whole


def test_a_mutant_is_a_function_of_seed_and_number() -> None:
    seeds = generated_seeds()
    again = generated_seeds()
    assert seeds == again
    numbers = range(40)
    first = [mutant(seeds, [], 3, number) for number in numbers]
    assert first == [mutant(again, [], 3, number) for number in numbers]
    assert sum(one != other for one, other in zip(first, seeds, strict=False)) > 30
    assert first != [mutant(seeds, [], 4, number) for number in numbers]


@pytest.fixture(scope="module")
def watch() -> fuzz_worker.Watch:
    return fuzz_worker.Watch()


def radiograph(value: float) -> Radiograph:
    return Radiograph(np.full((40, 40), value, np.float32), None, {})


def write(path: Path) -> Radiograph:
    path.with_name("escaped").write_bytes(b"")
    return radiograph(0.5)


def panic(path: Path) -> Any:
    raise BaseException("panic")


def refuse_in_two_lines(path: Path) -> Any:
    error = RadiographError("one\ntwo")
    error.reason, error.cure = "one", "none"
    raise error


def noisy(path: Path) -> Radiograph:
    os.write(fuzz_worker_output(path), b"Invalid SOS parameters")
    return radiograph(0.5)


def fuzz_worker_output(path: Path) -> int:
    return os.open(path.with_name("output"), os.O_WRONLY | os.O_APPEND)


def greedy(path: Path) -> Radiograph:
    with mmap.mmap(-1, 100 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:  # malloc may hand out old ones
        np.frombuffer(pages, np.uint8)[:] = 1
    return radiograph(0.5)


@pytest.mark.parametrize(
    ("read", "finding"),
    [
        (lambda path: radiograph(float("nan")), "pixels from nan"),
        (lambda path: radiograph(1.5), "pixels from 1.5"),
        (lambda path: 1 / 0, "another error|ZeroDivisionError"),
        (panic, "BaseException: panic"),
        (refuse_in_two_lines, "not one line"),
        (write, "for writing"),
        (noisy, "printed b'Invalid SOS"),
        (greedy, "MB"),
    ],
)
def test_the_fuzzer_finds(
    tmp_path: Path,
    watch: fuzz_worker.Watch,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[Path], Any],
    finding: str,
) -> None:
    monkeypatch.setattr(fuzz_worker, "MAX_BYTES", 50 << 20)
    with open(tmp_path / "output", "w+b") as output:
        result = fuzz_worker.examine(read, tmp_path / "mutant", watch, output)
    assert any(part in text for text in result["findings"] for part in finding.split("|")), result


def test_the_fuzzer_is_content_with_pixels_and_with_a_refusal(tmp_path: Path, watch: fuzz_worker.Watch) -> None:
    def refuse(path: Path) -> Any:
        raise RadiographError.of(path, Refusal("a reason", "a cure"))

    assert fuzz_worker.examine(lambda path: radiograph(0.5), tmp_path / "a", watch)["findings"] == []
    refused = fuzz_worker.examine(refuse, tmp_path / "a", watch)
    assert refused["findings"] == [] and refused["outcome"] == "a reason"
