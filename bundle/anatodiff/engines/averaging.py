"""The moving average of what is trained."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler


class TrainedEMA(EMAHandler):
    """Ignite's moving average, kept off the frozen parameters.

    Averaging a frozen weight with itself rounds it, step by step, away from the base, and the average would no longer
    be the base plus the adapter.

    Args:
        model: network in training.
        momentum: share of the new value at each step.
    """

    def __init__(self, model: torch.nn.Module, momentum: float) -> None:
        super().__init__(model, momentum=momentum)

    @torch.no_grad()
    def _update_ema_model(self, engine: Engine, name: str) -> None:
        for average, parameter in zip(self.ema_model.parameters(), self.model.parameters(), strict=True):
            if parameter.requires_grad:
                average.lerp_(parameter, self.momentum)


class UpdateEMA:
    """Update a moving average after each step of a trainer.

    Args:
        ema: moving average, which validation, pictures and checkpoints share.
    """

    def __init__(self, ema: TrainedEMA) -> None:
        self.ema = ema

    def attach(self, engine: Engine) -> None:
        """Hook into a trainer; attach before the checkpoints, so that both are of the same step."""
        self.ema.attach(engine)
