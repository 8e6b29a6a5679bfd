"""The validation loss: held-back images, fixed noise."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from ignite.metrics import Loss
from monai.handlers import StatsHandler, TensorBoardStatsHandler
from monai.utils import CommonKeys
from torch import nn


def validation_loss(loss: nn.Module) -> Loss:
    """Average a loss over the images of an evaluator.

    Args:
        loss: called as loss(prediction, target).

    Returns:
        an Ignite metric.
    """

    return Loss(
        loss,
        output_transform=lambda output: (output[CommonKeys.PRED], output[CommonKeys.LABEL]),
        batch_size=lambda target: len(target if isinstance(target, torch.Tensor) else target[0]),
    )


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
        # The trainer runs the evaluator with its own epoch, so MONAI's handlers count right.
        self.handlers: list[StatsHandler | TensorBoardStatsHandler] = [
            StatsHandler(name="anatodiff.validation", iteration_log=False),
            TensorBoardStatsHandler(log_dir=log_dir, iteration_log=False),
        ]

    def attach(self, engine: Engine) -> None:
        """Hook into an evaluator."""
        for handler in self.handlers:
            handler.attach(engine)
