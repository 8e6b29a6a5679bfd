"""The repository's root is a MONAI bundle."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out
from support import ROOT, SMALL, bundle_command, options_for, run_workflow

from anatodiff.networks import load_adapter

CONFIGS = ("train", "inference", "evaluate", "prepare", "train_autoencoder", "pretrain", "ct_evaluate")
OVERLAYS = ("paper", "multi_gpu", "sharpen", "ct_cat_diff", "ct_natural", "ct_unet", "ct_seg_diff", "ct_spade")
OVERLAYS += ("ct_controlnet", *(f"na_diff_{letter}" for letter in "abcdef"))


def test_layout_of_a_bundle() -> None:
    for name in ("configs/metadata.json", "configs/logging.conf", "docs/README.md", "docs/data_license.txt", "LICENSE"):
        assert (ROOT / name).is_file(), name


def test_metadata_passes_monais_own_check(shared_data: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"  # already there, so nothing is downloaded
    shutil.copy(shared_data / "schema" / "meta_schema_20240725.json", schema)
    verify_metadata(meta_file=str(ROOT / "configs" / "metadata.json"), filepath=str(schema))


def test_no_expression_is_longer_than_one_call() -> None:
    for name in CONFIGS + OVERLAYS:
        text = (ROOT / "configs" / f"{name}.json").read_text()
        for part in text.split('"'):
            if part.startswith("$"):
                assert part.count("(") <= 1, part
                assert len(part) < 64, part


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
    place = "run_dir" if name in ("inference", "evaluate", "ct_evaluate") else "output_dir"
    assert workflow.parser.get_parsed_content(place).startswith("/elsewhere/output/")


@pytest.mark.parametrize("name", CONFIGS)
def test_run_ids(name: str) -> None:
    config = json.loads((ROOT / "configs" / f"{name}.json").read_text())
    assert "run" in config
    assert ("training" in config) == (name in ("train", "train_autoencoder", "pretrain"))


@pytest.fixture
def trained(small_images: Path, small_weights: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Options of inference on a finished run."""
    run_workflow("train", **options_for("train", small_images, small_weights, tmp_path))
    return {**options_for("inference", small_images, small_weights, tmp_path), "run_dir": str(tmp_path / "out")}


def test_verify_net_in_out_passes(trained: dict[str, str]) -> None:
    formats = "_meta_#network_data_format#"  # of the small network
    shape = {f"{formats}inputs#image#spatial_shape": [8, 8], f"{formats}outputs#pred#num_channels": 8}
    places = {"meta_file": str(ROOT / "configs" / "metadata.json"), "config_file": str(ROOT / "configs/inference.json")}
    verify_net_in_out(net_id="network_def", device="cpu", **places, **trained, **shape)


def test_ckpt_export_to_torchscript(trained: dict[str, str], tmp_path: Path) -> None:
    script_path, folder = tmp_path / "model.ts", Path(trained["run_dir"])
    ckpt_export(
        net_id="network_def",
        filepath=str(script_path),
        ckpt_file=str(folder / "model.pt"),
        meta_file=str(ROOT / "configs" / "metadata.json"),
        config_file=str(ROOT / "configs" / "inference.json"),
        **trained,
    )
    script = torch.jit.load(str(script_path))
    network = load_adapter(folder / "adapter.safetensors", trained["base_path"]).network
    x, times, labels = torch.randn(2, 4, 8, 8), torch.tensor([3, 800]), torch.tensor([0, 1])
    torch.testing.assert_close(script(x, times, None, labels), network(x, times, None, labels), rtol=1e-5, atol=1e-5)


def test_yaml_does_what_json_does(small_images: Path, small_weights: dict[str, str], tmp_path: Path) -> None:
    logs = []
    for ending in (".json", ".yaml"):
        config = tmp_path / f"train{ending}"
        ConfigParser.export_config_file(
            ConfigParser.load_config_file(str(ROOT / "configs" / "train.json")), str(config), fmt=ending[1:]
        )
        root = tmp_path / ending
        options = {**SMALL["train"], **options_for("train", small_images, small_weights, root), "measured": []}
        command = bundle_command(
            "train.json", *(part for key, value in options.items() for part in (f"--{key}", value))
        )
        command[command.index("--config_file") + 1] = str(config)
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        logs.append((root / "out" / "losses.csv").read_bytes())
    assert logs[0] == logs[1]
