"""The compiled path and the path of libraries agree, and the loss takes the one that is there."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from topology_reference import POT_WARNINGS, RELATIVE, draw, reference

from anatodiff.losses import AnatoDiffLoss, TopologicalWassersteinLoss
from anatodiff.losses.topology import library
from anatodiff.losses.topology.settings import Metric

numba = pytest.importorskip("numba", reason="numba is not installed: there is one path only")
from anatodiff.losses.topology import compiled, diagrams, matching  # noqa: E402

pytestmark = [pytest.mark.filterwarnings(text) for text in POT_WARNINGS]
KINDS = ("distinct", "tied", "half tied")
PATHS = {"compiled": compiled.compare, "libraries": library.compare}


@pytest.mark.parametrize("path", list(PATHS))
@pytest.mark.parametrize("kind", KINDS)
def test_hundred_images_of_any_shape_agree_with_gudhi_and_pot(path: str, kind: str) -> None:
    rng = np.random.default_rng(11)
    metric = Metric((0, 1), 1, "birth")
    for seed in range(100):
        shape = tuple(int(side) for side in rng.integers(1, 14, 2))
        x, y = (draw((1, *shape), kind, 2 * seed + side) for side in (0, 1))
        got = PATHS[path](x.numpy(), y.numpy(), metric)[0]
        np.testing.assert_allclose(got, [reference(x[0], y[0])], rtol=RELATIVE, atol=1e-12)


@pytest.mark.parametrize("norm", [1, 2, "inf"])
@pytest.mark.parametrize("essential", ["birth", "max", "none"])
@pytest.mark.parametrize("homology", [(0,), (1,), (1, 0)])
def test_both_paths_have_one_value_and_one_gradient(norm: int | str, essential: str, homology: tuple[int, ...]) -> None:
    metric = Metric(homology, norm, essential)
    for shape in ((1, 9), (12, 5), (17, 20)):
        x, y = (draw((3, *shape), "distinct", seed).numpy() for seed in (1, 2))
        for near in (y + 0.05 * x, x):
            values, gradients = compiled.compare(near, y, metric)
            expected, expected_gradients = library.compare(near, y, metric)
            np.testing.assert_allclose(values, expected, rtol=RELATIVE)
            np.testing.assert_allclose(gradients, expected_gradients, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_diagrams_name_the_same_pixels(kind: str) -> None:
    rng = np.random.default_rng(3)
    for seed in range(40):
        shape = tuple(int(side) for side in rng.integers(1, 30, 2))
        images = draw((2, *shape), kind, seed).numpy()
        found = compiled.empty_diagrams(images)
        diagrams.find_diagrams(images, *found)
        for k, expected in enumerate(library.persistence_pairs(images)):
            assert tuple(found.extremes[k]) == (expected.lowest, expected.highest)
            for group, pairs in enumerate(expected.groups):
                got = found.pixels[k, group, : found.counts[k, group]]
                assert set(map(tuple, got)) == set(zip(*pairs, strict=True))


def test_checkerboard_has_as_many_points_as_there_is_room_for() -> None:
    image = (np.indices((1, 9, 8)).sum(axis=0) % 2).astype(float)
    image += 1e-3 * draw(image.shape, "distinct").numpy()
    value, _ = compiled.compare(image, np.zeros_like(image), Metric((0, 1), 1, "max"))
    np.testing.assert_allclose(value, library.compare(image, np.zeros_like(image), Metric((0, 1), 1, "max"))[0])


@pytest.mark.parametrize("n", [1, 2, 7, 100, 5000])
def test_sorts_like_numpy(n: int) -> None:
    rng = np.random.default_rng(n)
    for values in (  # the uneven ones leave the buckets for a merge sort
        rng.standard_normal(n),
        rng.standard_normal(n).astype(np.float32).astype(np.float64),
        rng.integers(-2, 3, n) * 1.0,
        rng.choice([0.0, -0.0, 5e-324, -5e-324, 1e308, -1e308, 1.0], n),
        rng.choice([0.0, 1.0, 1.0 + 1e-12, 1e3], n),
        np.exp(40 * rng.standard_normal(n)),
        np.append(rng.standard_normal(n), 1e9),
        np.full(n, 3.0),
    ):
        order = np.empty(len(values), np.int32)
        diagrams.argsort(values, order)
        np.testing.assert_array_equal(order, np.argsort(values, kind="stable"))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (20, 20), (15, 70), (70, 15)])
@pytest.mark.parametrize("kind", ["dense", "sparse", "integers", "nothing"])
@pytest.mark.parametrize("highest_price", [0.0, 0.3, 5.0])
def test_matching_saves_what_scipy_says(shape: tuple[int, int], kind: str, highest_price: float) -> None:
    rng = np.random.default_rng(5)
    saving = rng.random(shape)
    if kind == "sparse":
        saving *= rng.random(shape) < 0.1
    elif kind == "integers":
        saving = rng.integers(0, 4, shape).astype(float)
    elif kind == "nothing":
        saving[:] = 0
    partner = np.empty(shape[0], np.int64)
    price = highest_price * rng.random(shape[1])  # whatever the matching starts from, it must end at the best
    matching.match(saving, rng.permutation(shape[0]), price, partner)
    rows = np.flatnonzero(partner >= 0)
    assert len(set(partner[rows])) == len(rows)
    best = saving[linear_sum_assignment(saving, maximize=True)].sum()
    assert saving[rows, partner[rows]].sum() == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 30, 1000])
def test_sorts_ends_of_bars_like_numpy(n: int) -> None:
    rng = np.random.default_rng(n)
    for values in (  # the uneven ones leave the buckets for a merge sort
        rng.standard_normal(n),
        rng.integers(-2, 3, n) * 1.0,
        np.r_[1e6, rng.random(n)],
        rng.choice([0.0, -0.0, 5e-324, 1e308, -1e308], n),
        rng.choice([0.0, 1.0, 1.0 + 1e-12, 1e3], n),
        np.exp(40 * rng.standard_normal(n)),
        np.append(rng.standard_normal(n), 1e9),
        np.full(n, 3.0),
    ):
        np.testing.assert_array_equal(values[matching.ascending(values)], np.sort(values))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 9), (40, 40), (60, 100)])
def test_first_prices_prove_the_area_between_the_betti_curves(n: int, m: int) -> None:
    rng = np.random.default_rng(m)
    few, many = (np.sort(rng.random((size, 2)).round(2), axis=1) for size in (n, m))
    saving, price = np.empty((n, m)), np.empty(m)
    matching.fill_savings(few, many, matching.NORM_1, saving)
    matching.first_prices(few, many, price)
    levels = np.arange(0.005, 1, 0.01)  # between the rounded births and deaths
    alive = [((bars[:, :1] < levels) & (levels < bars[:, 1:])).sum(axis=0) for bars in (few, many)]
    area = 0.01 * np.abs(alive[0] - alive[1]).sum()
    persistence = np.diff(few).sum() + np.diff(many).sum()
    proven = persistence - price.sum() - (saving - price).max(axis=1).clip(min=0).sum()
    least = persistence - saving[linear_sum_assignment(saving, maximize=True)].sum()
    assert price.min() >= 0
    assert area - 1e-9 <= proven <= least + 1e-9


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_any_number_of_threads_gives_the_same_bits(threads: int) -> None:
    x, y = (draw((11, 20, 17), "half tied", seed).numpy() for seed in (1, 2))
    metric, before = Metric((0, 1), 1, "birth"), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        values, gradients = compiled.compare(x, y, metric)
        torch.set_num_threads(threads)
        for _ in range(3):
            again, gradients_again = compiled.compare(x, y, metric)
            assert np.array_equal(again, values) and np.array_equal(gradients_again, gradients)
    finally:
        torch.set_num_threads(before)


def no_folder(**settings: bool) -> None:
    """What numba says where it may write nothing."""
    raise RuntimeError("cannot cache function: no locator available")


@pytest.mark.parametrize("without", ["numba", "a folder to write to"])
def test_without_compiled_code_the_libraries_compute_it_and_say_so_once(
    without: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x, y = (draw((4, 1, 12, 12), "distinct", seed) for seed in (1, 2))
    with caplog.at_level(logging.INFO, "anatodiff"):
        expected = TopologicalWassersteinLoss()(x, y)
        assert [record.levelname for record in caplog.records] == ["INFO"]  # a word before the compiler starts
        caplog.clear()
        for name in ("compiled", "diagrams", "matching"):
            monkeypatch.delitem(sys.modules, f"anatodiff.losses.topology.{name}")
        monkeypatch.delattr("anatodiff.losses.topology.compiled")
        if without == "numba":
            monkeypatch.setitem(sys.modules, "numba", None)
        else:
            monkeypatch.setattr(numba, "njit", no_folder)
        loss = TopologicalWassersteinLoss()
        for _ in range(2):
            torch.testing.assert_close(loss(x, y), expected)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "anatodiff[fast]" in caplog.text and "NUMBA_CACHE_DIR" in caplog.text


def test_the_word_comes_before_the_first_step(caplog: pytest.LogCaptureFixture) -> None:
    from anatodiff.diffusion import DiffusionSettings

    schedule = DiffusionSettings().build()
    with caplog.at_level(logging.INFO, "anatodiff"):
        AnatoDiffLoss(schedule, TopologicalWassersteinLoss(reduction="none"), topology_weight=0)
        assert not caplog.records  # it will not be used
        AnatoDiffLoss(schedule, TopologicalWassersteinLoss(reduction="none"))
    assert "ready" in caplog.text


def test_compiled_code_is_kept_on_disk() -> None:
    compiled.compare(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), Metric((0,), 1, "birth"))
    for function in (diagrams.find_diagrams, matching.compare_diagrams):
        assert list(Path(function.stats.cache_path).glob(f"*.{function.__name__}-*.nbi"))
