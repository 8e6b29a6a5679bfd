"""The two commands of the README."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support import ROOT

from anatodiff.weights import MODELS_DIR

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*words: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True, timeout=60)


@needs_make
def test_a_second_call_installs_nothing(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    assert "pip install" in make("-n", "train", folder=tmp_path).stdout
    (tmp_path / ".venv" / "installed").touch()
    assert "pip install" not in make("-n", "train", folder=tmp_path).stdout
    later = (tmp_path / "pyproject.toml").stat().st_mtime + 10
    os.utime(tmp_path / "constraints.txt", (later, later))  # other versions are asked for
    os.utime(tmp_path / ".venv" / "installed", (later - 5, later - 5))
    assert "pip install" in make("-n", "test", folder=tmp_path).stdout


@needs_make
def test_train_is_the_command_of_the_readme() -> None:
    command = "python -m monai.bundle run training --config_file configs/train.json"
    assert command in make("-n", "train").stdout
    assert command in (ROOT / "README.md").read_text()


def test_ci_runs_make_test() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_constraints_pin_every_direct_dependency() -> None:
    pins = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    text = (ROOT / "pyproject.toml").read_text()
    section = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    names = {name.lower().replace("_", "-") for name in re.findall(r'"([A-Za-z][\w-]*)(?:\[[\w,]+\])?>=', section)}
    assert names <= pins
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text()


def test_shipped_weights_are_all_safetensors_under_20_mb() -> None:
    files = list(MODELS_DIR.iterdir())
    assert {file.suffix for file in files} <= {".safetensors", ""}  # weights and SHA256SUMS
    assert sum(file.stat().st_size for file in files) < 20e6
