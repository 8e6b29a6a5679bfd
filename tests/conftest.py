"""What all tests share: real data where there is any, small weights and images, runs, and the table of skips."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anatodiff.autoencoders import Autoencoder, load_autoencoder, save_autoencoder
from anatodiff.data import write_radiograph
from anatodiff.networks import Base, DiT, save_base
from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).resolve().parents[1]
SIZE = 64  # side of the small images; their latents are 8 x 8

# Settings under which every workflow runs in about a second on the small weights and images.
SMALL: dict[str, dict[str, Any]] = {
    "train": {
        "image_size": SIZE, "max_epochs": 2, "epoch_length": 2, "batch_size": 4, "warmup_steps": 1, "n_prototypes": 4,
        "learning_rate": 0.05, "sampling_steps": 3, "preview_steps": 2, "samples_per_class": 3, "spm_width": 8,
        "guidance_scale": 2.0,
    },
    "prepare": {"image_size": SIZE, "n_prototypes": 4},
    "pretrain": {
        "image_size": SIZE, "max_epochs": 2, "epoch_length": 2, "batch_size": 4, "warmup_steps": 1, "size": "DiT-XS/8",
        "learning_rate": 0.01, "sampling_steps": 3, "preview_steps": 2, "test_fraction": 0.3, "guidance_scale": 2.0,
    },
    "train_autoencoder": {
        "image_size": SIZE, "crop_size": 32, "max_epochs": 2, "epoch_length": 2, "batch_size": 2, "warmup_steps": 1,
        "channels": [8, 8, 8, 8], "norm_num_groups": 4, "test_fraction": 0.3,
    },
    "inference": {"sampling_steps": 3, "samples_per_class": 3, "guidance_scale": 2.0},
}  # fmt: skip


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(os.environ.get("ANATODIFF_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder}; set ANATODIFF_SHARED to the folder that holds data/")
    return folder


@pytest.fixture(scope="session")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """28 images of 14 patients in two classes: a bright body with two dark fields, the left one smaller in "rare"."""
    folder = tmp_path_factory.mktemp("images")
    rows = ["file,label,patient_id"]
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    for i in range(28):
        random = np.random.default_rng(i)
        label = "rare" if i % 4 < 2 else "common"
        image = 0.7 + 0.1 * random.random() + 0.02 * random.standard_normal((SIZE, SIZE))
        for centre, width in ((0.3, 0.12), (0.7, 0.06 if label == "rare" else 0.12)):
            shift = 0.03 * random.standard_normal(2)
            inside = ((x - centre - shift[0]) / width) ** 2 + ((y - 0.5 - shift[1]) / 0.3) ** 2 < 1
            image[inside] -= 0.5
        write_radiograph(folder / f"image{i:02d}.png", np.clip(image, 0, 1).astype(np.float32))
        rows.append(f"image{i:02d}.png,{label},patient{i // 2}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def make_weights(folder: Path, seed: int) -> dict[str, str]:
    """Write a small untrained autoencoder and a small DiT whose output is not zero; returns the options for them."""
    torch.manual_seed(seed)
    paths = {"autoencoder_path": str(folder / f"ae{seed}.safetensors"), "base_path": str(folder / f"dit{seed}.safetensors")}
    save_autoencoder(paths["autoencoder_path"], Autoencoder((8, 8, 8, 8), norm_num_groups=4), {})
    network = DiT(input_size=SIZE // 8, patch_size=4, hidden_size=32, depth=4, num_heads=2, num_classes=3)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    encoder = load_autoencoder(paths["autoencoder_path"])
    save_base(paths["base_path"], Base(network, 1.5, ["a", "b", "c"], "", encoder.sha256, "CC0"), {})
    return paths


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_weights(tmp_path_factory.mktemp("weights"), seed=0)


Run = Callable[..., Path]


@pytest.fixture
def run(
    small_images: Path, small_weights: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run a workflow in this process on the small images and weights; returns its output folder."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # start_workflow replaces it

    def start(name: str, **options: Any) -> Path:
        given = {**SMALL[name], "output_dir": str(tmp_path / "out"), "cache_dir": str(tmp_path / "cache"), **options}
        if name == "inference":
            given = {key: value for key, value in given.items() if key not in ("output_dir", "cache_dir")}
        else:
            given.setdefault("dataset_dir", str(small_images))
        if name != "train_autoencoder":
            given = {"autoencoder_path": small_weights["autoencoder_path"], **given}
        if name not in ("train_autoencoder", "pretrain"):
            given = {"base_path": small_weights["base_path"], **given}
        workflow = ConfigWorkflow(
            str(ROOT / "configs" / f"{name}.json"), workflow_type="infer" if name == "inference" else "train", **given
        )
        workflow.initialize()
        workflow.run()
        return Path(given.get("output_dir") or given["run_dir"])

    return start


def bundle_command(config: str, *options: object, run_id: str = "run") -> list[str]:
    """The command line that a user types."""
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(ROOT / "configs" / config)]
    return command + [str(option) for option in options]


def run_bundle(config: str, *options: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a config as a user does, in a process of its own."""
    return subprocess.run(bundle_command(config, *options), capture_output=True, text=True, timeout=timeout, cwd=ROOT)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail if any test was skipped")


def _skips(reporter: object) -> list[tuple[str, str]]:
    reports = getattr(reporter, "stats", {}).get("skipped", [])
    return [
        (report.nodeid, str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr))
        for report in reports
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skips = _skips(terminalreporter)
    terminalreporter.section("skipped, and why")
    if not skips:
        terminalreporter.write_line("nothing was skipped")
    for name, reason in skips:
        terminalreporter.write_line(f"{name:<70} {reason.removeprefix('Skipped: ')}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--no-skips") and exitstatus == 0 and _skips(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
