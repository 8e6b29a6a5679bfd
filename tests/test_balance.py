"""Balanced batches: shares of domains and classes in every batch, and no image left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import with_domains

from anatodiff.engines import StepBatches, build_balance

Run = Callable[..., Path]
CLASSES = ("chest", "limb", "odd", "chest/rare", "chest/usual", "limb/hand")
PARENTS = (0, 1, 2, 0, 0, 1)
NUMBERS = {2: 5, 3: 9, 4: 81, 5: 60}  # rows of each class
LABELS = torch.cat([torch.full((number,), label) for label, number in NUMBERS.items()])


class Rows:
    """A dataset whose rows tell their index and class."""

    def __len__(self) -> int:
        return len(LABELS)

    def gather(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"row": indices, "label": LABELS[indices]}


def batches_of(steps: int, first: int = 0, **options: Any) -> list[dict[str, torch.Tensor]]:
    balance = build_balance(LABELS, CLASSES, PARENTS, **options)
    batches = StepBatches(Rows(), 16, seed=3, balance=balance)
    batches.step = first
    return [batch for _, batch in zip(range(steps), batches, strict=False)]


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"domain_weights": {"chest": 0.3, "limb": 0.6}, "class_balance": 0.5}, {2: 0.1, 3: 0.075, 4: 0.225, 5: 0.6}),
        ({"domain_weights": {"limb": 0.05}, "class_balance": 1.0}, {2: 0.05, 3: 0.45, 4: 0.45, 5: 0.05}),
        ({"class_balance": 1.0}, {2: 5 / 155, 3: 45 / 155, 4: 45 / 155, 5: 60 / 155}),
    ],
)
def test_every_batch_has_the_shares_to_within_one_image(options: dict[str, Any], shares: dict[int, float]) -> None:
    batches = batches_of(200, **options)
    for batch in batches:
        for label, share in shares.items():
            assert abs(int((batch["label"] == label).sum()) - 16 * share) < 1
        chest = int(((batch["label"] == 3) | (batch["label"] == 4)).sum())
        assert abs(chest - 16 * (shares[3] + shares[4])) < 1
    labels = torch.cat([batch["label"] for batch in batches])
    for label, share in shares.items():
        assert int((labels == label).sum()) == pytest.approx(3200 * share, abs=4)


def test_rows_of_a_class_come_round_evenly_and_in_other_orders() -> None:
    batches = batches_of(300, domain_weights={"chest": 0.5}, class_balance=0.5)
    rows = torch.cat([batch["row"] for batch in batches])
    for label in NUMBERS:
        drawn = rows[LABELS[rows] == label]
        counts = torch.bincount(drawn, minlength=len(LABELS))[torch.eq(LABELS, label)]
        assert int(counts.max() - counts.min()) <= 1
        passes = drawn[: 2 * NUMBERS[label]].reshape(2, -1)
        assert not torch.equal(*passes)


def test_a_step_is_the_same_whenever_it_is_asked_for() -> None:
    options: dict[str, Any] = {"domain_weights": {"chest": 0.3}, "class_balance": 0.5}
    whole, later = batches_of(12, **options), batches_of(5, first=7, **options)
    assert all(torch.equal(a["row"], b["row"]) for a, b in zip(whole[7:], later, strict=True))


def test_classes_have_no_fixed_place_in_the_batch() -> None:
    places = torch.stack([batch["label"] for batch in batches_of(50, domain_weights={"chest": 0.5})])
    assert all(len(column.unique()) > 1 for column in places.T)


def test_two_processes_share_a_balanced_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"domain_weights": {"chest": 0.3}}
    (whole,) = batches_of(1, **options)
    parts = []
    for rank in range(2):
        monkeypatch.setattr("anatodiff.engines.batches.world", lambda rank=rank: (rank, 2))
        parts += [batch["row"] for batch in batches_of(1, **options)]
    assert torch.equal(torch.cat(parts), whole["row"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"class_balance": 1.5}, "class_balance must be 0 to 1"),
        ({"domain_weights": {"chest": 0.8, "limb": 0.4}}, "sum to at most 1"),
        ({"domain_weights": {"chest": -0.1}}, "none may be negative"),
        ({"domain_weights": {"chest": 0.1, "limb": 0.1, "odd": 0.1}}, "to 1 where every domain has one"),
        ({"domain_weights": {"cest": 0.5}}, "domain_weights names 'cest'"),
    ],
)
def test_wrong_shares_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_balance(LABELS, CLASSES, PARENTS, **options)


def test_without_shares_batches_are_random_passes() -> None:
    assert build_balance(LABELS, CLASSES, PARENTS) is None


def test_a_pretraining_takes_the_shares_of_its_domains(run: Run, small_images: Path, tmp_path: Path) -> None:
    images = with_domains(small_images, tmp_path)
    losses = [
        (run("pretrain", dataset_dir=images, output_dir=str(tmp_path / name), **options) / "losses.csv").read_text()
        for name, options in {
            "a": {},
            "b": {"class_balance": 1.0},
            "c": {"domain_weights": {"domain1": 0.25}},
        }.items()
    ]
    assert len(set(losses)) == 3
