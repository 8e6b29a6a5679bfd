"""The images of a datastore as the folder that the bundle's training reads."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from monailabel.interfaces.datastore import Datastore

from anatodiff.data.dicom_marks import SAMPLE_PATIENT
from anatodiff.data.errors import DatasetError
from anatodiff.data.items import PATIENT, STUDY, header_text
from anatodiff.data.listing import LABELS_FILE, ONE_CLASS
from anatodiff.data.table import FILE_COLUMN, LABEL_COLUMN, PATIENT_COLUMN, LabelTable, read_table
from lib.errors import RequestError

logger = logging.getLogger(__name__)

COLUMNS = (FILE_COLUMN, LABEL_COLUMN, PATIENT_COLUMN)
UNLABELLED = {LABEL_COLUMN: ONE_CLASS, PATIENT_COLUMN: ""}


@dataclass(frozen=True)
class Image:
    """One file of the datastore.

    Args:
        file: the file.
        label: its class.
        patient: its patient as the table says; empty: as its DICOM header says.
    """

    file: Path
    label: str
    patient: str


def find_images(datastore: Datastore, labels_path: Path | None) -> list[Image]:
    """Fetch the images of a datastore, each with its class.

    Samples of this package that were put into the datastore are left out: nothing is to be learned from them.

    Args:
        datastore: a folder, or a DICOMweb server that is not to convert its images to NIfTI.
        labels_path: table with the columns file,label and optionally patient_id, where file is a file's name, or on
            DICOMweb a SeriesInstanceUID or SOPInstanceUID; or with study in place of file. Only the images in it are
            used. None: all are one class.

    Returns:
        the images in a fixed order.

    Raises:
        RequestError: there are none, the table cannot be used, or it names none of them.
    """
    try:
        table = None if labels_path is None else read_table(labels_path)
    except DatasetError as error:
        raise RequestError(409, str(error)) from error
    found, samples = [], 0
    for image_id in sorted(datastore.list_images()):
        for file in _files(datastore, image_id):
            row = UNLABELLED if table is None else _row(table, file, image_id)
            if row is None:
                continue
            if _is_sample(file):
                samples += 1
                continue
            found.append(Image(file, row[LABEL_COLUMN], row[PATIENT_COLUMN]))
    if samples:
        logger.warning("left out %d synthetic radiographs of this package", samples)
    if not found:
        raise RequestError(409, _why_none(datastore, labels_path))
    return found


def write_folder(images: list[Image], folder: Path) -> None:
    """Lay links to the images and a table of them into a folder, in place of those of an earlier time.

    Args:
        images: the images.
        folder: it is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    for image in images:
        os.symlink(image.file.resolve(), folder / image.file.name)
    with open(folder / LABELS_FILE, "w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table)
        rows.writerow(COLUMNS)
        rows.writerows((image.file.name, image.label, image.patient) for image in images)


def _files(datastore: Datastore, image_id: str) -> list[Path]:
    try:
        path = Path(datastore.get_image_uri(image_id))
    except Exception as error:  # of the network, of the DICOMweb client
        raise RequestError(
            409,
            f"image {image_id}: cannot be fetched from the datastore ({type(error).__name__}: {error}); "
            "correct that and start the same training again, what was fetched is kept",
        ) from error
    return sorted(path.glob("*.dcm")) if path.is_dir() else [path]  # a DICOMweb series is a folder


def _row(table: LabelTable, file: Path, image_id: str) -> Mapping[str, str] | None:
    names = [header_text(file, STUDY)] if table.by_study else [file.name, file.stem, image_id]
    return next((row for row in table.rows if row[table.key] in names), None)


def _is_sample(file: Path) -> bool:
    return header_text(file, PATIENT).startswith(SAMPLE_PATIENT)


def _why_none(datastore: Datastore, labels_path: Path | None) -> str:
    count = len(datastore.list_images())
    if not count:
        return (
            "the datastore lists no images; put some into the studies folder, or on DICOMweb set "
            "MONAI_LABEL_DICOMWEB_SEARCH_FILTER (its default is CT)"
        )
    if labels_path is None:
        return f"all {count} images of the datastore are synthetic radiographs of this package; give real ones"
    return (
        f"{labels_path}: names none of the {count} images of the datastore; its column file holds names of files, or "
        "on DICOMweb SeriesInstanceUIDs"
    )
