"""The moving average of what is trained."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler


class TrainedEMA(EMAHandler):
    """Ignite's moving average, kept off the frozen parameters.

    Averaging a frozen weight with itself rounds it, step by step, away from the base, and the average would no longer
    be the base plus the adapter. So frozen parameters are not only left alone but shared: they need no second copy.

    Args:
        model: network in training.
        momentum: share of the new value at each step.
    """

    def __init__(self, model: torch.nn.Module, momentum: float) -> None:
        if not 0 < momentum < 1:
            raise ValueError(f"ema_momentum must be between 0 and 1, got {momentum}; 0.01 forgets in about 100 steps")
        super().__init__(model, momentum=momentum)
        for average, parameter in zip(self.ema_model.parameters(), self.model.parameters(), strict=True):
            if not parameter.requires_grad:
                average.data = parameter.data

    @torch.no_grad()
    def _update_ema_model(self, engine: Engine, name: str) -> None:
        for average, parameter in zip(self.ema_model.parameters(), self.model.parameters(), strict=True):
            if parameter.requires_grad:
                average.lerp_(parameter, self.momentum)
        for kept, buffer in zip(self.ema_model.buffers(), self.model.buffers(), strict=True):
            kept.copy_(buffer)


class UpdateEMA:
    """Update a moving average after each step of a trainer.

    Args:
        ema: moving average, which validation, pictures and checkpoints share.
        accumulation_steps: batches per optimiser step.
    """

    def __init__(self, ema: TrainedEMA, accumulation_steps: int = 1) -> None:
        self.ema, self.accumulation_steps = ema, accumulation_steps

    def attach(self, engine: Engine) -> None:
        """Hook into a trainer; attach before the checkpoints, so that both are of the same step."""
        self.ema.attach(engine, event=Events.ITERATION_COMPLETED(every=self.accumulation_steps))
