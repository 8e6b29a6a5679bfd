"""Studies: what is planned, run, counted and laid out."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from support import ROOT, SMALL

from anatodiff.engines import protocol as study
from anatodiff.metrics import paired_difference, student_interval

ABLATION = runpy.run_path(str(ROOT / "scripts" / "ablation.py"))
SHIPPED = ROOT / "configs" / "protocol.json"


def test_interval_is_students() -> None:
    values = np.array([0.3, 0.4, 0.35])
    mean, half = student_interval(values)
    np.testing.assert_allclose([mean - half, mean + half], stats.t.interval(0.95, 2, values.mean(), stats.sem(values)))
    assert student_interval([0.2]).half == float("inf")
    assert not student_interval([0.2]).excludes_zero


def test_pairs_drop_what_a_seed_does_to_both() -> None:
    reference = {0: 1.0, 1: 5.0, 2: 9.0, 7: 100.0}
    found = paired_difference({0: 0.9, 1: 4.88, 2: 8.9}, reference)
    assert found.mean == pytest.approx(-0.32 / 3)
    assert found.excludes_zero
    assert not student_interval([0.9, 4.88, 8.9]).excludes_zero
    with pytest.raises(ValueError, match="none in common"):
        paired_difference({3: 1.0}, reference)


def test_shipped_protocol_plans_pairs_of_one_split() -> None:
    protocol = study.read_protocol(SHIPPED)
    arms = protocol.tables["modules"].arms
    trials = study.plan(protocol, arms, "out", {"dataset_dir": "/data"})
    assert [trial.seed for trial in trials] == sorted(len(arms) * protocol.seeds)  # a seed whole before the next
    by_arm = {trial.arm: trial.training for trial in trials if trial.seed == 1}
    assert {training["split_seed"] for training in by_arm.values()} == {1}
    assert by_arm["DiffFit"]["seed"] == 1
    assert by_arm["DiffFit, other chances"]["seed"] == 1001
    assert by_arm["+ AF"].get("topology_weight") is None  # train.json's own
    assert by_arm["full fine-tuning"]["finetuning"] == "full"
    assert all(trial.evaluation["test_fraction"] == protocol.training["test_fraction"] for trial in trials)


def test_every_arm_of_the_shipped_protocol_has_options_that_training_knows() -> None:
    known = json.loads((ROOT / "configs" / "train.json").read_text()).keys() | {"seed_offset"}
    protocol = study.read_protocol(SHIPPED)
    for name, own in {**protocol.arms, "training": protocol.training}.items():
        assert own.keys() <= known, name
    named = {arm for table in protocol.tables.values() for arm in table.arms}
    assert named | {"+ SPM"} == protocol.arms.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tables": {"x": {"title": "", "reference": "a", "arms": ["a", "b"]}}}, r"table x names \['b'\]"),
        ({"tables": {"x": {"title": "", "reference": "a", "arms": []}}}, "table x names a"),
        ({"rounds": 3}, "rounds"),
        ({"seeds": None}, None),
    ],
)
def test_what_is_wrong_with_a_protocol_is_said(tmp_path: Path, change: dict, message: str | None) -> None:
    content: dict[str, Any] = {"seeds": [0], "training": {}, "evaluation": {}, "arms": {"a": {}}, **change}
    if message is None:
        del content["seeds"]
    path = tmp_path / "protocol.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message or "seeds"):
        study.read_protocol(path)


def finished(folder: Path, kid: float, copies: float = 0.0) -> None:
    folder.mkdir(parents=True)
    measures = {
        "kid": {"value": kid, "stderr": 0.1, "real": -0.001},
        "copy_rate": {"value": copies, "stderr": 0.0, "real": 0.0},
    }
    (folder / "metrics.json").write_text(json.dumps(measures))
    (folder / "privacy.json").write_text(json.dumps({"clean": copies == 0}))


def test_finished_runs_are_only_read_and_laid_out_in_pairs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    own = tmp_path / "protocol.json"
    arms = {"DiffFit": {}, "DiffFit, other chances": {"seed_offset": 9}, "+ AF": {}}
    table = {"title": "Table", "reference": "DiffFit", "arms": list(arms)}
    own.write_text(
        json.dumps({"seeds": [0, 1, 2], "training": {}, "evaluation": {}, "arms": arms, "tables": {"t": table}})
    )
    for seed, level in enumerate((0.5, 0.7, 0.9)):
        for arm, step, wobble in (("DiffFit", 0, 0), ("DiffFit, other chances", 0, 0.01), ("+ AF", -0.1, 0.001)):
            finished(tmp_path / "study" / arm / f"seed{seed}", level + step + wobble * (-1) ** seed)
    arguments = ["--dataset_dir", "/nowhere", "--output_dir", str(tmp_path / "study"), "--protocol", str(own)]
    assert ABLATION["main"]([*arguments, "--tables", "t"]) == 0
    shown = capsys.readouterr().out
    assert "| DiffFit (3) | 700 ± 200 |" in shown
    assert "| + AF | **-100 ± 3** |" in shown
    assert "Smallest differences that 3 seeds could show: KD x 1000 29" in shown
    assert (tmp_path / "study" / "tables.md").read_text().strip() == shown.strip()
    rows = (tmp_path / "study" / "runs.csv").read_text().splitlines()
    assert rows[0].startswith("arm,seed,kid,copy_rate,kid_real")
    assert len(rows) == 1 + 9
    assert ABLATION["main"]([*arguments, "--tables", "t", "--seeds", "1"]) == 0  # fewer runs take none away
    assert len((tmp_path / "study" / "runs.csv").read_text().splitlines()) == 1 + 9
    with pytest.raises(SystemExit):
        ABLATION["main"]([*arguments, "--tables", "other"])


def test_a_failed_run_is_named_and_the_others_go_on(
    tmp_path: Path, small_weights: dict[str, str], small_images: Path, capsys: pytest.CaptureFixture
) -> None:
    """Two real arms, one of them impossible; the second time only that one is tried again."""
    training = {**SMALL["train"], **small_weights}
    arms: dict[str, dict[str, Any]] = {"good": {}, "impossible": {"spm_blocks": 99}}
    own = tmp_path / "protocol.json"
    own.write_text(
        json.dumps(
            {
                "seeds": [0], "training": training, "evaluation": {"nearest_k": 1}, "arms": arms,
                "tables": {"t": {"title": "T", "reference": "good", "arms": list(arms)}},
            }
        )
    )  # fmt: skip
    arguments = ["--dataset_dir", str(small_images), "--output_dir", str(tmp_path / "study"), "--protocol", str(own)]
    arguments += ["--cache_dir", str(tmp_path / "cache"), "--tables", "t", "--jobs", "2"]
    assert ABLATION["main"](arguments) == 1
    printed = capsys.readouterr()
    assert "1 of 2 runs failed" in printed.err
    assert "spm_blocks" in printed.err
    assert "| good (1) |" in printed.out
    assert Image.open(tmp_path / "study" / "t.png").width > 100
    assert not (tmp_path / "study" / "good" / "seed0" / "quality.json").exists()  # the evaluation measures
    finished_at = (tmp_path / "study" / "good" / "seed0" / "metrics.json").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "study" / "impossible")
    assert ABLATION["main"](arguments) == 1
    assert (tmp_path / "study" / "good" / "seed0" / "metrics.json").stat().st_mtime_ns == finished_at
