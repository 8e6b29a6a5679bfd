"""Measure CT samples that are there already: fidelity, anatomy, noise, use, copies; real slices beside them."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anatodiff.engines.ct_downstream import Downstream, downstream
from anatodiff.engines.ct_measures import Compared, anatomy, copies, fidelity, noise_response, quality_scores
from anatodiff.engines.ct_picture import save_report
from anatodiff.engines.ct_samples import CTSamples, CTSlices
from anatodiff.engines.ct_segmentation import SegmentationNetwork, SegmentationRows, segment, segmentation_network
from anatodiff.engines.workflow import OptionError
from anatodiff.files import replaced_when_whole
from anatodiff.metrics import LPIPS, DoseResponse, FeatureNetwork, Measure

logger = logging.getLogger(__name__)

MIN_IMAGES = 3  # the kernel distance's jackknife leaves two
JSON_NAME, CSV_NAME, PICTURE_NAME = "ct_metrics.json", "ct_evaluation.csv", "ct_report.png"
COLUMNS = ("group", "of", "measure", "value", "stderr", "images", "real", "real_stderr", "floor", "floor_stderr")


@dataclass(frozen=True)
class SegmentationSettings:
    """Where the labels of samples come from, and what is asked of a training with them.

    Args:
        path: TorchScript network; None trains a U-Net on the real slices.
        steps: of each training.
        downstream: whether to train with samples, too.
        downstream_seeds: of these trainings.
    """

    path: str | Path | None = None
    steps: int = 300
    downstream: bool = False
    downstream_seeds: Sequence[int] = (0, 1, 2)


class CTEvaluation:
    """Measure samples against held-back slices and against what was asked for, and real slices in their place.

    Args:
        samples: with their requests.
        train: the real slices that the network was trained on.
        test: slices of other patients; the requests are of these.
        features: describes the images.
        output_dir: where the numbers go.
        segmentation: settings of the networks that label samples.
        lpips: compares each sample with its own reference slice; None leaves it out.
        noise_organ: in which noise is measured.
        pixel_spacing: mm of a pixel, for distances; None counts pixels only.
        cache_dir: folder of the caches.
        seed: of draws and trainings.
        device: where to train and to label.
        iqa: rates the quality of an image by a number; None leaves it out.

    Raises:
        ValueError: there are too few images of one kind.
        OptionError: the data have no such organ, or not the masks that are needed.
    """

    def __init__(
        self,
        samples: CTSamples,
        train: CTSlices,
        test: CTSlices,
        features: FeatureNetwork,
        output_dir: str | Path,
        segmentation: SegmentationSettings | None = None,
        lpips: LPIPS | None = None,
        noise_organ: str = "liver",
        pixel_spacing: float | None = None,
        cache_dir: str | Path = "output/cache",
        seed: int = 0,
        device: str | torch.device = "cpu",
        iqa: FeatureNetwork | None = None,
    ) -> None:
        self.iqa = iqa
        self.samples, self.train, self.test, self.features = samples, train, test, features
        self.output_dir, self.cache_dir = Path(output_dir), Path(cache_dir)
        self.settings, self.lpips = segmentation or SegmentationSettings(), lpips
        self.noise_organ, self.pixel_spacing, self.seed, self.device = noise_organ, pixel_spacing, seed, device
        self._check()

    def _check(self) -> None:
        counts = {
            "samples": (len(self.samples), "sample more"),
            "training slices": (len(self.train), "give more patients"),
            "held-back slices": (len(self.test), "raise test_fraction or give more patients"),
        }
        for name, (count, cure) in counts.items():
            if count < MIN_IMAGES:
                raise ValueError(f"only {count} {name}, measuring needs {MIN_IMAGES}; {cure}")
        if self.pixel_spacing is not None and not 0 < self.pixel_spacing < math.inf:
            raise OptionError(f"pixel_spacing is {self.pixel_spacing}; give mm above 0, or null")
        organs = self.test.organs
        if organs and self.noise_organ not in organs:
            raise OptionError(
                f"noise_organ is {self.noise_organ!r}, the data have {', '.join(organs)}; give one of these"
            )
        if organs and self.settings.path is None and not bool(self.train.has_mask.any()):
            raise OptionError("no training slice has a mask to train a segmentation; give segmentation_network")
        if self.settings.downstream and not organs:
            raise OptionError("downstream needs masks and the data have none; give organs, or leave downstream out")

    def run(self) -> None:
        """Write the numbers (JSON, CSV) and the picture; log a table."""
        record: dict[str, Any] = {
            "fidelity": fidelity(self.features, self.samples, self.train, self.test, self.seed, self.lpips)
        }
        if self.iqa is not None:
            rows = self._referred()
            real_images, real_doses = self.test.images[rows], self.test.doses[rows]
            record["quality"] = quality_scores(self.iqa, self.samples, real_images, real_doses)
        network = self._network()
        found = None if network is None else segment(network, self.samples.images)  # (N, S, S)
        if network is not None and found is not None:
            record |= self._by_organ(network, found)
        else:
            logger.info("the data have no organs: anatomy and noise are left out")
        if self.settings.downstream:
            record["downstream"] = downstream(
                self.samples, self.train, self.test, self.settings.steps, self.settings.downstream_seeds,
                self.seed, self.cache_dir, self.device,
            )  # fmt: skip
        record["copies"], nearest = copies(self.features, self.samples, self.train, self.test)
        table = list(table_rows(record))
        settings = self._settings(network)
        self._write({"settings": settings, **plain(record), "nearest": nearest}, table)
        save_report(self.output_dir / PICTURE_NAME, self.samples, self.test, found)
        for line in lines_of(table):
            logger.info(line)
        logger.info("wrote %s, %s and %s to %s", JSON_NAME, CSV_NAME, PICTURE_NAME, self.output_dir)

    def _network(self) -> SegmentationNetwork | None:
        rows = SegmentationRows(self.train.images[self.train.has_mask], self.train.mask[self.train.has_mask])
        steps, organs = self.settings.steps, len(self.test.organs)
        return segmentation_network(self.settings.path, rows, organs, steps, self.seed, self.cache_dir, self.device)

    def _referred(self) -> torch.Tensor:
        """Rows (M,) of the held-back slices that requests are of; all of them where there are none."""
        rows = self.samples.references[self.samples.references >= 0].unique()  # (M,)
        return rows if len(rows) else torch.arange(len(self.test))

    def _by_organ(self, network: SegmentationNetwork, found: torch.Tensor) -> dict[str, Any]:
        """Measure anatomy and noise; beside them the slices that the requests are of, all held-back ones if of none."""
        real = RealRows.of(self.test, self._referred())
        found_real = segment(network, real.images)  # (M, S, S)
        asked, masked = self.samples.has_mask, real.has_mask
        measured: dict[str, Any] = {}
        if bool(asked.any()):
            measured["anatomy"] = anatomy(
                found[asked], self.samples.rows(asked), found_real[masked], real.mask[masked],
                self.test.organs, self.pixel_spacing,
            )  # fmt: skip
        label = self.test.organs.index(self.noise_organ) + 1
        measured["noise"] = {
            "samples": noise_response(self.samples, self._hu(self.samples.images), found, label),
            "real": noise_response(real, self._hu(real.images), found_real, label),
        }
        return measured

    def _hu(self, images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.test.window.to_hu(images.float().numpy()))  # (N, 1, S, S)

    def _settings(self, network: SegmentationNetwork | None) -> dict[str, Any]:
        return {
            "features": {"name": self.features.name, "sha256": self.features.sha256},
            "segmentation": None if network is None else {"name": network.name, "sha256": network.sha256},
            "segmentation_steps": self.settings.steps,
            "samples": len(self.samples),
            "training_slices": len(self.train),
            "held_back_slices": len(self.test),
            "organs": list(self.test.organs),
            "noise_organ": self.noise_organ,
            "iqa_network": None if self.iqa is None else {"name": self.iqa.name, "sha256": self.iqa.sha256},
            "window_hu": [self.test.window.low, self.test.window.high],
            "seed": self.seed,
            "data": {"training": self.train.key, "held_back": self.test.key},
        }

    def _write(self, record: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        with replaced_when_whole(self.output_dir / JSON_NAME) as temporary:
            temporary.write_text(json.dumps(record, indent=1))
        with replaced_when_whole(self.output_dir / CSV_NAME) as temporary, open(temporary, "w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            table.writerows(rows)


@dataclass(frozen=True, eq=False)
class RealRows:
    """Rows of real slices, with the names that samples have: see `CTSlices`."""

    images: torch.Tensor
    mask: torch.Tensor
    noise: torch.Tensor
    has_mask: torch.Tensor
    has_noise: torch.Tensor
    doses: torch.Tensor

    @classmethod
    def of(cls, dataset: CTSlices, rows: torch.Tensor) -> RealRows:
        """Take rows (M,) of a dataset."""
        names = ("images", "mask", "noise", "has_mask", "has_noise", "doses")
        return cls(*(getattr(dataset, name)[rows] for name in names))


def table_rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Lay all numbers out as rows of COLUMNS."""
    for group in ("fidelity", "quality", "copies"):
        for name, compared in record.get(group, {}).items():
            yield _row(group, "", name, compared)
    for organ, measures in record.get("anatomy", {}).items():
        for name, compared in measures.items():
            yield _row("anatomy", organ, name, compared)
    if "noise" in record:
        yield from _noise_rows(record["noise"]["samples"], record["noise"]["real"])
    for organ, measures in record.get("downstream", {}).items():
        for name, trained in measures.items():
            yield from _downstream_rows(organ, name, trained)


