"""Which labels of a segmentation make an organ: by name where the labels' meaning is known, else as the user says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from anatodiff.data.ct.listing import LITS_NAME
from anatodiff.data.errors import DatasetError

# name -> labels. A lesion belongs to its organ: where both are asked for, the later one is painted over the earlier.
LITS = {"liver": [1, 2], "liver_lesion": [2]}
TOTAL_SEGMENTATOR = {
    "spleen": [1],
    "kidneys": [2, 3],
    "gallbladder": [4],
    "liver": [5],
    "stomach": [6],
    "pancreas": [7],
    "lungs": [10, 11, 12, 13, 14],
}
TOTAL_SEGMENTATOR_LABELS = 117
TOTAL_SEGMENTATOR_NAME = re.compile(r".*_seg117\.nii(?:\.gz)?", re.IGNORECASE)
PHANTOM_FILE = "phantoms.json"
PARTS = {"liver": ["liver_lesion"]}  # of the phantoms' labels: what a name includes
MAX_ORGANS = 64

Organs = Sequence[str] | Mapping[str, Sequence[int]]


def organ_labels(organs: Organs, mask: Path | None) -> dict[str, list[int]]:
    """Find the labels of organs in one segmentation.

    Known by name: LiTS (`segmentation-N`), TotalSegmentator's 117 classes (`*_seg117`), this project's phantoms.

    Args:
        organs: names, or name -> labels, in the order in which they are painted.
        mask: the segmentation; None where there is none.

    Returns:
        Name -> labels in the file, above 0; without a mask no labels.

    Raises:
        DatasetError: an organ is not known there, or a label is no whole number above 0.
    """
    if not organs or len(organs) > MAX_ORGANS:
        raise DatasetError(f"organs: {len(organs)} of them; name 1 to {MAX_ORGANS}, for instance ['liver']")
    if isinstance(organs, Mapping):
        for name, labels in organs.items():
            if not isinstance(labels, Sequence) or not labels or not all(_is_label(label) for label in labels):
                raise DatasetError(
                    f"organs: {name!r} has labels {labels}; give whole numbers above 0, as {{{name!r}: [1]}}"
                )
        return {name: list(labels) for name, labels in organs.items()}
    if mask is None:
        return {name: [] for name in organs}
    known = _known(mask)
    for name in organs:
        if name not in known:
            there = f"known there are {', '.join(known)}" if known else "its labels' names are not known"
            raise DatasetError(f"{mask}: no organ {name!r}, {there}; give organs with labels, as {{{name!r}: [1]}}")
    return {name: known[name] for name in organs}


def highest_label(mask: Path) -> int:
    """Find the highest label that a segmentation may have where its labels are known by name, else 0."""
    if TOTAL_SEGMENTATOR_NAME.fullmatch(mask.name):
        return TOTAL_SEGMENTATOR_LABELS
    return max((label for labels in _known(mask).values() for label in labels), default=0)


def _is_label(label: object) -> bool:
    return isinstance(label, int) and not isinstance(label, bool) and label > 0


def _known(mask: Path) -> dict[str, list[int]]:
    if LITS_NAME.fullmatch(mask.name):
        return LITS
    if TOTAL_SEGMENTATOR_NAME.fullmatch(mask.name):
        return TOTAL_SEGMENTATOR
    try:
        names = list(json.loads((mask.parent / PHANTOM_FILE).read_text())["labels"])
    except (OSError, ValueError, KeyError, TypeError):  # no phantoms
        return {}
    found = {name: [label] for label, name in enumerate(names) if label}
    for name, parts in PARTS.items():
        found[name] = [names.index(part) for part in [name, *parts]]
    return found
