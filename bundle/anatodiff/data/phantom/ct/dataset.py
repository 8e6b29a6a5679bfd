"""Folders of CT phantoms as NIfTI, in a layout that `anatodiff.data.ct.find_ct` reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from anatodiff.data.ct import write_ct, write_ct_mask

from ..dataset import claim_folder
from .canvas import LABELS
from .make import CT_REGIONS, check_settings, make_ct_phantom

NAME = "{region}_{number:04d}_{what}.nii.gz"
WHATS = ("lowdose", "seg", "ct")  # the image last: where it lies the patient is complete
LEAST_HU, MOST_HU = -1024, 3071  # scanners store 12 bits


def write_ct_phantoms(
    folder: str | os.PathLike[str],
    patients: int,
    slices: int = 8,
    size: int = 256,
    seed: int = 0,
    regions: Sequence[str] = ("abdomen",),
    dose: float = 0.25,
    workers: int | None = None,
) -> Path:
    """Write patients with full-dose slices, low-dose slices and label maps; an interrupted call goes on.

    Each patient has `REGION_NUMBER_ct.nii.gz`, `REGION_NUMBER_lowdose.nii.gz` (int16 HU, cut to what scanners store)
    and `REGION_NUMBER_seg.nii.gz` (places in LABELS), marked as synthetic. `phantoms.json` holds the settings and the
    labels' names.

    Args:
        folder: where to; made if missing.
        patients: how many.
        slices: of each patient, evenly over the region.
        size: pixels along a side.
        seed: of the whole folder, 0 or more.
        regions: of CT_REGIONS; patients take turns.
        dose: of the low-dose slices, above 0 and at most 1.
        workers: processes; None: one for each core.

    Returns:
        The folder.

    Raises:
        ValueError: for bad arguments, or a folder that holds phantoms made with others.
    """
    unknown = sorted(set(regions) - set(CT_REGIONS))
    if patients < 1 or seed < 0 or not regions or unknown:
        raise ValueError(
            f"CT phantoms: patients={patients}, seed={seed}, regions={list(regions)}: give at least one patient, a "
            f"seed of 0 or more and regions out of {', '.join(CT_REGIONS)}"
        )
    folder = Path(folder)
    jobs = [
        (folder, regions[number % len(regions)], number, _patient_seed(seed, number), slices, size, dose)
        for number in range(patients)
    ]
    for _, region, _, patient_seed, *_ in jobs:
        check_settings(patient_seed, region, slices, size, dose)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"patients": patients, "slices": slices, "size": size, "seed": seed, "regions": list(regions)}
    claim_folder(folder, {**settings, "dose": dose, "labels": list(LABELS)})
    count = min(workers or os.cpu_count() or 1, patients)
    if count == 1:
        for job in jobs:
            _write_one(job)
        return folder
    with ProcessPoolExecutor(count, initializer=threadpool_limits, initargs=(1,)) as pool:
        for _ in pool.map(_write_one, jobs):
            pass
    return folder


def _patient_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _write_one(job: tuple[Path, str, int, int, int, int, float]) -> None:
    folder, region, number, seed, slices, size, dose = job
    files = {what: folder / NAME.format(region=region, number=number, what=what) for what in WHATS}
    if files["ct"].exists():
        return
    phantom = make_ct_phantom(seed, region, slices, size, dose)
    low, full = (np.clip(np.rint(hu), LEAST_HU, MOST_HU) for hu in (phantom.low_dose, phantom.full_dose))
    about = {"seed": seed, "number": number, "overwrite": True}
    write_ct(files["lowdose"], low, phantom.spacing, description=f"CT phantom at dose {dose:g}", **about)  # type: ignore[arg-type]
    write_ct_mask(files["seg"], phantom.labels, phantom.spacing, description="CT phantom labels", overwrite=True)
    write_ct(files["ct"], full, phantom.spacing, description="CT phantom at full dose", **about)  # type: ignore[arg-type]
