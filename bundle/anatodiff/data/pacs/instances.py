"""The list of what a server has, as it lies beside the fetched files: `instances.csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from anatodiff.data.errors import DatasetError
from anatodiff.data.pacs.objects import is_uid, write_private

INSTANCES_FILE = "instances.csv"


@dataclass(frozen=True)
class Instance:
    """An object that the server says it has.

    Attributes:
        uid: SOP Instance UID.
        study: Study Instance UID.
        series: Series Instance UID.
        sop_class: SOP Class UID; empty where the server does not say.
        reason: why it was not fetched; empty where it was, or is still to be.
        cure: what to do about that.
    """

    uid: str
    study: str
    series: str
    sop_class: str = ""
    reason: str = ""
    cure: str = ""


def read_instances(folder: Path) -> list[Instance]:
    """Read the list of a folder.

    Args:
        folder: of fetched files, or any other.

    Returns:
        the rows; none where there is no list.

    Raises:
        DatasetError: the list is broken.
    """
    path = folder / INSTANCES_FILE
    if not path.is_file():
        return []
    columns = [field.name for field in fields(Instance)]
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != columns:
                return []  # somebody else's table of that name
            rows = [Instance(*(row[column] or "" for column in columns)) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); delete it, it is made anew") from error
    return [row for row in rows if is_uid(row.uid)]


def write_instances(folder: Path, rows: Iterable[Instance]) -> None:
    """Write the list, whole or not at all.

    Args:
        folder: of the fetched files.
        rows: what the server has.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([field.name for field in fields(Instance)])
    table.writerows(astuple(row) for row in rows)
    write_private(folder / INSTANCES_FILE, text.getvalue().encode())
