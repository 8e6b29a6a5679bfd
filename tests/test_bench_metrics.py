"""The measures of features take little memory beside the features, and the script that says so works."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest
from support import ROOT


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_metrics", ROOT / "scripts" / "bench_metrics.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peak_and_rest(said: str) -> tuple[float, str]:
    found = re.match(r" *([0-9.]+) GiB +([0-9.]+ s .*)", said)
    assert found is not None, said
    return float(found[1]), found[2]


def test_many_samples_take_hardly_more_memory_than_they_are(bench: ModuleType) -> None:
    """A copy of both sets in float64 alone would add 0.38 GiB."""
    few, _ = peak_and_rest(bench.in_own_process("fid", 1000, 64, 300))
    many, value = peak_and_rest(bench.in_own_process("fid", 400_000, 64, 300))
    assert many - few < 2 * 400_000 * 64 * 4 / 2**30 + 0.15
    assert float(value.split()[-1]) == pytest.approx(64 * bench.SHIFT**2, rel=0.05)


def test_what_takes_too_long_is_stopped(bench: ModuleType) -> None:
    _, rest = peak_and_rest(bench.in_own_process("kid", 1000, 64, 0.5))
    assert rest == "0.5 s  stopped here"
