"""A folder of radiographs as two lists, one to train on and one held out, without a patient in both."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from anatodiff.data.decoding import close_decoders
from anatodiff.data.duplicates import find_copies
from anatodiff.data.errors import DatasetError, RadiographError, printable
from anatodiff.data.items import Item
from anatodiff.data.listing import LABELS_FILE, find_radiographs
from anatodiff.data.radiograph import read_with_marks
from anatodiff.data.rejected import Rejected, count_reasons
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
        root: the folder.
    """

    train: list[dict[str, Any]]
    test: list[dict[str, Any]]
    classes: list[str]
    rejected: list[Rejected] = field(default_factory=list)
    unidentified: int = 0
    root: str = ""


def make_datalist(
    dataset_dir: str | os.PathLike[str],
    test_fraction: float = 0.2,
    seed: int = 0,
    max_images: int | None = None,
    check: bool = True,
    max_train_images: int | None = None,
    allow_burned_in: bool = False,
    labels_path: str | os.PathLike[str] | None = None,
    allow_colour: bool = False,
) -> Datalist:
    """Find the usable images of a folder and hold out whole patients for testing.

    Within each class the patients are ordered by a hash of (seed, patient) and held out until the class's share is
    reached, so the split depends on nothing but the seed and the patients; no patient is in both parts.

    Args:
        dataset_dir: the folder, see `find_radiographs`.
        test_fraction: share of the images to hold out, in [0, 1); 0 holds out none.
        seed: of the split.
        max_images: use at most this many images, whole patients, in the classes' proportions; None uses all.
        check: decode each file once, because broken pixel data and copies of other images show only then; such files
            are not used and named.
        max_train_images: train on at most this many, chosen in the same way, and leave the held-out part as it is.
        allow_burned_in: use DICOM images that say that annotation is burned into their pixels.
        labels_path: a table of labels that lies elsewhere; None: the folder's own, if there is one.
        allow_colour: use PNG and JPEG files in colour, such as photographs.

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
    marks: dict[Path, list[str]] = {}
    examine = partial(_examined, marks, allow_burned_in, allow_colour) if check else _missing
    chosen, rejected = _usable(find_radiographs(root, labels_path), seed, max_images, examine)
    copies = find_copies(chosen, marks)
    copied = {row.file for row in copies}
    unique = [item for item in chosen if str(item.file) not in copied]
    rejected += copies
    _check_enough(root, unique, rejected, max_images, test_fraction)
    # The split is made with the copies, and they are left out of its parts: without them it would be another split,
    # in which patients that an earlier network was trained on are held out.
    held_out = split_patients([(item.patient, item.label) for item in chosen], test_fraction, seed)
    classes = sorted({item.label for item in unique})
    if max_train_images is not None:
        pairs = [(item.patient, item.label) for item in chosen if item.patient not in held_out]
        wanted = limit_patients(pairs, max_train_images, seed) | held_out
        unique = [item for item in unique if item.patient in wanted]
    parts: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for item in unique:
        label = classes.index(item.label)
        entry = {"image": str(item.file), "label": label, "patient": item.patient, "domain": item.domain}
        parts[item.patient in held_out].append(entry)
    unidentified = sum(not item.identified for item in unique)
    return Datalist(parts[False], parts[True], classes, rejected, unidentified, str(root))


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
    if datalist.rejected:
        lines.append(f"rejected: {len(datalist.rejected)}")
        lines += [f"  {count:>6}  {reason}" for count, reason in count_reasons(datalist.rejected)]
        named = datalist.rejected[:MAX_NAMED]
        lines += [f"  {printable(row.file)}: {row.whole_reason()}; {row.cure}" for row in named]
        if len(datalist.rejected) > MAX_NAMED:
            lines.append(f"  and {len(datalist.rejected) - MAX_NAMED} more")
    return "\n".join(lines)


def _check_enough(
    root: Path, unique: list[Item], rejected: list[Rejected], max_images: int | None, test_fraction: float
) -> None:
    if not unique:
        why = _counted(rejected) or f"no patient has at most {max_images} images (max_images)"
        raise DatasetError(f"{root}: no usable image: {why}; correct these or give dataset_dir another folder")
    if len(unique) == 1:
        raise DatasetError(f"{root}: only one usable image ({_counted(rejected) or 'no other'}); give more")
    if test_fraction > 0 and len({item.patient for item in unique}) == 1:
        raise DatasetError(
            f"{root}: all {len(unique)} images are of one patient, so none can be held out; give the patients in "
            f"{LABELS_FILE} (columns file,label,patient_id) or set test_fraction to 0"
        )


def _usable(
    items: list[Item], seed: int, max_images: int | None, examine: Callable[[Item], Rejected | None]
) -> tuple[list[Item], list[Rejected]]:
    """Choose the images, then examine them; a rejected one is replaced by choosing again among the rest."""
    rejected: list[Rejected] = []
    checked: set[Path] = set()
    while True:
        chosen = items
        if max_images is not None:
            patients = limit_patients([(item.patient, item.label) for item in items], max_images, seed)
            chosen = [item for item in items if item.patient in patients]
        new = [item for item in chosen if item.file not in checked]
        checked.update(item.file for item in new)
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
            bad = [row for row in pool.map(examine, new) if row is not None]
        close_decoders()  # one for each thread; training needs none of them
        faulty = {row.file for row in bad}
        if not bad:
            return chosen, rejected
        rejected += bad
        items = [item for item in items if str(item.file) not in faulty]


def _unusable_row(item: Item) -> Rejected | None:
    if item.fault:
        return Rejected(str(item.file), *item.fault)
    if not item.label:
        return Rejected(str(item.file), f"no label in {LABELS_FILE}", "fill in the column label or remove the row")
    return None


def _examined(marks: dict[Path, list[str]], allow_burned_in: bool, allow_colour: bool, item: Item) -> Rejected | None:
    """Read the file once, and note by what its image is known again."""
    if (unnamed := _unusable_row(item)) is not None:
        return unnamed
    try:
        marks[item.file] = read_with_marks(item.file, allow_burned_in, allow_colour)[1]
    except RadiographError as error:
        return Rejected(str(item.file), error.reason, error.cure)
    return None


def _missing(item: Item) -> Rejected | None:
    if (unnamed := _unusable_row(item)) is not None or item.file.is_file():
        return unnamed
    return Rejected(str(item.file), "no such file", "check the path")


def _counted(rejected: list[Rejected]) -> str:
    return ", ".join(f"{count} x {reason}" for count, reason in count_reasons(rejected))
