"""Authenticity and membership inference, on samples that copy and samples that do not."""

from __future__ import annotations

import numpy as np
import pytest

from anatodiff.metrics import authenticity, membership_inference, membership_scores


def points(n: int, seed: int, d: int = 6) -> np.ndarray:
    return np.random.default_rng([seed, n, d]).standard_normal((n, d))


def test_authenticity_by_its_definition() -> None:
    training, samples = points(40, 1), points(25, 2)
    count, ratios = 0, []
    for sample in samples:
        distances = np.linalg.norm(training - sample, axis=1)
        nearest = int(distances.argmin())
        others = np.delete(np.linalg.norm(training - training[nearest], axis=1), nearest)
        count += distances[nearest] > others.min()
        ratios.append(np.sort(distances)[0] / np.sort(distances)[1])
    found = authenticity(training, samples)
    assert found.value == count / 25
    assert found.low < found.value < found.high
    np.testing.assert_allclose(found.ratio, ratios, rtol=1e-9)


def test_copies_are_not_authentic_and_new_samples_half_of_the_time() -> None:
    training = points(400, 1)
    copies = authenticity(training, training[:100] + 1e-3 * points(100, 2))
    assert copies.value == 0
    assert copies.high < 0.04
    assert copies.ratio.max() < 0.05
    new = authenticity(training, points(400, 3))
    assert new.low < 0.55
    assert new.high > 0.45
    assert authenticity(training, training).value == 0


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_membership_shows_as_much_as_was_copied(share: float) -> None:
    training, others, fresh = points(200, 1), points(200, 2), points(200, 3)
    copied = int(200 * share)
    samples = np.concatenate([training[:copied] + 1e-3, fresh[copied:]])
    found = membership_inference(membership_scores(training, samples), membership_scores(others, samples))
    assert found.true_positives == pytest.approx(share, abs=0.05)
    if share == 0:
        assert abs(found.auc - 0.5) < 3 * found.stderr
    else:
        assert found.auc > 0.5 + 5 * found.stderr


def test_auc_is_the_share_of_pairs_in_order() -> None:
    members, others = np.array([3.0, 2.0, 2.0, 0.5]), np.array([2.0, 1.0, 0.0])
    pairs = np.sign(members[:, None] - others) / 2 + 0.5
    assert membership_inference(members, others).auc == pytest.approx(pairs.mean())


def test_unfit_input_is_refused() -> None:
    with pytest.raises(ValueError, match="training has 2 samples"):
        authenticity(points(2, 1), points(5, 2))
    with pytest.raises(ValueError, match="others has shape"):
        membership_inference(np.ones(3), np.array([1.0, np.nan]))
