"""Train the base that ships on a GPU of another machine, in sittings of a few minutes.

    python scripts/gpu_base.py pack --output_dir gpu --dataset_dir output/cache/phantoms-base-2000 \\
        --extra_dir /data/varied --perceptual_path vgg19.pth
    python scripts/gpu_base.py train --data_dir gpu --output_dir out --minutes 9      # there, again until it says done

`pack` makes one small folder of JPEGs and weights (40 MB for 2,000 phantoms and 1,140 versions of radiographs). `train`
runs the same workflows as on a CPU, longer; what it does not finish in its minutes goes on where it stopped. The two
weights files are then in `out/`, fp16 and a few MB each. `--tiny` goes through all of it in a minute, on a CPU.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from anatodiff.data import find_radiographs
from anatodiff.data.listing import LABELS_FILE
from anatodiff.transforms import radiograph_transforms

ROOT = Path(__file__).resolve().parents[1]
QUALITY = 95  # of JPEG: below the noise of a radiograph
NOT_DONE = 3  # exit code
SECONDS_TO_SAVE = 20  # a checkpoint is written in a few
STAGES: dict[str, dict[str, object]] = {
    "autoencoder": {
        "batch_size": 64, "crop_size": 128, "max_epochs": 16, "epoch_length": 1000, "val_interval": 16,
        "checkpoint_every": 500,
    },
    "decoder": {
        "batch_size": 32, "crop_size": 128, "max_epochs": 12, "epoch_length": 1000, "val_interval": 12,
        "checkpoint_every": 500,
    },
    "dit": {
        "batch_size": 128, "max_epochs": 24, "epoch_length": 1000, "val_interval": 24, "checkpoint_every": 500,
        "amp": "bf16", "preview_images": 0, "ema_momentum": 0.001,
    },
}  # fmt: skip
CONFIGS = {
    "autoencoder": ["train_autoencoder"],
    "decoder": ["train_autoencoder", "sharpen"],
    "dit": ["pretrain"],
}
TINY: dict[str, dict[str, object]] = {
    name: {"max_epochs": 1, "epoch_length": 2, "batch_size": 10, "val_interval": 1, "warmup_steps": 1,
           "checkpoint_every": 1, "sampling_steps": 2} for name in STAGES
}  # fmt: skip


def pack_images(source: Path, target: Path, size: int) -> int:
    """Write a folder's images as square JPEGs with their table; returns how many."""
    target.mkdir(parents=True, exist_ok=True)
    transform = radiograph_transforms(size)
    items = [item for item in find_radiographs(source) if item.fault is None]
    with open(target / LABELS_FILE, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "patient_id", "label", "domain"])
        for item in tqdm(items, target.name):
            image = np.asarray(transform({"image": str(item.file)})["image"])[0]  # (H, W)
            name = f"{item.file.stem}.jpg"
            Image.fromarray((255 * image).round().astype(np.uint8)).save(target / name, quality=QUALITY)
            writer.writerow([name, item.patient, item.label, item.domain])
    return len(items)


def pack(options: argparse.Namespace) -> int:
    """Make the folder that travels."""
    counts = [
        pack_images(source, options.output_dir / name, options.size)
        for name, source in (("images", options.dataset_dir), ("extra", options.extra_dir))
    ]
    shutil.copyfile(options.perceptual_path, options.output_dir / "vgg19.pth")
    total = sum(file.stat().st_size for file in options.output_dir.rglob("*") if file.is_file())
    print(f"packed {counts[0]} and {counts[1]} images and VGG-19 into {options.output_dir}: {total / 1e6:.0f} MB")
    return 0


def command_of(stage: str, options: argparse.Namespace) -> tuple[list[str], Path]:
    """The command line of a stage, and the file that tells that it is done."""
    done = options.output_dir / f"{stage}.safetensors"
    settings: dict[str, object] = {
        "dataset_dir": options.data_dir / "images", "extra_dir": options.data_dir / "extra",
        "output_dir": options.output_dir / stage, "cache_dir": options.output_dir / "cache", "weights_path": done,
        **STAGES[stage], **(TINY[stage] if options.tiny else {}),
    }  # fmt: skip
    if stage == "decoder":
        settings |= {"start_path": options.output_dir / "autoencoder.safetensors"}
        settings |= {"perceptual_path": options.data_dir / "vgg19.pth"}
    if stage == "dit":
        settings |= {"autoencoder_path": options.output_dir / "decoder.safetensors"}
        settings |= {"data_licence": "phantoms: ours; radiographs: CC BY, CC BY-SA"}
    elif options.tiny:
        settings.pop("sampling_steps")
    files = [str(ROOT / "configs" / f"{name}.json") for name in CONFIGS[stage]]
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(files)]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    return command, done


def train(options: argparse.Namespace) -> int:
    """Run the stages that are not done, until the minutes are over; returns the exit code."""
    deadline = time.monotonic() + 60 * options.minutes - SECONDS_TO_SAVE
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        command, done = command_of(stage, options)
        if done.is_file():
            continue
        started = time.monotonic()
        process = subprocess.Popen(command)
        try:
            code = process.wait(timeout=max(0.0, deadline - started))
        except subprocess.TimeoutExpired:
            process.terminate()  # the workflow saves a checkpoint first
            process.wait()
            print(f"{stage} is not done; the same command goes on from here")
            return NOT_DONE
        if code:
            return code
        print(f"{stage}: done after {time.monotonic() - started:.0f} s in this sitting")
    print(f"done: {options.output_dir / 'decoder.safetensors'} and {options.output_dir / 'dit.safetensors'}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ways = parser.add_subparsers(required=True)
    packing = ways.add_parser("pack", help="make the folder that travels")
    packing.add_argument("--output_dir", type=Path, required=True)
    packing.add_argument("--dataset_dir", type=Path, required=True, help="phantoms")
    packing.add_argument("--extra_dir", type=Path, required=True, help="varied radiographs")
    packing.add_argument("--perceptual_path", type=Path, required=True, help="convolutions of VGG-19")
    packing.add_argument("--size", type=int, default=256)
    packing.set_defaults(run=pack)
    training = ways.add_parser("train", help="train on what was packed")
    training.add_argument("--data_dir", type=Path, required=True)
    training.add_argument("--output_dir", type=Path, required=True)
    training.add_argument("--minutes", type=float, default=9.0, help="of this sitting")
    training.add_argument("--tiny", action="store_true", help="two steps of each, to see that all of it works")
    training.set_defaults(run=train)
    options = parser.parse_args(arguments)
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
