"""The validation loss: held-back images, fixed noise."""

from __future__ import annotations

import logging
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.handlers import TensorBoardStatsHandler
from monai.utils import CommonKeys
from torch import nn

from anatodiff.parallel import is_main

logger = logging.getLogger(__name__)


class ValidationLoss(Metric):
    """Average a loss over the images of an evaluator; a short last batch counts for what it holds.

    Args:
        loss: called as loss(prediction, target).
    """

    def __init__(self, loss: nn.Module) -> None:
        self.loss = loss
        super().__init__(output_transform=self._of_batch)

    def _of_batch(self, output: dict[str, Any]) -> tuple[float, int]:
        prediction, target = output[CommonKeys.PRED], output[CommonKeys.LABEL]
        images = target if isinstance(target, torch.Tensor) else target[0]  # (B, ...)
        return float(self.loss(prediction, target).detach()), len(images)

    def reset(self) -> None:
        """Forget all batches."""
        self.total, self.images = 0.0, 0

    def update(self, output: tuple[float, int]) -> None:
        """Add the mean loss of a batch and its number of images."""
        self.total, self.images = self.total + output[0] * output[1], self.images + output[1]

    def compute(self) -> float:
        """Return the mean over all images."""
        return self.total / self.images


def is_lower(current: float, best: float) -> bool:
    """Tell MONAI's evaluators that a smaller loss is a better one.

    Args:
        current: new value of the key metric.
        best: best value so far.

    Returns:
        whether the new one is better.
    """
    return current < best


class ValidationLog:
    """Say the validation loss, and write it to TensorBoard at its training epoch.

    Args:
        log_dir: TensorBoard folder.
    """

    def __init__(self, log_dir: str) -> None:
        self.log_dir = log_dir

    def attach(self, engine: Engine) -> None:
        """Hook into an evaluator."""
        if not is_main():
            return
        # The trainer runs the evaluator with its own epoch, so MONAI's handler counts right.
        TensorBoardStatsHandler(log_dir=self.log_dir, iteration_log=False).attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._say)

    def _say(self, engine: Engine) -> None:
        for name, value in engine.state.metrics.items():
            logger.info("epoch %d: %s %.4f", engine.state.epoch, name.replace("_", " "), value)
