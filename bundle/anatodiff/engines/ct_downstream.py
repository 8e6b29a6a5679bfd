"""What samples are worth as training data: a segmentation with and without them, on slices that neither has seen."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from anatodiff.diffusion.draws import generator
from anatodiff.engines.ct_measures import organ_measures
from anatodiff.engines.ct_samples import CTSamples, CTSlices
from anatodiff.engines.ct_segmentation import SegmentationRows, segment, train_segmentation
from anatodiff.engines.workflow import OptionError
from anatodiff.metrics import Interval, Measure, mean_measure, paired_difference

logger = logging.getLogger(__name__)

MEASURES = ("dice", "iou")


@dataclass(frozen=True)
class Downstream:
    """One measure of one organ, over the seeds.

    Args:
        real: trained on real slices: mean and standard error.
        both: trained on real slices and samples.
        difference: of the second less the first, seed by seed.
        interval: the difference and half its 95 % interval.
        slices: how many it was measured on.
    """

    real: Measure
    both: Measure
    difference: Measure
    interval: Interval
    slices: int


@dataclass(frozen=True)
class Halves:
    """Which rows take part.

    Args:
        samples: (N,) bool, samples to train on.
        slices: (M,) bool, held-back slices to measure on.
    """

    samples: torch.Tensor
    slices: torch.Tensor


def halves(samples: CTSamples, test: CTSlices, seed: int = 0) -> Halves:
    """Split the held-back patients, so that no sample shows the anatomy of a slice that is measured.

    A sample has the mask of a held-back slice. To train on it and to measure on that patient would be to train on the
    answer. So samples of one half of the patients are trained on, and slices of the other half measured. Samples whose
    request is of no slice are all trained on.

    Args:
        samples: made for requests of the held-back slices.
        test: the held-back slices.
        seed: of the split.

    Returns:
        what takes part.

    Raises:
        OptionError: fewer than two patients, or nothing on one side.
    """
    names = [_patient(test, row) for row in range(len(test))]
    patients = sorted(set(names))
    order = torch.randperm(len(patients), generator=generator(seed, 0, "downstream patients"))
    trained = {patients[int(k)] for k in order[: len(patients) // 2]}
    is_trained = torch.tensor([name in trained for name in names])  # (M,)
    at = samples.references  # (N,)
    chosen = samples.has_mask & ((at < 0) | is_trained[at.clamp_min(0)])  # (N,)
    measured = test.has_mask & ~is_trained  # (M,)
    if not (bool(chosen.any()) and bool(measured.any())):
        raise OptionError(
            f"{len(patients)} held-back patients with {int(samples.has_mask.sum())} samples of masks cannot be split "
            "into those to train on and those to measure; raise test_fraction, or leave downstream out"
        )
    return Halves(chosen, measured)


def _patient(test: CTSlices, row: int) -> str:
    # Where no patient is named, slices of one anatomy are: the same slice at several doses has one mask.
    named = test.items[row].get("patient") if row < len(test.items) else None
    return str(named) if named else hashlib.sha256(test.mask[row].contiguous().numpy().tobytes()).hexdigest()


def downstream(
    samples: CTSamples,
    train: CTSlices,
    test: CTSlices,
    steps: int,
    seeds: Sequence[int],
    split_seed: int = 0,
    cache_dir: str | Path = "output/cache",
    device: str | torch.device = "cpu",
) -> dict[str, dict[str, Downstream]]:
    """Train the segmentation on real slices, and on real slices and samples, for as many steps, and measure both.

    Args:
        samples: with the masks that were requested.
        train: real slices, with masks.
        test: held-back slices, with masks.
        steps: of each training.
        seeds: of the trainings; each is a pair.
        split_seed: of the split of the held-back patients.
        cache_dir: folder of the caches.
        device: where to train.

    Returns:
        organ -> "dice" and "iou".

    Raises:
        OptionError: no seeds, or see `halves`.
    """
    if not seeds:
        raise OptionError("downstream_seeds is empty; give some, for instance [0, 1, 2]")
    parts = halves(samples, test, split_seed)
    real = SegmentationRows(train.images[train.has_mask], train.mask[train.has_mask])
    chosen = samples.rows(parts.samples)
    sets = {"real": real, "both": real.joined(SegmentationRows(chosen.images, chosen.mask))}
    images, mask = test.images[parts.slices], test.mask[parts.slices]
    logger.info("downstream: %d real slices, %d samples, measured on %d slices", len(real), len(chosen), len(mask))
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for seed in seeds:
        for name, rows in sets.items():
            network = train_segmentation(rows, len(train.organs), steps, seed, cache_dir, device)
            for organ, measures in organ_measures(segment(network, images), mask, train.organs).items():
                for measure in MEASURES:
                    found.setdefault((name, organ, measure), {})[seed] = measures[measure].value
    return {
        organ: {name: _compared(found["real", organ, name], found["both", organ, name], len(mask)) for name in MEASURES}
        for organ in train.organs
    }


def _compared(real: dict[int, float], both: dict[int, float], slices: int) -> Downstream:
    alone, joined = (np.array([by_seed[seed] for seed in sorted(by_seed)]) for by_seed in (real, both))
    means = mean_measure(alone), mean_measure(joined), mean_measure(joined - alone)
    return Downstream(*means, paired_difference(both, real), slices)
