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
        momentum: share of the new value at each step, above 0 and below 1; None with `power`.
        power: exponent gamma of a power-function average, whose memory grows with the run: at step t the average keeps
            the share (1 - 1/t)^(gamma + 1). Its width relative to the run's length is
            sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))): 0.10 for 6.94, 0.05 for 16.97. None with `momentum`.

    Raises:
        ValueError: both or none of the two is given, or it is out of range.

    References:
        Karras et al., "EDM2", https://arxiv.org/abs/2312.02696, eq. 5
    """

    def __init__(self, model: torch.nn.Module, momentum: float | None = None, power: float | None = None) -> None:
        if (momentum is None) == (power is None):
            raise ValueError(
                f"ema_momentum is {momentum} and ema_power {power}; give one of the two and null for the other"
            )
        if momentum is not None and not 0 < momentum < 1:
            raise ValueError(f"ema_momentum must be between 0 and 1, got {momentum}; 0.01 forgets in about 100 steps")
        if power is not None and not power >= 0:
            raise ValueError(f"ema_power must not be negative, got {power}; 6.94 averages over a tenth of the run")
        super().__init__(model, momentum=0.5 if momentum is None else momentum)
        self.momentum_of_steps, self.power = momentum, power
        for average, parameter in zip(self.ema_model.parameters(), self.model.parameters(), strict=True):
            if not parameter.requires_grad:
                average.data = parameter.data

    def share(self, step: int) -> float:
        """Return the share of the new value at `step`, counted from 1."""
        if self.momentum_of_steps is not None:
            return self.momentum_of_steps
        assert self.power is not None
        return 1 - (1 - 1 / step) ** (self.power + 1)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters of an optimiser step.

        Args:
            step: optimiser steps done, from 1.
        """
        pairs = list(zip(self.ema_model.parameters(), self.model.parameters(), strict=True))
        averages: list[torch.Tensor] = [average for average, parameter in pairs if parameter.requires_grad]
        parameters: list[torch.Tensor] = [parameter for _, parameter in pairs if parameter.requires_grad]
        torch._foreach_lerp_(averages, parameters, self.share(step))
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
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.accumulation_steps), self._update)

    def _update(self, engine: Engine) -> None:
        # The step is restored with a checkpoint, so the average needs no count of its own.
        self.ema.update(engine.state.iteration // self.accumulation_steps)
