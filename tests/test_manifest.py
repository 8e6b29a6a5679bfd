"""The manifest beside each output: complete, without inputs' names, the same for the same run; and its verification."""

from __future__ import annotations

import hashlib
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from support import ROOT, SMALL, options_for, run_workflow

from anatodiff.engines.manifest import differences
from anatodiff.files import sha256_of
from anatodiff.weights import load_weights

Run = Callable[..., Path]
CANARY = "Canary^Mueller"
PARTS = {
    "schema", "made", "intended_use", "licences", "tool", "options", "weights_sha256", "data", "recipe", "counts",
    "versions", "machine", "files_sha256",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(small_images: Path, small_weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, whose folders are named by a patient."""
    root = tmp_path_factory.mktemp("trained") / CANARY
    run_workflow("train", **options_for("train", renamed(small_images, root), small_weights, root), data_licence="CC0")
    return root / "out"


def renamed(images: Path, root: Path) -> Path:
    """Copy images into a folder and files with a patient's name, and give patients that name, too."""
    (root / "data").mkdir(parents=True)
    lines = (images / "labels.csv").read_text().splitlines()
    rows = [lines[0]]
    for line in lines[1:]:
        name, label, patient = line.split(",")
        (root / "data" / f"{CANARY}{name}").write_bytes((images / name).read_bytes())
        rows.append(f"{CANARY}{name},{label},{CANARY}{patient}")
    (root / "data" / "labels.csv").write_text("\n".join(rows) + "\n")
    return root / "data"


def sampled(trained: Path, weights: dict[str, str], folder: Path, **options: Any) -> dict[str, Any]:
    """Sample the run into a folder; returns the manifest."""
    given = {**weights, "run_dir": str(trained), "dataset_dir": str(folder), "cache_dir": str(folder / "no")}
    run_workflow("inference", **{**given, "samples_per_class": 2, **options})
    return json.loads((folder / "manifest.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_training_says_what_it_made_and_of_what(trained: Path, small_weights: dict[str, str]) -> None:
    manifest = json.loads((trained / "manifest.json").read_text())
    assert set(manifest) == PARTS
    assert manifest["made"] == "fine-tune"
    assert manifest["weights_sha256"]["adapter"] == sha256_of(trained / "adapter.safetensors")
    assert manifest["weights_sha256"]["base"] == sha256_of(small_weights["base_path"])
    settings = load_weights(trained / "adapter.safetensors", "adapter").settings
    assert manifest["data"]["training"] == {"key": settings["run"]["data"], "images": settings["training_images"]}
    assert manifest["data"]["held back"]["images"] > 0
    assert manifest["licences"] == {"data": "CC0", "base": "CC0"}
    assert manifest["options"]["learning_rate"] == SMALL["train"]["learning_rate"]
    assert manifest["options"]["split_seed"] == 0  # resolved, not "@seed"
    assert set(manifest["versions"]) == {"python", "torch", "monai", "pydicom", "numpy"}
    assert "no basis for a diagnosis" in manifest["intended_use"]
    listed = {"adapter.safetensors", "model.pt", "quality.json", "samples/manifest.json"}
    assert manifest["files_sha256"] == {name: sha256_of(trained / name) for name in listed}
    assert (
        json.loads((trained / "samples" / "manifest.json").read_text())["weights_sha256"]["adapter"]
        == (manifest["weights_sha256"]["adapter"])
    )


def test_no_manifest_names_an_input(trained: Path, small_weights: dict[str, str], small_images: Path) -> None:
    folder = trained.parent / f"sampled {CANARY}"
    sampled(trained, small_weights, folder)
    given = options_for("evaluate", trained.parent / "data", small_weights, trained.parent)
    given |= {"run_dir": str(trained), "generated_dir": str(trained / "samples")}
    given |= {"train_dir": given.pop("dataset_dir"), "reference_dir": str(small_images)}
    run_workflow("evaluate", **given)
    run_workflow("pretrain", **options_for("pretrain", trained.parent / "data", small_weights, trained.parent / "p"))
    manifests = [*trained.parent.rglob("*manifest.json")]
    assert sorted(json.loads(path.read_text())["made"] for path in manifests) == [
        "base", "evaluation", "fine-tune", "samples", "samples",
    ]  # fmt: skip
    for path in manifests:
        text = path.read_text()
        for word in (CANARY, "Mueller", "image0", "patient", str(trained.parent.parent), "labels.csv"):
            assert word not in text.replace("show no patient", "").replace("patient_orientation", ""), (path, word)
        assert differences(path) == []
        assert json.loads(text)["weights_sha256"]


def test_the_same_run_twice_leaves_the_same_bytes(trained: Path, small_weights: dict[str, str], tmp_path: Path) -> None:
    options = {"formats": ["dcm", "png", "nii.gz"]}
    for name in ("one", "two"):
        sampled(trained, small_weights, tmp_path / name, **options)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two
    assert {"manifest.json", "contact_sheet.png", "rare_00001.dcm", "rare_00001.nii.gz"} < set(one)


@pytest.mark.parametrize("change", [{"sampling_steps": 2}, {"guidance_scale": 1.5}, {"seed": 3}, {"sampler": "ddpm"}])
def test_another_option_of_the_sampling_gives_other_uids(
    trained: Path, small_weights: dict[str, str], tmp_path: Path, change: dict[str, Any]
) -> None:
    one = sampled(trained, small_weights, tmp_path / "one")
    two = sampled(trained, small_weights, tmp_path / "two", **change)
    assert one["recipe"]["sha256"] != two["recipe"]["sha256"]
    for name in ("rare_00000.dcm", "common_00001.dcm"):
        first, second = (pydicom.dcmread(tmp_path / folder / name) for folder in ("one", "two"))
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID"):
            assert first[keyword].value != second[keyword].value
        assert one["recipe"]["sha256"] in first.DerivationDescription


def test_what_does_not_change_the_image_leaves_its_uid(
    trained: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    sampled(trained, small_weights, tmp_path / "one")
    sampled(trained, small_weights, tmp_path / "two", samples_per_class=3, formats=["dcm"])
    first, second = (pydicom.dcmread(tmp_path / folder / "rare_00000.dcm") for folder in ("one", "two"))
    if (first.pixel_array == second.pixel_array).all():  # of another batch, a rounding may differ
        assert first.SOPInstanceUID == second.SOPInstanceUID
    else:
        assert first.SOPInstanceUID != second.SOPInstanceUID


def test_the_recipe_is_what_it_says(trained: Path, small_weights: dict[str, str], tmp_path: Path) -> None:
    manifest = sampled(trained, small_weights, tmp_path / "one", seed=9)
    recipe = {key: value for key, value in manifest["recipe"].items() if key != "sha256"}
    assert hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest() == manifest["recipe"]["sha256"]
    assert recipe["sampling"]["seed"] == 9
    assert recipe["weights"] == manifest["weights_sha256"]
    assert set(recipe["weights"]) == {"adapter", "base", "autoencoder"}
    assert manifest["counts"] == {
        "images": {"common": 2, "rare": 2}, "formats": ["dcm", "png"], "refused_as_copies": None,
    }  # fmt: skip
    assert len(manifest["files_sha256"]) == 2 * 4 + 1


def verify(folder: Path) -> int:
    return runpy.run_path(str(ROOT / "scripts" / "verify_manifest.py"))["main"]([str(folder)])


def test_the_tool_names_what_was_changed(
    trained: Path, small_weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "samples"
    assert verify(tmp_path) == 2
    sampled(trained, small_weights, folder)
    assert verify(tmp_path) == 0
    capsys.readouterr()
    path = folder / "rare_00000.dcm"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    (folder / "rare_00001.png").unlink()
    (folder / "patient.dcm").write_bytes(b"slipped in")
    assert verify(tmp_path) == 1
    printed = capsys.readouterr().out
    for line in (
        "rare_00000.dcm: has other bytes",
        "rare_00001.png: is missing",
        "patient.dcm: is not in the manifest",
    ):
        assert line in printed
    assert "3 differences" in printed


@pytest.mark.parametrize(
    "content", ["", "[]", '{"files_sha256": 3}', '{"files_sha256": {}, "made": "x", "schema": 99}']
)
def test_what_is_no_manifest_is_said(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text(content)
    assert verify(tmp_path) == 1
    assert "manifest" in capsys.readouterr().out


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "in").mkdir()
    record = {"schema": 1, "made": "samples", "files_sha256": {"../secret": sha256_of(tmp_path / "secret")}}
    (tmp_path / "in" / "manifest.json").write_text(json.dumps(record))
    assert differences(tmp_path / "in" / "manifest.json") == ["../secret: is outside of the manifest's folder"]


def test_the_same_training_twice_gives_the_same_weights(
    small_images: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        run_workflow("train", **options_for("train", small_images, small_weights, tmp_path / name), measured=[])
    for name in ("adapter.safetensors", "model.pt", "manifest.json", "samples/manifest.json"):
        one, two = (tmp_path / folder / "out" / name for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes(), name
