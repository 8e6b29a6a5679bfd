"""Muon for matrices and convolutions, AdamW for the rest; the moving averages; runs with both go on bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from anatodiff.engines import Muon, TrainedEMA, build_optimizer
from anatodiff.engines.checkpoint_files import read_checkpoint
from anatodiff.engines.checkpoints import CheckpointError
from anatodiff.engines.devices import choose_precision, computes_bf16
from anatodiff.engines.optimizers import orthogonalised, split_parameters
from anatodiff.networks import DiT

Run = Callable[..., Path]
SMALL_DIT: dict[str, Any] = {"input_size": 8, "patch_size": 4, "hidden_size": 32, "depth": 1, "num_heads": 2}
STEM = {"channels": [16, 16, 16], "blocks": 1}


def test_matrices_move_as_by_torchs_own_muon() -> None:
    reference = getattr(torch.optim, "Muon", None)
    if reference is None:
        pytest.skip("this torch has no Muon to compare with")
    torch.manual_seed(0)
    for shape in ((64, 32), (32, 96), (48, 48)):
        mine, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
        optimizers = Muon([mine], [], weight_decay=0.1), reference([theirs], lr=0.02, weight_decay=0.1)
        for _ in range(4):
            gradient = torch.randn(shape)
            for parameter, optimizer in zip((mine, theirs), optimizers, strict=True):
                parameter.grad = gradient.clone()
                optimizer.step()
        moved = (theirs - 1).norm()
        assert float((mine - theirs).norm() / moved) < 0.05  # they round to bfloat16 in another order


def test_others_move_exactly_as_by_adamw() -> None:
    torch.manual_seed(0)
    mine, theirs = (nn.Parameter(torch.linspace(-1, 1, 40)) for _ in range(2))
    reference = torch.optim.AdamW([theirs], 1e-3, (0.9, 0.99), weight_decay=0.01, fused=True)
    optimizers = Muon([], [mine], learning_rate=1e-3, weight_decay=0.01), reference
    for _ in range(3):
        gradient = torch.randn(40)
        for parameter, optimizer in zip((mine, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(mine, theirs)
    assert not torch.equal(mine, torch.linspace(-1, 1, 40))


@pytest.mark.parametrize("shape", [(20, 60), (60, 20)])
def test_updates_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(2, *shape)).float())
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.4


def test_a_convolution_moves_as_the_matrix_of_its_outputs() -> None:
    torch.manual_seed(0)
    kernel, gradient = torch.randn(16, 8, 3, 3), torch.randn(16, 8, 3, 3)
    convolution, matrix = nn.Parameter(kernel.clone()), nn.Parameter(kernel.flatten(1).clone())
    convolution.grad, matrix.grad = gradient.clone(), gradient.flatten(1).clone()
    for parameter in (convolution, matrix):
        Muon([parameter], []).step()
    assert torch.equal(convolution.flatten(1), matrix)
    assert not torch.equal(convolution, kernel)


def names_of(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    return {name for name, parameter in model.named_parameters() if any(parameter is one for one in parameters)}


@pytest.mark.parametrize(
    ("stem", "ends"),
    [
        (None, {"x_embedder.proj.weight", "final_layer.linear.weight"}),
        (STEM, {"stem.input.weight", "head.output.weight"}),
    ],
    ids=["plain", "stem"],
)
def test_ends_vectors_tables_and_frozen_parameters_are_not_orthogonalised(stem: Any, ends: set[str]) -> None:
    network = DiT(**SMALL_DIT, stem=stem)
    network.blocks[0].requires_grad_(False)
    matrices, others = (names_of(network, part) for part in split_parameters(network))
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert matrices | others == trained
    assert not matrices & others
    wide = {name for name in others if network.get_parameter(name).ndim > 1}
    assert wide == ends | {"y_embedder.embedding_table.weight"}


def test_small_matrices_are_left_to_adamw() -> None:
    network = nn.Sequential(nn.Linear(64, 15), nn.Linear(15, 64), nn.Linear(64, 16))
    matrices, _ = split_parameters(network)
    assert names_of(network, matrices) == {"2.weight"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "sgd"}, "optimizer_name must be one of"),
        ({"muon_learning_rate": 0.1}, "does nothing with optimizer_name 'adamw'"),
        ({"name": "muon", "muon_learning_rate": -1.0}, "muon_learning_rate must not be negative"),
        ({"name": "muon", "model": nn.Linear(8, 8)}, "is for matrices and none is trained"),
    ],
)
def test_wrong_options_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_optimizer(**{"model": nn.Linear(32, 32), **settings})


@pytest.mark.parametrize(("power", "width"), [(6.94, 0.10), (16.97, 0.05)])
def test_a_power_average_has_the_width_of_its_exponent(power: float, width: float) -> None:
    """Edm2's table: fed with the steps themselves, the average and its spread are those of the power function."""
    steps, network = 4000, nn.Linear(1, 1, bias=False)
    averages = [TrainedEMA(network, power=power) for _ in range(2)]  # of t and of t^2
    for step in range(1, steps + 1):
        for exponent, ema in enumerate(averages, start=1):
            network.weight.data.fill_((step / steps) ** exponent)
            ema.update(step)
    mean, square = (ema.ema_model.weight.item() for ema in averages)
    assert math.sqrt(square - mean**2) == pytest.approx(width, abs=0.002)


