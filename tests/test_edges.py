"""The edge loss of latents."""

from __future__ import annotations

import pytest
import torch

from anatodiff.diffusion import DiffusionSettings
from anatodiff.losses import AnatoDiffLoss, DiffusionTarget, LatentEdgeLoss, Prediction

SCHEDULE = DiffusionSettings().build()
EDGES = LatentEdgeLoss()


def draw(seed: int, size: int = 6) -> torch.Tensor:
    return torch.randn(3, 2, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_slope_costs_its_steepness() -> None:
    ramp = torch.arange(6.0, dtype=torch.float64).expand(1, 1, 6, 6)
    flat = torch.zeros_like(ramp)
    assert EDGES(2 * ramp, flat).item() == pytest.approx(2, abs=2e-3)
    assert EDGES(3 * ramp + 4 * ramp.mT, flat).item() == pytest.approx(5, abs=2e-3)
    assert EDGES(3 * ramp, 2 * ramp).item() == pytest.approx(1, abs=2e-3)


def test_only_the_magnitude_of_slopes_counts() -> None:
    x = draw(0)
    assert EDGES(x, x).abs().max() == 0
    torch.testing.assert_close(EDGES(x + 3, x), torch.zeros(3, dtype=x.dtype), atol=1e-12, rtol=0)
    torch.testing.assert_close(EDGES(-x, x), torch.zeros(3, dtype=x.dtype), atol=1e-12, rtol=0)
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert (EDGES(blurred, x) > 0.1).all()


def test_where_an_edge_lies_counts() -> None:
    left, right = torch.zeros(2, 1, 1, 6, 6)
    left[..., 2:], right[..., 3:] = 1, 1
    assert EDGES(left, right).item() > 0.3


def test_the_gradient_is_that_of_central_differences_and_finite_where_flat() -> None:
    x, y = draw(1).requires_grad_(), draw(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: EDGES(z, y.detach()), x)
    EDGES(x, y).sum().backward()
    assert y.grad is None
    flat = torch.zeros(1, 1, 4, 4, requires_grad=True)
    EDGES(flat, torch.randn(1, 1, 4, 4)).sum().backward()
    assert flat.grad is not None and bool(flat.grad.isfinite().all())


@pytest.mark.parametrize("shapes", [((1, 1, 4, 4), (1, 1, 4, 5)), ((1, 4, 4), (1, 4, 4)), ((1, 1, 1, 4), (1, 1, 1, 4))])
def test_unfit_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        EDGES(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


@pytest.mark.parametrize(
    "settings", [{}, {"topology_time": "signal"}, {"topology_until": 0.3}, {"topology_until": 1e-6}]
)
def test_it_is_added_on_the_one_step_estimate_with_the_weights_by_time(settings: dict) -> None:
    times = torch.tensor([50, 100, 900])
    x0, noise = draw(3).float(), draw(4).float()
    noised = SCHEDULE.add_noise(x0, noise, times)
    said = (noise + 0.2 * draw(5).float()).requires_grad_()
    goal = DiffusionTarget(x0, noise, times, torch.zeros(3, 2, dtype=torch.long))
    without = AnatoDiffLoss(SCHEDULE, variance_weight=0.0)(Prediction(said, noised), goal)
    criterion = AnatoDiffLoss(SCHEDULE, variance_weight=0.0, edge_weight=0.5, **settings)
    value = criterion(Prediction(said, noised), goal)
    each = EDGES(SCHEDULE.split(noised, said, times)[0], x0)  # (3,)
    if "topology_time" in settings:
        each = each * SCHEDULE.alphas[times].to(each)
    each = each * (SCHEDULE.levels[times] <= settings.get("topology_until", 1))
    torch.testing.assert_close(value, without + 0.5 * each.mean())
    assert criterion.parts["edges"] == pytest.approx(each.mean().item(), rel=1e-5)
    value.backward()


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        AnatoDiffLoss(SCHEDULE, edge_weight=-1)
