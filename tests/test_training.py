from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from safetensors.torch import load_file
from support import SMALL, bundle_command

from anatodiff.data import read_radiograph
from anatodiff.engines.checkpoints import CheckpointError
from anatodiff.networks import merge_adapter
from anatodiff.weights import load_weights

Run = Callable[..., Path]


@pytest.fixture
def trained(run: Run) -> Path:
    return run("train")


def test_run_leaves_what_it_promises(trained: Path) -> None:
    assert load_weights(trained / "adapter.safetensors", "adapter").settings["classes"] == ["common", "rare"]
    pictures = ("prepared.png", "prototypes.png", "before_after.png", "attention.png", "samples/contact_sheet.png")
    for name in ("datalist.json", "model.pt", *pictures):
        assert (trained / name).stat().st_size > 0, name
    assert sorted(file.name for file in (trained / "samples").glob("*.dcm")) == [
        f"{label}_{number:05d}.dcm" for label in ("common", "rare") for number in range(3)
    ]
    assert sorted(file.name for file in (trained / "progress").iterdir()) == ["step_000002.png", "step_000004.png"]
    assert any((trained / "tensorboard").iterdir())
    quality = json.loads((trained / "quality.json").read_text())
    assert set(quality["kernel_distance"]) == {"before", "after", "real"}
    with open(trained / "losses.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert set(rows[0]) == {"step", "loss", "mse", "variance", "topology"}
    assert not list(trained.rglob("*.part"))


def test_samples_are_marked_synthetic(trained: Path) -> None:
    dataset = pydicom.dcmread(trained / "samples" / "rare_00000.dcm")
    assert dataset.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert dataset[0x0008001C].value == "YES"
    assert load_weights(trained / "adapter.safetensors", "adapter").sha256[:16] in str(dataset.DerivationDescription)
    assert "SYNTHETIC" in dataset.SeriesDescription


def test_only_trained_parameters_change(trained: Path, small_weights: dict[str, str]) -> None:
    base, adapter = load_file(small_weights["base_path"]), load_file(trained / "adapter.safetensors")
    assert all(name.endswith(".bias") for name in adapter.keys() & base.keys() - {"y_embedder.embedding_table.weight"})
    moved = [name for name in adapter.keys() & base.keys() if adapter[name].shape == base[name].shape]
    assert any(not torch.equal(adapter[name], base[name].float()) for name in moved)


def test_no_patient_is_in_both_parts(trained: Path) -> None:
    listing = json.loads((trained / "datalist.json").read_text())
    train, test = ({row["patient"] for row in listing[part]} for part in ("train", "test"))
    assert train
    assert test
    assert not train & test


def test_the_same_command_again_changes_nothing(run: Run) -> None:
    out = run("train")
    names = ["adapter.safetensors", "losses.csv", "samples/rare_00000.dcm", "quality.json"]
    before = {name: (out / name).read_bytes() for name in names}
    run("train")
    assert before == {name: (out / name).read_bytes() for name in names}


def test_more_epochs_go_on_from_the_last_step(run: Run) -> None:
    first = (run("train") / "losses.csv").read_text()
    longer = (run("train", max_epochs=3) / "losses.csv").read_text()
    assert longer.startswith(first)
    assert len(longer.splitlines()) == 1 + 6


def test_a_run_is_not_continued_with_other_settings(run: Run) -> None:
    run("train", max_epochs=1)
    with pytest.raises(CheckpointError, match=r"learning_rate = 0\.05, now 0\.01"):
        run("train", learning_rate=0.01)


def test_a_damaged_checkpoint_says_what_to_do(run: Run) -> None:
    out = run("train", max_epochs=1)
    path = out / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="delete it to start anew"):
        run("train")


def test_a_run_without_prototypes_or_topology_is_plain_difffit(run: Run) -> None:
    out = run("train", n_prototypes=0, topology_weight=0.0)
    settings = load_weights(out / "adapter.safetensors", "adapter").settings
    assert settings["shapes"] is None
    assert (out / "losses.csv").read_text().splitlines()[0] == "step,loss,mse,variance"
    assert not (out / "attention.png").exists()


def test_accumulated_batches_train_like_one_large_batch(run: Run, tmp_path: Path) -> None:
    whole = run("train", output_dir=str(tmp_path / "whole"), topology_weight=1e-3)
    parts = run(
        "train", output_dir=str(tmp_path / "parts"), topology_weight=1e-3, batch_size=2, epoch_length=4,
        accumulation_steps=2,
    )  # fmt: skip
    rows = {folder: np.loadtxt(folder / "losses.csv", delimiter=",", skiprows=1)[:, 1] for folder in (whole, parts)}
    np.testing.assert_allclose(rows[parts].reshape(-1, 2).mean(axis=1), rows[whole], rtol=1e-4)
    adapters = [load_file(folder / "adapter.safetensors") for folder in (whole, parts)]
    for name, tensor in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("changes", [{"epoch_length": 3}, {"checkpoint_every": 3}])
