"""Write synthetic DICOM objects of every kind and size, with hostile text, and check each by all that can read it.

    python scripts/check_written.py --count 1000 --output_dir output/written

Secondary Captures and DX images alternate. Each must pass dciodvfy (Debian package dicom3tools) without an error but
that it does not know (0008,001C) Synthetic Data, which is newer than it; must have the type 1 and 2 attributes of
`written_attributes.json`; must give back its pixels through this package, pydicom, GDCM and ITK; and must have UIDs
and a patient of its own. The exit code is 1 where one of these fails.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword

from anatodiff.data import DicomSettings, RadiographError, read_radiograph, write_radiograph
from anatodiff.data.dicom_marks import SYNTHETIC_DATA
from anatodiff.data.dicom_synthetic import DICOM_BITS, LATERALITIES, REGIONS, UNPAIRED
from anatodiff.files import sha256_of

ALLOWED = "(0008,001c)"
KINDS = {"SC": "SCImage", "DX": "DXImageForPresentation"}  # as dciodvfy names them
TABLE = Path(__file__).with_name("written_attributes.json")
HIGHEST = 2**DICOM_BITS - 1
SIZES = ((32, 32), (33, 47), (64, 64), (37, 301), (255, 33), (128, 129), (256, 256))
SPACINGS = (None, (0.143, 0.143), (0.2, 0.35), (1e-5, 12345.678901234))
ORIENTATIONS = (("L", "F"), ("A", "F"), ("R", "H"), ("F", "P"))
UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
LABELS = (
    "normal",
    "",
    "tüberculosis, Großaufnahme",
    "肺炎 (폐렴)",
    "שלום עולם",
    "التهاب رئوي",
    "back\\slash\\in\\it",
    "two\r\nlines\tand\x0ba\x0cfew\x85more\u2028and\u2029more",
    "nul\x00 escape\x1b[31m bell\x07 del\x7f csi\x9b",
    "\u202eCITEHTNYS ton\u202c \u2066isolated\u2069",
    "half of a pair \ud83d, not a character \uffff",
    "x" * 5000,
    "肺" * 5000,
    "$__import__('os').system('touch PWNED')",
    "@seed %seed ${HOME} `id` ; rm -rf",
    "../../x",
    "=cmd|' /C calc'!A0",
    "😀 e\u0301 combining",
)


@dataclass(frozen=True)
class Case:
    """One object: its pixels (H, W) in [0, 1] and the arguments of `write_radiograph`."""

    pixels: np.ndarray
    kind: str
    given: dict[str, Any]


def make_case(number: int, seed: int) -> Case:
    """Draw one object; the lists are gone through at different paces, so that all pairs of their entries occur."""
    random = np.random.default_rng([seed, number])
    kind = ("SC", "DX")[number % 2]
    rows, columns = SIZES[number % len(SIZES)]
    low, high = sorted(random.random(2)) if number % 5 == 0 else (0.0, 1.0)
    pixels = low + (high - low) * random.random((rows, columns))
    body_part = [None, *REGIONS][number // 2 % (len(REGIONS) + 1)]
    sides = LATERALITIES if body_part is None else ("U",) if body_part in UNPAIRED else LATERALITIES[:3]
    is_said = kind == "DX" or random.random() < 0.5
    orientation = ORIENTATIONS[number // 3 % len(ORIENTATIONS)]
    given = {
        "spacing": SPACINGS[number // 2 % len(SPACINGS)],
        "label": LABELS[number // 2 % len(LABELS)],
        "description": LABELS[number // 7 % len(LABELS)] if number % 3 == 0 else "radiograph",
        "seed": int(random.integers(2**31)),
        "number": number,
        "weights_hash": random.bytes(32).hex(),
        "recipe": random.bytes(32).hex(),
        "dicom": DicomSettings(
            kind,
            body_part,
            sides[number // 2 % len(sides)] if is_said else None,
            orientation if is_said else None,
        ),
    }
    return Case(pixels, kind, given)


def conformance(path: Path, kind: str) -> tuple[list[str], list[str]]:
    """Ask dciodvfy; returns its errors but the allowed one, and its warnings."""
    # Its exit code says nothing of errors.
    run = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, check=False, timeout=60)
    lines = (run.stdout + run.stderr).decode(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("Error") and ALLOWED not in line]
    if KINDS[kind] not in lines:
        errors.append(f"dciodvfy does not take it for a {KINDS[kind]}")
    return errors, [line for line in lines if line.startswith("Warning") and ALLOWED not in line]


def values_of(dataset: pydicom.Dataset, names: list[str]) -> list[Any]:
    """Find the elements of a path through sequences; None for each that is not there."""
    name, rest = names[0], names[1:]
    element = dataset.get(SYNTHETIC_DATA if name == "SyntheticData" else tag_for_keyword(name))
    if element is None or not rest:
        return [element]
    return list(itertools.chain.from_iterable(values_of(item, rest) for item in element.value)) or [None]


def missing(dataset: pydicom.FileDataset, kind: str) -> list[str]:
    """Name the attributes of type 1 that are absent or empty, and those of type 2 that are absent."""
    table, found = json.loads(TABLE.read_text()), []
    for module, types in {**table["both"], **table[kind]}.items():
        holder = dataset.file_meta if module.startswith("PS3.10") else dataset
        for type_, names in types.items():
            for name in names:
                elements = values_of(holder, name.split("/"))
                if None in elements or (type_ == "1" and any(element.is_empty for element in elements)):
                    found.append(f"{name}, type {type_} of {module}")
    return found


def differing(path: Path, case: Case) -> list[str]:
    """Name the readers that do not give back the pixels."""
    stored = np.rint(case.pixels * HIGHEST).astype(np.uint16)
    readings = {"pydicom": pydicom.dcmread(path).pixel_array, "gdcm": by_gdcm(path), "itk": by_itk(path)}
    found = [f"{name} reads other pixels" for name, got in readings.items() if not np.array_equal(got, stored)]
    radiograph = read_radiograph(path)
    if np.abs(radiograph.pixels - case.pixels).max() > 0.5 / HIGHEST + 1e-6:
        found.append("read_radiograph reads other pixels")
    spacing = case.given["spacing"]
    if (radiograph.spacing is None) != (spacing is None) or (spacing and not np.allclose(radiograph.spacing, spacing)):
        found.append(f"read_radiograph reads the spacing {radiograph.spacing}, written was {spacing}")
    return found


def by_gdcm(path: Path) -> np.ndarray:
    """Decode with GDCM, (H, W)."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        return np.zeros(0)
    image = reader.GetImage()
    columns, rows = (image.GetDimension(axis) for axis in (0, 1))
    content = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(content, "<u2").reshape(rows, columns)


