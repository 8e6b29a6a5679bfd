"""Handlers of the trainers: a log of losses and pictures on the way."""

from __future__ import annotations

import csv
import logging
import os
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Events
from ignite.handlers import ProgressBar
from monai.engines.workflow import Workflow
from monai.handlers import TensorBoardStatsHandler
from monai.inferers import Inferer
from monai.utils import CommonKeys
from torch import nn

from anatodiff.engines.pictures import save_grid
from anatodiff.engines.told import Told
from anatodiff.files import named_if_full, replaced_when_whole
from anatodiff.parallel import is_main, mean_over_processes

logger = logging.getLogger(__name__)

LOG_NAME = "losses.csv"


class HasParts(Protocol):
    """A loss that keeps the value of each of its terms from the last call."""

    parts: dict[str, float]


class LossLog:
    """Write the loss and its terms at each step to `losses.csv`, and show the loss in a progress bar.

    A resumed run drops the rows after its checkpoint, so that the file reads as if nothing had happened. Of several
    processes one writes the means over all.

    Args:
        directory: the run's folder.
        loss: the loss, for its terms.
    """

    def __init__(self, directory: str | Path, loss: HasParts) -> None:
        self.path, self.loss, self.is_cut = Path(directory) / LOG_NAME, loss, False

    def attach(self, engine: Workflow) -> None:
        """Hook into a trainer; attach before the checkpoints: what is saved must be written here first."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._cut)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)
        if is_main():
            bar = ProgressBar(persist=True, desc="training")
            bar.attach(engine, output_transform=lambda output: {"loss": float(output[CommonKeys.LOSS].detach())})

    def _cut(self, engine: Workflow) -> None:
        if self.is_cut or not is_main():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.is_cut, done = True, engine.state.iteration - 1  # at the first step, when the checkpoint has been read
        if done == 0:
            self.path.unlink(missing_ok=True)
        if not self.path.is_file():
            return
        header, *rows = self.path.read_text().splitlines(keepends=True) or [""]
        kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= done]
        if len(kept) < done:
            logger.warning("%s: has %d rows of the %d steps before the checkpoint", self.path, len(kept), done)
        with replaced_when_whole(self.path) as temporary:  # killed here, the rows before the checkpoint must be left
            temporary.write_text(header + "".join(kept))

    def _write(self, engine: Workflow) -> None:
        # repr of a float is exact: two runs have the same losses only if their files are the same
        values = {"loss": float(engine.state.output[CommonKeys.LOSS].detach()), **self.loss.parts}
        row = {"step": engine.state.iteration, **mean_over_processes(values, engine.state.device)}
        if not is_main():
            return
        new = not self.path.is_file() or self.path.stat().st_size == 0
        with named_if_full(self.path), open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)


def sync_log(folder: Path) -> None:
    """Bring the rows to the disk: after a power cut no checkpoint may be there without the losses before it.

    Args:
        folder: the run's folder.
    """
    path = folder / LOG_NAME
    if path.is_file():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


class TensorBoardLog:
    """Write the loss and its terms to TensorBoard by MONAI's handler; of several processes one writes.

    Args:
        log_dir: TensorBoard folder.
        loss: the loss, for its terms.
    """

    def __init__(self, log_dir: str, loss: HasParts) -> None:
        self.log_dir, self.loss = log_dir, loss

    def attach(self, engine: Workflow) -> None:
        """Hook into a trainer."""
        if is_main():
            TensorBoardStatsHandler(log_dir=self.log_dir, output_transform=self._terms).attach(engine)

    def _terms(self, output: dict[str, Any]) -> dict[str, float]:
        return {"loss": float(output[CommonKeys.LOSS].detach()), **self.loss.parts}


class ProgressGrid:
    """Sample a few images with the same noise at the end of each epoch, to see what the network has learned.

    Args:
        directory: folder for `step_000100.png` and so on.
        network: network to sample from (the moving average).
        inferer: sampler.
        num_classes: images go round the classes.
        images: number of images; 0 draws none.
        told: what the network is told beside the class; None: nothing.
    """

    def __init__(
        self,
        directory: str | Path,
        network: nn.Module,
        inferer: Inferer,
        num_classes: int,
        images: int,
        told: Told | None = None,
    ) -> None:
        self.directory, self.network, self.inferer = Path(directory), network, inferer
        self.numbers = torch.arange(images)
        self.labels = self.numbers % num_classes
        self.context = None if told is None else told.preview(images)

    def attach(self, engine: Workflow) -> None:
        """Hook into a trainer."""
        if len(self.numbers) and is_main():
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._sample)

    def _sample(self, engine: Workflow) -> None:
        device = engine.state.device
        self.network.to(device).eval()
        context = None if self.context is None else self.context.to(device)  # (B, ...)
        images = self.inferer(self.numbers, self.network, self.labels.to(device), context)  # (B, 1, H, W)
        save_grid(self.directory / f"step_{engine.state.iteration:06d}.png", [list(images.cpu())])


class ReconstructionGrid:
    """Draw images and their reconstructions at the end of each epoch.

    Args:
        directory: folder for the pictures.
        network: autoencoder to look at (the moving average).
        images: (B, 1, H, W) images to reconstruct.
    """

    def __init__(self, directory: str | Path, network: nn.Module, images: torch.Tensor) -> None:
        self.directory, self.network, self.images = Path(directory), network, images.float()

    def attach(self, engine: Workflow) -> None:
        """Hook into a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._draw)

    @torch.no_grad()
    def _draw(self, engine: Workflow) -> None:
        if not is_main():
            return
        output: dict[str, Any] = self.network.to(engine.state.device)(self.images.to(engine.state.device))
        rows = [list(self.images), list(output["reconstruction"].clamp(0, 1).cpu())]
        save_grid(self.directory / f"step_{engine.state.iteration:06d}.png", rows)
