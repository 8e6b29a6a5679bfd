"""Assemble the real radiographs of the base: training, validation and test, each a folder with a labels.csv.

    python scripts/base_data.py --open_dir radiographs_open --cxr_dir cxr --output_dir base_data

Sources are a folder of openly licensed radiographs (NIH ChestX-ray14, Hannover, FracAtlas) and the openly licensed
part (CC BY, CC BY 3.0, CC BY 4.0, nothing else) of a folder of the COVID-19 Image Data Collection. Files are copied
byte for byte. The result depends on the sources alone.

Parts. NIH is divided by `anatodiff.data.split.hashed_part` of the patient identifier ("nih-1280"): the first 8
hexadecimal digits of its SHA-256, modulo 8; 0 is test, 1 validation, the rest training. Patients under 18 are left
out. Hannover and COVID-19 images are for training only, since the two sources share a hospital under different
patient numbers. FracAtlas has no patient numbers: near-duplicates (see `anatodiff.data.near_duplicates`) and images
of consecutive numbers, which are often of one patient, form groups, and each group is divided by the same hash of
"fracatlas-" and the name of its first file. One patient may still be in two parts. FracAtlas images of the hip are left
out; no ages are given, so children could not be left out.

Classes. A chest image with several findings takes the one that is rarest among the training images; findings that
then have fewer than 50 training images are dropped, the least frequent first, and their images take their next
finding, or "other finding". Limbs are "fracture" or "no fracture"; two views on one image are a class of their own
("two views") where there are 50 of them in training, and are left out elsewhere.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from anatodiff.data import DatasetError
from anatodiff.data.listing import LABELS_FILE
from anatodiff.data.near_duplicates import groups, near_duplicates
from anatodiff.data.split import PARTS, hashed_part
from anatodiff.files import replaced_when_whole

LICENCES = ("CC BY", "CC BY 3.0", "CC BY 4.0")  # of COVID-19 images; share-alike terms would pass to the weights
LEAST = 50  # training images of a class
CHEST, LEG, HAND, SHOULDER = (f"{region} radiograph" for region in ("chest", "leg", "hand", "shoulder"))
OTHER, TWO_VIEWS = "other finding", "two views"
COLUMNS = ("file", "patient_id", "label", "domain", "original", "licence", "source")
COUNTS_FILE = "counts.md"


@dataclass(frozen=True)
class Row:
    """One image of the base.

    Attributes:
        path: the source file.
        file: its name in the part's folder.
        patient: identifier that no other part may have.
        part: a name in `PARTS`.
        domain: kind of image.
        findings: what is stated of it; empty where nothing is.
        licence: of the source.
        source: attribution.
        original: name of the source file below the source folders' common parent.
        label: class, chosen last.
    """

    path: Path
    file: str
    patient: str
    part: str
    domain: str
    findings: tuple[str, ...]
    licence: str
    source: str
    original: str
    label: str = field(default="")


def read_rows(folder: Path) -> list[dict[str, str]]:
    """Read the table of a source folder."""
    with open(folder / LABELS_FILE, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def chest_rows(open_dir: Path, cxr_dir: Path) -> list[Row]:
    """Choose the chest radiographs of both source folders."""
    found = []
    for row in read_rows(open_dir):
        pack = Path(row["file"]).parts[0]
        if pack == "nih_cxr14" and not row["domain"].startswith("paediatric"):
            found.append(_row(open_dir, row, hashed_part(row["patient_id"]), CHEST, _findings(row["label"])))
        elif pack == "hannover":
            found.append(_row(open_dir, row, "train", CHEST, _findings(row["label"])))
    for row in read_rows(cxr_dir):
        if Path(row["file"]).parts[0] == "covid" and row["licence"] in LICENCES:
            found.append(_row(cxr_dir, row, "train", CHEST, _findings(row["label"])))
    return found


def limb_rows(open_dir: Path) -> list[Row]:
    """Choose the limb radiographs, with what belongs to one patient as far as can be seen in one part."""
    table = [row for row in read_rows(open_dir) if Path(row["file"]).parts[0] == "fracatlas"]
    table = sorted((row for row in table if "hip" not in row["region"].split("+")), key=lambda row: row["file"])
    numbers = [int("".join(filter(str.isdigit, Path(row["file"]).stem))) for row in table]
    pairs = [(i, i + 1) for i in range(len(table) - 1) if numbers[i + 1] == numbers[i] + 1]
    pairs += near_duplicates([open_dir / row["file"] for row in table])
    found = []
    for row, first in zip(table, groups(len(table), pairs), strict=True):
        patient = f"fracatlas-{Path(table[first]['file']).stem}"
        stated = row["label"].split(";")
        label = TWO_VIEWS if "multiscan" in stated else "fracture" if stated[0] == "fractured" else "no fracture"
        whole = row | {"patient_id": patient}
        found.append(_row(open_dir, whole, hashed_part(patient), _limb(row["region"].split("+")), (label,)))
    return found


def _limb(regions: Sequence[str]) -> str:
    """Name the domain of an image; where the shoulder shows, so does the trunk, and a helper's hand beside a leg."""
    return SHOULDER if "shoulder" in regions else LEG if "leg" in regions else HAND


