"""What comes from data is data: no text of a table, a folder or a DICOM tag is run, and no code reads a pickle."""

from __future__ import annotations

import ast
import csv
import json
import re
import subprocess
from pathlib import Path

import pydicom
import pytest
from PIL import Image
from support import ROOT, SMALL, bundle_command

from anatodiff.data import read_radiograph, write_radiograph
from anatodiff.data.dicom_file import write_dicom
from anatodiff.data.origin import plain_text
from anatodiff.engines.sampling import safe_names
from anatodiff.weights import load_weights

HOSTILE = (
    "$__import__('os').system('touch PWNED')",
    "$(touch PWNED) `touch PWNED`; touch PWNED",
    "@seed",
    "%seed",
    "__import__",
    "../../x",
    "two\nlines",
)
PICKLES = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
BUILTINS = {"eval", "exec", "compile", "__import__"}


def unsafe_calls(source: str) -> list[str]:
    """Name the calls of a program that run, or unpickle, what they are given."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        first, last = name.split(".")[0], name.split(".")[-1]
        unsafe = (
            (name == "torch.load" and given.get("weights_only") != "True")
            or (first in PICKLES and last in ("load", "loads", "open", "Unpickler"))
            or (name in ("yaml.load", "yaml.load_all") and "Safe" not in " ".join(given.values()))
            or name in ("yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen")
            or name in BUILTINS
            or given.get("shell", "False") != "False"
            or given.get("allow_pickle", "False") != "False"
        )
        found += [ast.unparse(call)] if unsafe else []
    return found


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(p)", "torch.load(p, weights_only=False)", "pickle.loads(b)", "yaml.load(f)", "eval(x)", "exec(x)",
        "yaml.load(f, Loader=yaml.Loader)", "subprocess.run(c, shell=True)", "np.load(f, allow_pickle=True)",
        "os.system(c)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert unsafe_calls(f"def f():\n    return {line}\n")


def test_no_program_runs_or_unpickles_what_it_reads() -> None:
    files = [*(ROOT / "bundle").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    assert len(files) > 100
    assert {str(file): unsafe_calls(file.read_text()) for file in files if unsafe_calls(file.read_text())} == {}
    safe = "network.eval()\ntorch.load(p, weights_only=True)\nyaml.load(f, Loader=yaml.SafeLoader)\nre.compile(x)"
    assert unsafe_calls(safe) == []


@pytest.mark.parametrize(
    "names",
    [
        HOSTILE,
        ("a b", "a/b", "a_b_0", "A B"),
        ("x" * 5000, "x" * 5000 + "y", "", "...", "肺" * 300),
        ("CON", "a\x00b", ".hidden", "~", "-rf"),
    ],
)
def test_file_names_are_safe_and_distinct(names: tuple[str, ...]) -> None:
    made = safe_names(names)
    assert len({name.casefold() for name in made}) == len(names)
    for name in made:
        assert re.fullmatch(r"[\w-]+", name) and len(name.encode()) < 200


def hostile_folder(images: Path, folder: Path) -> Path:
    """Copy the small images as DICOM, with hostile classes and hostile text in every tag that is read."""
    folder.mkdir()
    with open(folder / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label"])
        for number, image in enumerate(sorted(images.glob("*.png"))):
            path = write_radiograph(folder / f"{number}.dcm", read_radiograph(image).pixels)
            dataset = pydicom.dcmread(path)
            dataset.PatientID = f"$__import__('os').mkdir('PWNED{number}')"
            dataset.PatientName = dataset.SeriesDescription = "$__import__('os').system('touch PWNED')"
            dataset.InstitutionName, dataset.StudyDescription = "@seed", "%seed"
            write_dicom(dataset, str(path))
            table.writerow([path.name, HOSTILE[number % len(HOSTILE)]])
    return folder


def run_in(folder: Path, config: str, run_id: str, **options: object) -> None:
    """Run a workflow as a user does, in a folder of its own."""
    words = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    run = subprocess.run(
        bundle_command(config, *words, run_id=run_id), capture_output=True, text=True, timeout=240, cwd=folder
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_nothing_from_the_data_is_run(small_images: Path, small_weights: dict[str, str], tmp_path: Path) -> None:
    top = tmp_path / "top"
    home = top / "deep" / "cwd"
    home.mkdir(parents=True)
    data = hostile_folder(small_images, top / "data")
    before = {file.relative_to(top) for file in top.rglob("*")}
    out, samples = top / "deep" / "out", top / "deep" / "samples"
    places = {"cache_dir": top / "deep" / "cache", **small_weights}
    given = {**SMALL["train"], "max_epochs": 1, "samples_per_class": 1, "measured": "[]", "preview_images": 0}
    run_in(home, "train.json", "training", dataset_dir=data, output_dir=out, **places, **given)
    given = {**SMALL["inference"], "samples_per_class": 1, "dataset_dir": samples, "run_dir": out}
    run_in(home, "inference.json", "run", **places, **given)

    written = {file.relative_to(top) for file in top.rglob("*")} - before
    assert {file.parts[:2] for file in written} == {("deep", name) for name in ("out", "samples", "cache")}
    everywhere = [*top.rglob("PWNED*"), *ROOT.glob("PWNED*"), *Path.cwd().glob("PWNED*"), *Path.home().glob("PWNED*")]
    assert everywhere == []
    classes = sorted(name for name in HOSTILE if name.isprintable())
    with open(out / "rejected.csv", newline="") as file:
        assert {row["reason"] for row in csv.DictReader(file)} == {"the label has characters that cannot be printed"}
    assert load_weights(out / "adapter.safetensors", "adapter").settings["classes"] == classes
    assert list(json.loads((samples / "manifest.json").read_text())["counts"]["images"]) == classes
    for folder in (samples, out / "samples"):
        for name, stem in zip(classes, safe_names(classes), strict=True):
            dataset = pydicom.dcmread(folder / f"{stem}_00000.dcm")
            assert dataset.DerivationDescription.endswith(f", label {plain_text(name)}")
            with Image.open(folder / f"{stem}_00000.png") as image:
                assert image.text["label"] == plain_text(name)  # type: ignore[attr-defined]
