"""Checkpoints that survive a kill, resume without being asked, and a clean end on SIGTERM and Ctrl-C."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from monai.engines.workflow import Workflow
from torch import nn

from anatodiff.engines.batches import StepBatches
from anatodiff.engines.checkpoint_files import CheckpointError, Generations
from anatodiff.engines.handlers import sync_log
from anatodiff.engines.stopping import stop_signals
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


KEPT_FOLDER = "checkpoints"
# Settings that came later: how runs behaved before them. Of all others that a checkpoint lacks the value was None.
FORMER = {"optimizer_name": "adamw", "class_balance": 0.0}
COPIES = 4  # of each trained parameter: itself, its moving average, and two moments of the optimiser


class Checkpoints:
    """Save what a run has learned, and go on from there when it is started again.

    Nothing but tensors and numbers is kept: trained parameters, their moving average, the optimiser and the step.
    Draws are functions of the step, so there is no generator state. Two generations are kept. A full disk ends the run:
    nothing after the last checkpoint could be kept, and the same command goes on once there is room.

    Args:
        directory: the run's folder.
        network: network in training.
        ema: moving average of its parameters.
        optimizer: optimiser.
        batches: batches, told where to go on.
        settings: what must be the same when the run goes on, JSON-able; another value is refused.
        every: batches between two checkpoints; one more is written at the end of each epoch, before its validation.
        accumulation_steps: batches per optimiser step; between two of them there is nothing that can be resumed.
        beside: what else is trained, such as a critic; None is nothing.
        guard: counts the steps that were skipped; None where none is.
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
        guard: HasState | None = None,
    ) -> None:
        if every < 1 or every % accumulation_steps:
            raise ValueError(
                f"checkpoint_every must be a positive multiple of accumulation_steps {accumulation_steps}, got {every}"
            )
        self.accumulation_steps = accumulation_steps
        self.parts = {"beside": beside, "guard": guard}
        self.files = Generations(directory)
        self.network, self.ema, self.optimizer, self.batches = network, ema, optimizer, batches
        self.settings, self.every = settings, every
        self.saved_step = 0

    def attach(self, engine: Workflow) -> None:
        """Hook into a trainer; attach after the moving average, so that it is saved as of the same step.

        Attach before validation and pictures: what has been learned is saved before anything that takes long.
        """
        engine.add_event_handler(Events.STARTED, self._resume)
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: stop_signals.defer())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_batch)
        engine.add_event_handler(Events.EPOCH_COMPLETED | Events.COMPLETED, self._after_epoch)

    def _resume(self, engine: Workflow) -> None:
        stop_signals.install()
        if (engine.state.epoch_length or 0) % self.accumulation_steps:
            raise CheckpointError(
                f"epoch_length {engine.state.epoch_length} is no multiple of accumulation_steps "
                f"{self.accumulation_steps}; choose one"
            )
        if is_main():
            names, parameters = set(trained_names(self.network)), self.network.state_dict()
            self.files.check_room(COPIES * sum(parameters[name].nbytes for name in names))
        found = self.files.read()
        if found is None:
            return
        state, path = found
        for name, value in self.settings.items():
            former = state["settings"].get(name, FORMER.get(name))
            if former != value:
                raise CheckpointError(
                    f"{path}: made with {name} = {former!r}, now {value!r}; "
                    "go on with the old value or choose another output_dir"
                )
        self.network.load_state_dict(state["network"], strict=False)
        self.ema.ema_model.load_state_dict(state["ema"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] is not None and engine.scaler is not None:
            engine.scaler.load_state_dict(state["scaler"])
        for name, part in self.parts.items():
            if part is not None and state.get(name) is not None:  # checkpoints of old have no guard
                part.load_state_dict(state[name])
        self.batches.step = engine.state.iteration = self.saved_step = state["step"]
        engine.state.epoch = state["step"] // (engine.state.epoch_length or 1)
        logger.info("resumed at step %d from %s", state["step"], path)

    def _after_batch(self, engine: Workflow) -> None:
        if any_process(stop_signals.asked is not None, engine.state.device):
            self._save_once(engine)
            stop_signals.stop(f"at step {self.saved_step}")
        if engine.state.iteration % self.every == 0:
            self._save_once(engine)

    def _after_epoch(self, engine: Workflow) -> None:
        self._save_once(engine)
        stop_signals.at_once(f"at step {self.saved_step}")

    def _save_once(self, engine: Workflow) -> None:
        # Within an accumulated batch weights and moments are still those of the last optimiser step.
        step = engine.state.iteration - engine.state.iteration % self.accumulation_steps
        if step > self.saved_step:
            self.save(engine, step)

    def save(self, engine: Workflow, step: int) -> None:
        """Write the checkpoint of a step; one process writes for all.

        Args:
            engine: the trainer.
            step: batches that are in it.
        """
        self.saved_step = step
        if not is_main():
            return
        names, now, average = trained_names(self.network), self.network.state_dict(), self.ema.ema_model.state_dict()
        state = {
            "step": step,
            "settings": self.settings,
            "network": {name: now[name] for name in names},
            "ema": {name: average[name] for name in names},
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if engine.scaler is None else engine.scaler.state_dict(),
            **{name: None if part is None else part.state_dict() for name, part in self.parts.items()},
        }
        sync_log(self.files.folder)
        self.files.write(state)
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
