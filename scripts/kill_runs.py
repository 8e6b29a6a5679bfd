"""Kill trainings at random moments and inside their checkpoint writes, and see that nothing is lost.

    python scripts/kill_runs.py --kills 200 --seed 0 --output_dir output/kills

A small training runs once undisturbed. Then the same command is killed (SIGKILL) and started again until it is done,
again and again. After each kill a checkpoint of at most one interval before must be whole, and none that was there may
be lost; at the end losses and adapter must be those of the undisturbed run, bit for bit. Then checkpoints are written
to a disk that is full at one of the calls, and newest ones are cut off and changed in a byte. Ends with 1 if anything
was lost; counts go to kills.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process with threads must not be forked

import torch
from monai.bundle import ConfigWorkflow
from safetensors.torch import load_file

from anatodiff.autoencoders import Autoencoder, load_autoencoder, save_autoencoder
from anatodiff.data import write_radiograph
from anatodiff.data.phantom import make_phantom
from anatodiff.engines.checkpoint_files import Generations
from anatodiff.files import PART
from anatodiff.losses import TopologicalWassersteinLoss
from anatodiff.networks import Base, DiT, save_base
from checkpoint_faults import KINDS, Point, at_point, calls_of_a_write, damage, fill_disk, kill_self

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "train.json"
SIZE = 64  # pixels
INTERVAL = 4  # batches between two checkpoints
FAULT_SHARE = 0.5  # of the kills; the others come at a random time
OPTIONS: dict[str, Any] = {
    "image_size": SIZE, "max_epochs": 3, "epoch_length": 8, "batch_size": 4, "warmup_steps": 1, "n_prototypes": 4,
    "learning_rate": 0.01, "sampling_steps": 3, "preview_steps": 2, "preview_images": 2, "samples_per_class": 3,
    "spm_width": 8, "finetuning": "selora", "lora_rank": 3, "selora_every": 3, "selora_threshold": 1.3,
    "accumulation_steps": 2, "spm_learnable": True, "checkpoint_every": INTERVAL, "test_fraction": 0.3,
    "measured": [], "device::name": "cpu",
}  # fmt: skip


def train(options: dict[str, Any], log: Path, point: Point | None) -> None:
    """Run the training in a forked process; what it prints is added to `log`."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    with at_point(point, kill_self):
        workflow = ConfigWorkflow(str(CONFIG), workflow_type="train", **options)
        workflow.initialize()
        workflow.run()
        workflow.finalize()


def start(options: dict[str, Any], log: Path, point: Point | None = None) -> Any:
    """Start the training in a fork of this process; returns that process."""
    process = multiprocessing.get_context("fork").Process(target=train, args=(options, log, point))
    process.start()
    return process


