from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from monai.metrics import FIDMetric

from anatodiff.metrics import frechet_distance


def features(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    random = np.random.default_rng([seed, n, d])
    return random.standard_normal((n, d)) @ random.standard_normal((d, d)) + shift


def by_square_root(x: np.ndarray, y: np.ndarray) -> float:
    """The formula as it is written, with SciPy's square root of a matrix."""
    first, second = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (x, y))
    root = scipy.linalg.sqrtm(first @ second).real
    gap = x.mean(axis=0) - y.mean(axis=0)
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * np.trace(root))


def by_eigenvalues(x: np.ndarray, y: np.ndarray) -> float:
    """The same through S^(1/2) T S^(1/2), which stays sound for singular covariances."""
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(min=0)).sum()
    gap = x.mean(axis=0) - y.mean(axis=0)
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * shared)


def with_moments(mean: np.ndarray, covariance: np.ndarray, n: int, seed: int) -> np.ndarray:
    """n points whose sample mean and covariance are exactly these."""
    points = np.random.default_rng(seed).standard_normal((n, len(mean)))
    points -= points.mean(axis=0)
    white = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points, rowvar=False)).T)
    return white @ np.linalg.cholesky(covariance).T + mean


@pytest.mark.parametrize(("n", "m", "d"), [(60, 50, 8), (400, 90, 20), (30, 40, 1)])
def test_agrees_with_the_square_root_of_the_matrix(n: int, m: int, d: int) -> None:
    x, y = features(n, d, 1), features(m, d, 2, shift=0.5)
    assert frechet_distance(x, y) == pytest.approx(by_square_root(x, y), rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(10, 12, 40), (10, 80, 40), (80, 10, 40), (2, 2, 5)])
def test_fewer_samples_than_features_are_exact_too(n: int, m: int, d: int) -> None:
    x, y = features(n, d, 1), features(m, d, 2, shift=0.5)
    assert frechet_distance(x, y) == pytest.approx(by_eigenvalues(x, y), rel=1e-6)


@pytest.mark.parametrize("n", [30, 9, 5])
def test_one_line_of_points_in_many_dimensions_is_a_distance_in_one(n: int) -> None:
    """On one line the distance is (difference of means)^2 + (difference of deviations)^2, whatever the rank."""
    random = np.random.default_rng(n)
    direction = np.ones(9) / 3
    a, b = random.standard_normal(n), 1 + 3 * random.standard_normal(n + 4)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(np.outer(a, direction), np.outer(b, direction)) == pytest.approx(expected, rel=1e-9)


def test_known_normal_distributions() -> None:
    mean, other = np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 6.0])
    x = with_moments(mean, np.diag([1.0, 4.0, 9.0]), 40, seed=0)
    y = with_moments(other, np.diag([4.0, 4.0, 1.0]), 25, seed=1)
    assert frechet_distance(x, y) == pytest.approx((4 + 9) + (1 + 0 + 4), rel=1e-9)
    # Covariances that do not commute: of two 2 x 2 matrices the root's trace is sqrt(tr(ST) + 2 sqrt(det(S) det(T))).
    s, t = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[4.0, -1.0], [-1.0, 1.0]])
    trace = np.sqrt(np.trace(s @ t) + 2 * np.sqrt(np.linalg.det(s) * np.linalg.det(t)))
    got = frechet_distance(with_moments(np.zeros(2), s, 30, 2), with_moments(np.zeros(2), t, 50, 3))
    assert got == pytest.approx(np.trace(s) + np.trace(t) - 2 * trace, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(9000, 4097, 3), (4096, 12_300, 2)])
def test_more_samples_than_a_block_far_from_the_origin(n: int, m: int, d: int) -> None:
    x, y = features(n, d, 1, shift=100.0), features(m, d, 2, shift=99.5)
    assert frechet_distance(x, y) == pytest.approx(by_square_root(x, y), rel=1e-9)
    flat = np.concatenate([y, y[:, :1]], axis=1)  # without variance in one direction, unlike the other set
    other = np.concatenate([x, x[::-1, :1]], axis=1)
    assert frechet_distance(other, flat) == pytest.approx(by_eigenvalues(other, flat), rel=1e-6)
    assert frechet_distance(flat, other) == pytest.approx(frechet_distance(other, flat), rel=1e-9)


def test_the_first_bad_sample_is_named_in_any_block() -> None:
    x = np.zeros((5000, 2))
    x[4500, 1] = np.nan
    with pytest.raises(ValueError, match="y has NaN or infinite features, first in sample 4500"):
        frechet_distance(np.zeros((5, 2)), x)


def test_agrees_with_monai() -> None:
    x, y = torch.from_numpy(features(90, 6, 1)), torch.from_numpy(features(70, 6, 2, shift=0.3))
    try:
        expected = float(FIDMetric()(x, y))
    except TypeError as error:  # it calls sqrtm(disp=False), an argument that SciPy takes away
        pytest.skip(f"MONAI's FIDMetric does not run with this SciPy: {error}")
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(50, 8), (8, 50)])
def test_equal_sets_are_at_zero_and_order_does_not_matter(n: int, d: int) -> None:
    x, y = features(n, d, 1), features(n, d, 2)
    scale = float(x.var(axis=0).sum())
    assert 0 <= frechet_distance(x, x[::-1].copy()) < 1e-10 * scale
    assert frechet_distance(x, x + 1) == pytest.approx(d, rel=1e-9)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(torch.from_numpy(y), x), rel=1e-9)


def test_half_precision_is_computed_in_float64() -> None:
    x, y = torch.from_numpy(features(40, 6, 1)).half(), torch.from_numpy(features(40, 6, 2)).half()
    assert frechet_distance(x, y) == frechet_distance(x.double(), y.double())


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((5, 3)), np.zeros((5, 4)), "x has 3 features and y has 4"),
        (np.zeros((1, 3)), np.zeros((5, 3)), "x has 1 samples.*at least 2"),
        (np.zeros((5, 3)), np.full((5, 3), np.inf), "y has NaN or infinite features"),
    ],
)
def test_unfit_features_are_refused(x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(x, y)
