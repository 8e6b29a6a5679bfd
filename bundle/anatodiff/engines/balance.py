"""Batches with a fixed share of each domain, and of each class inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from anatodiff.diffusion.draws import GOLDEN_RATIO, ordered
from anatodiff.draws import generator

STEPS_AT_ONCE = 1 << 16  # of a resumed run's count, so that it takes little memory


class Balance:
    """Choose the rows of each batch by the shares of their classes.

    The classes lie side by side on [0, 1), those of a domain together, each as long as its share. The images of a batch
    are equally spaced points on that line (systematic sampling), so the number of images of each class and of each
    domain is within one of its share of the batch, in every batch. Inside a class the rows come round in random orders,
    all of them before any comes again.

    Args:
        labels: (N,) class of each row.
        shares: class -> share of the images; they sum to 1, in the order of the line.

    Raises:
        ValueError: a class with a share has no row.
    """

    def __init__(self, labels: torch.Tensor, shares: Mapping[int, float]) -> None:
        self.rows = {label: (labels == label).nonzero()[:, 0] for label in shares}  # class -> (n,)
        empty = [label for label, rows in self.rows.items() if not len(rows)]
        if empty:
            raise ValueError(f"class {empty[0]} has a share of the batches and no image")
        self.edges = torch.tensor([0.0, *shares.values()], dtype=torch.float64).cumsum(0)  # (classes + 1,)
        self.edges = self.edges / self.edges[-1]  # (classes + 1,) the last is exactly 1
        self._counted: tuple[tuple[int, int, int], torch.Tensor] | None = None

    def indices(self, batch_size: int, seed: int, step: int) -> torch.Tensor:
        """Choose the rows of a step.

        Args:
            batch_size: images per step.
            seed: the run's seed.
            step: training step, from 0.

        Returns:
            (batch_size,) int64 indices, in random order.
        """
        before = self._before(batch_size, seed, step)  # (classes,)
        counts = self._counts(batch_size, seed, torch.tensor([step]))[0]  # (classes,)
        self._counted = (batch_size, seed, step + 1), before + counts
        chosen = []
        for (label, rows), first, count in zip(self.rows.items(), before.tolist(), counts.tolist(), strict=True):
            places = torch.arange(first, first + count)
            chosen.append(rows[ordered(len(rows), places, seed, f"order of class {label}")])
        # Mixed, so that every process and every noise level gets images of all classes.
        return torch.cat(chosen)[torch.randperm(batch_size, generator=generator(seed, step, "places"))]

    def _before(self, batch_size: int, seed: int, step: int) -> torch.Tensor:
        """Count the images of each class, (classes,), in all steps before this one."""
        if self._counted is not None and self._counted[0] == (batch_size, seed, step):
            return self._counted[1]
        total = torch.zeros(len(self.rows), dtype=torch.int64)
        for first in range(0, step, STEPS_AT_ONCE):
            total += self._counts(batch_size, seed, torch.arange(first, min(step, first + STEPS_AT_ONCE))).sum(0)
        return total

    def _counts(self, batch_size: int, seed: int, steps: torch.Tensor) -> torch.Tensor:
        """Count the images of each class in some steps, (steps, classes)."""
        # The points move on by the golden ratio from step to step, so that rare classes come evenly, too.
        start = torch.rand((), dtype=torch.float64, generator=generator(seed, 0, "start of the balance"))
        shift = (start + GOLDEN_RATIO * steps) % 1  # (steps,)
        passed = (batch_size * self.edges - shift[:, None]).ceil().long()  # (steps, classes + 1) points below an edge
        return passed.diff(dim=1)


def build_balance(
    labels: torch.Tensor,
    classes: Sequence[str],
    parents: Sequence[int],
    domain_weights: Mapping[str, float] | None = None,
    class_balance: float = 0.0,
) -> Balance | None:
    """Turn the options `domain_weights` and `class_balance` into shares of the batches.

    Args:
        labels: (N,) class of each row.
        classes: names of the classes, domains among them, see `anatodiff.data.Sources`.
        parents: for each class the index of its domain.
        domain_weights: domain -> share of the images; the others share the rest by their numbers of images. None: all
            domains by their numbers.
        class_balance: power 0 to 1 by which the classes of a domain are made alike: a class of n images has a share
            proportional to n^(1 - class_balance); 0 leaves them as they are, 1 makes them equal.

    Returns:
        the balance; None where neither is asked for.

    Raises:
        ValueError: a share or the power is out of range, or a domain has no image.
    """
    if not 0 <= class_balance <= 1:
        raise ValueError(f"class_balance must be 0 to 1, got {class_balance}")
    if not domain_weights and not class_balance:
        return None
    numbers = torch.bincount(labels, minlength=len(classes)).tolist()
    members: dict[str, list[int]] = {}  # domain -> its classes that have images
    for label, number in enumerate(numbers):
        if number:
            members.setdefault(classes[parents[label]], []).append(label)
    images = {domain: sum(numbers[label] for label in labels) for domain, labels in members.items()}
    shares: dict[int, float] = {}
    for domain, share in _domain_shares(images, domain_weights or {}).items():
        powers = {label: numbers[label] ** (1 - class_balance) for label in members[domain]}
        shares |= {label: share * power / sum(powers.values()) for label, power in powers.items()}
    return Balance(labels, {label: share for label, share in shares.items() if share})


def _domain_shares(images: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, float]:
    """Give each domain its share of the batches, by its number of images where none is asked for."""
    unknown = [domain for domain in weights if domain not in images]
    if unknown:
        raise ValueError(f"domain_weights names {unknown[0]!r}, which has no training image; {sorted(images)} have")
    asked = sum(weights.values())
    rest = sum(number for domain, number in images.items() if domain not in weights)
    if min(weights.values(), default=0) < 0 or asked > 1 + 1e-9 or (not rest and abs(asked - 1) > 1e-9):
        raise ValueError(
            f"domain_weights {dict(weights)} are shares of a batch: none may be negative, and they sum to at most 1, "
            "to 1 where every domain has one"
        )
    return {domain: weights.get(domain, (1 - asked) * number / max(rest, 1)) for domain, number in images.items()}