def by_itk(path: Path) -> np.ndarray:
    """Decode with ITK, (H, W)."""
    import itk

    return np.squeeze(np.asarray(itk.imread(str(path), imageio=itk.GDCMImageIO.New())))


def marks(dataset: pydicom.Dataset, given: dict[str, Any]) -> list[str]:
    """Name what the object does not say of itself."""
    derivation = str(dataset.DerivationDescription)
    wanted = {
        "seed": f"seed {given['seed']}" in derivation,
        "weights hash": given["weights_hash"] in derivation,
        "recipe": given["recipe"] in derivation,
        "synthetic mark": dataset[SYNTHETIC_DATA].value == "YES" and dataset.ImageType[0] == "DERIVED",
        "readable series": dataset.SeriesDescription.startswith("SYNTHETIC"),
        "placeholder patient": str(dataset.PatientName) == "SYNTHETIC^NOT A PATIENT",
    }
    return [f"does not say its {name}" for name, is_said in wanted.items() if not is_said]


def check(options: argparse.Namespace) -> int:
    """Write and check all objects and print the counts; returns the exit code."""
    findings, warnings, counts, seen = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for number in itertools.count():
        if counts["SC written"] + counts["DX written"] == options.count:
            break
        case, path = make_case(number, options.seed), options.output_dir / f"{number:05d}.dcm"
        try:
            write_radiograph(path, case.pixels, **case.given)
        except RadiographError as error:
            must = case.kind == "DX" and case.given["spacing"] is None
            counts["DX without a spacing, refused"] += must
            findings.update([] if must else [f"refused: {error.reason}"])
            continue
        counts[f"{case.kind} written"] += 1
        before = sha256_of(path)
        write_radiograph(path, case.pixels, **case.given, overwrite=True)
        dataset = pydicom.dcmread(path)
        errors, warned = conformance(path, case.kind)
        found = [*errors, *missing(dataset, case.kind), *differing(path, case), *marks(dataset, case.given)]
        found += [] if before == sha256_of(path) else ["written twice, the bytes differ"]
        found += [f"{keyword} is not valid" for keyword in UIDS if not dataset[keyword].value.is_valid]
        seen.update([*(dataset[keyword].value for keyword in UIDS), dataset.PatientID])
        warnings.update(warned)
        findings.update(found)
        for line in found[:3]:
            print(f"{path.name}: {line}", file=sys.stderr)
    twice = sum(times > 1 for times in seen.values())
    findings.update(["a UID or PatientID that two objects share"] * twice)
    counts["UIDs and patient ids, all different"] = len(seen) - twice
    for name, times in [*counts.items(), *((f"dciodvfy: {line}", times) for line, times in warnings.items())]:
        print(f"{times:6d}  {name}")
    print(f"{sum(findings.values()):6d}  findings")
    return 1 if findings else 0


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="objects")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for them, new or empty")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if shutil.which("dciodvfy") is None:
        print("dciodvfy is not installed; install the Debian package dicom3tools", file=sys.stderr)
        return 2
    absent = [name for name in ("gdcm", "itk") if find_spec(name) is None]
    if absent:
        print(f"{absent[0]} is not installed; install the extras dicom and test (make setup)", file=sys.stderr)
        return 2
    if options.output_dir.is_dir() and any(options.output_dir.iterdir()):
        print(f"{options.output_dir}: holds files already; give another output_dir", file=sys.stderr)
        return 2
    start = time.monotonic()
    code = check(options)
    print(f"{time.monotonic() - start:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
