"""The repository's root is a MONAI bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow, verify_metadata
from support import ROOT, options_for, run_workflow

CONFIGS = ("train", "inference", "prepare", "train_autoencoder", "pretrain")


def test_layout_of_a_bundle() -> None:
    for name in ("configs/metadata.json", "configs/logging.conf", "docs/README.md", "docs/data_license.txt", "LICENSE"):
        assert (ROOT / name).is_file(), name


def test_metadata_passes_monais_own_check(shared_data: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"  # already there, so nothing is downloaded
    shutil.copy(shared_data / "schema" / "meta_schema_20240725.json", schema)
    verify_metadata(meta_file=str(ROOT / "configs" / "metadata.json"), filepath=str(schema))


def test_no_expression_is_longer_than_one_call() -> None:
    for name in CONFIGS:
        text = (ROOT / "configs" / f"{name}.json").read_text()
        for part in text.split('"'):
            if part.startswith("$"):
                assert part.count("(") <= 1, part
                assert len(part) < 60, part


def test_properties_of_the_training_workflow(small_images: Path, small_weights: dict[str, str], tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        str(ROOT / "configs" / "train.json"), workflow_type="train", image_size=64, n_prototypes=4,
        **options_for("train", small_images, small_weights, tmp_path),
    )  # fmt: skip
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.max_epochs == workflow.trainer.state.max_epochs
    assert len(workflow.train_dataset) > 0


def test_properties_of_the_inference_workflow(
    small_images: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    run_workflow("train", **options_for("train", small_images, small_weights, tmp_path))
    workflow = ConfigWorkflow(
        str(ROOT / "configs" / "inference.json"), workflow_type="infer", run_dir=str(tmp_path / "out"),
        **options_for("inference", small_images, small_weights, tmp_path),
    )  # fmt: skip
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("name", CONFIGS)
def test_paths_follow_the_bundle_root(name: str) -> None:
    workflow = ConfigWorkflow(str(ROOT / "configs" / f"{name}.json"), bundle_root="/elsewhere")
    workflow.parser.parse()
    place = "run_dir" if name == "inference" else "output_dir"
    assert workflow.parser.get_parsed_content(place).startswith("/elsewhere/output/")


@pytest.mark.parametrize("name", CONFIGS)
def test_run_ids(name: str) -> None:
    config = json.loads((ROOT / "configs" / f"{name}.json").read_text())
    assert "run" in config
    assert ("training" in config) == (name in ("train", "train_autoencoder", "pretrain"))
