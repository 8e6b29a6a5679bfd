"""The extrapolated Frechet distance where the true one is known."""

from __future__ import annotations

import numpy as np
import pytest

from anatodiff.metrics import frechet_distance, frechet_infinity


def points(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng([seed, n, d]).standard_normal((n, d)) + shift


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_takes_away_the_bias_and_knows_its_error(shift: float) -> None:
    d = 16
    truth = d * shift**2
    found = [frechet_infinity(points(400, d, 2 * k), points(400, d, 2 * k + 1, shift)) for k in range(12)]
    plain = np.mean([frechet_distance(points(400, d, 2 * k), points(400, d, 2 * k + 1, shift)) for k in range(12)])
    values = np.array([one.value for one in found])
    assert abs(values.mean() - truth) < 0.3 * (plain - truth)
    spread = values.std(ddof=1)
    assert 0.5 * spread < np.mean([one.stderr for one in found]) < 2.5 * spread


def test_same_seed_same_number_and_too_few_are_refused() -> None:
    x, y = points(60, 4, 1), points(45, 4, 2)
    assert frechet_infinity(x, y) == frechet_infinity(x, y)
    assert frechet_infinity(x, y) != frechet_infinity(x, y, seed=1)
    with pytest.raises(ValueError, match="y has 29 samples: the measure needs at least 30"):
        frechet_infinity(x, y[:29])
