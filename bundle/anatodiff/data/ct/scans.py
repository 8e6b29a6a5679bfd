"""A folder of CT as two lists of scans, one to train on and one held out, without a patient in both."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from anatodiff.data.ct.listing import CTItem, find_ct
from anatodiff.data.ct.organs import Organs, organ_labels
from anatodiff.data.errors import DatasetError
from anatodiff.data.folder import Datalist
from anatodiff.data.rejected import Rejected
from anatodiff.data.split import limit_patients, split_patients

logger = logging.getLogger(__name__)

CLASS = "ct"
GRAY = ("gray levels of an unknown window, no Hounsfield units", "give the DICOM series or NIfTI that it was made from")


def make_ct_datalist(
    dataset_dir: str | os.PathLike[str],
    organs: Organs,
    conditions: list[str],
    test_fraction: float = 0.2,
    seed: int = 0,
    max_scans: int | None = None,
    simulate_low_dose: bool = True,
) -> Datalist:
    """Find the scans of a folder and hold out whole patients.

    A scan without a segmentation is used, and says nothing of its organs; a scan without a low-dose partner gets a
    simulated one. A partner that its layout promises and that is missing is an error, see `find_ct`.

    Args:
        dataset_dir: the folder, see `find_ct`.
        organs: which organs a mask shows, see `organ_labels`.
        conditions: of "noise" and "mask": what a network is told, so what the scans must have.
        test_fraction: share of the scans to hold out, in [0, 1).
        seed: of the split.
        max_scans: use at most this many, whole patients; None uses all.
        simulate_low_dose: whether scans without a low-dose partner are used, with simulated noise.

    Returns:
        The two parts; an entry is a scan: `{"image", "label", "patient", "low_dose", "mask", "rows", "organs"}`.

    Raises:
        DatasetError: the folder cannot be used, or no scan has what a condition needs.
        CTError: a file cannot be read.
    """
    root = Path(dataset_dir)
    if not 0 <= test_fraction < 1:
        raise DatasetError(f"test_fraction is {test_fraction}; give a number from 0 to below 1")
    if max_scans is not None and max_scans < 2:
        raise DatasetError(f"max_scans is {max_scans}; give at least 2")
    found = find_ct(root)
    items = [item for item in found if item.in_hu]
    rejected = [Rejected(str(item.image), *GRAY) for item in found if not item.in_hu]
    if max_scans is not None:
        kept = limit_patients(_strata(items), max_scans, seed)
        items = [item for item in items if item.patient in kept]
    _check(root, items, conditions, simulate_low_dose)
    held_out = split_patients(_strata(items), test_fraction, seed)
    if test_fraction > 0 and not held_out:
        raise DatasetError(f"{root}: all scans are of one patient, so none can be held out; set test_fraction to 0")
    parts: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for item in items:
        parts[item.patient in held_out].append(_entry(item, organs, needed="mask" in conditions))
    return Datalist(parts[False], parts[True], [CLASS], rejected, 0, str(root))


def _strata(items: list[CTItem]) -> list[tuple[str, str]]:
    """Keep the share of segmented scans the same in both parts, as classes are kept."""
    return [(item.patient, "not segmented" if item.mask is None else "segmented") for item in items]


def _check(root: Path, items: list[CTItem], conditions: list[str], simulate_low_dose: bool) -> None:
    if not items:
        raise DatasetError(f"{root}: no CT in Hounsfield units; give NIfTI, DICOM series or .npz, see docs/ct.md")
    without = [item for item in items if item.low_dose is None]
    if "noise" in conditions and without and not simulate_low_dose:
        raise DatasetError(
            f"{without[0].image}: has no low-dose partner; add it, or simulate it by simulate_low_dose True"
        )
    if "noise" in conditions and without:
        logger.warning("%d of %d scans have no low-dose partner: theirs is SIMULATED", len(without), len(items))
    unsegmented = sum(item.mask is None for item in items)
    if "mask" in conditions and unsegmented == len(items):
        raise DatasetError(f"{root}: no scan has a segmentation; add them, or leave 'mask' out of conditions")
    if "mask" in conditions and unsegmented:
        logger.warning("%d of %d scans have no segmentation: they say nothing of organs", unsegmented, len(items))


def _entry(item: CTItem, organs: Organs, needed: bool) -> dict[str, Any]:
    mask = item.mask
    try:
        labels = organ_labels(organs, mask)
    except DatasetError:
        if needed:
            raise
        mask, labels = None, organ_labels(organs, None)  # of other organs: as good as none
    return {
        "image": str(item.image),
        "label": 0,
        "patient": item.patient,
        "domain": "",
        "low_dose": None if item.low_dose is None else str(item.low_dose),
        "mask": None if mask is None else str(mask),
        "rows": item.rows,
        "organs": labels,
    }
