"""`--tracking mlflow`: losses, validation, options and the result in MLflow, by MONAI's handler.

MONAI takes this option itself and adds handlers to the config. Its own would send the whole config, with the folders of
the images in it, would go on with any unfinished run that it finds, and would end a training when its server does. So
the configs switch those off (`is_not_rank0`), and these stand in for them.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.engines.workflow import Workflow
from monai.handlers import MLFlowHandler
from monai.utils import CommonKeys, path_to_uri

from anatodiff.engines.finish import QUALITY_NAME
from anatodiff.engines.handlers import HasParts
from anatodiff.engines.workflow import running_config, running_options
from anatodiff.files import replaced_when_whole
from anatodiff.parallel import is_main

logger = logging.getLogger(__name__)

DATABASE = "mlruns.db"
RUN_NAME = "mlflow_run.json"
UNKNOWN = "RESOURCE_DOES_NOT_EXIST"  # MLflow's code for a run that it does not have
# A server that does not answer would hold up each step for minutes by MLflow's own settings.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class TrackingError(RuntimeError):
    """The tracking cannot begin; the message says why and what to do."""


class RunTracker:
    """Keep a training's numbers in MLflow, if it was started with `--tracking mlflow`; else do nothing.

    No place, no name of an image and no image is sent. The main process of several does it. A run that goes on from its
    checkpoint goes on in the same run of MLflow.

    Args:
        output_dir: the run's folder.
        loss: the loss, for its terms.
        tracking_uri: of MLflow; None: what MLFLOW_TRACKING_URI says, else a database in the run's folder.
        experiment_name: the experiment that the run belongs to.
        run_name: what to call the run; None leaves it to MLflow.
    """

    def __init__(
        self,
        output_dir: str | Path,
        loss: HasParts,
        tracking_uri: str | None = None,
        experiment_name: str = "AnatoDiff",
        run_name: str | None = None,
    ) -> None:
        self.output_dir, self.loss = Path(output_dir), loss
        self.tracking_uri, self.experiment_name, self.run_name = tracking_uri, experiment_name, run_name
        self.is_asked = is_main() and is_tracked(running_config())
        self.handler: MLFlowHandler | None = None
        self.is_new = False

    def start(self) -> None:
        """Open the run, before anything that takes long.

        Raises:
            TrackingError: MLflow is not installed, or its server cannot be reached.
        """
        if not self.is_asked:
            return
        if find_spec("mlflow") is None:
            raise TrackingError(
                "--tracking mlflow needs MLflow, which is not installed: pip install 'anatodiff[tracking]'"
            )
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they tell each table that they make
        try:
            self.handler = MLFlowHandler(
                tracking_uri=self.tracking_uri or f"sqlite:///{(self.output_dir / DATABASE).resolve().as_posix()}",
                experiment_name=self.experiment_name,
                output_transform=self._terms,
            )
            self._open_run(self.handler)
        except Exception as error:  # of MLflow, its database or the network
            raise TrackingError(
                f"MLflow cannot be reached ({' '.join(str(error).split())}); start its server, give another "
                "tracking_uri, or leave --tracking out"
            ) from error

    def _open_run(self, handler: MLFlowHandler) -> None:
        client, record = handler.client, self.output_dir / RUN_NAME
        if record.is_file():
            run_id = json.loads(record.read_text())["run_id"]
            try:
                client.update_run(run_id, status="RUNNING")
                handler.cur_run = client.get_run(run_id)
                return
            except Exception as error:  # MLflow's own class cannot be imported where it is not installed
                if getattr(error, "error_code", None) != UNKNOWN:
                    raise
            logger.warning("%s: MLflow does not know this run; a new one begins", record)
        experiment = client.get_experiment_by_name(self.experiment_name)
        # Nothing is stored there, but MLflow wants to know; without it it would be the current folder.
        place = path_to_uri(self.output_dir / "mlruns") if client.tracking_uri.startswith("sqlite:") else None
        number = experiment.experiment_id if experiment else client.create_experiment(self.experiment_name, place)
        run = client.create_run(number, run_name=self.run_name)
        with replaced_when_whole(record) as temporary:
            temporary.write_text(json.dumps({"run_id": run.info.run_id}))
        handler.cur_run, self.is_new = run, True

    def log_options(self, engine: Workflow) -> None:
        """Send the options of a new run; later than its start, when all of them have been read."""
        if self.handler is not None and self.is_new:
            self._send(self._log_options)

    def _log_options(self) -> None:
        for name, value in (running_options() or {}).items():
            self._client_of_run("log_param", name, value)

    def log_step(self, engine: Workflow) -> None:
        """Send the loss, its terms and the learning rate of a step."""
        if self.handler is not None:
            self._send(self.handler.iteration_completed, engine)

    def log_validation(self, engine: Workflow) -> None:
        """Send what was validated after an epoch."""
        if self.handler is not None:
            self._send(self.handler.epoch_completed, engine)

    def finish(self) -> None:
        """Send how far the samples are from real images, and close the run."""
        if self.handler is None:
            return
        path = self.output_dir / QUALITY_NAME
        if path.is_file():
            for name, found in json.loads(path.read_text())["kernel_distance"].items():
                self._send(self._client_of_run, "log_metric", f"kernel_distance_{name}", found["value"])
        if self.handler is not None:
            self._send(self.handler.close)

    def _client_of_run(self, method: str, name: str, value: Any) -> None:
        if self.handler is not None and self.handler.cur_run is not None:
            getattr(self.handler.client, method)(self.handler.cur_run.info.run_id, name, value)

    def _terms(self, output: dict[str, Any]) -> dict[str, float]:
        return {"loss": float(output[CommonKeys.LOSS].detach()), **self.loss.parts}

    def _send(self, send: Callable[..., Any], *arguments: Any) -> None:
        try:
            send(*arguments)
        except Exception as error:  # whatever it is, the training is worth more
            self.handler = None
            logger.warning("MLflow failed (%s): nothing more is tracked, the training goes on", error)


class Tracked:
    """Tie a tracker to an engine: each step of a trainer, each epoch of an evaluator.

    Args:
        tracker: sends the numbers.
    """

    def __init__(self, tracker: RunTracker) -> None:
        self.tracker = tracker

    def attach(self, engine: Workflow) -> None:
        """Hook into a trainer or an evaluator."""
        if not self.tracker.is_asked:
            return
        if isinstance(engine, SupervisedTrainer):
            engine.add_event_handler(Events.STARTED, self.tracker.log_options)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.tracker.log_step)
        else:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.tracker.log_validation)


def is_tracked(config: dict[str, Any] | None) -> bool:
    """Tell whether MONAI has put its own handler into the config, as it does for `--tracking mlflow`.

    Args:
        config: raw config, or None where none is running.
    """
    handlers = (config or {}).get("train", {}).get("handlers", [])
    ours = {"_target_": "MLFlowHandler", "_disabled_": "@is_not_rank0"}
    return any(ours.items() <= handler.items() for handler in handlers)
