"""A table of labels: which images of a folder or of an archive are used, and what they show."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anatodiff.data.errors import DatasetError

FILE_COLUMN, STUDY_COLUMN, LABEL_COLUMN = "file", "study", "label"
PATIENT_COLUMN = "patient_id"
DOMAIN_COLUMN = "domain"


@dataclass(frozen=True)
class LabelTable:
    """The rows of a table that name something.

    Attributes:
        path: the table's file.
        by_study: whether its rows name studies, else files.
        rows: column -> text, without spaces around it; empty where the table has no such column.
    """

    path: Path
    by_study: bool
    rows: Sequence[Mapping[str, str]]

    @property
    def key(self) -> str:
        """Column by which a row says what it is about."""
        return STUDY_COLUMN if self.by_study else FILE_COLUMN

    def wanted(self) -> set[str]:
        """Collect what is named: files, SOP Instance UIDs or Study Instance UIDs; without the ending of UID files."""
        return {row[self.key].removesuffix(".dcm") for row in self.rows}


def read_table(path: str | os.PathLike[str]) -> LabelTable:
    """Read a table of labels, CSV in UTF-8.

    Its columns are `file` or, without it, `study`; `label`; and optionally `patient_id` and `domain`. Others are
    ignored.

    Args:
        path: the file.

    Raises:
        DatasetError: it cannot be read, lacks a column, or has no rows.
    """
    table = Path(path)
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            used = (FILE_COLUMN, STUDY_COLUMN, LABEL_COLUMN, PATIENT_COLUMN, DOMAIN_COLUMN)
            rows = [{key: (row.get(key) or "").strip() for key in used} for row in reader]
    except OSError as error:
        raise DatasetError(f"{table}: cannot be read ({error.strerror}); give labels_path a CSV file") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{table}: not a CSV file in UTF-8 ({error}); save it again as one") from error
    by_study = STUDY_COLUMN in columns and FILE_COLUMN not in columns
    key = STUDY_COLUMN if by_study else FILE_COLUMN
    missing = [name for name in (key, LABEL_COLUMN) if name not in columns]
    if missing:
        raise DatasetError(
            f"{table}: no column {' and '.join(missing)} (found: {', '.join(columns) or 'none'}); "
            "the columns are file,label (or study,label) and optionally patient_id"
        )
    named = [row for row in rows if row[key]]
    if not named:
        raise DatasetError(f"{table}: no rows; write one row {key},label for each {'study' if by_study else 'image'}")
    return LabelTable(table, by_study, named)
