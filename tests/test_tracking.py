"""`--tracking mlflow`: what stands in MLflow after a run, and what a run does where MLflow fails."""

from __future__ import annotations

import csv
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from support import run_bundle

from anatodiff.engines import tracking
from anatodiff.engines.tracking import TrackingError

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed; it is in the extra `tracking`")
FEW = {"topology_weight": 0.0, "n_prototypes": 0}


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def runs_of(folder: Path) -> tuple[Any, list[Any]]:
    """Read the database of a run's folder by MLflow's own client."""
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlruns.db'}")
    return client, client.search_runs([client.get_experiment_by_name("AnatoDiff").experiment_id])


def test_a_training_in_mlflow(run: Run) -> None:
    folder = run("train", tracking="mlflow", **FEW)
    client, (found,) = runs_of(folder)
    assert found.info.status == "FINISHED"
    rows = list(csv.DictReader((folder / "losses.csv").open()))
    for name in ("loss", "mse", "variance"):
        history = client.get_metric_history(found.info.run_id, name)
        assert [(m.step, m.value) for m in history] == [(int(row["step"]), float(row[name])) for row in rows]
    assert [m.step for m in client.get_metric_history(found.info.run_id, "validation_loss")] == [1, 2]
    quality = json.loads((folder / "quality.json").read_text())["kernel_distance"]
    assert {name: found.data.metrics[f"kernel_distance_{name}"] for name in quality} == {
        name: value["value"] for name, value in quality.items()
    }
    assert found.data.params["learning_rate"] == "0.05"
    options = set(found.data.params)
    assert not {name for name in options if name.endswith(("_dir", "_path", "_uri")) or name == "bundle_root"}
    assert str(folder.parent) not in json.dumps(found.data.params)
    assert not client.list_artifacts(found.info.run_id)
    assert not list(folder.glob("config_*"))  # MONAI's own tracking writes one, with all places in it


@pytest.mark.parametrize("name", ["pretrain", "train_autoencoder"])
def test_the_other_trainings_in_mlflow(name: str, run: Run) -> None:
    client, (found,) = runs_of(run(name, tracking="mlflow"))
    assert [m.step for m in client.get_metric_history(found.info.run_id, "loss")] == [1, 2, 3, 4]
    assert "validation_loss" in found.data.metrics


def test_a_run_goes_on_in_its_own_mlflow_run(run: Run) -> None:
    folder = run("train", tracking="mlflow", max_epochs=1, **FEW)
    client, (first,) = runs_of(folder)
    stranger = client.create_run(first.info.experiment_id)  # unfinished, and none of ours
    run("train", tracking="mlflow", max_epochs=2, **FEW)
    client, found = runs_of(folder)
    assert {one.info.run_id for one in found} == {first.info.run_id, stranger.info.run_id}
    assert [m.step for m in client.get_metric_history(first.info.run_id, "loss")] == [1, 2, 3, 4]
    assert not client.get_run(stranger.info.run_id).data.metrics
    (folder / "mlflow_run.json").write_text(json.dumps({"run_id": "0" * 32}))  # of another server
    run("train", tracking="mlflow", max_epochs=3, **FEW)
    client, found = runs_of(folder)
    (anew,) = {one.info.run_id for one in found} - {first.info.run_id, stranger.info.run_id}
    assert [m.step for m in client.get_metric_history(anew, "loss")] == [5, 6]


def test_a_server_that_fails_in_mid_training_ends_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def fail(self: object, engine: Any) -> None:
        calls.append(engine.state.iteration)
        raise OSError("the server went away")

    monkeypatch.setattr(tracking.MLFlowHandler, "iteration_completed", fail)
    said: list[str] = []
    monkeypatch.setattr(logging.getLogger(tracking.__name__), "warning", lambda text, *words: said.append(text % words))
    folder = run("train", tracking="mlflow", **FEW)
    assert calls == [1]
    (line,) = said
    assert "the server went away" in line and "the training goes on" in line
    assert (folder / "adapter.safetensors").is_file()


def test_a_server_that_is_not_there_is_an_error_before_anything_is_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrackingError, match=r"MLflow cannot be reached.*give another tracking_uri"):
        run("train", tracking="mlflow", tracking_uri=f"sqlite:///{tmp_path}/file/t.db", **FEW)
    assert not (tmp_path / "out" / "datalist.json").exists()


def test_mlflow_not_installed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(TrackingError, match=r"pip install 'anatodiff\[tracking\]'"):
        run("train", tracking="mlflow", **FEW)


def test_nothing_is_tracked_unasked(run: Run) -> None:
    folder = run("train", **FEW)
    assert not [path for path in folder.iterdir() if "ml" in path.name]


def test_the_option_on_the_command_line(small_images: Path, small_weights: dict[str, str], tmp_path: Path) -> None:
    options = {"dataset_dir": small_images, "cache_dir": tmp_path / "cache", "output_dir": tmp_path / "out"}
    options |= {"tracking_uri": f"sqlite:///{tmp_path}/file/t.db", **small_weights}
    (tmp_path / "file").touch()
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    done = run_bundle("train.json", "--tracking", "mlflow", *words)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("TrackingError: MLflow cannot be reached")
