"""Checkpoints that survive a kill, resume without being asked, and a clean end on SIGTERM."""

from __future__ import annotations

import logging
import pickle
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from monai.engines.workflow import Workflow
from torch import nn

from anatodiff.engines.batches import StepBatches
from anatodiff.files import replaced_when_whole
from anatodiff.networks import trained_names
from anatodiff.parallel import any_process, is_main

logger = logging.getLogger(__name__)


class HasState(Protocol):
    """What is trained beside the network and must go on with it."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and numbers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        ...


class WritesAdapter(Protocol):
    """What can write the adapter of the moving average at any step."""

    output_dir: Path

    def write_adapter(self, path: Path) -> str:
        """Write it to a .safetensors file; returns its hash."""
        ...


FILE_NAME = "checkpoint.pt"
KEPT_FOLDER = "checkpoints"


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file and the cure."""


class Checkpoints:
    """Save what a run has learned, and go on from there when it is started again.

    Nothing but tensors and numbers is kept: trained parameters, their moving average, the optimiser and the step.
    Draws are functions of the step, so there is no generator state. Each file is written beside the old one and
    takes its place only when whole.

    Args:
        directory: the run's folder.
        network: network in training.
        ema: moving average of its parameters.
        optimizer: optimiser.
        batches: batches, told where to go on.
        settings: what must be the same when the run goes on, JSON-able; another value is refused.
        every: batches between two checkpoints.
        accumulation_steps: batches per optimiser step; between two of them there is nothing that can be resumed.
        beside: what else is trained, such as a critic; None is nothing.
    """

    def __init__(
        self,
        directory: str | Path,
        network: nn.Module,
        ema: EMAHandler,
        optimizer: torch.optim.Optimizer,
        batches: StepBatches,
        settings: dict[str, Any],
        every: int,
        accumulation_steps: int = 1,
        beside: HasState | None = None,
    ) -> None:
        if every < 1 or every % accumulation_steps:
            raise ValueError(
                f"checkpoint_every must be a positive multiple of accumulation_steps {accumulation_steps}, got {every}"
            )
        self.accumulation_steps, self.beside = accumulation_steps, beside
        self.path = Path(directory) / FILE_NAME
        self.network, self.ema, self.optimizer, self.batches = network, ema, optimizer, batches
        self.settings, self.every = settings, every
        self.stop_asked = False
        self.previous_handler: Any = None

    def attach(self, engine: Workflow) -> None:
        """Hook into a trainer; attach after the moving average, so that it is saved as of the same step."""
        engine.add_event_handler(Events.STARTED, self._resume)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_step)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _resume(self, engine: Workflow) -> None:
        if (engine.state.epoch_length or 0) % self.accumulation_steps:
            raise CheckpointError(
                f"epoch_length {engine.state.epoch_length} is no multiple of accumulation_steps "
                f"{self.accumulation_steps}; choose one"
            )
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no signal handlers
            self.previous_handler = signal.signal(signal.SIGTERM, self._ask_to_stop)
        if not self.path.is_file():
            return
        state = self._read()
        for name, value in self.settings.items():
            if state["settings"].get(name) != value:
                raise CheckpointError(
                    f"{self.path}: made with {name} = {state['settings'].get(name)!r}, now {value!r}; "
                    "go on with the old value or choose another output_dir"
                )
        self.network.load_state_dict(state["network"], strict=False)
        self.ema.ema_model.load_state_dict(state["ema"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] is not None and engine.scaler is not None:
            engine.scaler.load_state_dict(state["scaler"])
        if self.beside is not None:
            self.beside.load_state_dict(state["beside"])
        self.batches.step = engine.state.iteration = state["step"]
        engine.state.epoch = state["step"] // (engine.state.epoch_length or 1)
        logger.info("resumed at step %d from %s", state["step"], self.path)

    def _after_step(self, engine: Workflow) -> None:
        if engine.state.iteration % self.accumulation_steps:
            return
        if any_process(self.stop_asked, engine.state.device):
            self._stop(engine)
        if engine.state.iteration % self.every == 0:
            self.save(engine)

    def _stop(self, engine: Workflow) -> None:
        self.save(engine)
        logger.info("stopped by SIGTERM at step %d; the same command goes on from here", engine.state.iteration)
        raise SystemExit(128 + signal.SIGTERM)

    def _finish(self, engine: Workflow) -> None:
        # The signal may have come after the last step, during validation or a picture.
        if any_process(self.stop_asked, engine.state.device):
            self._stop(engine)
        self.save(engine)
        if self.previous_handler is not None:
            signal.signal(signal.SIGTERM, self.previous_handler)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop_asked = True

    def _read(self) -> dict[str, Any]:
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{self.path}: damaged ({type(error).__name__}); delete it to start anew") from error

    def save(self, engine: Workflow) -> None:
        """Write the checkpoint of the engine's step; one process writes for all."""
        if not is_main():
            return
        step, scaler = engine.state.iteration, engine.scaler
        names, now, average = trained_names(self.network), self.network.state_dict(), self.ema.ema_model.state_dict()
        state = {
            "step": step,
            "settings": self.settings,
            "network": {name: now[name] for name in names},
            "ema": {name: average[name] for name in names},
            "optimizer": self.optimizer.state_dict(),
            "beside": None if self.beside is None else self.beside.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        with replaced_when_whole(self.path) as temporary:
            torch.save(state, temporary)
        logger.info("saved the checkpoint of step %d", step)


class KeepAdapters:
    """Keep the adapter of every so many steps as `checkpoints/step_000100.safetensors`, to choose among them later.

    Args:
        result: writes the adapter.
        every: batches between two; None keeps none.
        accumulation_steps: batches per optimiser step; between two of them nothing changes.

    Raises:
        ValueError: it is no positive multiple of the accumulated batches.
    """

    def __init__(self, result: WritesAdapter, every: int | None = None, accumulation_steps: int = 1) -> None:
        if every is not None and (every < 1 or every % accumulation_steps):
            raise ValueError(
                f"keep_every must be null or a multiple of accumulation_steps {accumulation_steps}, got {every}"
            )
        self.result, self.every = result, every

    def attach(self, engine: Workflow) -> None:
        """Hook into a trainer; attach after the moving average, and before the checkpoints: what is saved is kept."""
        if self.every is not None and is_main():
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self._keep)

    def _keep(self, engine: Workflow) -> None:
        folder = self.result.output_dir / KEPT_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self.result.write_adapter(folder / f"step_{engine.state.iteration:06d}.safetensors")