def test_an_epoch_or_checkpoint_inside_an_accumulated_batch_is_refused(run: Run, changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))}.* multiple of accumulation_steps"):
        run("train", accumulation_steps=2, **changes)


def test_merged_file_samples_what_its_adapter_does(run: Run, trained: Path, small_weights: dict[str, str]) -> None:
    merge_adapter(trained / "adapter.safetensors", trained / "merged.safetensors", small_weights["base_path"])
    places = {name: str(trained / "from" / name) for name in ("adapter", "merged")}
    for name, place in places.items():
        path = str(trained / f"{name}.safetensors")
        given = {"base_path": "nowhere"} if name == "merged" else {}  # a merged file needs no base
        run("inference", run_dir=str(trained), adapter_path=path, dataset_dir=place, **given)
    one, two = (pixels(Path(place), "rare_00001.dcm") for place in places.values())
    np.testing.assert_allclose(one, two, atol=2 / 4095)


def options_of(settings: dict) -> list[str]:
    return [str(part) for key, value in settings.items() for part in (f"--{key}", value)]


def wait_for_steps(out: Path, steps: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        log = out / "losses.csv"
        if log.is_file() and log.read_bytes().count(b"\n") > steps:
            return
        time.sleep(0.005)
    raise AssertionError(f"the run ended or hung before step {steps}: {process.communicate()}")


@pytest.fixture(scope="module")
def long_run(small_images: Path, small_weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """The command of a run of 60 steps, and the folder of one that nothing disturbed."""
    cache = tmp_path_factory.mktemp("cache")
    settings = {**SMALL["train"], **small_weights, "dataset_dir": small_images, "cache_dir": cache}
    settings |= {"max_epochs": 3, "epoch_length": 20, "checkpoint_every": 8, "learning_rate": 0.01}
    # What has most to remember: growing ranks, and gradients of which only whole sums count.
    settings |= {"finetuning": "selora", "lora_rank": 3, "selora_every": 5, "selora_threshold": 1.3}
    settings |= {"accumulation_steps": 2, "spm_learnable": True}

    def command(out: Path) -> list[str]:
        return bundle_command("train.json", *options_of({**settings, "output_dir": out}), run_id="training")

    whole = tmp_path_factory.mktemp("whole")
    subprocess.run(command(whole), check=True, capture_output=True)
    return command, whole


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 128 + 15), (signal.SIGKILL, -9)])
def test_stopped_run_equals_an_undisturbed_one_bit_for_bit(long_run, tmp_path: Path, number: int, code: int) -> None:  # type: ignore[no-untyped-def]
    command, whole = long_run
    process = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_steps(tmp_path, 24, process)
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code
    assert (tmp_path / "checkpoint.pt").is_file()
    assert not (tmp_path / "adapter.safetensors").exists()
    if number == signal.SIGTERM:
        assert "stopped by SIGTERM" in output
    again = subprocess.run(command(tmp_path), check=True, capture_output=True, text=True)
    assert "resumed at step" in again.stdout
    for name in ("losses.csv", "adapter.safetensors", "samples/rare_00001.dcm", "quality.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def pixels(folder: Path, name: str) -> np.ndarray:
    return read_radiograph(folder / name).pixels


def test_inference_samples_the_adapter(run: Run, trained: Path, tmp_path: Path) -> None:
    run("inference", run_dir=str(trained), seed=0, batch_size=4)
    for name in ("common_00002.dcm", "rare_00001.dcm"):  # the same seed as the training's own samples
        again = pixels(tmp_path / "generated", name)
        np.testing.assert_allclose(again, pixels(trained / "samples", name), atol=2 / 4095)
    assert (tmp_path / "generated" / "contact_sheet.png").is_file()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_image_i_is_the_same_whatever_the_batch(run: Run, trained: Path, tmp_path: Path, sampler: str) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, batch_size, count in zip(folders, (1, 5), (2, 4), strict=True):
        run(
            "inference", run_dir=str(trained), dataset_dir=str(folder), batch_size=batch_size, sampler=sampler,
            samples_per_class=count,
        )  # fmt: skip
    for name in ("common_00000.dcm", "rare_00001.dcm"):
        np.testing.assert_allclose(pixels(folders[0], name), pixels(folders[1], name), atol=2 / 4095)
    assert np.abs(pixels(folders[0], "rare_00000.dcm") - pixels(folders[0], "rare_00001.dcm")).max() > 0.01


def test_inference_does_not_overwrite_unasked(run: Run, trained: Path) -> None:
    run("inference", run_dir=str(trained))
    with pytest.raises(FileExistsError, match="overwrite"):
        run("inference", run_dir=str(trained))
    run("inference", run_dir=str(trained), overwrite=True)