def _findings(text: str) -> tuple[str, ...]:
    names = (name if name == "COVID-19" else name.lower().replace("_", " ") for name in text.split("|"))
    return tuple(name for name in names if name != "todo")  # the collection's word for a finding not yet entered


def _row(root: Path, row: dict[str, str], part: str, domain: str, findings: tuple[str, ...]) -> Row:
    return Row(
        path=root / row["file"],
        file=row["file"],
        patient=row["patient_id"],
        part=part,
        domain=domain,
        findings=findings,
        licence=row["licence"],
        source=row["source"],
        original=(Path(root.name) / row["file"]).as_posix(),
    )


def with_labels(rows: Sequence[Row], least: int = LEAST) -> list[Row]:
    """Choose the class of each row; see the module's docstring.

    Args:
        rows: images of all parts.
        least: training images that a class of findings needs.

    Returns:
        the rows that are kept.
    """
    training = [row for row in rows if row.part == "train"]
    frequency = Counter(name for row in training if row.domain == CHEST for name in row.findings)
    names = set(frequency)

    def label(row: Row) -> str:
        if row.domain != CHEST:
            return row.findings[0]
        return min((name for name in row.findings if name in names), key=lambda n: (frequency[n], n), default=OTHER)

    while True:
        counts = Counter(label(row) for row in training if row.domain == CHEST)
        fewest = min(names, key=lambda name: (counts[name], name), default=None)
        if fewest is None or counts[fewest] >= least:
            break
        names.remove(fewest)
    pairs = Counter((row.domain, label(row)) for row in training)
    labelled = [replace(row, label=label(row)) for row in rows]
    return [row for row in labelled if row.label != TWO_VIEWS or pairs[row.domain, TWO_VIEWS] >= least]


def write_part(folder: Path, rows: Iterable[Row]) -> None:
    """Copy the images of one part and write, last, its labels.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in sorted(rows, key=lambda row: row.file):
        (folder / row.file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(row.path, folder / row.file)
        writer.writerow([row.file, row.patient, row.label, row.domain, row.original, row.licence, row.source])
    with replaced_when_whole(folder / LABELS_FILE) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def count_table(rows: Sequence[Row]) -> str:
    """Count images and patients by domain and class in each part, with a hash of the division, as Markdown."""
    lines = ["| domain | class | " + " | ".join(PARTS) + " |", "| --- | --- |" + " --- |" * len(PARTS)]
    pairs: list[tuple[str, str | None]] = [*sorted({(row.domain, row.label) for row in rows}), ("all", None)]
    for domain, label in pairs:
        mine = [row for row in rows if label is None or (row.domain, row.label) == (domain, label)]
        counts = Counter(row.part for row in mine)
        lines.append(f"| {domain} | {label or ''} | " + " | ".join(str(counts[part]) for part in PARTS) + " |")
    patients = [str(len({row.patient for row in rows if row.part == part})) for part in PARTS]
    lines.append("| patients or groups | | " + " | ".join(patients) + " |")
    return "\n".join([*lines, "", f"SHA-256 of the division: {division_hash(rows)}"]) + "\n"


def division_hash(rows: Iterable[Row]) -> str:
    """Hash the sorted lines "original,part" in UTF-8, one a line."""
    lines = sorted(f"{row.original},{row.part}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--open_dir", type=Path, required=True, help="folder of openly licensed radiographs")
    parser.add_argument("--cxr_dir", type=Path, required=True, help="folder with the COVID-19 images")
    parser.add_argument("--output_dir", type=Path, required=True, help="gets a folder for each part")
    options = parser.parse_args(arguments)
    try:
        rows = with_labels(chest_rows(options.open_dir, options.cxr_dir) + limb_rows(options.open_dir))
        parts = {part: [row for row in rows if row.part == part] for part in PARTS}
        if empty := [part for part, mine in parts.items() if not mine]:
            raise DatasetError(f"no image is left for the part {empty[0]!r}; give --open_dir more patients")
        for part, mine in parts.items():
            write_part(options.output_dir / part, mine)
        table = count_table(rows)
        (options.output_dir / COUNTS_FILE).write_text(table, encoding="utf-8")
    except (DatasetError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(table, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
