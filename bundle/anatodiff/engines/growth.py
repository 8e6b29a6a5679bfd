"""SeLoRA: low-rank additions that grow during the training."""

from __future__ import annotations

import logging

from monai.engines import IterationEvents
from monai.engines.workflow import Workflow
from torch import nn

from anatodiff.networks import low_ranks

logger = logging.getLogger(__name__)


class GrowRanks:
    """Let each low-rank addition grow by one rank where its Fisher information asks for it; others never change.

    The information is that of all steps since the last time, so that one batch does not decide.

    Args:
        network: network in training; without low-rank additions that can grow there is nothing to do.
        every: steps between two looks.
        threshold: ratio of the information with one more rank to that without it, at which a layer grows.
        accumulation_steps: batches per optimiser step.

    References:
        Mao et al., "SeLoRA", https://arxiv.org/abs/2408.07196
    """

    def __init__(self, network: nn.Module, every: int, threshold: float, accumulation_steps: int = 1) -> None:
        if every < 1 or threshold <= 1:
            raise ValueError(f"selora_every must be at least 1 and selora_threshold above 1, got {every}, {threshold}")
        self.additions = [addition for _, addition in low_ranks(network)]
        self.every, self.threshold, self.accumulation_steps = every, threshold, accumulation_steps

    def attach(self, engine: Workflow) -> None:
        """Hook into a trainer."""
        if not all(bool(addition.active.all()) for addition in self.additions):
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._after_backward)

    def _after_backward(self, engine: Workflow) -> None:
        step, rest = divmod(engine.state.iteration, self.accumulation_steps)
        if rest:
            return
        scale = 1.0 if engine.scaler is None else engine.scaler.get_scale()
        for addition in self.additions:
            addition.hold(scale)
        if step % self.every == 0:
            grown = sum(addition.grow(self.threshold) for addition in self.additions)
            ranks = sorted(int(addition.active.sum()) for addition in self.additions)
            logger.info("%d of %d layers grew by a rank; ranks are now %s", grown, len(ranks), ranks)
