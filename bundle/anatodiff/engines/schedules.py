"""The learning rate as a function of the step, so that a resumed run needs no state for it."""

from __future__ import annotations

import math

import torch
from ignite.engine import Engine, Events


class LearningRate:
    """Rise linearly to the peak, then stay, fall along a cosine to zero, or fall with the square root of the step.

    The last needs no end: lr = peak / sqrt(max(step / reference_steps, 1)), for trainings that go on for hours.

    Args:
        optimizer: its `lr` is the peak.
        warmup_steps: steps of the rise.
        decay_steps: step at which the cosine reaches zero; None stays at the peak.
        accumulation_steps: batches per optimiser step; steps are counted as the optimiser counts.
        reference_steps: steps after which the rate falls with the square root of the step; None: it does not.

    Raises:
        ValueError: a number of steps is out of range, or both ways to fall are given.

    References:
        Karras et al., "EDM2", https://arxiv.org/abs/2312.02696, eq. 67
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup_steps: int,
        decay_steps: int | None = None,
        accumulation_steps: int = 1,
        reference_steps: int | None = None,
    ) -> None:
        if reference_steps is not None and (decay_steps is not None or reference_steps < 1):
            raise ValueError(
                f"reference_steps is {reference_steps} and decay_steps {decay_steps}; give one of them, at least 1"
            )
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {warmup_steps}")
        if decay_steps is not None and decay_steps <= warmup_steps:
            raise ValueError(
                f"warmup_steps {warmup_steps} leaves nothing of {decay_steps} steps; lower it, or raise max_epochs"
            )
        self.optimizer, self.warmup_steps, self.decay_steps = optimizer, warmup_steps, decay_steps
        self.accumulation_steps, self.reference_steps = accumulation_steps, reference_steps
        self.peaks = [group["lr"] for group in optimizer.param_groups]

    def factor(self, step: int) -> float:
        """Return the share of the peak at `step`, counted from 1."""
        if step <= self.warmup_steps:
            return step / self.warmup_steps
        if self.reference_steps is not None:
            return math.sqrt(self.reference_steps / max(step, self.reference_steps))
        if self.decay_steps is None:
            return 1.0
        done = min(1.0, (step - self.warmup_steps) / (self.decay_steps - self.warmup_steps))
        return 0.5 * (1 + math.cos(math.pi * done))

    def attach(self, engine: Engine) -> None:
        """Hook into a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._set)

    def _set(self, engine: Engine) -> None:
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.factor(-(-engine.state.iteration // self.accumulation_steps))
