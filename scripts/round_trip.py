"""Radiographs into an Orthanc, from there into a training, and its synthetic studies back; and nothing is changed.

    python scripts/round_trip.py --objects 500 --output_dir output/round_trip

Phantoms go in, half by C-STORE and half by STOW-RS; `dataset_dir` of a short training is the DICOMweb address; its
samples go back by both ways and are fetched again. The pixels of every object, and that the samples say that they are
synthetic, are compared. Prints the seconds of each step, which also go to round_trip.json; ends with 1 on any
difference. Orthanc runs in a network namespace of its own, which needs the right to make one.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from anatodiff.data import read_radiograph
from anatodiff.data.dicom_marks import SYNTHETIC_DATA
from anatodiff.data.pacs.address import DicomwebAddress
from anatodiff.data.pacs.fetch import fetch_studies
from anatodiff.data.pacs.send import Sent, send_by_store, send_by_stow
from anatodiff.data.phantom import Encoding, make_phantom, write_phantom_dicom
from anatodiff.data.phantom.dicom import make_uid
from orthanc_server import DICOM_PORT, TITLE, OrthancServer, why_not

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "train.json"
LABEL = "tension_pneumothorax"
DRAWINGS = 16  # each object is one of them with noise of its own
NOISE = 0.02  # of the full range
TRAINING = {
    "max_epochs": 1, "epoch_length": 5, "batch_size": 4, "warmup_steps": 1, "n_prototypes": 4, "sampling_steps": 4,
    "preview_images": 0, "samples_per_class": 40, "measured": "['after']", "device::name": "cpu",
}  # fmt: skip
ENCODINGS = [
    Encoding(dx=True, inverted=False, bits=12, compressed=False, window=True),
    Encoding(dx=False, inverted=True, bits=10, compressed=True, window=False),
    Encoding(dx=True, inverted=True, bits=14, compressed=True, window=True),
    Encoding(dx=False, inverted=False, bits=12, compressed=False, window=True),
]


def make_objects(folder: Path, number: int, size: int) -> list[Path]:
    """Write phantoms as distinct objects, each of a patient of its own; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawings = [make_phantom(seed, LABEL, size) for seed in range(min(DRAWINGS, number))]
    files = []
    for index, drawing, encoding in zip(range(number), cycle(drawings), cycle(ENCODINGS), strict=False):
        noise = NOISE * np.random.default_rng(index).standard_normal(drawing.pixels.shape)
        pixels = np.clip(drawing.pixels + noise, 0, 1).astype(np.float32)  # (H, W)
        drawn = type(drawing)(**{**vars(drawing), "pixels": pixels})
        uids = (make_uid("study", index), make_uid("series", index), make_uid("image", index))
        files.append(folder / f"object{index:04d}.dcm")
        write_phantom_dicom(files[-1], drawn, encoding, (f"P{index:04d}", f"PHANTOM^{index}"), uids)
    return files


