"""What lies in a folder of CT: images with their masks and low-dose partners, in the layouts of public data sets."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from anatodiff.data.ct.arrays import HU_KEY, PATIENT_KEY, load_arrays
from anatodiff.data.errors import CTError, DatasetError, Refusal
from anatodiff.data.identity import patient_key
from anatodiff.data.items import PATIENT, header_text, is_image

NEEDS = ("mask", "low_dose")
LITS_NAME = re.compile(r"(?P<kind>volume|segmentation)-(?P<number>\d+)\.nii(?:\.gz)?", re.IGNORECASE)
NIFTI_NAME = re.compile(r"(?P<stem>.+?)_(?P<what>ct|lowdose|seg[^_]*)\.nii(?:\.gz)?", re.IGNORECASE)
ORGAN_NAME = re.compile(r"(?P<name>.+)\.nii(?:\.gz)?", re.IGNORECASE)
PNG_NAME = re.compile(r"(?P<stem>.+)_(?P<what>highdose|lowdose)\.png", re.IGNORECASE)
FULL_DOSE, LOW_DOSE = re.compile(r"full.?dose.?images", re.IGNORECASE), re.compile(r"low.?dose.?images", re.IGNORECASE)
PROJECTIONS = re.compile(r"projections", re.IGNORECASE)  # raw data of the same collection: no images
CURE = "add it, or take this one out of the folder"


@dataclass(frozen=True)
class CTItem:
    """One scan, or some slices of one patient.

    Attributes:
        patient: 16 hexadecimal digits, the same for all items of one patient; not to be written, see `Pseudonyms`.
        image: file or DICOM folder, at full dose where there are two doses.
        mask: label map of the image, or None.
        low_dose: the same slices at a lower dose, or None.
        rows: which slices of `image` belong to the patient; None: all.
        in_hu: whether the values are Hounsfield units, or gray levels of an unknown window.
        organs: masks of single organs by name, each in a file of its own.
    """

    patient: str
    image: Path
    mask: Path | None = None
    low_dose: Path | None = None
    rows: tuple[int, ...] | None = None
    in_hu: bool = True
    organs: dict[str, Path] = field(default_factory=dict)


def find_ct(dataset_dir: str | os.PathLike[str], needs: Collection[str] = ()) -> list[CTItem]:
    """List the CT of a folder and its sub-folders without reading it; every layout below may occur, also together.

    - LiTS: `volume-N.nii` and `segmentation-N.nii`, in whatever sub-folders; where there is any segmentation each
      volume must have one. Each volume is a patient. `test-volume-N.nii`, without a segmentation, is passed over.
    - LDCT-and-Projection-data (TCIA): `patient/study/series/*.dcm`, where the series folder's name has `Full Dose
      Images` or `Low Dose Images`; each patient has both. Folders of projections are passed over.
    - `NAME_ct.nii.gz`, with `NAME_seg*.nii.gz` (label map), `NAME_lowdose.nii.gz`, and masks of single organs,
      `NAME_organ.nii.gz`: what `write_ct_phantoms` makes, and TotalSegmentator's samples.
    - `NAME_highdose.png` and `NAME_lowdose.png`: pairs of gray slices; the patient is the name up to the first `_`.
    - `.npz` with `hu` (N, H, W) and perhaps `patient` (N,): an item for each patient.
    - Any other folder with DICOM files: one CT series, its patient by PatientID.

    Hidden files and folders are passed over, and links to folders, too.

    Args:
        dataset_dir: the folder.
        needs: what each item must have, of NEEDS.

    Returns:
        The items in a fixed order.

    Raises:
        DatasetError: no such folder, no CT in it, a partner is missing, or something is there twice.
        CTError: an .npz file cannot be read.
        ValueError: a need that is not known.
    """
    root = Path(dataset_dir)
    unknown = sorted(set(needs) - set(NEEDS))
    if unknown:
        raise ValueError(f"needs {unknown}: choose of {', '.join(NEEDS)}")
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; give dataset_dir a folder of CT")
    folders = list(_folders(root))
    files = [file for _, some in folders for file in some]
    items = [*_lits(files), *_named(files), *_png_pairs(files), *_arrays(files), *_dicom(root, folders)]
    if not items:
        raise DatasetError(
            f"{root}: no CT in a layout that is known; give volume-N.nii with segmentation-N.nii, NAME_ct.nii.gz with "
            "NAME_seg.nii.gz, folders of DICOM series, or .npz files"
        )
    for item in items:
        for need in needs:
            if getattr(item, need) is None:
                raise DatasetError(f"{item.image}: has no {need.replace('_', '-')} partner; {CURE}")
    return items


def _folders(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield Path(folder), [Path(folder, name) for name in sorted(names) if not name.startswith(".")]


def _lits(files: list[Path]) -> list[CTItem]:
    found: dict[str, dict[int, Path]] = {"volume": {}, "segmentation": {}}
    for file in files:
        match = LITS_NAME.fullmatch(file.name)
        if match:
            _put(found[match["kind"].lower()], int(match["number"]), file)
    if found["segmentation"]:
        _check_partners(found, "-{}.nii")
    return [
        CTItem(patient_key(f"volume-{number}"), file, found["segmentation"].get(number))
        for number, file in sorted(found["volume"].items())
    ]


def _named(files: list[Path]) -> list[CTItem]:
    found: dict[str, dict[Path, Path]] = {"ct": {}, "seg": {}, "lowdose": {}}
    for file in files:
        match = NIFTI_NAME.fullmatch(file.name)
        if match:
            what = "seg" if match["what"].lower().startswith("seg") else match["what"].lower()
            _put(found[what], file.with_name(match["stem"]), file)
    for what in ("seg", "lowdose"):
        for stem in found[what].keys() - found["ct"].keys():
            raise DatasetError(f"{found[what][stem]}: its image {stem.name}_ct.nii.gz is missing; {CURE}")
    organs: dict[Path, dict[str, Path]] = {stem: {} for stem in found["ct"]}
    for file in files:
        match = ORGAN_NAME.fullmatch(file.name)
        owners = [
            stem for stem in organs if match and file.parent == stem.parent and file.name.startswith(f"{stem.name}_")
        ]
        if match and owners and NIFTI_NAME.fullmatch(file.name) is None:
            stem = max(owners, key=lambda one: len(one.name))
            organs[stem][match["name"][len(stem.name) + 1 :]] = file
    return [
        CTItem(patient_key(stem.name), file, found["seg"].get(stem), found["lowdose"].get(stem), organs=organs[stem])
        for stem, file in sorted(found["ct"].items())
    ]


def _png_pairs(files: list[Path]) -> list[CTItem]:
    found: dict[str, dict[Path, Path]] = {"highdose": {}, "lowdose": {}}
    for file in files:
        match = PNG_NAME.fullmatch(file.name)
        if match:
            _put(found[match["what"].lower()], file.with_name(match["stem"]), file)
    _check_partners(found, "_{}.png")
    return [
        CTItem(patient_key(stem.name.split("_")[0]), file, low_dose=found["lowdose"][stem], in_hu=False)
        for stem, file in sorted(found["highdose"].items())
    ]


def _arrays(files: list[Path]) -> list[CTItem]:
    items = []
    for file in files:
        if file.suffix.lower() != ".npz":
            continue
        try:
            found = load_arrays(file, (HU_KEY, PATIENT_KEY))
            if HU_KEY not in found:
                continue
            patients = [str(name) for name in found[PATIENT_KEY].ravel()] if PATIENT_KEY in found else None
            if patients is not None and len(patients) != len(found[HU_KEY]):
                raise Refusal(f"{len(patients)} patients of {len(found[HU_KEY])} slices", "give one for each slice")
        except Refusal as refusal:
            raise CTError.of(file, refusal) from refusal
        if patients is None:
            items.append(CTItem(patient_key(file.stem), file))
            continue
        for name in sorted(set(patients)):
            rows = tuple(row for row, patient in enumerate(patients) if patient == name)
            items.append(CTItem(patient_key(name), file, rows=rows))
    return items


def _dicom(root: Path, folders: list[tuple[Path, list[Path]]]) -> list[CTItem]:
    full: dict[Path, Path] = {}
    low: dict[Path, Path] = {}
    items = []
    for folder, files in folders:
        first = next((file for file in files if file.suffix.lower() != ".png" and is_image(file)), None)
        if first is None or first.name.lower().endswith((".nii", ".nii.gz")) or PROJECTIONS.search(folder.name):
            continue
        if FULL_DOSE.search(folder.name):
            _put(full, _patient_folder(root, folder), folder)
        elif LOW_DOSE.search(folder.name):
            _put(low, _patient_folder(root, folder), folder)
        else:
            items.append(CTItem(patient_key(header_text(first, PATIENT) or folder.name), folder))
    for mine, other, what in ((full, low, "Low Dose Images"), (low, full, "Full Dose Images")):
        for patient in sorted(mine.keys() - other.keys()):
            raise DatasetError(f"{mine[patient]}: the series {what!r} of the same patient is missing; {CURE}")
    pairs = [CTItem(patient_key(patient.name), full[patient], low_dose=low[patient]) for patient in sorted(full)]
    return [*pairs, *items]


def _patient_folder(root: Path, series: Path) -> Path:
    """Find the folder of a patient: two above the series, as the collection is downloaded, but never above the root."""
    above = [folder for folder in series.parents if folder == root or root in folder.parents]
    return above[min(1, len(above) - 1)]


def _put(found: dict, key: object, file: Path) -> None:
    if key in found:
        raise DatasetError(f"{file}: {found[key]} is the same scan; keep one of them")
    found[key] = file


def _check_partners(found: dict[str, dict], ending: str) -> None:
    first, second = found
    for kind, other in ((first, second), (second, first)):
        for key in sorted(found[kind].keys() - found[other].keys()):
            name = f"{other}{ending.format(key)}" if isinstance(key, int) else f"{key.name}{ending.format(other)}"
            raise DatasetError(f"{found[kind][key]}: its partner {name} is missing; {CURE}")
