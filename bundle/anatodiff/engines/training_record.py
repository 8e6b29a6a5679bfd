"""The record of a base's long training: images, core-hours, losses, kernel distances, copies, and the best weights."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.workflow import Workflow
from monai.utils import CommonKeys
from torch import nn

from anatodiff.autoencoders import LatentDataset
from anatodiff.engines.checkpoint_files import CheckpointError
from anatodiff.engines.finish_weights import PretrainResult
from anatodiff.engines.inferers import SamplingInferer
from anatodiff.engines.pictures import save_grid
from anatodiff.engines.sampling import sample
from anatodiff.files import replaced_when_whole
from anatodiff.metrics import CopyDetector, DomainFeatures, ShippedFeatures, kernel_distance, pixel_features
from anatodiff.networks import Base
from anatodiff.parallel import is_main

RECORD_NAME = "record.jsonl"
FORMAT = 1
RECORD_NOTE = "record"  # entry of the notes in the header of a base
BEST_NAME = "best.safetensors"
GRID_COLUMNS = 8
logger = logging.getLogger(__name__)
Row = dict[str, Any]


@dataclass(frozen=True)
class DomainMeasures:
    """Samples of each domain measured against its held-back images.

    Args:
        inferer: sampler.
        train: training images, for the search for copies.
        validation: held-back images.
        classes: names of the classes, the domains among them.
        parents: for each class the index of its domain.
        samples: images of each domain; 0 measures nothing.
        least: held-back images that a domain needs to be measured.
    """

    inferer: SamplingInferer
    train: LatentDataset
    validation: LatentDataset
    classes: Sequence[str]
    parents: Sequence[int]
    samples: int = 64
    least: int = 50

    def __call__(self, network: nn.Module, device: torch.device, picture: Path) -> Row:
        """Sample and measure.

        Args:
            network: the moving average.
            device: where to sample.
            picture: PNG of some samples of each domain.

        Returns:
            for each measured domain `kd` x 1000 and its standard error, and the share of all samples that are nearer
            to a training image than any held-back image is.
        """
        domains = torch.tensor(list(self.parents))[self.validation.labels]  # (N,)
        features = ShippedFeatures()
        row: Row = {}
        grid: dict[str, list[torch.Tensor]] = {}
        made: list[torch.Tensor] = []
        for domain in sorted(set(self.parents)):
            real = self.validation.images[domains == domain].float()  # (n, 1, H, W)
            if len(real) < self.least:
                continue
            name = self.classes[domain]
            labels = torch.full((self.samples,), domain)
            images = sample(network, self.inferer, labels, 16, device)  # (m, 1, H, W)
            distance = kernel_distance(features(real), features(images))
            kd: list[float] = [round(1e3 * number, 1) for number in (distance.value, distance.stderr)]
            row[f"kd {name}"] = kd
            grid[name] = list(images[:GRID_COLUMNS])
            made.append(images)
        if made:
            views: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
                "pixels": pixel_features, "radiographs": DomainFeatures(),
            }  # fmt: skip
            originals = self.train.images[: len(self.train.items)].float()
            detector = CopyDetector(originals, self.validation.images.float(), views)
            row["copies"] = round(float(detector(torch.cat(made)).copied.float().mean()), 4)
            save_grid(picture, list(grid.values()), [f"synthetic: {name}" for name in grid])
        return row


class TrainingRecord:
    """Write a row for each epoch to `record.jsonl`, and keep the weights with the least validation loss.

    A training that goes on from a base's weights alone begins with the rows in that base's header, so that images and
    core-hours count on. Rows after the checkpoint that a run resumes from are dropped.

    Args:
        directory: the run's folder.
        validator: evaluator that has the validation loss, run before this handler.
        result: writes the weights of the moving average.
        batch_size: images per step, over all processes.
        start: the base that the training went on from; None: it started anew.
        measures: samples and measures; None: never.
        measure_every: epochs between two measurements.
    """

    def __init__(
        self,
        directory: str | Path,
        validator: Engine,
        result: PretrainResult,
        batch_size: int,
        start: Base | None = None,
        measures: DomainMeasures | None = None,
        measure_every: int = 10,
    ) -> None:
        if measure_every < 1:
            raise ValueError(f"measure_every must be at least 1, got {measure_every}")
        self.folder, self.validator, self.result, self.batch_size = Path(directory), validator, result, batch_size
        self.start, self.measures, self.measure_every = start, measures, measure_every
        self.path = self.folder / RECORD_NAME
        self.rows: list[Row] = []
        self.clock = 0.0
        self.losses: list[float] = []

    def attach(self, engine: Workflow) -> None:
        """Hook into a trainer; attach after the checkpoints and the validation."""
        if is_main():
            engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _begin(self, engine: Workflow) -> None:
        if self.clock:
            return
        self.clock = time.process_time()
        done = engine.state.iteration  # after the checkpoint has been read
        rows = read_record(self.path) if self.path.is_file() else self._inherited()
        self.rows = [row for row in rows if row["step"] <= done]
        if self.start is not None and done == 0:
            logger.info("goes on from %s: the optimiser's state begins anew", self.start.sha256[:12])

    def _inherited(self) -> list[Row]:
        """Rows of the training that made the starting weights, all of them before step 0 of this one."""
        if self.start is None:
            return []
        rows = self.start.notes.get(RECORD_NOTE, [])
        return [{**row, "step": 0, "of_start": self.start.sha256} for row in rows]

    def _count(self, engine: Workflow) -> None:
        self.losses.append(float(engine.state.output[CommonKeys.LOSS].detach()))

    def _write(self, engine: Workflow) -> None:
        before = self.rows[-1] if self.rows else {"images": 0, "core_hours": 0.0, "step": 0}
        now = time.process_time()
        steps = engine.state.iteration - before["step"]
        row: Row = {
            "format": FORMAT,
            "step": engine.state.iteration,
            "images": before["images"] + steps * self.batch_size,
            "core_hours": round(before["core_hours"] + (now - self.clock) / 3600, 4),
            "loss": round(sum(self.losses) / max(1, len(self.losses)), 5),
            "validation_loss": round(float(self.validator.state.metrics["validation_loss"]), 5),
        }
        self.clock, self.losses = now, []
        if self.measures is not None and self.measures.samples and engine.state.epoch % self.measure_every == 0:
            picture = self.folder / "progress" / f"step_{engine.state.iteration:06d}.png"
            row |= self.measures(self.result.ema.ema_model, engine.state.device, picture)
        own = [earlier for earlier in self.rows if "of_start" not in earlier]
        best = min((earlier["validation_loss"] for earlier in own), default=float("inf"))
        self.rows.append(row)
        with replaced_when_whole(self.path) as temporary:
            temporary.write_text("".join(json.dumps(one) + "\n" for one in self.rows))
        if row["validation_loss"] < best:
            self.result.write(self.folder / BEST_NAME, {RECORD_NOTE: list(self.rows)})
        logger.info("record: %s", json.dumps(row))


def read_record(path: Path) -> list[Row]:
    """Read a record.

    Args:
        path: `record.jsonl` of a run.

    Returns:
        its rows.

    Raises:
        CheckpointError: it has another format.
    """
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    other = [row.get("format") for row in rows if row.get("format") != FORMAT]
    if other:
        raise CheckpointError(
            f"{path}: of format {other[0]}, this version writes {FORMAT}; go on from the weights by start_path in "
            "another output_dir"
        )
    return rows
