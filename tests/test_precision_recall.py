from __future__ import annotations

import numpy as np
import pytest
import torch

from anatodiff.metrics import PrecisionRecall, improved_precision_recall, neighbours


def points(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng([seed, n, d]).standard_normal((n, d)) + shift


def share_within(samples: np.ndarray, manifold: np.ndarray, k: int) -> float:
    """The definition, one pair at a time."""
    inside = 0
    for sample in samples:
        for i, centre in enumerate(manifold):
            others = sorted(float(np.linalg.norm(centre - other)) for j, other in enumerate(manifold) if j != i)
            if float(np.linalg.norm(sample - centre)) <= others[k - 1]:
                inside += 1
                break
    return inside / len(samples)


@pytest.mark.parametrize(("n", "m", "d", "k"), [(30, 40, 2, 3), (25, 25, 5, 1), (40, 12, 3, 5), (6, 4, 2, 3)])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_agrees_with_the_definition(n: int, m: int, d: int, k: int, shift: float) -> None:
    real, synthetic = points(n, d, 1), points(m, d, 2, shift)
    got = improved_precision_recall(real, synthetic, k)
    assert got == PrecisionRecall(share_within(synthetic, real, k), share_within(real, synthetic, k))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_ties_on_a_grid_count_as_within(k: int) -> None:
    """On whole numbers every radius is met exactly by others, and many points are copies."""
    random = np.random.default_rng(0)
    real, synthetic = random.integers(0, 5, (40, 2)), random.integers(0, 7, (30, 2))
    got = improved_precision_recall(real.astype(float), synthetic.astype(float), k)
    assert got == PrecisionRecall(share_within(synthetic, real, k), share_within(real, synthetic, k))
    assert 0 < got.precision < 1


def test_a_ball_of_radius_zero_holds_copies_of_its_centre() -> None:
    copies = np.repeat(points(3, 7, 0, shift=1000.0) / 3, 4, axis=0)  # each four times: every radius is 0
    assert improved_precision_recall(copies, copies[::-1].copy(), k=3) == PrecisionRecall(1.0, 1.0)
    assert improved_precision_recall(copies, copies * (1 + 1e-5), k=3) == PrecisionRecall(0.0, 0.0)


@pytest.mark.parametrize("k", [1, 3])
def test_equal_sets_far_sets_and_a_set_that_misses_a_mode(k: int) -> None:
    near, far = points(60, 4, 1), points(60, 4, 2, shift=100.0)
    both = np.concatenate([near, far])
    assert improved_precision_recall(both, both, k) == PrecisionRecall(1.0, 1.0)
    assert improved_precision_recall(near, far, k) == PrecisionRecall(0.0, 0.0)
    assert improved_precision_recall(both, near, k) == PrecisionRecall(precision=1.0, recall=0.5)
    assert improved_precision_recall(near, both, k) == PrecisionRecall(precision=0.5, recall=1.0)


def test_a_few_typical_samples_are_precise_with_little_recall() -> None:
    real = points(200, 2, 1)
    middle = real[np.argsort(np.linalg.norm(real, axis=1))[:20]]
    got = improved_precision_recall(real, middle)
    assert got.precision == 1
    assert 0.1 <= got.recall < 0.4


def test_more_neighbours_never_make_the_shares_smaller() -> None:
    real, synthetic = points(50, 3, 1), points(40, 3, 2, shift=1.0)
    shares = [improved_precision_recall(real, synthetic, k) for k in range(1, 8)]
    assert sorted(share.precision for share in shares) == [share.precision for share in shares]
    assert sorted(share.recall for share in shares) == [share.recall for share in shares]
    assert shares[-1].precision > shares[0].precision


def test_blocks_do_not_change_the_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    real, synthetic = torch.from_numpy(points(50, 3, 1)), torch.from_numpy(points(41, 3, 2, shift=0.8))
    whole = improved_precision_recall(real, synthetic)
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    assert improved_precision_recall(real, synthetic) == whole


@pytest.mark.parametrize(
    ("real", "synthetic", "k", "message"),
    [
        (np.zeros((5, 3)), np.zeros((5, 4)), 3, "real has 3 features and synthetic has 4"),
        (np.zeros((5, 3)), np.zeros((3, 3)), 3, "synthetic has 3 samples.*at least 4"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), 3, "real has NaN"),
        (np.zeros((5, 3)), np.zeros((5, 3)), 0, "k=0"),
    ],
)
def test_unfit_features_are_refused(real: np.ndarray, synthetic: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        improved_precision_recall(real, synthetic, k)
