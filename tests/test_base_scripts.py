"""The programs that make a base and judge it: the gate and the GPU recipe."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT, make_vgg

from anatodiff.networks import load_base

GATE = runpy.run_path(str(ROOT / "scripts" / "gate.py"))
REFERENCES = ["random weights, DiffFit", "from scratch, all weights"]


def rows(**arms: list[float]) -> list[dict[str, Any]]:
    return [
        {"arm": name, "seed": seed, "kernel_distance": value}
        for name, values in arms.items() for seed, value in enumerate(values)
    ]  # fmt: skip


def test_base_passes_only_outside_the_interval_of_the_pairs() -> None:
    far = {REFERENCES[0]: [0.9, 0.8, 1.0], REFERENCES[1]: [0.8, 0.7, 0.9]}
    assert GATE["passes"](rows(**far, base=[0.3, 0.2, 0.4]), "base", REFERENCES)  # noisy, but paired: always 0.5 less
    assert not GATE["passes"](rows(**far, base=[0.3, 0.9, 0.5]), "base", REFERENCES)
    assert not GATE["passes"](rows(**far, base=[0.85, 0.75, 0.95]), "base", REFERENCES)  # beats only one
    table = GATE["table"](rows(base=[0.3, 0.2, 0.4], **far), REFERENCES)
    assert "| base | 300 ± 248 | -600 ± 0 | -500 ± 0 |" in table


def test_random_bases_have_the_shape_and_zero_only_where_training_starts_so(
    small_weights: dict[str, str], tmp_path: Path
) -> None:
    like = Path(small_weights["base_path"])
    plain, shaken = (
        load_base(GATE["random_base"](tmp_path / f"{shake}.safetensors", like, 3, shake)) for shake in (False, True)
    )
    base = load_base(like)
    assert plain.network.settings == base.network.settings
    assert (plain.scale_factor, plain.autoencoder_sha256) == (base.scale_factor, base.autoencoder_sha256)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([10])
    assert float(plain.network(x, t).abs().max()) == 0
    assert float(shaken.network(x, t).abs().max()) > 0


def test_gate_makes_a_finished_run_not_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """With the results of all runs in place the program only reads, and says what they say."""
    arms = {"mine, DiffFit": 0.2, REFERENCES[0]: 0.9, REFERENCES[1]: 0.8}
    for arm, value in arms.items():
        for seed in (0, 1):
            folder = tmp_path / arm / f"seed{seed}"
            folder.mkdir(parents=True)
            found = {name: {"value": value + 0.01 * seed, "stderr": 0.01} for name in ("before", "after", "real")}
            (folder / "quality.json").write_text(json.dumps({"kernel_distance": found}))
    arguments = ["--dataset_dir", "/nowhere", "--output_dir", str(tmp_path), "--base", "mine=/nowhere/base.safetensors"]
    for seed in (0, 1):  # the random bases are only read where they exist
        for mode in ("difffit", "full"):
            (tmp_path / f"random-{mode}-{seed}.safetensors").touch()
    assert GATE["main"]([*arguments, "--seeds", "0", "1"]) == 0
    assert "mine, DiffFit: passes" in capsys.readouterr().out
    assert len((tmp_path / "gate.csv").read_text().splitlines()) == 7


def test_gpu_recipe_runs_through_and_goes_on_where_it_stopped(small_images: Path, tmp_path: Path) -> None:
    main = runpy.run_path(str(ROOT / "scripts" / "gpu_base.py"))["main"]
    packed, out = str(tmp_path / "packed"), str(tmp_path / "out")
    vgg = make_vgg(tmp_path, seed=0)
    tensors = torch.load(vgg, weights_only=True)
    tensors |= {"10.weight": torch.randn(256, 128, 3, 3) / 30, "10.bias": torch.zeros(256)}
    torch.save(tensors | {"12.weight": torch.randn(256, 256, 3, 3) / 40, "12.bias": torch.zeros(256)}, vgg)
    source = str(small_images)
    assert main([
        "pack", "--output_dir", packed, "--dataset_dir", source, "--extra_dir", source, "--perceptual_path", vgg,
        "--size", "128",
    ]) == 0  # fmt: skip
    assert {file.suffix for file in (tmp_path / "packed").rglob("*") if file.is_file()} == {".jpg", ".csv", ".pth"}
    training = ["train", "--data_dir", packed, "--output_dir", out, "--tiny"]
    assert main([*training, "--minutes", "0.34"]) == 3  # over at once
    assert main([*training, "--minutes", "9"]) == 0
    assert {file.name for file in Path(out).glob("*.safetensors")} == {
        "autoencoder.safetensors", "decoder.safetensors", "dit.safetensors",
    }  # fmt: skip
    assert load_base(f"{out}/dit.safetensors").classes == ["common", "rare"]


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
