"""CMMD against the published formula, written out."""

from __future__ import annotations

import numpy as np
import pytest

from anatodiff.metrics import cmmd


def unit(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    x = np.random.default_rng([seed, n, d]).standard_normal((n, d)) + shift
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def published(x: np.ndarray, y: np.ndarray, sigma: float) -> tuple[float, float]:
    """As the authors' code has it (with the diagonal), and what the diagonal adds to it."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * sigma**2))

    biased = kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()
    extra = sum((1 - (kernel(z, z).sum() - len(z)) / (len(z) * (len(z) - 1))) / len(z) for z in (x, y))
    return 1000 * biased, 1000 * extra


@pytest.mark.parametrize(("n", "m", "d", "sigma"), [(20, 30, 8, 10.0), (50, 12, 768, 10.0), (9, 9, 3, 0.5)])
def test_is_the_published_value_without_its_bias(n: int, m: int, d: int, sigma: float) -> None:
    x, y = unit(n, d, 1), unit(m, d, 2, shift=0.5)
    biased, extra = published(x, y, sigma)
    assert cmmd(x, y, sigma).value == pytest.approx(biased - extra, rel=1e-9, abs=1e-9)


def test_one_distribution_is_zero_within_its_error_and_another_is_not() -> None:
    x, y, z = unit(300, 16, 1), unit(300, 16, 2), unit(300, 16, 3, shift=0.4)
    same, other = cmmd(x, y, 0.5), cmmd(x, z, 0.5)
    assert abs(same.value) < 3 * same.stderr
    assert other.value > 5 * other.stderr


def test_a_width_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma=0 is no width"):
        cmmd(unit(5, 3, 1), unit(5, 3, 2), 0)
