"""The wheel: what is in it, and that it runs in an empty folder, far from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import ROOT, SMALL

import anatodiff
from anatodiff.__main__ import main
from anatodiff.layout import SHIPPED, bundle_files, bundle_root

LARGEST_BYTES = 25e6
SECONDS = 240


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source archive and the wheel that was built from it."""
    pytest.importorskip("build", reason="the package `build` is not installed; it is in the extra `test`")
    pytest.importorskip("hatchling", reason="the package `hatchling` is not installed; it is in the extra `test`")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of processes that import the wheel's package, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target"]
    done = subprocess.run([*command, str(folder), str(wheel)], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": str(folder)}


def python(folder: Path, environment: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(str(word) for word in words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)


def test_the_wheel_holds_the_package_and_the_bundle(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {str(path.relative_to(ROOT / "bundle")) for path in (ROOT / "bundle" / "anatodiff").rglob("*.py")}
    bundle = {f"anatodiff/{SHIPPED}/{name.as_posix()}" for name in bundle_files()}
    rest = {name for name in names - code - bundle if ".dist-info/" not in name}
    assert names >= code | bundle
    assert rest == {"anatodiff/report/page.html"}
    assert wheel.stat().st_size < LARGEST_BYTES


def test_the_checkouts_wheel_is_the_archives(wheel: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    (again,) = tmp_path.glob("*.whl")
    assert again.read_bytes() == wheel.read_bytes()


def test_one_version_everywhere(wheel: Path) -> None:
    metadata = json.loads((ROOT / "configs" / "metadata.json").read_text())
    assert anatodiff.__version__ == metadata["version"] == wheel.name.split("-")[1]


def test_train_in_an_empty_folder(
    installed: dict[str, str], small_images: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    where = python(tmp_path, installed, "-c", "import anatodiff; print(anatodiff.__file__)").stdout.strip()
    assert Path(where).is_relative_to(installed["PYTHONPATH"])
    done = python(tmp_path, installed, "-m", "anatodiff", "init")
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()[-1].split()  # as it is printed, from there on
    assert command[:4] == ["python", "-m", "monai.bundle", "run"]
    # The base is small, but what measures the samples is the shipped one.
    few = {**SMALL["train"], **small_weights, "max_epochs": 1, "preview_images": 0, "dataset_dir": small_images}
    few |= {"topology_weight": 0.0}  # compiling its loss anew takes most of a minute
    done = python(
        tmp_path, installed, *command[1:], *(part for key, value in few.items() for part in (f"--{key}", value))
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "output" / "train"
    assert {"adapter.safetensors", "model.pt", "quality.json"} <= {path.name for path in run.iterdir()}
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["tool"] == {"name": "AnatoDiff", "version": anatodiff.__version__, "commit": None}


def test_init_lays_down_what_the_checkout_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new folder"
    assert main(["init", str(folder)]) == 0
    assert f"cd '{folder}'" in capsys.readouterr().out
    laid = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert laid == bundle_files()
    for name in laid:
        assert (folder / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_init_replaces_nothing_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.json").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["init", str(tmp_path)]) == 1
    assert "would replace configs/train.json;" in capsys.readouterr().err
    assert (tmp_path / "configs" / "train.json").read_text() == "mine"
    assert main(["init", str(tmp_path), "--overwrite"]) == 0
    assert (tmp_path / "configs" / "train.json").read_text() != "mine"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_init_goes_beside_an_environment_and_not_over_the_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".venv").mkdir()
    assert main(["init", str(tmp_path)]) == 0
    assert main(["init", str(bundle_root()), "--overwrite"]) == 1
    assert "is the bundle itself" in capsys.readouterr().err


def test_version_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"anatodiff {anatodiff.__version__}\n"