def _row(group: str, of: str, name: str, compared: Compared) -> dict[str, Any]:
    row: dict[str, Any] = {"group": group, "of": of, "measure": name, "images": compared.images}
    for column, measure in (("value", compared.value), ("real", compared.real), ("floor", compared.floor)):
        error = "stderr" if column == "value" else f"{column}_stderr"
        row |= {} if measure is None else {column: measure.value, error: measure.stderr}
    return row


def _noise_rows(samples: DoseResponse, real: DoseResponse) -> Iterator[dict[str, Any]]:
    yield _row("noise", "", "rank_correlation", Compared(samples.correlation, samples.images, real.correlation))
    yield _row("noise", "", "measured_less_requested_hu", Compared(samples.difference, samples.images, real.difference))
    beside = {level.dose: level for level in real.levels}
    for level in samples.levels:
        there = beside.get(level.dose)
        of = f"dose {level.dose:g}"
        compared = Compared(level.measured, level.images, None if there is None else there.measured)
        yield _row("noise", of, "measured_hu", compared)
        asked = Compared(Measure(level.requested), level.images, None if there is None else Measure(there.requested))
        yield _row("noise", of, "requested_hu", asked)


def _downstream_rows(organ: str, name: str, trained: Downstream) -> Iterator[dict[str, Any]]:
    yield _row("downstream", organ, f"{name}_with_samples", Compared(trained.both, trained.slices, trained.real))
    yield _row("downstream", organ, f"{name}_difference", Compared(trained.difference, trained.slices))


def plain(value: Any) -> Any:
    """Turn measures into what JSON has: NaN and infinity, which it has not, become null."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lines_of(rows: list[dict[str, Any]]) -> list[str]:
    """Show rows of COLUMNS as a table for people."""
    shown: list[tuple[str, ...]] = [("", "samples", "real", "floor")]
    for row in rows:
        name = " ".join(part for part in (row["group"], row["of"], row["measure"]) if part)
        pairs = (("value", "stderr"), ("real", "real_stderr"), ("floor", "floor_stderr"))
        shown.append((name, *(_shown(row.get(value), row.get(error)) for value, error in pairs)))
    widths = [max(len(line[column]) for line in shown) for column in range(4)]
    return [
        "  ".join([f"{line[0]:<{widths[0]}}", *(f"{line[k]:>{widths[k]}}" for k in (1, 2, 3))]).rstrip()
        for line in shown
    ]


def _shown(value: float | None, error: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.3g}" + ("" if error is None else f" ± {error:.2g}")
