"""Folders of phantoms in DICOM, with a table of labels."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from anatodiff.files import replaced_when_whole

from .dicom import Encoding, make_uid, write_phantom_dicom
from .make import ALL_CLASSES, Phantom, domain_of, make_phantom

LABELS_NAME = "labels.csv"
SETTINGS_NAME = "phantoms.json"
MASKS_NAME = "masks"
BITS_STORED = (10, 12, 14)
MOST_IMAGES_PER_PATIENT = 2.0
BYTE = 8  # bits


@dataclass(frozen=True)
class PlannedPhantom:
    """One image of a folder before it is made.

    Args:
        file: name of the DICOM file.
        patient_id: the same for all images of a patient.
        patient_name: openly a phantom's.
        label: class.
        seed: the patient's seed for make_phantom.
        view: number of the exposure for make_phantom.
        encoding: how the file stores the pixels.
        uids: of the study, the series and the image.
        number: of the patient in the folder, from 1.
    """

    file: str
    patient_id: str
    patient_name: str
    label: str
    seed: int
    view: int
    encoding: Encoding
    uids: tuple[str, str, str]
    number: int


def _draw_patients(
    n: int, labels: Sequence[str], rng: np.random.Generator, images_per_patient: float
) -> list[tuple[int, str, int]]:
    """Patient number, label and view of each image; labels take turns in random order, block by block."""
    images: list[tuple[int, str, int]] = []
    patient = 0
    block: list[str] = []
    while len(images) < n:
        if not block:
            block = [labels[i] for i in rng.permutation(len(labels))]
        patient += 1
        label = block.pop()
        views = 1 + int(rng.random() < images_per_patient - 1)
        images += [(patient, label, view) for view in range(views)]
    return images[:n]


def plan_phantoms(
    n: int, labels: Sequence[str], seed: int = 0, images_per_patient: float = 1.25
) -> list[PlannedPhantom]:
    """Decide what a folder will hold; nothing is made.

    Args:
        n: number of images.
        labels: classes to draw from in turn.
        seed: of the whole folder, 0 or more.
        images_per_patient: mean, 1 to 2; later images of a patient have the same anatomy, another pose and exposure.

    Returns:
        One entry for each image. make_phantom(entry.seed, entry.label, size, entry.view) makes its pixels.

    Raises:
        ValueError: for no image, no label, an unknown label or another number of images per patient.
    """
    unknown = sorted(set(labels) - set(ALL_CLASSES))
    if n < 1 or not labels or unknown or seed < 0:
        raise ValueError(
            f"phantoms: n={n}, labels={list(labels)}, seed={seed}: give at least one image, labels out of "
            f"{', '.join(ALL_CLASSES)} and a seed of 0 or more"
        )
    if not 1 <= images_per_patient <= MOST_IMAGES_PER_PATIENT:
        raise ValueError(f"phantoms: images_per_patient={images_per_patient}: give 1 to {MOST_IMAGES_PER_PATIENT:g}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, n]))
    images = _draw_patients(n, labels, rng, images_per_patient)
    # Even shares in random order: nothing about the file tells the class.
    turn = {name: rng.permutation(n) for name in ("dx", "inverted", "bits", "compressed", "window")}
    plan = []
    for index, (patient, label, view) in enumerate(images):
        encoding = Encoding(
            dx=bool(turn["dx"][index] % 2),
            inverted=turn["inverted"][index] % 3 == 1,
            bits=BITS_STORED[turn["bits"][index] % 3],
            compressed=turn["compressed"][index] % 3 == 1,
            window=bool(turn["window"][index] % 2),
        )
        patient_seed = int(np.random.SeedSequence([seed, patient]).generate_state(1)[0])
        uids = tuple(make_uid(seed, patient, label, what, view) for what in ("study", "series", "image"))
        plan.append(
            PlannedPhantom(
                f"phantom_{patient:05d}_{view}.dcm",
                f"PHANTOM-{seed}-{patient:05d}",
                f"PHANTOM^{patient:05d}",
                label,
                patient_seed,
                view,
                encoding,
                (uids[0], uids[1], uids[2]),
                patient,
            )
        )
    return plan


def encode_masks(phantom: Phantom) -> np.ndarray:
    """All masks in one map of bits, since they overlap.

    Args:
        phantom: from make_phantom.

    Returns:
        (H, W) uint8, or uint16 for more than eight masks; bit i is set where mask_names(...)[i] is.
    """
    code = np.zeros(phantom.pixels.shape, np.uint16)
    for bit, mask in enumerate(phantom.masks.values()):
        code |= mask.astype(np.uint16) << np.uint16(bit)
    return code.astype(np.uint8) if len(phantom.masks) <= BYTE else code


def _write_one(job: tuple[Path, PlannedPhantom, int, bool, float]) -> None:
    folder, planned, size, masks, devices = job
    target, mask_file = folder / planned.file, folder / MASKS_NAME / f"{Path(planned.file).stem}.png"
    if target.exists() and (mask_file.exists() or not masks):
        return
    phantom = make_phantom(planned.seed, planned.label, size, planned.view, devices)
    if masks:
        buffer = io.BytesIO()
        Image.fromarray(encode_masks(phantom)).save(buffer, format="PNG")
        with replaced_when_whole(mask_file) as temporary:
            temporary.write_bytes(buffer.getvalue())
    patient = (planned.patient_id, planned.patient_name)
    write_phantom_dicom(target, phantom, planned.encoding, patient, planned.uids, planned.number)


def claim_folder(folder: Path, settings: dict[str, object]) -> None:
    """Note what a folder is for, and refuse one that is for something else.

    Args:
        folder: it is there.
        settings: what fixes its content.

    Raises:
        ValueError: it holds phantoms made with other settings.
    """
    path = folder / SETTINGS_NAME
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != settings:
            raise ValueError(f"{folder}: holds phantoms made with {found}, not {settings}: choose another folder")
    else:
        with replaced_when_whole(path) as temporary:
            temporary.write_bytes(json.dumps(settings).encode())


def _write_each(jobs: list[tuple[Path, PlannedPhantom, int, bool, float]], workers: int) -> None:
    if workers == 1:
        for job in jobs:
            _write_one(job)
        return
    # One thread in each: several per core would wait for each other. Pictures do not depend on it.
    with ProcessPoolExecutor(workers, initializer=threadpool_limits, initargs=(1,)) as pool:
        for _ in pool.map(_write_one, jobs, chunksize=4):
            pass


def _write_table(table: Path, plan: Sequence[PlannedPhantom]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "patient_id", "label", "domain"])
    writer.writerows([p.file, p.patient_id, p.label, domain_of(p.label)] for p in plan)
    with replaced_when_whole(table) as temporary:
        temporary.write_bytes(text.getvalue().encode())


def write_phantoms(
    folder: str | os.PathLike[str],
    n: int,
    labels: Sequence[str],
    seed: int = 0,
    size: int = 320,
    workers: int | None = None,
    masks: bool = False,
    images_per_patient: float = 1.25,
    devices: float = 0.0,
) -> Path:
    """Write n phantoms as DICOM files with a table of labels; an interrupted call goes on where it stopped.

    Args:
        folder: where to; made if missing.
        n: number of images.
        labels: classes to draw from in turn.
        seed: of the whole folder.
        size: pixels along a side.
        workers: processes; None: one for each core.
        masks: also write masks/<name>.png, see encode_masks.
        images_per_patient: mean, 1 to 2.
        devices: share of patients with tubes, lines, implants or casts, see make_phantom.

    Returns:
        The path of labels.csv (file, patient_id, label, domain), written last: where it lies the folder is complete.

    Raises:
        ValueError: for bad arguments, or a folder that holds phantoms made with others.
    """
    if not 0 <= devices <= 1:
        raise ValueError(f"phantoms: devices={devices}: give the share of patients with devices, 0 to 1")
    folder = Path(folder)
    plan = plan_phantoms(n, labels, seed, images_per_patient)
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, object] = {"n": n, "labels": list(labels), "seed": seed, "size": size, "masks": masks}
    settings |= {"images_per_patient": images_per_patient}
    # Folders without devices keep the settings that they had before there were any.
    claim_folder(folder, settings | ({"devices": devices} if devices > 0 else {}))
    table = folder / LABELS_NAME
    if table.exists():
        return table
    if masks:
        (folder / MASKS_NAME).mkdir(exist_ok=True)
    jobs = [(folder, planned, size, masks, devices) for planned in plan]
    _write_each(jobs, min(workers or os.cpu_count() or 1, n))
    _write_table(table, plan)
    return table