def make_inputs(folder: Path) -> dict[str, Any]:
    """Write small phantoms and random weights; returns the options of the training."""
    images = folder / "images"
    images.mkdir(parents=True)
    for number in range(20):
        write_radiograph(images / f"image{number:02d}.png", make_phantom(number, size=SIZE).pixels)
    rows = [f"image{number:02d}.png,phantom,patient{number}" for number in range(20)]
    (images / "labels.csv").write_text("\n".join(["file,label,patient_id", *rows]) + "\n")
    torch.manual_seed(0)
    paths = {name: str(folder / f"{name}.safetensors") for name in ("autoencoder_path", "base_path")}
    save_autoencoder(paths["autoencoder_path"], Autoencoder(4, (8, 8), norm_num_groups=4), {})
    network = DiT(input_size=SIZE // 8, patch_size=4, hidden_size=32, depth=4, num_heads=2, num_classes=1)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    encoder = load_autoencoder(paths["autoencoder_path"])
    save_base(paths["base_path"], Base(network, 1.5, ["phantom"], "", encoder.sha256, "CC0"), {})
    return {**OPTIONS, **paths, "dataset_dir": str(images)}


def logged_steps(folder: Path) -> list[int]:
    """Steps of the whole rows of losses.csv."""
    log = folder / "losses.csv"
    rows = log.read_text().splitlines(keepends=True)[1:] if log.is_file() else []
    return [int(row.split(",")[0]) for row in rows if row.endswith("\n")]


def check_after_kill(folder: Path, known: int) -> tuple[int, int]:
    """Return the step of the newest whole checkpoint and the steps after it, or raise."""
    found, steps = Generations(folder).read(), logged_steps(folder)
    step = 0 if found is None else found[0]["step"]
    if step < known:
        raise AssertionError(f"{folder}: the checkpoint of step {known} is lost, the newest is of step {step}")
    if steps[:step] != list(range(1, step + 1)):
        raise AssertionError(f"{folder}: losses.csv lacks steps before the checkpoint of step {step}: {steps}")
    if len(steps) - step > INTERVAL:
        raise AssertionError(f"{folder}: {len(steps)} steps were done and the newest checkpoint is of step {step}")
    return step, len(steps) - step


def check_end(folder: Path, reference: Path) -> None:
    """Compare a finished run with the undisturbed one."""
    if (folder / "losses.csv").read_bytes() != (reference / "losses.csv").read_bytes():
        raise AssertionError(f"{folder}: losses.csv is not that of the undisturbed run")
    one, other = (load_file(place / "adapter.safetensors") for place in (folder, reference))
    if one.keys() != other.keys() or any(not torch.equal(one[name], other[name]) for name in one):
        raise AssertionError(f"{folder}: the adapter is not that of the undisturbed run")
    left = [str(path) for path in folder.rglob("*") if PART.fullmatch(path.name)]
    if left:
        raise AssertionError(f"{folder}: unfinished files are left: {left}")


def kill_round(
    options: dict[str, Any], folder: Path, seconds: float, calls: Counter, most: int, chance: random.Random
) -> Counter:
    """Kill a training again and again, at most `most` times, until it is done; returns the counts."""
    counts, known, before = Counter(rounds=1), 0, (0, 0)
    options = options | {"output_dir": str(folder / "run"), "cache_dir": str(folder / "cache")}
    while True:
        point, delay = None, None
        if counts["kills"] < most and chance.random() < FAULT_SHARE:
            kind = chance.choice(KINDS)
            point = Point(kind, chance.randint(1, 2 * calls[kind]), chance.random() < 0.5)
        elif counts["kills"] < most:
            delay = chance.uniform(0, seconds)
        process = start(options, folder / "log.txt", point)
        process.join(delay)
        if process.is_alive():
            process.kill()
            process.join()
        if process.exitcode == 0:
            return counts
        if process.exitcode != -signal.SIGKILL:
            raise AssertionError(f"a run ended with {process.exitcode}, see {folder / 'log.txt'}")
        known, lost = now = check_after_kill(folder / "run", known)
        counts.update(kills=1, kills_in_a_checkpoint_write=point is not None, kills_before_a_checkpoint=known == 0)
        if now != before:  # else it was killed before its first step
            counts["redone_steps"] += lost
        before = now


def kill_runs(options: dict[str, Any], folder: Path, kills: int, chance: random.Random) -> Counter:
    """Make the undisturbed run, then rounds of kills; returns the counts."""
    started, reference = time.monotonic(), folder / "reference"
    reference.mkdir()
    options = options | {"output_dir": str(reference / "run"), "cache_dir": str(reference / "cache")}
    process = start(options, reference / "log.txt")
    process.join()
    if process.exitcode:
        raise AssertionError(f"the undisturbed run failed, see {reference / 'log.txt'}")
    seconds, counts, calls = time.monotonic() - started, Counter(), calls_of_a_write(reference / "run")
    while counts["kills"] < kills:
        place = folder / f"round{counts['rounds']:03d}"
        place.mkdir()
        counts += kill_round(options, place, seconds, calls, kills - counts["kills"], chance)
        check_end(place / "run", reference / "run")
        shutil.rmtree(place)
        print(f"{counts['kills']} kills in {counts['rounds']} runs, nothing lost", flush=True)
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many processes to kill")
    parser.add_argument("--damages", type=int, default=1000, help="of each kind: full disk, cut off, changed in a byte")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output_dir", required=True, help="an empty or new folder")
    given = parser.parse_args(arguments)
    folder = Path(given.output_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        parser.error(f"{folder} is not empty; give another output_dir")
    torch.set_num_threads(1)
    TopologicalWassersteinLoss().warm_up()  # what takes long, once here and not in each process
    torch.optim.AdamW([torch.zeros(1)])
    chance, started = random.Random(given.seed), time.monotonic()
    try:
        counts = kill_runs(make_inputs(folder), folder, given.kills, chance)
        run = folder / "reference" / "run"
        logging.getLogger("anatodiff").setLevel(logging.ERROR)  # each damage would be said
        counts += fill_disk(run, given.damages, chance) + damage(run, given.damages, chance)
    except AssertionError as error:
        print(f"LOST: {error}", file=sys.stderr)
        return 1
    record = {**counts, "seconds": round(time.monotonic() - started)}
    (folder / "kills.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
