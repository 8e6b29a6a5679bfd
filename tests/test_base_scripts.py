"""The programs that make a base: its data for one GPU, its recipe, and how loud its losses are."""

from __future__ import annotations

import csv
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from support import ROOT, SIZE

import gpu_base
import train_base
from anatodiff.engines.training_record import RECORD_NOTE, read_record
from anatodiff.networks import load_base, save_base


@pytest.fixture
def divided(small_images: Path, tmp_path: Path) -> Path:
    """Training and validation folders as scripts/base_data.py writes them."""
    rows = list(csv.DictReader((small_images / "labels.csv").read_text().splitlines()))
    for part, kept in (("train", slice(0, 20)), ("validation", slice(20, 28))):
        folder = tmp_path / "divided" / part
        folder.mkdir(parents=True)
        lines = ["file,label,patient_id,domain"]
        for row in rows[kept]:
            shutil.copy(small_images / row["file"], folder)
            domain = "chest radiograph" if row["label"] == "common" else "hand radiograph"
            lines.append(f"{row['file']},{row['label']},{row['patient_id']},{domain}")
        (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "divided"


def test_gpu_recipe_runs_through_and_goes_on_where_it_stopped(
    divided: Path, small_weights: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    packed, out = str(tmp_path / "packed"), tmp_path / "out"
    packing = ["pack", "--data_dir", str(divided), "--output_dir", packed, "--cache_dir", str(tmp_path / "cache")]
    packing += ["--phantoms", "12", "--image_size", str(SIZE)]
    assert gpu_base.main([*packing, "--autoencoder_path", small_weights["autoencoder_path"]]) == 0
    assert "12 phantoms: " in capfd.readouterr().out
    copied = [file.relative_to(divided) for file in divided.rglob("*") if file.is_file()]
    assert all((tmp_path / "packed" / name).read_bytes() == (divided / name).read_bytes() for name in copied)
    assert len(list((tmp_path / "packed" / "phantoms").glob("*.jpg"))) == 12
    training = ["train", "--data_dir", packed, "--output_dir", str(out), "--tiny", "--image_size", str(SIZE)]
    assert gpu_base.main([*training, "--minutes", "0.51"]) == 3  # over at once
    assert "the same command goes on" in capfd.readouterr().out
    assert gpu_base.main(training) == 0
    base = load_base(out / "best.safetensors")
    assert base.network.settings["stem"] is not None
    assert {"chest radiograph", "hand radiograph/rare", "chest phantom"} <= set(base.classes)
    assert read_record(out / "record.jsonl")[-1]["step"] == 2
    assert gpu_base.main([*training, "--max_epochs", "1", "--minutes", "9"]) == 0  # done: nothing is trained again
    assert read_record(out / "record.jsonl")[-1]["images"] == 20


def test_gpu_recipe_scales_the_rates_to_its_batch_at_the_same_images() -> None:
    growth = gpu_base.BATCH / gpu_base.RECIPE["batch_size"]
    assert gpu_base.GPU["learning_rate"] / gpu_base.RECIPE["learning_rate"] == pytest.approx(growth**0.5)
    images = [gpu_base.GPU["reference_steps"] * gpu_base.BATCH]
    images.append(gpu_base.RECIPE["reference_steps"] * gpu_base.RECIPE["batch_size"])
    assert images[0] == pytest.approx(images[1], rel=0.01)


def test_another_size_does_not_start_from_the_base_that_ships(
    small_weights: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(small_weights["base_path"])
    notes = {RECORD_NOTE: [], "run": {"size": "ConvDiT-XS/4"}}
    save_base(tmp_path / "dit.safetensors", base, notes)
    monkeypatch.setattr(train_base, "MODELS_DIR", tmp_path)
    for size, goes_on in ((None, True), ("ConvDiT-XS/4", True), ("ConvDiT-S/4", False)):
        state = tmp_path / f"state {size}".replace("/", "-")
        start = train_base.start_of(state, None, size, Path(small_weights["autoencoder_path"]))
        assert bool(start) == goes_on, size
    assert not train_base.start_of(tmp_path / "other latents", None)  # of the autoencoder that ships


def test_share_of_the_gradient_grows_with_lambda_and_is_that_of_the_angle(
    small_images: Path, small_weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    program = runpy.run_path(str(ROOT / "scripts" / "gradient_share.py"))
    ratio, cosine = program["compare"]([torch.tensor([3.0, 0.0]), torch.tensor([4.0])], [torch.tensor([0.0, 1.0, 0.0])])
    assert (ratio, cosine) == pytest.approx((0.2, 0.0))
    tables = []
    for weight in (1e-6, 2e-6):
        arguments = ["--dataset_dir", str(small_images), "--cache_dir", str(tmp_path), "--image_size", "64"]
        arguments += [f"--{name}={path}" for name, path in small_weights.items()]
        program["main"]([*arguments, "--batches", "1", "--topology_weight", str(weight)])
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
        tables.append(torch.tensor([[float(cell) for cell in line.strip("| ").split(" | ")] for line in lines]))
    first, second = tables
    assert len(first) == 11
    torch.testing.assert_close(second[:, [3, 5]], 2 * first[:, [3, 5]], rtol=0.02, atol=0)
    torch.testing.assert_close(second[:, [1, 2, 4, 6]], first[:, [1, 2, 4, 6]], rtol=0.02, atol=1e-3)
