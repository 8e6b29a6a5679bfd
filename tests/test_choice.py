"""The choice among the adapters of a run: by quality, and never one that makes copies."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT, SIZE, make_features, smooth_pictures, write_pictures

from anatodiff.engines.checkpoints import KeepAdapters
from anatodiff.engines.choice import Candidate, Judged, Measuring, best, candidates, judge, table, write_choice
from anatodiff.weights import load_weights

Run = Callable[..., Path]
ONE = Judged(100, "checkpoints/step_000100.safetensors", "", 0.3, 0.02, 0.0, 0.0, 0.1, 0.6, True, "no copies")


def test_the_lowest_distance_among_the_clean_is_chosen() -> None:
    copies = replace(ONE, step=300, kid=0.1, clean=False, verdict="COPIES")
    better, worse = replace(ONE, step=200, kid=0.2), replace(ONE, step=400, kid=0.4)
    assert best([ONE, better, copies, worse]) == better
    assert best([ONE, replace(ONE, step=200)]) == ONE
    assert best([copies]) is None
    assert best([]) is None


def test_table_and_file_show_all(tmp_path: Path) -> None:
    rows = [ONE, replace(ONE, step=None, copies=0.5, clean=False, verdict="COPIES: many")]
    lines = table(rows).splitlines()
    assert lines[2] == "| 100 | 300.0 ± 20.0 | 0.0 (0.0 to 10.0) | 0.60 | no copies |"
    assert lines[3].startswith("| final | 300.0 ± 20.0 | 50.0 (")
    write_choice(tmp_path / "choice.json", rows)
    record = json.loads((tmp_path / "choice.json").read_text())
    assert record["chosen"]["step"] == 100
    assert [row["clean"] for row in record["candidates"]] == [True, False]
    write_choice(tmp_path / "choice.json", rows[1:])
    assert json.loads((tmp_path / "choice.json").read_text())["chosen"] is None


def test_a_final_adapter_that_was_kept_is_listed_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finished training"):
        candidates(tmp_path, tmp_path / "choice")
    (tmp_path / "checkpoints").mkdir()
    for step in (50, 100, 150):
        (tmp_path / "checkpoints" / f"step_{step:06d}.safetensors").write_text(str(step))
    (tmp_path / "adapter.safetensors").write_text("150")
    (tmp_path / "losses.csv").write_text("step,loss\n149,1\n150,1\n")
    found = candidates(tmp_path, tmp_path / "choice")
    assert [(one.step, one.adapter.name, one.folder.name) for one in found] == [
        (50, "step_000050.safetensors", "step_000050"),
        (100, "step_000100.safetensors", "step_000100"),
        (150, "adapter.safetensors", "final"),
    ]


class Runner:
    """Stands in for the workflows: writes what they leave, and counts."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.broken = ""

    def __call__(self, config: Path, run_id: str, options: dict[str, Any], log: Path) -> None:
        self.ran.append(config.name)
        if config.name == self.broken:
            raise RuntimeError(f"{config.name} failed")
        if config.name == "inference.json":
            folder = Path(options["dataset_dir"])
            folder.mkdir(parents=True)
            (folder / "contact_sheet.png").touch()
            return
        folder = Path(options["run_dir"])
        measure = {"value": 0.25, "stderr": 0.01}
        (folder / "metrics.json").write_text(json.dumps({"kid": measure, "model_membership_auc": measure}))
        copies = {"value": 0.0, "low": 0.0, "high": 0.1}
        (folder / "privacy.json").write_text(json.dumps({"copies": copies, "clean": True, "verdict": "no copies"}))


def test_what_is_done_is_not_made_again_unless_something_changed(tmp_path: Path) -> None:
    (tmp_path / "adapter.safetensors").write_text("weights")
    (tmp_path / "datalist.json").write_text("{}")
    runner, both = Runner(), ["inference.json", "evaluate.json"]
    one = Candidate(7, tmp_path / "adapter.safetensors", tmp_path / "choice" / "final")
    how = Measuring(ROOT / "configs", {"seed": 1}, {"image_size": SIZE}, runner)
    runner.broken = "evaluate.json"
    with pytest.raises(RuntimeError):
        judge(one, tmp_path, how)
    runner.broken = ""
    first = judge(one, tmp_path, how)
    assert runner.ran == [*both, "evaluate.json"]  # the samples were there
    assert (first.step, first.adapter, first.kid, first.clean) == (7, "adapter.safetensors", 0.25, True)
    assert (one.folder / "datalist.json").is_file()  # by which the evaluation finds a wrong split
    assert judge(one, tmp_path, how) == first
    assert len(runner.ran) == 3
    judge(one, tmp_path, replace(how, inference={"seed": 2}))
    assert runner.ran[3:] == both
    one.adapter.write_text("other weights")
    judge(one, tmp_path, replace(how, inference={"seed": 2}))
    assert runner.ran[5:] == both


def test_keep_every_must_fit_accumulated_batches() -> None:
    for every in (0, 3):
        with pytest.raises(
            ValueError, match=f"keep_every must be null or a multiple of accumulation_steps 2, got {every}"
        ):
            KeepAdapters(None, every, 2)  # type: ignore[arg-type]


def test_the_program_chooses_among_the_steps_of_a_run(
    run: Run, small_weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pictures = write_pictures(tmp_path / "pictures", smooth_pictures(14, 0))
    out = run("train", dataset_dir=pictures, keep_every=2, test_fraction=0.4, measured=[], preview_images=0)
    kept = sorted((out / "checkpoints").iterdir())
    assert [file.name for file in kept] == ["step_000002.safetensors", "step_000004.safetensors"]
    assert kept[1].read_bytes() == (out / "adapter.safetensors").read_bytes() != kept[0].read_bytes()
    adapters = [load_weights(path, "adapter") for path in kept]
    assert adapters[0].settings == adapters[1].settings
    assert not torch.equal(*(adapter.tensors["y_embedder.embedding_table.weight"] for adapter in adapters))
    program = runpy.run_path(str(ROOT / "scripts" / "choose_checkpoint.py"))["main"]
    weights = [part for name, path in small_weights.items() for part in (f"--{name}", path)]
    command = [
        "--run_dir", str(out), "--dataset_dir", pictures, "--cache_dir", str(tmp_path / "cache"), *weights,
        "--samples_per_class", "5", "--inference", "sampling_steps=2", "--evaluation", f"image_size={SIZE}",
        "test_fraction=0.4", "nearest_k=3", f"feature_network={make_features(tmp_path, 0)}", "feature_channels=3",
    ]  # fmt: skip
    capsys.readouterr()  # of the training
    code = program(command)
    record = json.loads((out / "choice" / "choice.json").read_text())
    assert [row["step"] for row in record["candidates"]] == [2, 4]
    assert code == (0 if any(row["clean"] for row in record["candidates"]) else 1)
    assert capsys.readouterr().out.startswith("| step |")
    for clean, chosen in ((True, min(record["candidates"], key=lambda row: row["kid"])["step"]), (False, None)):
        for folder in ("step_000002", "final"):  # finished, so only read
            path = out / "choice" / folder / "privacy.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "clean": clean}))
        assert program(command) == (0 if clean else 1)
        assert ("none is clean" in capsys.readouterr().out) == (not clean)
        again = json.loads((out / "choice" / "choice.json").read_text())["chosen"]
        assert (again and again["step"]) == chosen