def test_the_average_is_the_first_step_after_it() -> None:
    network = nn.Linear(3, 3)
    ema = TrainedEMA(network, power=6.94)
    network.weight.data += 1
    ema.update(1)
    assert torch.equal(ema.ema_model.weight, network.weight)


@pytest.mark.parametrize("given", [{}, {"momentum": 0.1, "power": 7.0}, {"power": -1.0}])
def test_one_kind_of_average_must_be_asked_for(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="ema_power"):
        TrainedEMA(nn.Linear(1, 1), **given)


@pytest.mark.parametrize("name", ["pretrain", "train"])
def test_a_run_with_muon_and_a_power_average_goes_on_bit_for_bit(name: str, run: Run) -> None:
    options: dict[str, Any] = {"optimizer_name": "muon", "ema_momentum": None, "ema_power": 6.94}
    if name == "train":
        options |= {"finetuning": "full", "measured": []}
    out = run(name, **options)
    weights = "adapter.safetensors" if name == "train" else "dit.safetensors"
    before = {file: (out / file).read_bytes() for file in ("losses.csv", weights)}
    (out / "checkpoint_before.pt").replace(out / "checkpoint.pt")
    assert read_checkpoint(out / "checkpoint.pt")["step"] == 2
    (out / weights).unlink()
    run(name, **options)
    assert before == {file: (out / file).read_bytes() for file in before}


def test_a_run_from_before_the_choice_of_optimisers_goes_on_with_adamw_alone(run: Run) -> None:
    options: dict[str, Any] = {"finetuning": "full", "measured": []}
    out = run("train", max_epochs=1, **options)
    state = read_checkpoint(out / "checkpoint.pt")
    for name in ("optimizer_name", "muon_learning_rate", "ema_power"):
        del state["settings"][name]
    torch.save({**state, "format": 1}, out / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="made with optimizer_name = 'adamw', now 'muon'"):
        run("train", **options, optimizer_name="muon")
    run("train", **options)
    assert read_checkpoint(out / "checkpoint.pt")["step"] == 4


def test_auto_computes_in_bfloat16_where_the_processor_is_fast_at_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cpu = torch.device("cpu")
    caplog.set_level("INFO", "anatodiff")
    for fast, precision, word in ((True, torch.bfloat16, "bf16"), (False, None, "float32")):
        monkeypatch.setattr("anatodiff.engines.devices.computes_bf16", lambda device, fast=fast: fast)
        assert choose_precision("auto", cpu) == precision
        assert f"computes in {word} on this cpu" in caplog.messages[-1]
    monkeypatch.undo()
    assert isinstance(computes_bf16(cpu), bool)
