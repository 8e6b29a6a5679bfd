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

LONGEST_STOP = 60  # seconds
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


# The step 7 of batches of 4 images, of which the second process takes the last two: no number in that process alone.
SPOILED = """
import math, runpy
from anatodiff.engines import DiffusionBatch

batch = DiffusionBatch.__call__

def spoiled(self, batchdata, *arguments, **named):
    x0, *others = batch(self, batchdata, *arguments, **named)
    return x0 * (math.nan if self.name == "train" and int(batchdata["position"][0]) == 6 * 4 + 2 else 1), *others

DiffusionBatch.__call__ = spoiled
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


class Disturbed:
    """A training in two processes, one batch of which is spoiled, started again and again by one command."""

    def __init__(self, folder: Path, options: dict[str, object], name: str) -> None:
        script, self.out = folder / "spoiled.py", folder / name
        script.write_text(SPOILED)
        start = command(2, options | {"output_dir": self.out})
        at = start.index("-m", 3)
        self.command = [*start[:at], str(script), *start[at + 2 :]]

    def start(self) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.command, cwd=ROOT, env=environment(), text=True, **pipes)  # type: ignore[call-overload]

    def wait_for_rows(self, rows: int, process: subprocess.Popen[str]) -> None:
        log, deadline = self.out / "losses.csv", time.monotonic() + 120
        while time.monotonic() < deadline and not (log.is_file() and log.read_bytes().count(b"\n") > rows):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)

    def end(self, process: subprocess.Popen[str]) -> str:
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-2000:]
        return output


def process_of_rank(rank: int, parent: int) -> int:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(
        int(pid)
        for pid in children
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    )


def test_a_killed_process_stops_all_and_sigterm_too_and_the_run_goes_on_bit_for_bit(
    options: dict[str, object], tmp_path: Path
) -> None:
    options |= {"epoch_length": 20, "checkpoint_every": 5, "preview_images": 0, "measured": []}
    whole, run = (Disturbed(tmp_path, options, name) for name in ("whole", "disturbed"))
    said = whole.end(whole.start())
    assert said.count("at step 7: its update is skipped (1 so far)") == 1

    process = run.start()
    run.wait_for_rows(9, process)
    os.kill(process_of_rank(1, process.pid), signal.SIGKILL)
    killed = time.monotonic()
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert time.monotonic() - killed < LONGEST_STOP

    process = run.start()
    run.wait_for_rows(25, process)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "resumed at step" in output
    assert output.count("stopped by SIGTERM") >= 1
    steps = len(losses(run.out))

    assert f"resumed at step {steps}" in run.end(run.start())
    for name in ("losses.csv", "adapter.safetensors"):
        assert (run.out / name).read_bytes() == (whole.out / name).read_bytes(), name
    assert load_weights(run.out / "adapter.safetensors", "adapter").settings["skipped_steps"] == 1


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
