"""Steps whose loss or gradient is no number: they change nothing, are counted, and too many in a row end the run."""

from __future__ import annotations

import logging
import math
from typing import cast

import torch
from ignite.engine import Events
from monai.engines import IterationEvents, SupervisedTrainer
from monai.engines.workflow import Workflow
from monai.utils import CommonKeys

from anatodiff.parallel import any_process, is_main

logger = logging.getLogger(__name__)

MOST_IN_A_ROW = 3


class NoNumberError(ValueError):
    """The loss or its gradient was no number several times in a row; the message says what to lower."""


class StepGuard:
    """Skip the update of a step whose loss or gradient is NaN or infinite.

    One such step is an accident (an overflow, an odd batch) and the next ones make up for it; several in a row mean
    that the weights are beyond help. All processes decide alike. With fp16 the gradients are left to the scaler, which
    skips what overflows and lowers its scale: that is counted here, but ends nothing as long as the loss is a number.

    Args:
        accumulation_steps: batches per optimiser step; one bad batch spoils their sum.
    """

    def __init__(self, accumulation_steps: int = 1) -> None:
        self.accumulation_steps = accumulation_steps
        self.skipped, self.in_a_row = 0, 0
        self.loss, self.is_bad, self.scale = 0.0, False, 1.0

    def attach(self, engine: Workflow) -> None:
        """Hook into a trainer; attach before all that looks at gradients or writes."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._look)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.COMPLETED, self._say)

    def _look(self, engine: Workflow) -> None:
        place = (engine.state.iteration - 1) % self.accumulation_steps
        loss = float(engine.state.output[CommonKeys.LOSS].detach())
        if place == 0 or math.isfinite(self.loss):  # the first bad one is remembered
            self.loss = loss
        if place + 1 < self.accumulation_steps:
            return
        optimizer, scaler = cast(SupervisedTrainer, engine).optimizer, engine.scaler
        bad = not math.isfinite(self.loss)
        if scaler is None or not scaler.is_enabled():
            bad = any_process(bad or not _are_finite(optimizer), engine.state.device)
            if bad:
                optimizer.zero_grad(set_to_none=True)  # then it leaves weights and moments alone
        else:
            bad, self.scale = any_process(bad, engine.state.device), scaler.get_scale()
        self.is_bad = bad

    def _count(self, engine: Workflow) -> None:
        step = engine.state.iteration
        if step % self.accumulation_steps:
            return
        overflow = engine.scaler is not None and engine.scaler.get_scale() < self.scale
        self.in_a_row = self.in_a_row + 1 if self.is_bad else 0
        if not self.is_bad and not overflow:
            return
        self.skipped += 1
        what = f"the loss is {self.loss}" if not math.isfinite(self.loss) else "the gradient is not finite"
        if self.in_a_row >= MOST_IN_A_ROW:
            raise NoNumberError(
                f"{what} at step {step}, and {self.in_a_row} steps in a row had to be skipped; the checkpoint holds "
                "the last good state: lower learning_rate or leave out amp, with another output_dir"
            )
        if is_main():
            logger.warning("%s at step %d: its update is skipped (%d so far)", what, step, self.skipped)

    def _say(self, engine: Workflow) -> None:
        if self.skipped and is_main():
            steps = engine.state.iteration // self.accumulation_steps
            logger.warning("%d of %d updates were skipped: the loss or the gradient was no number", self.skipped, steps)

    def state_dict(self) -> dict[str, int]:
        """Return what a checkpoint must keep."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a checkpoint."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]


def _are_finite(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether all gradients are numbers, with one question to the device."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    # One number that is none makes its sum none: no sum of the usual step leaves a second look to take.
    if not gradients or bool(torch.stack([gradient.sum() for gradient in gradients]).isfinite().all()):
        return True
    return bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())  # a sum may overflow
