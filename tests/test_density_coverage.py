"""Density and coverage against the authors' package and against what they are by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anatodiff.metrics import DensityCoverage, density_coverage, improved_precision_recall, neighbours


def points(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng([seed, n, d]).standard_normal((n, d)) + shift


@pytest.mark.parametrize(("n", "m", "d"), [(60, 60, 4), (371, 200, 64), (50, 300, 8)])
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_equals_the_authors_package(n: int, m: int, d: int, k: int, shift: float) -> None:
    prdc = pytest.importorskip("prdc", reason="the authors' package (extra test) is not installed")
    real, synthetic = points(n, d, 1), points(m, d, 2, shift)
    expected = prdc.compute_prdc(real, synthetic, k)
    got, shares = density_coverage(real, synthetic, k), improved_precision_recall(real, synthetic, k)
    found = {"density": got.density, "coverage": got.coverage, "precision": shares.precision, "recall": shares.recall}
    assert found == pytest.approx(expected, abs=1e-12)


def test_one_distribution_is_near_one_and_a_missed_mode_is_not_covered() -> None:
    both, again = points(1500, 3, 1), points(1500, 3, 2)
    same = density_coverage(both, again)
    assert same.density == pytest.approx(1, abs=0.05)
    assert same.coverage == pytest.approx(1 - 0.5**5, abs=0.03)  # k real ones before the first synthetic one: chance
    modes = np.concatenate([both, both + 100])
    assert density_coverage(modes, again).coverage == pytest.approx(same.coverage / 2, abs=0.03)
    assert density_coverage(both, both + 1000) == DensityCoverage(0.0, 0.0)


def test_blocks_change_nothing_and_one_sample_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    real, synthetic = torch.from_numpy(points(50, 3, 1)), torch.from_numpy(points(41, 3, 2, shift=0.8))
    whole = density_coverage(real, synthetic)
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    assert density_coverage(real, synthetic) == whole
    middle = real.mean(dim=0, keepdim=True)
    assert density_coverage(real, middle).density > 1


def test_more_samples_than_a_block_are_by_definition() -> None:
    real, synthetic = (torch.from_numpy(points(n, 2, n)) for n in (4500, 300))
    radii = torch.cdist(real, real).kthvalue(6, dim=1).values  # of the fifth among the others
    inside = torch.cdist(synthetic, real) <= radii  # (m, n)
    expected = DensityCoverage(float(inside.sum()) / (5 * 300), float(inside.any(dim=0).double().mean()))
    assert density_coverage(real, synthetic) == expected
    assert improved_precision_recall(real, synthetic, 5).precision == float(inside.any(dim=1).double().mean())


@pytest.mark.parametrize(
    ("real", "synthetic", "k", "message"),
    [
        (np.zeros((5, 3)), np.zeros((5, 3)), 5, "real has 5 samples: 5 nearest neighbours need at least 6"),
        (np.zeros((9, 3)), np.zeros((0, 3)), 5, "synthetic has 0 samples"),
        (np.zeros((9, 3)), np.zeros((5, 3)), 0, "k=0"),
    ],
)
def test_unfit_features_are_refused(real: np.ndarray, synthetic: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        density_coverage(real, synthetic, k)