class Steps:
    """What was done, how many, and how long it took."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def take(self, name: str, number: int, step: Callable[[], Any]) -> Any:
        """Do a step and print its time; returns what it returns."""
        start = time.monotonic()
        result = step()
        seconds = time.monotonic() - start
        self.rows.append({"step": name, "objects": number, "seconds": seconds, "per_second": number / seconds})
        print(f"{name:<44} {number:>5} objects {seconds:>8.1f} s {number / seconds:>8.1f} /s", flush=True)
        return result


def not_stored(results: list[Sent]) -> list[str]:
    """Name what did not arrive."""
    return [f"{one.file.name}: not stored: {one.reason}" for one in results if not one.stored]


def differences(sent: list[Path], folder: Path) -> list[str]:
    """Compare files with those fetched: the same image, the same mark, nothing missing and nothing more."""
    found, names = [], set()
    for file in sent:
        ours = pydicom.dcmread(file)
        names.add(f"{ours.SOPInstanceUID}.dcm")
        back = folder / f"{ours.SOPInstanceUID}.dcm"
        if not back.is_file():
            found.append(f"{file.name}: did not come back")
            continue
        if not np.array_equal(read_radiograph(file).pixels, read_radiograph(back).pixels):
            found.append(f"{file.name}: has other pixels")
        theirs = pydicom.dcmread(back)
        if (
            ours.file_meta.TransferSyntaxUID == theirs.file_meta.TransferSyntaxUID
            and ours.PixelData != theirs.PixelData
        ):
            found.append(f"{file.name}: has other stored bytes")
        if theirs[SYNTHETIC_DATA].value != "YES" or ours[SYNTHETIC_DATA].value != "YES":
            found.append(f"{file.name}: is not marked synthetic")
    return found + [f"{file.name}: was not sent" for file in folder.glob("*.dcm") if file.name not in names]


def train(address: str, folder: Path, options: list[str]) -> None:
    """Train from an address as a user does; options are OPTION=VALUE each."""
    given = {**TRAINING, "dataset_dir": address, "output_dir": folder / "run", "cache_dir": folder / "cache"}
    given |= dict(part.split("=", 1) for part in options)
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(CONFIG)]
    command += [str(part) for name, value in given.items() for part in (f"--{name}", value)]
    with open(folder / "training.txt", "wb") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, cwd=CONFIG.parents[1])
    if done.returncode != 0:
        raise RuntimeError((folder / "training.txt").read_text(errors="replace")[-3000:])


def trip(given: argparse.Namespace) -> list[str]:
    """Make the round trip, within the network of the server; returns the differences."""
    folder, steps, base = given.output_dir, Steps(), OrthancServer.base
    files = sorted((folder / "objects").glob("*.dcm"))
    half = len(files) // 2
    ways: list[tuple[str, Callable[[list[Path]], list[Sent]]]] = [
        ("C-STORE", lambda part: send_by_store(part, "127.0.0.1", DICOM_PORT, TITLE)),
        ("STOW-RS", lambda part: send_by_stow(part, base)),
    ]
    found = []
    for (way, send), part in zip(ways, (files[:half], files[half:]), strict=True):
        found += not_stored(steps.take(f"in by {way}", len(part), lambda send=send, part=part: send(part)))
    address = f"{base}?Modality=DX,CR&BodyPartExamined=CHEST"
    fetched = folder / "cache" / "dicomweb" / DicomwebAddress.parse(address).folder_name
    steps.take("out by QIDO-RS and WADO-RS", len(files), lambda: fetch_studies(address, fetched))
    found += steps.take("compared", len(files), lambda: differences(files, fetched))
    steps.take("a training from the address", len(files), lambda: train(address, folder, given.set))
    listed = json.loads((folder / "run" / "datalist.json").read_text())
    if len(listed["train"] + listed["test"]) != len(files):
        found.append(f"the training read {len(listed['train'] + listed['test'])} of {len(files)} images")
    samples = sorted((folder / "run" / "samples").glob("*.dcm"))
    half = len(samples) // 2
    for (way, send), part in zip(ways, (samples[:half], samples[half:]), strict=True):
        name = f"synthetic studies back by {way}"
        found += not_stored(steps.take(name, len(part), lambda send=send, part=part: send(part)))
    again = steps.take(
        "synthetic studies out", len(samples), lambda: fetch_studies(f"{base}?Modality=OT", folder / "again")
    )
    found += steps.take("synthetic studies compared", len(samples), lambda: differences(samples, again))
    (folder / "round_trip.json").write_text(json.dumps({"steps": steps.rows, "differences": found}, indent=1))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--output_dir", type=Path, required=True, help="a new folder")
    parser.add_argument("--size", type=int, default=256, help="pixels along a side of the phantoms")
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE", help="of the training")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if given.inside:
        found = trip(given)
        print("\n".join(found) or "no difference")
        return 1 if found else 0
    if (missing := why_not()) is not None:
        print(missing, file=sys.stderr)
        return 2
    if given.output_dir.exists() and any(given.output_dir.iterdir()):
        print(f"{given.output_dir}: is not empty; give a new folder", file=sys.stderr)
        return 2
    given.output_dir = given.output_dir.resolve()
    make_objects(given.output_dir / "objects", given.objects, given.size)
    with OrthancServer(given.output_dir / "orthanc") as server:
        command = [sys.executable, __file__, *(arguments or sys.argv[1:]), "--inside"]
        return subprocess.run(server.inside(command), env={**server.environment(), "PYTHONPATH": _path()}).returncode


def _path() -> str:
    return os.pathsep.join(part for part in sys.path if part)


if __name__ == "__main__":
    sys.exit(main())
