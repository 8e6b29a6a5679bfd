"""The record of a long training, and the command that starts and continues it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

import train_base
from anatodiff.engines import TrainingRecord
from anatodiff.engines.checkpoint_files import CheckpointError
from anatodiff.engines.training_record import BEST_NAME, RECORD_NAME, RECORD_NOTE, read_record


class Weights:
    """Stands for what writes the base: keeps the notes of each file."""

    def __init__(self) -> None:
        self.written: list[dict] = []

    def write(self, path: Path, notes: dict) -> str:
        path.write_text("weights")
        self.written.append(notes)
        return "hash"


def run(
    folder: Path, losses: list[float], start: object = None, first_epoch: int = 0, batch_size: int = 8
) -> tuple[list[dict], Weights]:
    """Run epochs of two steps with these validation losses; returns the rows and the weights that were written."""
    validator, weights = Engine(lambda engine, batch: None), Weights()
    record = TrainingRecord(folder, validator, weights, batch_size, start=start)  # type: ignore[arg-type]
    trainer = Engine(lambda engine, batch: {"loss": torch.tensor(0.5)})
    values = iter(losses)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        validator.state.metrics = {"validation_loss": next(values)}

    @trainer.on(Events.STARTED)
    def resume(engine: Engine) -> None:
        engine.state.epoch, engine.state.iteration = first_epoch, 2 * first_epoch

    record.attach(trainer)  # type: ignore[arg-type]
    trainer.run([0, 1], max_epochs=first_epoch + len(losses))
    return read_record(folder / RECORD_NAME), weights


def test_images_and_hours_add_up_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    rows, weights = run(tmp_path, [0.9, 0.7, 0.8])
    assert [row["images"] for row in rows] == [16, 32, 48]
    assert [row["validation_loss"] for row in rows] == [0.9, 0.7, 0.8]
    hours = [row["core_hours"] for row in rows]
    assert hours == sorted(hours)
    assert len(weights.written) == 2  # not after the third epoch
    assert weights.written[-1][RECORD_NOTE] == rows[:2]
    assert (tmp_path / BEST_NAME).is_file()


def test_a_resumed_run_drops_the_rows_after_its_checkpoint_and_counts_on(tmp_path: Path) -> None:
    run(tmp_path, [0.9, 0.7, 0.6])
    rows, weights = run(tmp_path, [0.8, 0.65], first_epoch=2)  # killed after two epochs' checkpoint
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert [row["images"] for row in rows] == [16, 32, 48, 64]
    assert len(weights.written) == 1  # 0.8 is no better than 0.7


def test_a_training_that_has_lost_its_state_goes_on_from_the_record_in_the_weights(tmp_path: Path) -> None:
    earlier, _ = run(tmp_path / "first", [0.9, 0.7])
    start = SimpleNamespace(sha256="f" * 64, notes={RECORD_NOTE: earlier})
    rows, _ = run(tmp_path / "second", [0.75], start=start)
    assert [row["images"] for row in rows] == [16, 32, 48]
    assert rows[0]["of_start"] == "f" * 64
    assert rows[2]["core_hours"] >= rows[1]["core_hours"]


def test_a_record_of_another_format_names_the_way_on(tmp_path: Path) -> None:
    (tmp_path / RECORD_NAME).write_text(json.dumps({"format": 0, "step": 1}) + "\n")
    with pytest.raises(CheckpointError, match=r"record\.jsonl: of format 0.*start_path in another output_dir"):
        run(tmp_path, [0.5])


def test_the_command_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = train_base.main(["--data_dir", str(tmp_path), "--state_dir", str(tmp_path / "state")])
    assert code == 2
    assert "labels.csv; make it by scripts/base_data.py" in capsys.readouterr().err.splitlines()[-1]


def test_a_continued_training_names_the_same_start(tmp_path: Path, small_weights: dict[str, str]) -> None:
    weights = Path(small_weights["base_path"])
    first = train_base.start_of(tmp_path / "state", weights)
    assert first == ["--start_path", str(weights.resolve())]
    assert train_base.start_of(tmp_path / "state", None) == first
