"""What the model zoo asks of a bundle: a published one passes, and each fault in one is found."""

from __future__ import annotations

import copy
import json
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow
from support import ROOT, SMALL, options_for, run_workflow

from anatodiff.data import read_radiograph
from anatodiff.networks import load_adapter, load_base

ZOO = runpy.run_path(str(ROOT / "scripts" / "zoo_check.py"))
PUBLISH = runpy.run_path(str(ROOT / "scripts" / "publish_bundle.py"))
TRAINED = "properties: train", "properties: pretrain", "properties: train_autoencoder"  # of full size: too slow here


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "anatodiff"
    ZOO["fresh_bundle"](folder)
    return folder


@pytest.fixture(scope="module")
def schema(shared_data: Path) -> Path:
    return shared_data / "schema" / "meta_schema_20240725.json"


def results(folder: Path, schema: Path, scratch: Path, *names: str) -> dict[str, str]:
    """Do the named checks, or without names all fast ones that need no zoo."""
    scratch.mkdir()
    checks = ZOO["checks"](ZOO["Bundle"](folder, schema, scratch), None)
    chosen = names or [name for name in checks if name not in TRAINED and "zoo's" not in name]
    return {name: ZOO["run_check"](name, checks[name]).result for name in chosen}


def test_a_published_bundle_passes(published: Path, schema: Path, tmp_path: Path) -> None:
    found = results(published, schema, tmp_path / "scratch")
    assert len(found) == 10
    assert set(found.values()) == {"passed"}


