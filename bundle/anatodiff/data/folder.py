"""A folder of radiographs as two lists, one to train on and one held out, without a patient in both."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anatodiff.data.errors import DatasetError, RadiographError
from anatodiff.data.listing import LABELS_FILE, Item, find_radiographs
from anatodiff.data.radiograph import read_radiograph
from anatodiff.data.split import limit_patients, split_patients

MAX_NAMED = 10
MAX_THREADS = 8


@dataclass(frozen=True)
class Datalist:
    """The usable images of a folder, split by patient.

    Attributes:
        train: entries `{"image": path, "label": index into classes, "patient": key, "domain": text or ""}`.
        test: entries of the patients that are held out.
        classes: names of the classes, sorted.
        rejected: files that are not used, each with the reason.
        unidentified: number of images without a patient id; each of them counts as a patient of its own.
    """

    train: list[dict[str, Any]]
    test: list[dict[str, Any]]
    classes: list[str]
    rejected: list[tuple[str, str]] = field(default_factory=list)
    unidentified: int = 0


def make_datalist(
    dataset_dir: str | os.PathLike[str],
    test_fraction: float = 0.2,
    seed: int = 0,
    max_images: int | None = None,
    check: bool = True,
    max_train_images: int | None = None,
) -> Datalist:
    """Find the usable images of a folder and hold out whole patients for testing.

    Within each class the patients are ordered by a hash of (seed, patient) and held out until the class's share is
    reached, so the split depends on nothing but the seed and the patients; no patient is in both parts.

    Args:
        dataset_dir: the folder, see `find_radiographs`.
        test_fraction: share of the images to hold out, in [0, 1); 0 holds out none.
        seed: of the split.
        max_images: use at most this many images, whole patients, in the classes' proportions; None uses all.
        check: decode each file once, because broken pixel data shows only then; the others are not used and named.

        max_train_images: train on at most this many, chosen in the same way, and leave the held-out part as it is.

    Returns:
        The two parts, the classes and the rejected files.

    Raises:
        DatasetError: if the folder cannot be used, with the reason and the cure in one line.
    """
    root = Path(dataset_dir)
    if not 0 <= test_fraction < 1:
        raise DatasetError(f"test_fraction is {test_fraction}; give a number from 0 to below 1")
    for name, most in (("max_images", max_images), ("max_train_images", max_train_images)):
        if most is not None and most < 2:
            raise DatasetError(f"{name} is {most}; give at least 2")
    chosen, rejected = _usable(find_radiographs(root), seed, max_images, check)
    if not chosen:
        why = _reasons(rejected) or f"no patient has at most {max_images} images (max_images)"
        raise DatasetError(f"{root}: no usable image: {why}; correct these or give dataset_dir another folder")
    if len(chosen) == 1:
        raise DatasetError(f"{root}: only one usable image ({len(rejected)} rejected); give more images")
    if test_fraction > 0 and len({item.patient for item in chosen}) == 1:
        raise DatasetError(
            f"{root}: all {len(chosen)} images are of one patient, so none can be held out; give the patients in "
            f"{LABELS_FILE} (columns file,label,patient_id) or set test_fraction to 0"
        )
    held_out = split_patients([(item.patient, item.label) for item in chosen], test_fraction, seed)
    classes = sorted({item.label for item in chosen})
    if max_train_images is not None:
        pairs = [(item.patient, item.label) for item in chosen if item.patient not in held_out]
        wanted = limit_patients(pairs, max_train_images, seed) | held_out
        chosen = [item for item in chosen if item.patient in wanted]
    parts: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for item in chosen:
        label = classes.index(item.label)
        entry = {"image": str(item.file), "label": label, "patient": item.patient, "domain": item.domain}
        parts[item.patient in held_out].append(entry)
    unidentified = sum(not item.identified for item in chosen)
    return Datalist(parts[False], parts[True], classes, rejected, unidentified)


def summarise(datalist: Datalist) -> str:
    """Say in a few lines what is used and what is not.

    Args:
        datalist: the split.

    Returns:
        A table of the classes, and at most ten rejected files with their reasons.
    """
    entries = datalist.train + datalist.test
    width = max(len("class"), *(len(name) for name in datalist.classes))
    lines = [f"{'class':<{width}}  images  patients  train  test"]
    rows: list[tuple[str, set[int]]] = [(name, {index}) for index, name in enumerate(datalist.classes)]
    rows.append(("total", set(range(len(datalist.classes)))))
    for name, labels in rows:
        mine = [entry for entry in entries if entry["label"] in labels]
        train = sum(entry["label"] in labels for entry in datalist.train)
        patients = len({entry["patient"] for entry in mine})
        lines.append(f"{name:<{width}}  {len(mine):>6}  {patients:>8}  {train:>5}  {len(mine) - train:>4}")
    if datalist.unidentified:
        lines.append(
            f"NO PATIENT ID: {datalist.unidentified} images have none and count as a patient each; if patients have "
            f"several images, name them in {LABELS_FILE} (column patient_id), else they end up in both parts"
        )
    if 1 < len(datalist.classes) == len({entry["patient"] for entry in entries}):
        lines.append("EACH CLASS IS ONE PATIENT: are the sub-folders patients? Their names would be in every file made")
    if datalist.rejected:
        lines.append(f"rejected: {len(datalist.rejected)}")
        lines += [f"  {file}: {reason}" for file, reason in datalist.rejected[:MAX_NAMED]]
        if len(datalist.rejected) > MAX_NAMED:
            lines.append(f"  and {len(datalist.rejected) - MAX_NAMED} more: {_reasons(datalist.rejected[MAX_NAMED:])}")
    return "\n".join(lines)


def _usable(
    items: list[Item], seed: int, max_images: int | None, check: bool
) -> tuple[list[Item], list[tuple[str, str]]]:
    """Choose the images, then check them; a rejected one is replaced by choosing again among the rest."""
    rejected: list[tuple[str, str]] = []
    checked: set[Path] = set()
    while True:
        chosen = items
        if max_images is not None:
            patients = limit_patients([(item.patient, item.label) for item in items], max_images, seed)
            chosen = [item for item in items if item.patient in patients]
        new = [item for item in chosen if item.file not in checked]
        checked.update(item.file for item in new)
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
            reasons = list(pool.map(_fault if check else _missing, new))
        bad = {item.file: reason for item, reason in zip(new, reasons, strict=True) if reason}
        if not bad:
            return chosen, rejected
        rejected += [(str(file), reason) for file, reason in bad.items()]
        items = [item for item in items if item.file not in bad]


def _missing(item: Item) -> str:
    if not item.label:
        return f"no label in {LABELS_FILE}"
    return "" if item.file.is_file() else "no such file"


def _fault(item: Item) -> str:
    reason = _missing(item)
    if not reason:
        try:
            read_radiograph(item.file)
        except RadiographError as error:
            return error.reason
    return reason


def _reasons(rejected: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in Counter(reason for _, reason in rejected).most_common())
