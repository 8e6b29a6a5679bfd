"""Files that are not used, each with its reason: counted for a log, and as a table that programs read."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from anatodiff.data.errors import printable
from anatodiff.files import replaced_when_whole

REJECTED_FILE = "rejected.csv"
REJECTED_COLUMNS = ("folder", "file", "reason", "cure")
# Spreadsheets run a cell that begins with one of these; a leading apostrophe makes it text.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class Rejected(NamedTuple):
    """One file that is not used.

    Attributes:
        file: its path.
        reason: what is wrong.
        cure: what the user can do about it.
        other: the file that it is a copy of, or empty.
    """

    file: str
    reason: str
    cure: str
    other: str = ""

    def whole_reason(self) -> str:
        """Return the reason with the name of the other file."""
        return f"{self.reason} as {Path(self.other).name}" if self.other else self.reason


def count_reasons(rejected: Iterable[Rejected]) -> list[tuple[int, str]]:
    """Count the reasons.

    Args:
        rejected: the files.

    Returns:
        How often each reason occurs, and the reason, the commonest first.
    """
    counts = Counter(row.reason for row in rejected)
    return sorted(((count, reason) for reason, count in counts.items()), key=lambda pair: (-pair[0], pair[1]))


def write_rejected(path: str | Path, folders: Mapping[str, tuple[str, Iterable[Rejected]]]) -> None:
    """Write the files that are not used as CSV in UTF-8; without any it has its header alone.

    Args:
        path: the file to write, whole or not at all.
        folders: for the name of an option, the folder that it gives and the files in it.
    """
    with replaced_when_whole(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(REJECTED_COLUMNS)
        for option, (root, rejected) in folders.items():
            for row in rejected:
                cells = (option, os.path.relpath(row.file, root), row.whole_reason(), row.cure)
                table.writerow([_cell(cell) for cell in cells])


def _cell(text: str) -> str:
    # Bytes of a name that are no UTF-8 are written as \udcff, so that the file can still be found.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return printable(f"'{text}" if text.startswith(FORMULA_STARTS) else text)
