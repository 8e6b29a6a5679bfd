from __future__ import annotations

import pytest
import torch
from topology_reference import draw

from anatodiff.losses import TopologicalWassersteinLoss


def test_channels() -> None:
    x, y = (draw((4, 3, 8, 8), "distinct", seed) for seed in (1, 2))
    each = torch.stack([TopologicalWassersteinLoss(reduction="none")(x[:, [c]], y[:, [c]]) for c in range(3)], dim=1)
    torch.testing.assert_close(TopologicalWassersteinLoss(channels="all", reduction="none")(x, y), each.sum(dim=1))

    loss = TopologicalWassersteinLoss(reduction="none")
    channel = torch.tensor([2, 0, 1, 1])
    torch.testing.assert_close(loss(x, y, channel), each[torch.arange(4), channel])

    torch.manual_seed(0)
    drawn = torch.stack([loss(x, y) for _ in range(30)])  # (30, 4)
    assert all(len(drawn[:, sample].unique()) == 3 for sample in range(4))
    same_channel = torch.stack([(drawn == each[:, c]).all(dim=1) for c in range(3)]).any(dim=0)  # (30,)
    assert not same_channel.all()
    torch.manual_seed(0)
    torch.testing.assert_close(loss(x, y), drawn[0])


def test_several_random_channels_a_given_one_and_the_mean() -> None:
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(2, 4, 3, 6, 6, generator=generator)
    each = torch.stack([TopologicalWassersteinLoss(reduction="none", channels=c)(x, y) for c in range(3)], dim=1)
    channel = torch.tensor([[2, 0], [0, 1], [1, 2], [1, 0]])
    two = TopologicalWassersteinLoss(reduction="none", n_random=2)
    torch.testing.assert_close(two(x, y, channel), each.gather(1, channel).sum(dim=1))
    drawn = two(x, y)  # two different ones of the three, whichever
    pairs = torch.stack([each[:, a] + each[:, b] for a, b in ((0, 1), (0, 2), (1, 2))], dim=1)
    assert torch.isclose(drawn[:, None], pairs, rtol=1e-5).any(dim=1).all()
    mean = TopologicalWassersteinLoss(reduction="none", channels="mean")(x, y)
    one = TopologicalWassersteinLoss(reduction="none", channels="all")
    torch.testing.assert_close(mean, one(x.mean(dim=1, keepdim=True), y.mean(dim=1, keepdim=True)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"n_random": 4}, "n_random=4 channels of 3"), ({"channels": 3}, r"outside 0\.\.2")],
)
def test_more_channels_than_there_are_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TopologicalWassersteinLoss(**settings)(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))


def test_only_the_chosen_channel_receives_a_gradient() -> None:
    x, y = (draw((2, 3, 6, 6), "distinct", seed) for seed in (1, 2))
    x.requires_grad_()
    TopologicalWassersteinLoss()(x, y, torch.tensor([0, 2])).backward()
    touched = x.grad.abs().sum(dim=(2, 3)) > 0
    assert touched.tolist() == [[True, False, False], [False, False, True]]


def test_reductions() -> None:
    x, y = (draw((4, 1, 8, 8), "distinct", seed) for seed in (1, 2))
    each = TopologicalWassersteinLoss(reduction="none")(x, y)
    assert each.shape == (4,)
    torch.testing.assert_close(TopologicalWassersteinLoss(reduction="mean")(x, y), each.mean())
    torch.testing.assert_close(TopologicalWassersteinLoss(reduction="sum")(x, y), each.sum())


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [(torch.float64,) * 2, (torch.float32,) * 2, (torch.float16, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_types(dtype: torch.dtype, computed: torch.dtype) -> None:
    x, y = (draw((2, 1, 8, 8), "distinct", seed).to(dtype) for seed in (1, 2))
    x.requires_grad_()
    value = TopologicalWassersteinLoss()(x, y)
    value.backward()
    assert value.dtype == computed
    assert x.grad is not None and x.grad.dtype == dtype
    assert value.item() == pytest.approx(TopologicalWassersteinLoss()(x.detach().double(), y.double()).item(), rel=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", ["input", "target"])
def test_non_finite_values_are_refused_and_located(bad: float, which: str) -> None:
    tensors = {"input": torch.zeros(3, 4, 5, 5), "target": torch.zeros(3, 4, 5, 5)}
    tensors[which][2, 1, 0, 3] = bad
    with pytest.raises(ValueError, match=f"{which} has 1 NaN or infinite.*sample 2, channel 1, row 0, column 3"):
        TopologicalWassersteinLoss()(**tensors, channel=torch.tensor([0, 0, 1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"homology": (3,)}, "homology"),
        ({"homology": ()}, "homology"),
        ({"homology": (0, 0)}, "homology"),
        ({"ground_norm": 3}, "ground_norm=3 is not one of 1, 2, 'inf'"),
        ({"channels": "first"}, "channels='first'"),
        ({"channels": -1}, "channels=-1"),
        ({"channels": "all", "n_random": 2}, "n_random=2"),
        ({"n_random": 0}, "n_random=0"),
        ({"reduction": "batchmean"}, "reduction='batchmean'"),
        ({"essential": "death"}, "essential='death'"),
    ],
)
def test_unknown_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TopologicalWassersteinLoss(**arguments)


@pytest.mark.parametrize(
    ("input_shape", "target_shape", "channel", "message"),
    [
        ((2, 1, 4, 4), (2, 1, 4, 5), None, "one .B, C, H, W. shape"),
        ((1, 4, 4), (1, 4, 4), None, "one .B, C, H, W. shape"),
        ((0, 1, 4, 4), (0, 1, 4, 4), None, "not empty"),
        ((2, 3, 4, 4), (2, 3, 4, 4), torch.tensor([0, 3]), r"outside 0\.\.2"),
        ((2, 3, 4, 4), (2, 3, 4, 4), torch.tensor([0, -1]), r"outside 0\.\.2"),
        ((2, 3, 4, 4), (2, 3, 4, 4), torch.tensor([0]), r"integers of shape \(2, 1\)"),
        ((2, 3, 4, 4), (2, 3, 4, 4), torch.tensor([0.0, 1.0]), r"integers of shape \(2, 1\)"),
    ],
)
def test_unfit_tensors_are_refused(input_shape, target_shape, channel, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TopologicalWassersteinLoss()(torch.zeros(input_shape), torch.zeros(target_shape), channel)


def test_a_channel_beside_all_channels_is_refused() -> None:
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="drop it"):
        TopologicalWassersteinLoss(channels="all")(x, x, torch.tensor([0, 1]))


def test_integer_tensors_are_refused() -> None:
    x = torch.zeros(1, 1, 4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="floating-point"):
        TopologicalWassersteinLoss()(x, x)


def test_large_finite_values_are_no_error() -> None:
    x = torch.full((1, 1, 4, 4), 3e38)
    x[0, 0, 1, 1] = -3e38
    loss = TopologicalWassersteinLoss(homology=(1,))
    assert loss(x, x).item() == 0