def test_a_published_bundle_samples_with_its_own_weights(published: Path, tmp_path: Path) -> None:
    options = {"bundle_root": str(published), "dataset_dir": str(tmp_path / "out"), "samples_per_class": 1}
    workflow = ConfigWorkflow(
        str(published / "configs" / "inference.json"), workflow_type="infer", sampling_steps=1, **options
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    assert workflow.parser.get_parsed_content("adapter_path") == str(published / "models" / "adapter.safetensors")
    (file,) = (tmp_path / "out").glob("*.dcm")
    assert read_radiograph(file).pixels.shape == (256, 256)
    state = torch.load(published / "models" / "model.pt", weights_only=True)
    workflow.parser.get_parsed_content("network_def").load_state_dict(state)


def test_a_published_bundle_says_its_licences(published: Path) -> None:
    assert "training images: none: nothing was learned" in (published / "docs" / "data_license.txt").read_text()


def test_the_metadata_describes_the_base_that_ships() -> None:
    metadata = json.loads((ROOT / "configs" / "metadata.json").read_text())
    described = copy.deepcopy(formats(metadata))
    base = load_base()
    PUBLISH["describe"](described, base.network, base.diffusion)
    assert described == formats(metadata)


def test_the_metadata_names_all_that_must_be_installed() -> None:
    metadata = json.loads((ROOT / "configs" / "metadata.json").read_text())
    named = {
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
        "monai": metadata["monai_version"],
    }
    named |= metadata["required_packages_version"]
    text = (ROOT / "pyproject.toml").read_text()
    section = text[text.index("dependencies = [") : text.index("[project.optional-dependencies]")]
    needed = {*re.findall(r'"([\w-]+)(?:\[[\w,]+\])?>=', section), "fire", "einops"}
    assert set(named) == needed
    pins = {line.split(";")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {f"{name}=={version}" for name, version in named.items()} <= pins


def test_an_adapter_of_another_base_is_not_published(
    small_images: Path, small_weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_workflow("train", **options_for("train", small_images, small_weights, tmp_path))
    adapter = tmp_path / "out" / "adapter.safetensors"
    assert load_adapter(adapter, small_weights["base_path"]).classes
    assert PUBLISH["main"]([str(adapter), str(tmp_path / "published")]) == 1
    assert "another autoencoder" in capsys.readouterr().err
    assert not (tmp_path / "published").exists()


Break = Callable[[Path], None]


def edited(name: str, edit: Callable[[dict[str, Any]], None]) -> Break:
    """Change a config of a bundle."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "configs" / name).read_text())
        edit(content)
        replace(folder / "configs" / name, json.dumps(content).encode())

    return change


def replace(path: Path, content: bytes) -> None:
    """Write a file anew: those of a copy are links to the published ones."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def spoil_model(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    state = torch.load(folder / "models" / "model.pt", weights_only=True)
    change(state)
    (folder / "models" / "model.pt").unlink()
    torch.save(state, folder / "models" / "model.pt")


def formats(metadata: dict[str, Any]) -> dict[str, Any]:
    return metadata["network_data_format"]


def rename_dataset(config: dict[str, Any]) -> None:
    config["requests"] = config.pop("dataset")
    config["evaluator"]["val_data_loader"] = "@requests"


# check, what it must say, and how to break the bundle
FAULTS: dict[str, tuple[str, str, Break]] = {
    "no licence": ("directory", "LICENSE missing", lambda folder: (folder / "LICENSE").unlink()),
    "no model": ("directory", "models/model.pt missing", lambda folder: (folder / "models" / "model.pt").unlink()),
    "large file": (
        "files up to 25 MB", "models/big.pt over 25 MB",
        lambda folder: replace(folder / "models" / "big.pt", bytes(25_000_001)),
    ),
    "version": (
        "version and changelog", "version 9.9.9 is not in the changelog",
        edited("metadata.json", lambda metadata: metadata.update(version="9.9.9")),
    ),
    "no authors": (
        "metadata schema", "'authors' is a required property",
        edited("metadata.json", lambda metadata: metadata.pop("authors")),
    ),
    "latent size": (
        "network in and out", "takes latents of 4 x 32 x 32",
        edited("metadata.json", lambda metadata: formats(metadata)["inputs"]["image"].update(spatial_shape=[16, 16])),
    ),
    "channels out": (
        "network in and out", "doesn't match: `5`",
        edited("metadata.json", lambda metadata: formats(metadata)["outputs"]["pred"].update(num_channels=5)),
    ),
    "weights missing": (
        "model.pt: weights only, fits", "Missing key(s)",
        lambda folder: spoil_model(folder, lambda state: state.pop("final_layer.linear.bias")),
    ),
    "code in the weights": (
        "model.pt: weights only, fits", "Unsupported global",
        lambda folder: spoil_model(folder, lambda state: state.update(code=Path())),
    ),
    "export": (
        "TorchScript", "size mismatch",
        lambda folder: spoil_model(folder, lambda state: state.update({"final_layer.linear.bias": torch.ones(1)})),
    ),
    "other name": (
        "properties: inference", "Property 'dataset'", edited("inference.json", rename_dataset),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_fault_is_found(fault: str, published: Path, schema: Path, tmp_path: Path) -> None:
    check, said, spoil = FAULTS[fault]
    folder = tmp_path / "broken"
    shutil.copytree(published, folder, copy_function=os.link)
    spoil(folder)
    result = results(folder, schema, tmp_path / "scratch", check)[check]
    assert result.startswith("failed: ")
    assert said in result


@pytest.mark.parametrize("name", ["pretrain", "train_autoencoder"])
def test_properties_of_the_other_trainings(
    name: str, small_images: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    options = {**SMALL[name], **options_for(name, small_images, small_weights, tmp_path)}
    workflow = ConfigWorkflow(
        str(ROOT / "configs" / f"{name}.json"),
        str(ROOT / "configs" / "metadata.json"),
        workflow_type="train",
        **options,
    )
    workflow.initialize()
    try:
        assert workflow.check_properties() == []
    finally:
        workflow.finalize()


def test_exit_code_and_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("ANATODIFF_ZOO", "")
    assert ZOO["main"]([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("directory ") and "LICENSE, configs/metadata.json" in lines[0]
    assert "skipped: no copy of github.com/Project-MONAI/model-zoo" in lines[-2]
    assert lines[-1] == "12 of 14 checks failed"


def test_a_program_of_the_zoo_gets_the_schema_from_a_file(
    published: Path, schema: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ci").mkdir()
    program = """
from monai.apps.utils import download_url
import anatodiff, helper
download_url("https://nowhere.invalid/s.json", filepath="s.json")
print("verified", anatodiff.__file__)
raise SystemExit("and no more")
"""
    (tmp_path / "ci" / "verify_bundle.py").write_text(program)
    (tmp_path / "ci" / "helper.py").touch()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "anatodiff").symlink_to(published)
    bundle = ZOO["Bundle"](published, schema, tmp_path)
    with pytest.raises(ValueError, match="ended with 1: and no more"):
        ZOO["run_zoo"](bundle, tmp_path, "ci/verify_bundle.py")
    assert (tmp_path / "s.json").read_bytes() == schema.read_bytes()
    assert f"verified {tmp_path}/models/anatodiff/anatodiff/__init__.py" in capsys.readouterr().out


@pytest.mark.parametrize("silent", [*ZOO["ZOO_SAYS"]["min"], *ZOO["ZOO_SAYS"]["full"]])
def test_what_the_zoo_does_not_say_is_a_failure(
    silent: str, published: Path, schema: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_zoo(bundle: object, work: Path, program: str, *words: str) -> str:
        assert (work / program).is_file()
        assert (work / "models" / "anatodiff" / "models" / "model.pt").is_file()
        return "; ".join({text for texts in ZOO["ZOO_SAYS"].values() for text in texts} - {silent})

    zoo = tmp_path / "zoo"
    for name in ("ci/prepare_schema.py", "ci/verify_bundle.py", "models/model_info.json"):
        (zoo / name).parent.mkdir(parents=True, exist_ok=True)
        (zoo / name).touch()
    monkeypatch.setitem(ZOO["check_zoo"].__globals__, "run_zoo", run_zoo)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(ValueError, match="the zoo did not say"):
        ZOO["check_zoo"](ZOO["Bundle"](published, schema, tmp_path / "scratch"), zoo)
