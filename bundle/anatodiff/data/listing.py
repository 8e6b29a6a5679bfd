"""What lies in a folder of radiographs: the image files with their classes and patients."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from anatodiff.data.dicom_file import read_elements
from anatodiff.data.errors import DatasetError
from anatodiff.data.identity import patient_key
from anatodiff.data.limits import file_bytes
from anatodiff.data.radiograph import BARE_DICOM_STARTS

logger = logging.getLogger(__name__)

LABELS_FILE = "labels.csv"
NEEDED_COLUMNS = ("file", "label")
PATIENT_COLUMN = "patient_id"
DOMAIN_COLUMN = "domain"
ONE_CLASS = "all"
SPLIT_FOLDERS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})
# Image files: those that are read, and those that are named with a reason instead of being passed over.
IMAGE_ENDINGS = (".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg", ".nii", ".nii.gz")
UNREAD_ENDINGS = (".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".j2k", ".mha", ".mhd", ".nrrd", ".npy")
PICTURE_MAGICS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
DIRECTORY_FILE = "DICOMDIR"
OUTSIDE = (
    "the name leads out of the folder",
    f"name files relative to {LABELS_FILE}, in its folder, or put a link there",
)
UNPRINTABLE = ("the label has characters that cannot be printed", "give the class another name")


@dataclass(frozen=True)
class Item:
    """One image file with its class and its patient.

    Attributes:
        file: the file.
        label: name of its class.
        patient: 16 hexadecimal digits, the same for all files of one patient; not to be written, see `Pseudonyms`.
        identified: whether a patient id was found; else the file's name stands in for it.
        domain: what kind of image it is (region, origin), for bases of several kinds; empty where not said.
        fault: why the file is not even opened, and what to do; None where it may be.
    """

    file: Path
    label: str
    patient: str
    identified: bool = True
    domain: str = ""
    fault: tuple[str, str] | None = None


def find_radiographs(dataset_dir: str | os.PathLike[str]) -> list[Item]:
    """List the image files of a folder with class and patient, without decoding them.

    Classes come from `labels.csv` (columns `file`, relative to the folder, and `label`; optional `patient_id` and
    `domain`; others are ignored; only the files in it are used), else from the folder's sub-folders, else all files are
    one class "all", as with one sub-folder for each patient.
    Patients come from `patient_id`, else from the DICOM PatientID, else each file name without its ending is a patient.
    Hidden files, DICOMDIR, symbolic links to folders, pipes, sockets and devices, and files that are not images are
    passed over. A name in `labels.csv` that leads out of the folder is listed with a fault and never opened: the table
    may come with somebody else's data, which has no say in what is read on this machine.

    Args:
        dataset_dir: the folder.

    Returns:
        The files in a fixed order. A file that `labels.csv` names is listed even if it does not exist.

    Raises:
        DatasetError: if the folder is missing or has no images, its layout is ambiguous, or labels.csv lacks a column.
    """
    root = Path(dataset_dir)
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; give dataset_dir a folder of radiographs")
    if (root / LABELS_FILE).is_file():
        return _from_table(root / LABELS_FILE)
    closed: list[Item] = []
    files = sorted(_image_files(root, closed))
    if not files:
        raise DatasetError(f"{root}: no images in this folder; give dataset_dir one with DICOM, PNG, JPEG, NIfTI files")
    folders = {file.relative_to(root).parts[0] for file in files if file.parent != root}
    if not folders:
        return [_item(file, ONE_CLASS) for file in files] + closed
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
    items = [_item(file, file.relative_to(root).parts[0]) for file in files]
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


def _from_table(table: Path) -> list[Item]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            used = (*NEEDED_COLUMNS, PATIENT_COLUMN, DOMAIN_COLUMN)
            rows = [{key: (row.get(key) or "").strip() for key in used} for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{table}: not a CSV file in UTF-8 ({error}); save it again as one") from error
    missing = [name for name in NEEDED_COLUMNS if name not in columns]
    if missing:
        raise DatasetError(
            f"{table}: no column {' and '.join(missing)} (found: {', '.join(columns) or 'none'}); "
            "the columns are file,label and optionally patient_id"
        )
    items: dict[Path, Item] = {}
    for row in rows:
        if not row["file"]:
            continue
        path = table.parent / row["file"]
        if not _is_inside(path, table.parent):
            item = Item(path, row["label"], patient_key(row["file"]), identified=False, fault=OUTSIDE)
        else:
            item = _item(path, row["label"], row[PATIENT_COLUMN], row[DOMAIN_COLUMN])
        known = items.setdefault(item.file, item)
        if known != item:
            raise DatasetError(f"{table}: {row['file']} is listed twice and differently; keep one row")
    if not items:
        raise DatasetError(f"{table}: no rows; write one row file,label for each image")
    return list(items.values())


def _is_inside(file: Path, folder: Path) -> bool:
    # By name, not by target: a link that lies in the folder was put there by somebody who may write to it.
    return os.path.normpath(os.path.abspath(file)).startswith(os.path.join(os.path.abspath(folder), ""))


def _item(file: Path, label: str, patient_id: str = "", domain: str = "") -> Item:
    if not (label + domain).isprintable():
        return Item(file, label, patient_key(patient_id or file.name), identified=False, fault=UNPRINTABLE)
    stem = file.name[: -len(".nii.gz")] if file.name.lower().endswith(".nii.gz") else file.stem
    identifier = patient_id or _dicom_patient_id(file)
    return Item(file, label, patient_key(identifier or stem), identified=bool(identifier), domain=domain)


def _dicom_patient_id(file: Path) -> str:
    if not _is_dicom(file, _head(file)):
        return ""
    try:
        header = read_elements(file_bytes(file), ["PatientID"])
        return str(header.get("PatientID") or "").strip()
    except Exception:  # a broken file: it is named with its reason when it is checked
        return ""


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
            if not name.startswith(".") and name.upper() != DIRECTORY_FILE and file.is_file() and _is_image(file):
                yield file


def _is_image(file: Path) -> bool:
    if file.name.lower().endswith(IMAGE_ENDINGS + UNREAD_ENDINGS):
        return True
    head = _head(file)
    return _is_dicom(file, head) or head.startswith(PICTURE_MAGICS)


def _is_dicom(file: Path, head: bytes) -> bool:
    # Without a preamble only the name helps: no ending, .dcm, or a UID, whose last number looks like an ending.
    bare = file.suffix.lower() in ("", ".dcm") or file.suffix[1:].isdigit()
    return head[128:] == b"DICM" or (bare and head.startswith(BARE_DICOM_STARTS))


def _head(file: Path) -> bytes:
    try:
        if not file.is_file():  # to open a pipe would wait for somebody to write to it
            return b""
        with open(file, "rb") as stream:
            return stream.read(132)
    except OSError:
        return b""
