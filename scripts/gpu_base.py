"""Train the base that ships on one GPU, by the recipe of scripts/train_base.py, in sittings of a few minutes.

    python scripts/gpu_base.py pack --data_dir base_data --output_dir gpu
    python scripts/gpu_base.py train --data_dir gpu --output_dir out --minutes 9      # there; again, to go on

`pack` makes one folder that travels (50 MB): the training and validation images that scripts/base_data.py wrote, byte
for byte, chest phantoms as JPEGs, and the autoencoder. `train` starts or continues in `out/`, which has to be kept
between sittings; where only `best.safetensors` is kept, it goes on from that file by `--start_path`. Other options of
configs/pretrain.json and configs/base.json may follow. The learning rates grow with the square root of the batch, and
fall after as many images as in the recipe. `--tiny` trains two steps, on a CPU too.

References:
    Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", https://arxiv.org/abs/2205.10287
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

import train_base
from anatodiff.data import DatasetError, find_radiographs
from anatodiff.data.listing import LABELS_FILE
from anatodiff.engines.optimizers import MUON_LEARNING_RATE
from anatodiff.engines.prepare import extra_folder
from anatodiff.transforms import radiograph_transforms
from anatodiff.weights import WeightsError, shipped

QUALITY = 95  # of JPEG: below the noise of a radiograph
PHANTOMS, AUTOENCODER = "phantoms", "autoencoder.safetensors"  # in the folder that travels
RECIPE: dict[str, Any] = {}
for _name in train_base.CONFIGS:
    RECIPE |= json.loads((train_base.ROOT / "configs" / f"{_name}.json").read_text())
BATCH = 256
GROWTH = BATCH / RECIPE["batch_size"]
GPU: dict[str, object] = {
    "batch_size": BATCH, "amp": "bf16", "learning_rate": RECIPE["learning_rate"] * math.sqrt(GROWTH),
    "muon_learning_rate": MUON_LEARNING_RATE * math.sqrt(GROWTH),
    "reference_steps": round(RECIPE["reference_steps"] / GROWTH), "checkpoint_every": 2000, "measure_every": 20,
}  # fmt: skip
TINY: dict[str, object] = {
    "batch_size": 10, "max_epochs": 1, "epoch_length": 2, "warmup_steps": 1, "checkpoint_every": 1,
    "augmented_versions": 1, "measured_samples": 0,
}  # fmt: skip


def pack_phantoms(source: Path, target: Path, size: int) -> int:
    """Write a folder's images as square JPEGs with their table.

    Args:
        source: folder of radiographs.
        target: folder to write.
        size: side of the JPEGs, pixels.

    Returns:
        how many.
    """
    target.mkdir(parents=True, exist_ok=True)
    transform = radiograph_transforms(size)
    items = [item for item in find_radiographs(source) if item.fault is None]
    with open(target / LABELS_FILE, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "patient_id", "label", "domain"])
        for item in tqdm(items, target.name):
            image = np.asarray(transform({"image": str(item.file)})["image"])[0]  # (H, W)
            name = f"{item.file.stem}.jpg"
            Image.fromarray((255 * image).round().astype(np.uint8)).save(target / name, quality=QUALITY)
            writer.writerow([name, item.patient, item.label, item.domain])
    return len(items)


def pack(options: argparse.Namespace) -> int:
    """Make the folder that travels; returns the exit code."""
    for part in train_base.PARTS:
        shutil.copytree(options.data_dir / part, options.output_dir / part, dirs_exist_ok=True)
    phantoms = extra_folder(None, options.cache_dir, options.phantoms)
    if phantoms is None:
        raise DatasetError("--phantoms is 0; the recipe has some, give a number")
    count = pack_phantoms(phantoms, options.output_dir / PHANTOMS, options.image_size)
    shutil.copyfile(options.autoencoder_path or shipped(AUTOENCODER), options.output_dir / AUTOENCODER)
    total = sum(file.stat().st_size for file in options.output_dir.rglob("*") if file.is_file())
    print(f"packed {' and '.join(train_base.PARTS)} images and {count} phantoms: {total / 1e6:.0f} MB")
    return 0


def train(options: argparse.Namespace) -> int:
    """Start or continue in the output folder, until the minutes are over; returns the exit code."""
    settings: dict[str, object] = {
        "extra_dir": options.data_dir / PHANTOMS, "extra_phantoms": 0,
        **GPU, **(TINY if options.tiny else {}),
    }  # fmt: skip
    rest = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    options.state_dir, options.hours, options.rest = options.output_dir, None, rest + options.rest
    options.autoencoder_path = options.data_dir / AUTOENCODER
    code = train_base.train(options)
    if not code:
        print(f"done: {options.output_dir / 'best.safetensors'} has the least validation loss")
    return code


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ways = parser.add_subparsers(required=True)
    packing = ways.add_parser("pack", help="make the folder that travels")
    packing.add_argument("--data_dir", type=Path, required=True, help="what scripts/base_data.py wrote")
    packing.add_argument("--output_dir", type=Path, required=True)
    packing.add_argument("--cache_dir", type=Path, default=train_base.ROOT / "output" / "cache", help="of phantoms")
    packing.add_argument("--phantoms", type=int, default=RECIPE["extra_phantoms"], help="number of chest phantoms")
    packing.add_argument("--image_size", type=int, default=RECIPE["image_size"], help="of the phantoms, pixels")
    packing.add_argument("--autoencoder_path", type=Path, help="without: the one that ships")
    packing.set_defaults(run=pack)
    training = ways.add_parser("train", help="train on what was packed")
    training.add_argument("--data_dir", type=Path, required=True, help="what pack wrote")
    training.add_argument("--output_dir", type=Path, required=True, help="kept between sittings")
    training.add_argument("--minutes", type=float, default=9.0, help="of this sitting")
    training.add_argument("--size", default=RECIPE["size"], help="e.g. ConvDiT-S/4")
    training.add_argument("--start_path", type=Path, help="weights to go on from where there is no state")
    training.add_argument("--tiny", action="store_true", help="two steps, to see that all of it works")
    training.set_defaults(run=train)
    options, options.rest = parser.parse_known_args(arguments)
    if options.run is pack and options.rest:
        parser.error(f"unrecognized arguments: {' '.join(options.rest)}")
    missing = [part for part in train_base.PARTS if not (options.data_dir / part / LABELS_FILE).is_file()]
    if missing:
        print(f"{options.data_dir / missing[0]}: no labels.csv; make it by scripts/base_data.py", file=sys.stderr)
        return 2
    try:
        return int(options.run(options))
    except (WeightsError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
