"""Divide a folder of radiographs into parts that share no patient, each with a labels.csv and no image copied.

    python scripts/split_folder.py --dataset_dir /data/xrays --output_dir /data/parts --parts study=800 base=rest

Sizes are of images; whole patients are taken, in the classes' proportions, so a part may have a few less.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path

from anatodiff.data import DatasetError, Item, find_radiographs
from anatodiff.data.listing import LABELS_FILE
from anatodiff.data.split import limit_patients
from anatodiff.files import replaced_when_whole

REST = "rest"
LINK_NAME = "images"  # of a link to the folder; a table's names do not lead out of its own folder


def divide(items: list[Item], parts: dict[str, int | None], seed: int) -> dict[str, list[Item]]:
    """Take the parts one after the other.

    Args:
        items: images of the folder.
        parts: number of images by name, in order; None takes what is left.
        seed: of the order of the patients.

    Returns:
        the images of each part.

    Raises:
        DatasetError: nothing is left for a part.
    """
    divided: dict[str, list[Item]] = {}
    for name, size in parts.items():
        pairs = [(item.patient, item.label) for item in items]
        taken = {patient for patient, _ in pairs} if size is None else limit_patients(pairs, size, seed)
        divided[name] = [item for item in items if item.patient in taken]
        items = [item for item in items if item.patient not in taken]
        if not divided[name]:
            raise DatasetError(f"nothing is left for the part {name!r}; make the others smaller")
    return divided


def write_part(folder: Path, items: list[Item], source: Path) -> None:
    """Write the labels.csv of one part and a link to the images, which stay where they are; patients are keys."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "patient_id", "label", "domain"])
    for item in items:
        name = Path(LINK_NAME) / item.file.relative_to(source)
        writer.writerow([name, item.patient, item.label, item.domain])
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / LINK_NAME
    if link.is_symlink():
        link.unlink()
    link.symlink_to(source.resolve(), target_is_directory=True)
    with replaced_when_whole(folder / LABELS_FILE) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", required=True, metavar="NAME=SIZE", help="SIZE in images, or rest")
    parser.add_argument("--only", default="*", help="pattern of the files to take, such as 'kermany/*'")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        named = dict(part.split("=", 1) for part in options.parts)
        parts = {name: None if size == REST else int(size) for name, size in named.items()}
        found = [item for item in find_radiographs(options.dataset_dir) if item.fault is None]
        usable = [item for item in found if item.file.relative_to(options.dataset_dir).match(options.only)]
        if not usable:
            raise DatasetError(f"{options.dataset_dir}: no file is {options.only!r} there; give --only another pattern")
        for name, items in divide(usable, parts, options.seed).items():
            write_part(options.output_dir / name, items, options.dataset_dir)
            print(f"{name}: {len(items)} images of {len({item.patient for item in items})} patients")
    except (DatasetError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
