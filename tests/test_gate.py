"""The protocol that judges a base and the modes of fine-tuning."""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT, SMALL

from anatodiff.networks import load_base

GATE = runpy.run_path(str(ROOT / "scripts" / "gate.py"))
REFERENCES = ["random weights, DiffFit", "from scratch, all weights"]


def rows(**arms: list[float]) -> list[dict[str, Any]]:
    return [
        {"arm": name, "seed": seed, "kid": value, "kid_real": 0.01}
        for name, values in arms.items() for seed, value in enumerate(values)
    ]  # fmt: skip


def test_base_passes_only_outside_the_interval_of_the_pairs() -> None:
    far = {REFERENCES[0]: [0.9, 0.8, 1.0], REFERENCES[1]: [0.8, 0.7, 0.9]}
    assert GATE["passes"](rows(**far, base=[0.3, 0.2, 0.4]), "base", REFERENCES)  # noisy, but paired: always 0.5 less
    assert not GATE["passes"](rows(**far, base=[0.3, 0.9, 0.5]), "base", REFERENCES)
    assert not GATE["passes"](rows(**far, base=[0.85, 0.75, 0.95]), "base", REFERENCES)  # beats only one
    table = GATE["table"](rows(base=[0.3, 0.2, 0.4], **far), REFERENCES)
    assert "| base | 300 ± 248 | -600 ± 0 | -500 ± 0 |" in table
    assert "| real images in their place | 10 |" in table
    assert "| base | 300 | -600 |" in GATE["table"](rows(base=[0.3], **{REFERENCES[0]: [0.9]}), REFERENCES)


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


def finished(folder: Path, kid: float) -> None:
    """Leave what a measured run leaves."""
    folder.mkdir(parents=True)
    metrics = {"kid": {"value": kid, "stderr": 0.01, "real": 0.02}, "copy_rate": {"value": 0.0, "real": None}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "privacy.json").write_text(json.dumps({"clean": True}))


def test_gate_makes_a_finished_run_not_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """With the results of all runs in place the program only reads them, those of the test part, too."""
    arms = {"mine, DiffFit": 0.2, REFERENCES[0]: 0.9, REFERENCES[1]: 0.8}
    for arm, value in arms.items():
        for seed in (0, 1):
            finished(tmp_path / arm / f"seed{seed}", value + 0.01 * seed)
            finished(tmp_path / arm / f"seed{seed}" / "final", value + 0.1 + 0.01 * seed)
            (tmp_path / arm / f"seed{seed}" / "log.txt").write_text("epoch 2: validation loss 0.2500\n")
    arguments = ["--dataset_dir", "/nowhere", "--output_dir", str(tmp_path), "--base", "mine=/nowhere/base.safetensors"]
    assert GATE["main"]([*arguments, "--seeds", "0", "1"]) == 0
    told = capsys.readouterr().out
    assert "mine, DiffFit: passes" in told and "test part" not in told and "0.2500" in told
    assert len((tmp_path / "validation.csv").read_text().splitlines()) == 7
    assert not (tmp_path / "final.csv").exists()
    assert GATE["main"]([*arguments, "--seeds", "0", "1", "--final", "/nowhere", "--minutes", "9"]) == 0
    assert "| mine, DiffFit | 305" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        GATE["main"]([*arguments, "--arms", "DiffBit"])
    assert "no arm 'DiffBit'" in capsys.readouterr().err


def test_every_arm_of_the_gate_has_options_that_training_knows() -> None:
    known = json.loads((ROOT / "configs" / "train.json").read_text()).keys() | {"random_base"}
    protocol = GATE["read_protocol"](ROOT / "configs" / "gate.json")
    for name, own in {**protocol.arms, "training": protocol.training}.items():
        assert own.keys() <= known, name
    assert set(REFERENCES) <= set(protocol.arms)


def test_gate_trains_for_minutes_and_measures_both_parts(
    small_images: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    """On the parts of a folder: the same samples and training images, two sets of reference images."""
    split = runpy.run_path(str(ROOT / "scripts" / "split_folder.py"))["main"]
    parts = ["--dataset_dir", str(small_images), "--output_dir", str(tmp_path), "--parts", "test=8", "pool=rest"]
    assert split(parts) == 0
    training = {**SMALL["train"], "autoencoder_path": small_weights["autoencoder_path"], "n_prototypes": 0}
    own = tmp_path / "protocol.json"
    arms: dict[str, dict[str, Any]] = {"DiffFit": {}, REFERENCES[0]: {"random_base": "shaken"}}
    study = {"seeds": [1], "training": {**training, "max_train_images": 10}, "evaluation": {"nearest_k": 1}}
    own.write_text(json.dumps({**study, "arms": arms}))
    out = tmp_path / "out"
    arguments = ["--dataset_dir", str(tmp_path / "pool"), "--output_dir", str(out), "--protocol", str(own)]
    arguments += ["--cache_dir", str(tmp_path / "cache"), "--base", f"small={small_weights['base_path']}"]
    assert GATE["main"]([*arguments, "--arms", "all", "--minutes", "0.002", "--final", str(tmp_path / "test")]) == 0
    assert set(json.loads((out / "steps.json").read_text())) == {"small, DiffFit", REFERENCES[0]}
    for part in ("validation", "final"):
        with open(out / f"{part}.csv", newline="") as file:
            assert len({row["kid"] for row in csv.DictReader(file)}) == 2
    run = out / "small, DiffFit" / "seed1"
    records = [json.loads((folder / "evaluation.json").read_text()) for folder in (run, run / "final")]
    images = [record["settings"]["images_sha256"] for record in records]
    assert images[0]["samples"] == images[1]["samples"] and images[0]["training"] == images[1]["training"]
    assert images[0]["reference"] != images[1]["reference"]
    assert records[0]["settings"]["training_images"]["of"] <= 10
