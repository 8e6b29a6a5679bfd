from __future__ import annotations

import numpy as np
import pytest
import torch
from gudhi.wasserstein import wasserstein_distance
from topology_reference import POT_WARNINGS, RELATIVE, diagram, draw, flat_with, reference

from anatodiff.losses import TopologicalWassersteinLoss
from anatodiff.losses.topology import match, persistence_pairs

pytestmark = [pytest.mark.filterwarnings(text) for text in POT_WARNINGS]

SHAPES = [(1, 1), (1, 7), (2, 9), (9, 2), (3, 3), (5, 4), (8, 8), (7, 13), (16, 5), (17, 17)]
PITS = flat_with((1, 1, -3.0), (4, 6, -1.0), (7, 2, -2.0))
MOVED_PITS = flat_with((7, 7, -3.0), (2, 2, -1.0), (5, 4, -2.0))
BUMPS = flat_with((2, 2, 1.0), (6, 5, 2.0))
FLAT = flat_with()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["distinct", "tied", "half tied"])
def test_agrees_with_gudhi_and_pot(shape: tuple[int, int], kind: str) -> None:
    x, y = draw((4, 1, *shape), kind, 1), draw((4, 1, *shape), kind, 2)
    got = TopologicalWassersteinLoss(reduction="none")(x, y)
    expected = [reference(a[0], b[0]) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(got.numpy(), expected, rtol=RELATIVE, atol=1e-12)


@pytest.mark.parametrize("norm", [1, 2, "inf"])
@pytest.mark.parametrize("essential", ["birth", "max", "none"])
@pytest.mark.parametrize("homology", [(0,), (1,), (0, 1), (1, 0)])
def test_every_option_agrees_with_the_reference(norm: int | str, essential: str, homology: tuple[int, ...]) -> None:
    loss = TopologicalWassersteinLoss(homology, norm, reduction="none", essential=essential)
    x, y = draw((3, 1, 11, 8), "half tied", 3), draw((3, 1, 11, 8), "half tied", 4)
    expected = [reference(a[0], b[0], homology, norm, essential) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(loss(x, y).numpy(), expected, rtol=RELATIVE)


def test_small_errors_match_nearly_every_point() -> None:
    y = draw((4, 1, 16, 16), "distinct", 5)
    x = y + 0.01 * draw((4, 1, 16, 16), "distinct", 6)
    got = TopologicalWassersteinLoss(reduction="none")(x, y)
    expected = [reference(a[0], b[0]) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(got.numpy(), expected, rtol=RELATIVE)


@pytest.mark.parametrize("norm", [1, 2, "inf"])
def test_matching_costs_what_pot_says(norm: int | str) -> None:
    rng = np.random.default_rng(0)
    points = np.sort(rng.random((30, 2)), axis=1)
    others = np.sort(rng.random((17, 2)), axis=1)
    order = np.inf if norm == "inf" else norm
    rows, columns = match(points, others, norm)
    assert len(set(rows)) == len(rows) and len(set(columns)) == len(columns)
    matched = np.linalg.norm(points[rows] - others[columns], ord=order, axis=1).sum()
    lone = np.concatenate([np.delete(points, rows, axis=0), np.delete(others, columns, axis=0)])
    to_diagonal = {1: 1.0, 2: 2**-0.5, "inf": 0.5}[norm]
    total = matched + to_diagonal * (lone[:, 1] - lone[:, 0]).sum()
    assert total == pytest.approx(wasserstein_distance(points, others, order=1, internal_p=order), rel=RELATIVE)


@pytest.mark.parametrize("shape", SHAPES)
def test_pairs_name_the_pixels_of_the_diagram(shape: tuple[int, int]) -> None:
    image = draw(shape, "half tied").numpy()
    found = persistence_pairs(image[None])[0]
    values = image.ravel()
    assert (values[found.lowest], values[found.highest]) == (image.min(), image.max())
    for group, pairs in enumerate(found.groups):
        got = np.stack([values[pairs.birth], values[pairs.death]], axis=1)
        expected = diagram(image, group, "birth")
        expected = expected[np.isfinite(expected[:, 1])]
        np.testing.assert_array_equal(got[np.lexsort(got.T)], expected[np.lexsort(expected.T)])


def test_equal_pixels_enter_in_row_major_order() -> None:
    image = np.zeros((1, 32, 32))
    image[0, 5:, :] = 1.0
    found = persistence_pairs(image)[0]
    assert (found.lowest, found.highest) == (0, 32 * 32 - 1)
    image[0, 20:24, 20:24] = 0.0
    (pit,) = zip(*persistence_pairs(image)[0].groups[0], strict=True)
    assert divmod(int(pit[0]), 32) == (20, 20)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (PITS, {1: 6.0, 2: 3 + 3 * 0.5**0.5, "inf": 4.5}),
        (BUMPS, {1: 3.0, 2: 3 * 0.5**0.5, "inf": 1.5}),
        (flat_with((0, 4, 5.0)), {1: 0.0, 2: 0.0, "inf": 0.0}),
    ],
    ids=["pits", "bumps", "bump on the border"],
)
@pytest.mark.parametrize("norm", [1, 2, "inf"])
def test_analytic_cases(image: torch.Tensor, expected: dict[int | str, float], norm: int | str) -> None:
    assert TopologicalWassersteinLoss(ground_norm=norm)(image, FLAT).item() == pytest.approx(expected[norm], abs=1e-12)


def test_moved_structures_cost_nothing() -> None:
    assert TopologicalWassersteinLoss()(PITS, MOVED_PITS).item() == 0.0


def test_diagonal_neighbours_are_one_component_and_do_not_close_a_bright_island() -> None:
    diagonal_pits = flat_with((3, 3, -2.0), (4, 4, -2.0))
    diagonal_bumps = flat_with((3, 3, 2.0), (4, 4, 2.0))
    assert TopologicalWassersteinLoss(homology=(0,))(diagonal_pits, FLAT).item() == 2.0
    assert TopologicalWassersteinLoss(homology=(1,))(diagonal_bumps, FLAT).item() == 4.0


def test_constant_images() -> None:
    x = torch.full((2, 1, 6, 6), 3.0, requires_grad=True)
    value = TopologicalWassersteinLoss()(x, torch.full((2, 1, 6, 6), 1.0))
    value.backward()
    assert value.item() == 2.0
    assert x.grad is not None and x.grad.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("essential", ["birth", "max", "none"])
@pytest.mark.parametrize("norm", [1, 2, "inf"])
def test_gradient_is_that_of_central_differences(norm: int | str, essential: str) -> None:
    rng = np.random.default_rng(7)
    # Values on a jittered lattice: no two closer than the step of the differences, so the pairing cannot change.
    lattice = [rng.permutation(2 * 2 * 30).reshape(2, 2, 5, 6) + 0.3 * rng.random((2, 2, 5, 6)) for _ in range(2)]
    x, y = (torch.from_numpy(values * 0.05) for values in lattice)
    loss = TopologicalWassersteinLoss(ground_norm=norm, channels="all", essential=essential)
    assert torch.autograd.gradcheck(lambda z: loss(z, y), x.requires_grad_(), eps=1e-6, atol=1e-6)


def test_no_gradient_flows_to_the_target() -> None:
    x, y = (draw((1, 1, 6, 6), "distinct", seed).requires_grad_() for seed in (1, 2))
    TopologicalWassersteinLoss()(x, y).backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert y.grad is None


def test_descent_restores_the_target_diagram() -> None:
    loss = TopologicalWassersteinLoss()
    x = (PITS + 0.05 * draw((1, 1, 9, 9), "distinct")).requires_grad_()
    optimizer = torch.optim.SGD([x], lr=0.02)
    start = loss(x, PITS).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss(x, PITS).backward()
        optimizer.step()
    assert loss(x, PITS).item() < 0.5 * start


@pytest.mark.parametrize("norm", [1, 2, "inf"])
@pytest.mark.parametrize("essential", ["birth", "max", "none"])
def test_metric_laws(norm: int | str, essential: str) -> None:
    loss = TopologicalWassersteinLoss(ground_norm=norm, essential=essential)
    x, y, z = (draw((3, 1, 10, 7), "distinct", seed) for seed in range(3))
    distance = loss(x, y)
    torch.testing.assert_close(loss(y, x), distance)
    torch.testing.assert_close(loss(x + 0.7, y + 0.7), distance)
    torch.testing.assert_close(loss(2.5 * x, 2.5 * y), 2.5 * distance)
    assert loss(x, x).item() == 0.0
    assert loss(x, z) <= distance + loss(y, z) + 1e-12


@pytest.mark.parametrize(
    "turn",
    [lambda a: torch.rot90(a, 1, (2, 3)), lambda a: torch.rot90(a, 2, (2, 3)), lambda a: a.flip(3)],
    ids=["quarter", "half", "flip"],
)
def test_turning_the_prediction_keeps_the_value_and_turns_the_gradient(turn) -> None:
    loss = TopologicalWassersteinLoss()
    x, y = (draw((2, 1, 12, 12), "distinct", seed) for seed in (1, 2))
    straight, turned = x.clone().requires_grad_(), turn(x).clone().requires_grad_()
    value, turned_value = loss(straight, y), loss(turned, y)
    (value + turned_value).backward()
    torch.testing.assert_close(turned_value, value)
    torch.testing.assert_close(turned.grad, turn(straight.grad))


def test_batch_order_does_not_matter() -> None:
    loss = TopologicalWassersteinLoss(channels="all", reduction="none")
    x, y = (draw((5, 2, 9, 9), "distinct", seed) for seed in (1, 2))
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(loss(x[order], y[order]), loss(x, y)[order], rtol=0, atol=0)


def test_repeated_and_threaded_runs_are_bitwise_equal() -> None:
    x, y = (draw((32, 1, 24, 24), "half tied", seed).float() for seed in (1, 2))
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            z = x.clone().requires_grad_()
            value = TopologicalWassersteinLoss()(z, y)
            value.backward()
            results.append((value.item(), z.grad))
    finally:
        torch.set_num_threads(threads)
    assert all(value == results[0][0] and torch.equal(grad, results[0][1]) for value, grad in results)


def test_essential_class_options_differ() -> None:
    values = {e: TopologicalWassersteinLoss(essential=e)(PITS, FLAT).item() for e in ("birth", "max", "none")}
    assert values == pytest.approx({"birth": 6.0, "max": 6.0, "none": 3.0})
    bump = flat_with((0, 4, 5.0))
    lifted = {e: TopologicalWassersteinLoss(essential=e)(PITS, bump).item() for e in ("birth", "max", "none")}
    # The border bump moves the maximum, which only "max" looks at: (-3, 0) with (0, 5) costs 8, as on the diagonal.
    assert lifted == pytest.approx({"birth": 6.0, "max": 11.0, "none": 3.0})
