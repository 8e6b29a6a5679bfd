from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import MMDMetric

from anatodiff.metrics import KernelDistance, kernel_distance


def features(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng([seed, n, d]).standard_normal((n, d)) + shift


def direct(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, one pair at a time."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def direct_stderr(x: np.ndarray, y: np.ndarray) -> float:
    n, m = len(x), len(y)
    without_x = np.array([direct(np.delete(x, i, axis=0), y) for i in range(n)])
    without_y = np.array([direct(x, np.delete(y, j, axis=0)) for j in range(m)])
    return float(np.sqrt((n - 1) * without_x.var() + (m - 1) * without_y.var()))


def cubic_map(x: torch.Tensor) -> torch.Tensor:
    """Features whose plain dot product is the cubic kernel: the third tensor power of (x / sqrt(D), 1)."""
    x = torch.cat([x / x.shape[1] ** 0.5, x.new_ones(len(x), 1)], dim=1)
    return torch.einsum("ni,nj,nk->nijk", x, x, x).flatten(1)


@pytest.mark.parametrize(("n", "m", "d"), [(3, 3, 1), (12, 9, 4), (8, 20, 6)])
def test_agrees_with_the_definition(n: int, m: int, d: int) -> None:
    x, y = features(n, d, 1), features(m, d, 2, shift=0.5)
    got = kernel_distance(x, y)
    assert got.value == pytest.approx(direct(x, y), rel=1e-10, abs=1e-12)
    assert got.stderr == pytest.approx(direct_stderr(x, y), rel=1e-10)


@pytest.mark.parametrize("n", [5, 40])
def test_agrees_with_monai(n: int) -> None:
    x, y = torch.from_numpy(features(n, 5, 1)), torch.from_numpy(features(n, 5, 2, shift=0.3))
    expected = MMDMetric(y_mapping=cubic_map)(x, y).item()
    assert kernel_distance(x, y).value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("block_size", [1, 7, 50, 10_000])
def test_block_size_does_not_change_the_value(block_size: int) -> None:
    x, y = features(50, 8, 1), features(33, 8, 2, shift=0.5)
    got, expected = kernel_distance(x, y, block_size), kernel_distance(x, y)
    assert got.value == pytest.approx(expected.value, rel=1e-10)
    assert got.stderr == pytest.approx(expected.stderr, rel=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_halves_of_one_set_are_near_zero_and_a_shifted_set_is_not(seed: int) -> None:
    both = features(600, 16, seed)
    same = kernel_distance(both[:300], both[300:])
    assert abs(same.value) < 3 * same.stderr
    shifted = kernel_distance(both[:300], both[300:] + 0.5)
    assert shifted.value > 5 * shifted.stderr
    assert shifted.value > 20 * abs(same.value)


def test_value_is_unbiased_and_stderr_is_its_spread() -> None:
    null = [kernel_distance(features(40, 8, 2 * s), features(30, 8, 2 * s + 1)) for s in range(300)]
    values = np.array([distance.value for distance in null])
    spread = values.std(ddof=1)
    assert abs(values.mean()) < 3 * spread / len(values) ** 0.5
    # The jackknife is too large where the two sets are alike, by about the square root of two, and right where not.
    assert 1.2 < np.mean([distance.stderr for distance in null]) / spread < 1.7
    apart = [kernel_distance(features(40, 8, 2 * s), features(30, 8, 2 * s + 1, shift=0.5)) for s in range(300)]
    spread = np.std([distance.value for distance in apart], ddof=1)
    assert 0.85 < np.mean([distance.stderr for distance in apart]) / spread < 1.25


def test_order_and_kind_do_not_matter() -> None:
    x, y = features(20, 6, 1), features(30, 6, 2, shift=0.2)
    got, swapped = kernel_distance(x, y), kernel_distance(torch.from_numpy(y), x[::-1].copy())
    assert isinstance(got, KernelDistance)
    assert (swapped.value, swapped.stderr) == pytest.approx((got.value, got.stderr), rel=1e-10)


def test_half_precision_is_computed_in_float64() -> None:
    x = torch.from_numpy(features(40, 6, 1)).half()
    y = torch.from_numpy(features(40, 6, 2, shift=0.2)).half()
    assert kernel_distance(x, y) == kernel_distance(x.double(), y.double())


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((5, 3)), np.zeros((5, 4)), "x has 3 features and y has 4"),
        (np.zeros((2, 3)), np.zeros((5, 3)), "x has 2 samples.*at least 3"),
        (np.zeros((5, 3)), np.zeros((5, 3, 1)), r"y has shape \(5, 3, 1\)"),
        (
            np.zeros((5, 3)),
            np.where(np.eye(5, 3) > 0, np.nan, 0.0),
            "y has NaN or infinite features, first in sample 0",
        ),
    ],
)
def test_unfit_features_are_refused(x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernel_distance(x, y)


def test_an_empty_block_is_refused() -> None:
    with pytest.raises(ValueError, match="block_size=0"):
        kernel_distance(np.zeros((5, 3)), np.zeros((5, 3)), block_size=0)
