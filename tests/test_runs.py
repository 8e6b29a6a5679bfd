"""A run's folder belongs to one run at a time, can be written, and is tidied; signals lose nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import options_for, run_workflow

from anatodiff.autoencoders import latent_cache
from anatodiff.engines import finish, handlers, validation
from anatodiff.engines.checkpoint_files import read_checkpoint
from anatodiff.engines.runs import LOCK_NAME, FolderInUseError, end_run, start_run
from anatodiff.losses import AnatoDiffLoss

Run = Callable[..., Path]

PLACES = {
    "train": "output_dir", "prepare": "output_dir", "pretrain": "output_dir", "train_autoencoder": "output_dir",
    "inference": "dataset_dir", "evaluate": "output_dir",
}  # fmt: skip
HOLDER = """
import os, sys, time
from anatodiff.locks import FileLock
lock = FileLock(sys.argv[1])
assert lock.take()
child = os.fork() if "child" in sys.argv else None
if child != 0:
    print(child or "held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def given_back() -> Iterator[None]:
    yield
    end_run()


def hold(path: Path, *words: str) -> subprocess.Popen[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path), *words], stdout=subprocess.PIPE, text=True)
    return process


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("name", list(PLACES))
def test_a_second_run_in_a_folder_is_refused_at_once(
    name: str, small_images: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    holder = hold(out / LOCK_NAME)
    try:
        assert line_of(holder) == "held"
        given = {**options_for(name, small_images, small_weights, tmp_path), PLACES[name]: str(out)}
        with pytest.raises(FolderInUseError) as caught:
            run_workflow(name, **given)
    finally:
        holder.kill()
        holder.wait()
    text = str(caught.value)
    assert f"process {holder.pid} on {socket.gethostname()} writes to this folder" in text
    assert "give another output_dir" in text
    assert "\n" not in text
    assert not (tmp_path / "cache").exists()


def test_the_lock_of_a_dead_process_never_blocks(tmp_path: Path) -> None:
    holder = hold(tmp_path / LOCK_NAME, "child")
    child = int(line_of(holder))
    try:
        with pytest.raises(FolderInUseError):
            start_run(tmp_path)
        holder.kill()
        holder.wait()
        start_run(tmp_path)  # though a child of the dead one lives on
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_run_gives_its_folder_back(run: Run, tmp_path: Path) -> None:
    out = run("prepare")
    assert not (out / LOCK_NAME).exists()
    start_run(out)
    start_run(out)  # one process is one run
    end_run()
    holder = hold(out / LOCK_NAME)
    assert line_of(holder) == "held"
    holder.kill()
    holder.wait()


def test_parts_of_killed_runs_are_taken_away_and_nothing_else(tmp_path: Path) -> None:
    part = f".checkpoint.pt.{'0123456789abcdef' * 2}.part"
    mine = [tmp_path / part, tmp_path / "samples" / part, tmp_path / "progress" / part]
    others = [tmp_path / "generated" / part, tmp_path / "notes.part", tmp_path / "samples" / "image.dcm"]
    for file in mine + others:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    start_run(tmp_path)
    assert not any(file.exists() for file in mine)
    assert all(file.exists() for file in others)


@pytest.mark.parametrize(("name", "option"), [*PLACES.items(), ("pretrain", "weights_path")])
def test_a_folder_that_cannot_be_written_is_found_before_anything_is_read(
    name: str, option: str, small_images: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "mine" / ("dit.safetensors" if option == "weights_path" else ""))
    given = {**options_for(name, small_images, small_weights, tmp_path), option: place}
    expected = "weights_path" if option == "weights_path" else "output_dir"
    with pytest.raises(OSError, match=f"cannot be written .*give another {expected}"):
        run_workflow(name, **given)
    assert not (tmp_path / "cache").exists()


MOMENTS: dict[str, tuple[Any, str]] = {
    "reading": (latent_cache.ImageDataset, "_read"),
    "a step": (AnatoDiffLoss, "_of_estimates"),
    "validation": (validation.ValidationLoss, "update"),
    "a picture": (handlers.ProgressGrid, "_sample"),
    "the samples": (finish.FineTuneResult, "_draw_attention"),
}


# Quickly done, and no checkpoint is due before the end of an epoch.
QUICK = {"checkpoint_every": 100, "preview_images": 2, "measured": []}


@pytest.mark.parametrize(
    ("moment", "number"),
    [*((moment, signal.SIGTERM) for moment in MOMENTS), ("a step", signal.SIGINT), ("validation", signal.SIGINT)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_signal_at_any_moment_loses_nothing(
    moment: str,
    number: signal.Signals,
    run: Run,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, name = MOMENTS[moment]
    function, called = getattr(owner, name), []

    def disturbed(*arguments: Any) -> Any:
        called.append(1)
        os.kill(os.getpid(), number)
        return function(*arguments)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(owner, name, disturbed)
        run("train", **QUICK)
    assert caught.value.code == 128 + number
    assert len(called) == 1
    out, trained = tmp_path / "out", {"a step": 1, "validation": 2, "a picture": 2, "the samples": 4}
    if moment in trained:  # no step is lost, though no checkpoint was due
        assert read_checkpoint(out / "checkpoint.pt")["step"] == trained[moment]
    run("train", **QUICK)
    for file in ("losses.csv", "adapter.safetensors", "samples/contact_sheet.png"):
        assert (out / file).read_bytes() == (undisturbed / file).read_bytes(), file
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture(scope="module")
def undisturbed(small_images: Path, small_weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    run_workflow("train", **options_for("train", small_images, small_weights, root), **QUICK)
    return root / "out"
