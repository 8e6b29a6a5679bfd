"""What lies in a folder of radiographs: the image files with their classes and patients."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from anatodiff.data.errors import DatasetError
from anatodiff.data.identity import patient_key
from anatodiff.data.items import STUDY, Item, header_text, is_image, item_of
from anatodiff.data.pacs.instances import Instance, read_instances
from anatodiff.data.pacs.objects import is_uid, object_file
from anatodiff.data.table import DOMAIN_COLUMN, FILE_COLUMN, LABEL_COLUMN, PATIENT_COLUMN, LabelTable, read_table

logger = logging.getLogger(__name__)

LABELS_FILE = "labels.csv"
ONE_CLASS = "all"
SPLIT_FOLDERS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})
DIRECTORY_FILE = "DICOMDIR"
OUTSIDE = (
    "the name leads out of the folder",
    "name files relative to the folder of the images, or put a link there",
)
NOT_THERE = ("the server has no such image, or the search of the address leaves it out", "check the UID in the table")
NO_IMAGE = ("no image of this study", "check the Study Instance UID in the table")


def find_radiographs(
    dataset_dir: str | os.PathLike[str], labels_path: str | os.PathLike[str] | None = None
) -> list[Item]:
    """List the image files of a folder with class and patient, without decoding them.

    Classes come from a table, `labels_path` or the folder's own `labels.csv` (columns `file`, relative to the folder,
    and `label`; optional `patient_id` and `domain`; others are ignored; only the files in it are used), else from the
    folder's sub-folders, else all files are one class "all", as with one sub-folder for each patient. Where files are
    named by SOP Instance UIDs, as those from an archive, the column `file` may hold the UID alone; with a column
    `study` in its place, of Study Instance UIDs, each image of the study gets the label.
    Patients come from `patient_id`, else from the DICOM PatientID, else each file name without its ending is a patient.
    Hidden files, DICOMDIR, symbolic links to folders, pipes, sockets and devices, and files that are not images are
    passed over. A name in a table that leads out of the folder is listed with a fault and never opened: the table
    may come with somebody else's data, which has no say in what is read on this machine.

    Args:
        dataset_dir: the folder.
        labels_path: a table that lies elsewhere; None: the folder's own, if there is one.

    Returns:
        The files in a fixed order. What a table names is listed even if it does not exist, and what an archive listed
        and did not hand out, too, with a fault.

    Raises:
        DatasetError: if the folder is missing or has no images, its layout is ambiguous, or the table cannot be used.
    """
    root = Path(dataset_dir)
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; give dataset_dir a folder of radiographs")
    fetched = {row.uid: row for row in read_instances(root)}
    if labels_path is not None or (root / LABELS_FILE).is_file():
        return _from_table(root, read_table(labels_path or root / LABELS_FILE), fetched)
    closed = [_refused(root, row, ONE_CLASS) for row in fetched.values() if row.reason]
    files = sorted(_image_files(root, closed))
    if not files:
        raise DatasetError(f"{root}: no images in this folder; give dataset_dir one with DICOM, PNG, JPEG, NIfTI files")
    folders = {file.relative_to(root).parts[0] for file in files if file.parent != root}
    if not folders:
        return [item_of(file, ONE_CLASS) for file in files] + closed
    if any(file.parent == root for file in files):
        raise DatasetError(
            f"{root}: images lie beside sub-folders, so the classes are unclear; move them into one sub-folder per "
            f"class or write {LABELS_FILE} with the columns file,label"
        )
    if {folder.lower() for folder in folders} <= SPLIT_FOLDERS:
        raise DatasetError(
            f"{root}: the sub-folders {', '.join(sorted(folders))} are splits, not classes; give dataset_dir one of "
            "them (patients are split here)"
        )
    items = [item_of(file, file.relative_to(root).parts[0]) for file in files]
    if _are_patients(items):
        logger.warning(
            "%s: each of its %d sub-folders holds one patient, so they are taken for one class; for classes write %s "
            "with the columns file,label",
            root,
            len(folders),
            LABELS_FILE,
        )
        items = [replace(item, label=ONE_CLASS) for item in items]
    return items + closed


def _are_patients(items: list[Item]) -> bool:
    """Tell one folder per patient, as archives export, from classes: the names would go into adapters and files."""
    patients: dict[str, set[str]] = {}
    for item in items:
        patients.setdefault(item.label, set()).add(item.patient if item.identified else "")
    return len(patients) > 1 and all(len(found) == 1 and "" not in found for found in patients.values())


def _from_table(root: Path, table: LabelTable, fetched: dict[str, Instance]) -> list[Item]:
    of_study = _files_by_study(root, fetched) if table.by_study else {}
    items: dict[Path, Item] = {}
    for row in table.rows:
        name = row[table.key]
        files = of_study.get(name, []) if table.by_study else [_named_file(root, name, fetched)]
        found = [_labelled(root, file, row, fetched) for file in files]
        for item in found or [
            Item(root / name, row[LABEL_COLUMN], patient_key(name), identified=False, fault=NO_IMAGE)
        ]:
            if items.setdefault(item.file, item) != item:
                raise DatasetError(f"{table.path}: {name} is listed twice and differently; keep one row")
    return list(items.values())


def _labelled(root: Path, file: Path, row: Mapping[str, str], fetched: dict[str, Instance]) -> Item:
    label = row[LABEL_COLUMN]
    if not _is_inside(file, root):
        return Item(file, label, patient_key(row[FILE_COLUMN]), identified=False, fault=OUTSIDE)
    known = fetched.get(file.stem)
    if known is not None and known.reason:
        return _refused(root, known, label)
    if fetched and known is None:
        return Item(file, label, patient_key(file.stem), identified=False, fault=NOT_THERE)
    return item_of(file, label, row[PATIENT_COLUMN], row[DOMAIN_COLUMN])


def _refused(root: Path, row: Instance, label: str) -> Item:
    """List an object of an archive that could not be had."""
    return Item(object_file(root, row.uid), label, patient_key(row.uid), identified=False, fault=(row.reason, row.cure))


def _named_file(root: Path, name: str, fetched: dict[str, Instance]) -> Path:
    """Find the file that a table names, maybe by its SOP Instance UID alone."""
    if is_uid(name) and (name in fetched or object_file(root, name).is_file()):
        return object_file(root, name)
    return root / name


def _files_by_study(root: Path, fetched: dict[str, Instance]) -> dict[str, list[Path]]:
    """Sort a folder's images by Study Instance UID; a list that an archive gave saves opening them."""
    studies: dict[str, list[Path]] = {}
    for row in fetched.values():
        studies.setdefault(row.study, []).append(object_file(root, row.uid))
    if not fetched:
        for file in sorted(_image_files(root, [])):
            studies.setdefault(header_text(file, STUDY), []).append(file)
    return studies


def _is_inside(file: Path, folder: Path) -> bool:
    # By name, not by target: a link that lies in the folder was put there by somebody who may write to it.
    return os.path.normpath(os.path.abspath(file)).startswith(os.path.join(os.path.abspath(folder), ""))


def _image_files(folder: Path, closed: list[Item]) -> Iterator[Path]:
    """Yield the image files; folders that cannot be read are added to `closed`."""

    def note(error: OSError) -> None:
        fault = (f"the folder cannot be read ({error.strerror})", "correct its permissions")
        closed.append(Item(Path(error.filename), "", patient_key(str(error.filename)), identified=False, fault=fault))

    # os.walk does not follow links to folders, so a link that loops ends here.
    for parent, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            file = Path(parent, name)
            if not name.startswith(".") and name.upper() != DIRECTORY_FILE and file.is_file() and is_image(file):
                yield file
