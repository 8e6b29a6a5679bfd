"""The anatomical loss on volumes: as such, and slice by slice."""

from __future__ import annotations

import gudhi
import numpy as np
import pytest
import torch
from gudhi.wasserstein import wasserstein_distance
from topology_reference import POT_WARNINGS, RELATIVE, draw

from anatodiff.losses import AnatoDiffLoss, TopologicalWassersteinLoss

pytestmark = [pytest.mark.filterwarnings(text) for text in POT_WARNINGS]


def volume_reference(x: np.ndarray, y: np.ndarray, homology: tuple[int, ...], norm: int | str) -> float:
    """gudhi + POT on two (D, H, W) volumes."""
    total = 0.0
    for group in homology:
        points = []
        for volume in (x, y):
            complex_ = gudhi.CubicalComplex(top_dimensional_cells=volume)
            complex_.compute_persistence()
            found = complex_.persistence_intervals_in_dimension(group).reshape(-1, 2)
            points.append(found[found[:, 0] < found[:, 1]])
        order = np.inf if norm == "inf" else norm
        total += wasserstein_distance(*points, order=1, internal_p=order, keep_essential_parts=True)
    return total


def block(*values: tuple[slice | int, slice | int, slice | int, float]) -> torch.Tensor:
    volume = torch.zeros(1, 1, 7, 7, 7, dtype=torch.float64)
    for depth, row, column, value in values:
        volume[0, 0, depth, row, column] = value
    return volume


ALL = slice(2, 5)


@pytest.mark.parametrize("kind", ["distinct", "tied"])
@pytest.mark.parametrize("norm", [1, 2, "inf"])
@pytest.mark.parametrize("homology", [(0,), (1,), (2,), (0, 1, 2)])
def test_volumes_agree_with_gudhi_and_pot(homology: tuple[int, ...], norm: int | str, kind: str) -> None:
    x, y = (draw((3, 1, 4, 6, 5), kind, seed) for seed in (1, 2))
    got = TopologicalWassersteinLoss(homology, norm, reduction="none")(x, y)
    expected = [volume_reference(a[0].numpy(), b[0].numpy(), homology, norm) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=RELATIVE, atol=1e-12)


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        (block((3, 3, 3, -2.0)), {0: 2.0, 1: 0.0, 2: 0.0}),  # a dark speck: a component, and a new minimum
        (block((3, 3, 3, 2.0)), {0: 0.0, 1: 0.0, 2: 2.0}),  # a bright one: a void until it fills
        (block((ALL, 3, 3, 2.0)), {0: 0.0, 1: 0.0, 2: 2.0}),
        (block((slice(None), 3, 3, 2.0)), {0: 0.0, 1: 2.0, 2: 0.0}),  # a bright bar through all: a loop around it
    ],
    ids=["dark speck", "bright speck", "bright rod", "bright bar from end to end"],
)
def test_analytic_volumes(volume: torch.Tensor, expected: dict[int, float]) -> None:
    got = {group: TopologicalWassersteinLoss((group,))(volume, block()).item() for group in expected}
    assert got == pytest.approx(expected)


def test_the_gradient_of_volumes_is_that_of_central_differences() -> None:
    rng = np.random.default_rng(2)
    x, y = (torch.from_numpy(0.05 * (rng.permutation(60) + 0.3 * rng.random(60)).reshape(1, 1, 3, 4, 5)) for _ in "xy")
    loss = TopologicalWassersteinLoss((0, 1, 2))
    assert torch.autograd.gradcheck(lambda z: loss(z, y), x.requires_grad_(), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("channels", ["all", "mean", 1])
@pytest.mark.parametrize("slices", ["mean", "sum"])
def test_slice_by_slice_is_the_aggregate_over_images(slices: str, channels: str | int) -> None:
    x, y = (draw((2, 3, 5, 8, 7), "distinct", seed) for seed in (1, 2))
    x.requires_grad_()
    got = TopologicalWassersteinLoss(channels=channels, reduction="none", slices=slices)(x, y)
    flat = TopologicalWassersteinLoss(channels=channels, reduction="none")
    each = torch.stack([flat(x[:, :, d], y[:, :, d]) for d in range(5)], dim=1)  # (B, D)
    expected = each.mean(dim=1) if slices == "mean" else each.sum(dim=1)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(value.sum(), x, retain_graph=True)[0] for value in (got, expected))
    )


@pytest.mark.parametrize(
    ("settings", "shape", "words"),
    [
        ({"homology": (2,)}, (1, 1, 4, 4), "group 2 is for whole volumes"),
        ({"homology": (0, 2), "slices": "mean"}, (1, 1, 4, 4, 4), "group 2 is for whole volumes"),
        ({"slices": "sum"}, (1, 1, 4, 4), "slices='sum' is for volumes"),
    ],
)
def test_what_only_volumes_have_is_refused_elsewhere(settings: dict, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TopologicalWassersteinLoss(**settings)(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize("settings", [{"slices": "mean"}, {"homology": (0, 2)}])
def test_training_on_images_refuses_volumes_before_its_first_step(settings: dict) -> None:
    from anatodiff.diffusion import DiffusionSettings

    with pytest.raises(ValueError, match="latents are no volumes"):
        AnatoDiffLoss(DiffusionSettings().build(), TopologicalWassersteinLoss(reduction="none", **settings))


def test_an_unknown_aggregate_is_refused() -> None:
    with pytest.raises(ValueError, match="slices='max'"):
        TopologicalWassersteinLoss(slices="max")


def test_a_bad_voxel_is_located() -> None:
    x = torch.zeros(2, 1, 3, 4, 4)
    x[1, 0, 2, 1, 3] = float("nan")
    with pytest.raises(ValueError, match="sample 1, channel 0, slice 2, row 1, column 3"):
        TopologicalWassersteinLoss()(x, torch.zeros_like(x))
