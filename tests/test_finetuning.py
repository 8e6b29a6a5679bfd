"""What each mode trains, with the numbers for DiT-XL/2, and how SeLoRA grows."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from anatodiff.engines import GrowRanks
from anatodiff.networks import DIT_SIZES, DiT, FineTuning, low_ranks, set_finetuning, trained_parts
from anatodiff.networks.finetuning import prepare
from anatodiff.networks.low_rank import LowRank

# Parameters of DiT-XL/2 with one class, from the shapes of its layers: L = 28 blocks, D = 1152.
L, D = 28, 1152
BIASES = L * (3 * D + D + 4 * D + D + 6 * D) + D + 2 * D + 2 * D + 2 * 2 * 8  # blocks, patches, time, last layer
LABELS = 2 * D
EVERYTHING = 674_834_720 - 999 * D  # the published network has 1,000 classes
COUNTS = {
    FineTuning("full"): EVERYTHING,
    FineTuning("bitfit"): BIASES + LABELS,
    FineTuning("difffit"): BIASES + LABELS + L * 2 * D,
    FineTuning("difffit", gamma="linear"): BIASES + LABELS + L * 9 * D,
    FineTuning("lora", lora_rank=8): LABELS + L * 8 * (4 * D + 2 * D),
    FineTuning("lora", lora_rank=4, lora_layers=("qkv", "proj", "fc1", "fc2")): LABELS + L * 4 * (6 + 10) * D,
    FineTuning("selora", lora_rank=8): LABELS + L * 8 * (4 * D + 2 * D),
}


@pytest.mark.parametrize("how", list(COUNTS), ids=str)
def test_counts_for_dit_xl_2(how: FineTuning) -> None:
    size = DIT_SIZES["DiT-XL/2"]
    with torch.device("meta"):
        network = DiT(32, 2, 4, size["hidden_size"], size["depth"], size["num_heads"], num_classes=1)
        prepare(network, how)
    assert sum(trained_parts(network).values()) == COUNTS[how]


def test_what_is_trained_is_said(caplog: pytest.LogCaptureFixture) -> None:
    network = DiT(8, 4, 4, 32, 2, 2)
    with caplog.at_level(logging.INFO):
        set_finetuning(network, "bitfit")
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    total = sum(p.numel() for p in network.parameters())
    assert f"trains {trained:,} of {total:,} parameters" in caplog.text
    assert "biases" in caplog.text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "lorra"}, "'lorra'"),
        ({"gamma": "all"}, "'all'"),
        ({"lora_layers": ["mlp"]}, "'mlp'"),
        ({"lora_layers": []}, "lora_layers"),
        ({"mode": "lora", "lora_rank": 0}, "lora_rank"),
        ({"mode": "lora", "lora_rank": 33}, "1 to 32"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        set_finetuning(DiT(8, 4, 4, 32, 2, 2), FineTuning(**settings))


def test_low_rank_addition_is_loras() -> None:
    addition = LowRank(6, 5, rank=2, scale=0.5)
    addition.b.data.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(addition(x), 0.5 * x @ addition.a.T @ addition.b.T)
    torch.testing.assert_close(addition(x), x @ addition.product().T)


def backward(addition: LowRank) -> None:
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    addition.zero_grad()
    (addition(x) - torch.ones(20, 5)).pow(2).sum().backward()


def test_ranks_that_wait_do_not_learn() -> None:
    addition = LowRank(6, 5, rank=3, start=1)
    backward(addition)
    assert addition.b.grad is not None
    assert addition.b.grad[:, 1:].abs().max() > 0  # what they would add is known
    addition.hold()
    assert addition.b.grad[:, 1:].abs().max() == 0  # and not learned
    assert addition.b.grad[:, 0].abs().max() > 0


def test_a_scaled_loss_changes_no_information_and_an_overflow_adds_none() -> None:
    plain, scaled = LowRank(6, 5, rank=3, start=1), LowRank(6, 5, rank=3, start=1)
    scaled.load_state_dict(plain.state_dict())
    for addition, scale in ((plain, 1.0), (scaled, 1024.0)):
        backward(addition)
        for parameter in addition.parameters():
            parameter.grad *= scale  # type: ignore[operator]
        addition.hold(scale)
    torch.testing.assert_close(scaled.fisher, plain.fisher)
    scaled.b.grad.fill_(float("inf"))  # type: ignore[union-attr]
    scaled.hold(1024.0)
    torch.testing.assert_close(scaled.fisher, plain.fisher)


def test_a_layer_grows_where_the_next_rank_carries_enough_information() -> None:
    addition = LowRank(6, 5, rank=3, start=1)
    backward(addition)
    squares = addition.b.grad.square().sum(0)  # type: ignore[union-attr] # A's are zero while B is
    ratio = float((squares[0] + squares[1]) / squares[0])
    addition.hold()
    assert not addition.grow(ratio * 1.01)
    assert addition.active.tolist() == [True, False, False]
    backward(addition)
    addition.hold()
    assert addition.grow(ratio * 0.99)
    assert addition.active.tolist() == [True, True, False]
    assert not addition.grow(1.0001)  # without new information it does not


def test_the_handler_grows_layers_up_to_the_largest_rank(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    network = DiT(8, 4, 4, 32, 2, 2)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    set_finetuning(network, FineTuning("selora", lora_rank=2))
    handler = GrowRanks(network, every=2, threshold=1.0001)
    ranks = []
    for step in range(1, 7):
        network.zero_grad()
        network(torch.randn(4, 4, 8, 8), torch.tensor([1, 2, 3, 4])).pow(2).sum().backward()
        with caplog.at_level(logging.INFO):
            handler._after_backward(SimpleNamespace(state=SimpleNamespace(iteration=step), scaler=None))  # type: ignore[arg-type]
        ranks.append(sum(int(addition.active.sum()) for _, addition in low_ranks(network)))
    assert ranks == [4, 8, 8, 8, 8, 8]
    assert "4 of 4 layers grew" in caplog.text
