"""Start or continue the long training of the base that ships.

    python scripts/base_data.py --open_dir radiographs_open --cxr_dir cxr --output_dir base_data
    nohup python scripts/train_base.py --data_dir base_data --state_dir base_run &

One process of one thread, by configs/pretrain.json and configs/base.json. The same command continues from the last
checkpoint; SIGTERM ends it within seconds with its state whole. Where the state is lost it goes on from the weights in
models/: images, core-hours and the record of the header count on, the optimiser's state begins anew. `record.jsonl` in
the state's folder has a row for each epoch, `progress/` a grid for each measurement, and `best.safetensors` the weights
of the moving average with the least validation loss.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from anatodiff.autoencoders import load_autoencoder
from anatodiff.engines.training_record import RECORD_NAME, RECORD_NOTE, read_record
from anatodiff.networks import Base, load_base
from anatodiff.weights import MODELS_DIR, WeightsError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ("pretrain", "base")
PARTS = ("train", "validation")
NOT_DONE = 3  # exit code of a sitting that ended before the hours were over
SECONDS_TO_SAVE = 30
LICENCES = (
    "NIH ChestX-ray14: attribution required; Hannover: CC BY 3.0; FracAtlas: CC BY 4.0; COVID-19 Image Data "
    "Collection: CC BY; phantoms: ours"
)


def start_of(
    state_dir: Path, weights: Path | None, size: str | None = None, autoencoder: Path | None = None
) -> list[str]:
    """Choose what a training without a checkpoint begins with.

    Args:
        state_dir: folder of the run.
        weights: a base to go on from; None: the one that ships, if this recipe made it in that size on these latents.
        size: of the network; None: that of the recipe.
        autoencoder: file of the autoencoder; None: the one that ships.

    Returns:
        options of pretrain.json; empty where there is a checkpoint, or nothing to go on from.
    """
    kept = state_dir / "start_path.txt"  # a resumed run has to name the same start
    if not kept.is_file():
        path = MODELS_DIR / "dit.safetensors" if weights is None else weights
        usable = weights is not None or (path.is_file() and _is_of_recipe(load_base(path), size, autoencoder))
        state_dir.mkdir(parents=True, exist_ok=True)
        kept.write_text(str(path.resolve()) if usable else "")
    text = kept.read_text()
    return ["--start_path", text] if text else []


def _is_of_recipe(base: Base, size: str | None, autoencoder: Path | None) -> bool:
    same = RECORD_NOTE in base.notes and size in (None, base.notes["run"]["size"])
    return same and load_autoencoder(autoencoder).sha256 == base.autoencoder_sha256


def command_of(options: argparse.Namespace) -> list[str]:
    """Build the command line of the workflow."""
    files = [str(ROOT / "configs" / f"{name}.json") for name in CONFIGS]
    settings = {
        "bundle_root": ROOT, "dataset_dir": options.data_dir / PARTS[0], "validation_dir": options.data_dir / PARTS[1],
        "output_dir": options.state_dir, "cache_dir": options.state_dir / "cache", "data_licence": LICENCES,
    }  # fmt: skip
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(files)]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    if options.size is not None:
        command += ["--size", options.size]
    if options.autoencoder_path is not None:
        command += ["--autoencoder_path", str(options.autoencoder_path)]
    start = start_of(options.state_dir, options.start_path, options.size, options.autoencoder_path)
    return [*command, *start, *options.rest]


def hours_done(state_dir: Path) -> float:
    """Core-hours of the record, those of the starting weights included."""
    path = state_dir / RECORD_NAME
    rows = read_record(path) if path.is_file() else []
    return rows[-1]["core_hours"] if rows else 0.0


def train(options: argparse.Namespace) -> int:
    """Run until the hours, the minutes or the process are over; returns the exit code."""
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes - SECONDS_TO_SAVE
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command_of(options), env=environment)
    signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    while process.poll() is None:
        time.sleep(1)
        late = deadline is not None and time.monotonic() > deadline
        enough = options.hours is not None and hours_done(options.state_dir) >= options.hours
        if late or enough:
            process.terminate()  # the workflow saves a checkpoint first
            process.wait()
            print(f"{hours_done(options.state_dir):.2f} core-hours in {options.state_dir}; the same command goes on")
            return 0 if enough else NOT_DONE
    return process.returncode


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="what scripts/base_data.py wrote")
    parser.add_argument("--state_dir", type=Path, required=True, help="outside the repository")
    parser.add_argument("--autoencoder_path", type=Path, help="of the latents; without: the one that ships")
    parser.add_argument("--start_path", type=Path, help="weights to go on from where there is no state")
    parser.add_argument("--size", help="of the network, e.g. ConvDiT-S/4; without: that of configs/base.json")
    parser.add_argument("--hours", type=float, help="core-hours in all after which it ends; without: never")
    parser.add_argument("--minutes", type=float, help="of this sitting; without: until it is stopped")
    options, options.rest = parser.parse_known_args(arguments)
    missing = [name for name in PARTS if not (options.data_dir / name / "labels.csv").is_file()]
    if missing:
        print(f"{options.data_dir / missing[0]}: no labels.csv; make it by scripts/base_data.py", file=sys.stderr)
        return 2
    try:
        return train(options)
    except (WeightsError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
