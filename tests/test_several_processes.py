"""One training shared by several processes, started by torchrun as a user does."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import ROOT, SMALL, run_workflow

from anatodiff.weights import load_weights

CONFIGS = f"['{ROOT}/configs/train.json','{ROOT}/configs/multi_gpu.json']"


def command(processes: int, options: dict[str, object]) -> list[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    given = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
    return [*start, "-m", "monai.bundle", "run", "training", "--config_file", CONFIGS, *given]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def options(small_images: Path, small_weights: dict[str, str], tmp_path: Path) -> dict[str, object]:
    return {
        **SMALL["train"], **small_weights, "dataset_dir": small_images, "cache_dir": tmp_path / "cache",
        "output_dir": tmp_path / "two", "finetuning": "selora", "lora_rank": 4, "selora_every": 1,
        "selora_threshold": 1.05, "topology_weight": 1e-3,
    }  # fmt: skip


def losses(folder: Path) -> np.ndarray:
    with open(folder / "losses.csv") as file:
        return np.array([[float(value) for value in row.values()] for row in csv.DictReader(file)])


def test_two_processes_have_the_losses_of_one(options: dict[str, object], tmp_path: Path) -> None:
    done = subprocess.run(command(2, options), capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    alone = {**options, "output_dir": tmp_path / "one", "cache_dir": tmp_path / "cache1"}
    run_workflow("train", **{key: str(value) if isinstance(value, Path) else value for key, value in alone.items()})
    two, one = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert len(one) == 4
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    adapters = [load_weights(tmp_path / name / "adapter.safetensors", "adapter").tensors for name in ("one", "two")]
    for name, tensor in adapters[0].items():
        if not name.endswith("fisher"):
            np.testing.assert_allclose(adapters[1][name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == len(
        list((tmp_path / "one" / "tensorboard").iterdir())
    )
    assert json.loads((tmp_path / "two" / "quality.json").read_text())["samples"] == 6


def test_sigterm_stops_all_processes_at_one_step_and_the_run_goes_on(
    options: dict[str, object], tmp_path: Path
) -> None:
    options |= {"max_epochs": 400}
    process = subprocess.Popen(
        command(2, options), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "two" / "losses.csv"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.is_file() and log.read_bytes().count(b"\n") > 5):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert output.count("stopped by SIGTERM") >= 1
    steps = len(losses(tmp_path / "two"))
    options |= {"max_epochs": steps // 2 + 1}
    done = subprocess.run(command(2, options), capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"resumed at step {steps}" in done.stdout
    assert [int(row[0]) for row in losses(tmp_path / "two")] == list(range(1, 2 * (steps // 2 + 1) + 1))


@pytest.mark.parametrize(
    ("processes", "changes", "words"),
    [(2, {"batch_size": 5}, "shared by 2 processes"), (0, {}, "start it by torchrun")],
)
def test_what_cannot_be_shared_is_refused(
    processes: int, changes: dict[str, object], words: str, options: dict[str, object]
) -> None:
    start = command(2, options | changes)
    if not processes:
        start = [sys.executable, *start[start.index("-m", 3) :]]
    done = subprocess.run(start, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=300)
    assert done.returncode != 0
    assert words in (done.stderr.strip().splitlines()[-1] if not processes else done.stderr)
