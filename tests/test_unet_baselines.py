"""U-Nets that conditional DiTs are compared with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support import SIZE

from anatodiff.autoencoders import load_autoencoder
from anatodiff.diffusion import DiffusionSettings, Guidance
from anatodiff.engines.inferers import NoisePredictionInferer, SamplingInferer
from anatodiff.losses import AnatoDiffLoss, DiffusionTarget
from anatodiff.networks import (
    ConditionedUNet,
    FineTuning,
    build_dit,
    build_unet_baseline,
    load_adapter,
    save_adapter,
    save_base,
)
from anatodiff.networks.base import Base
from anatodiff.weights import WeightsError

CONDITIONED = ("seg-diff", "spade", "controlnet")
ALL = ("unet", *CONDITIONED)
MAPS = 5
SIDE = 8


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = drawn(4, 4, SIDE, SIDE)
CONTEXT = drawn(4, MAPS, SIDE, SIDE, seed=2)
T = torch.tensor([0, 10, 300, 999])


def small_unet(architecture: str, trained: bool = True, **changes: object) -> ConditionedUNet:
    torch.manual_seed(0)
    settings = {
        "input_size": SIDE, "context_channels": 0 if architecture == "unet" else MAPS, "channels": [8, 16],
        "attention_levels": [False, True], "num_classes": 2, "norm_num_groups": 4, "num_head_channels": 8,
    } | changes  # fmt: skip
    network = ConditionedUNet(architecture, **settings)  # type: ignore[arg-type]
    if trained:  # nothing is zero any more
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def save(path: Path, network: ConditionedUNet, **facts: object) -> str:
    """Write a network as a training does, that started from nothing."""
    base = Base(build_dit("DiT-XS/8", 1, SIDE), 1.5, [], "", "", "CC0")
    return save_adapter(path, network, list(network.state_dict()), base, FineTuning("full"), facts)


@pytest.fixture
def unet_path(tmp_path: Path) -> Path:
    path = tmp_path / "unet.safetensors"
    save(path, small_unet("unet"), classes=["a", "b"])
    return path


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("learn_sigma", [False, True])
def test_output_has_the_latents_shape_and_depends_on_time_and_class(architecture: str, learn_sigma: bool) -> None:
    network = small_unet(architecture, learn_sigma=learn_sigma).eval()
    with torch.no_grad():
        output = network(X, T)
        assert output.shape == (4, network.out_channels, SIDE, SIDE)
        assert network.out_channels == (8 if learn_sigma else 4)
        assert not torch.allclose(output[:3], network(X, T + 50)[:3])
        null = torch.full((4,), network.null_label)
        torch.testing.assert_close(output, network(X, T, class_labels=null))
        assert not torch.allclose(output, network(X, T, class_labels=torch.zeros_like(null)))
        torch.testing.assert_close(output, network(X, T.double()))


@pytest.mark.parametrize("architecture", CONDITIONED)
def test_context_is_heard_where_it_is_said(architecture: str) -> None:
    network = small_unet(architecture).eval()
    mixed = CONTEXT.clone()
    mixed[0] = 0
    with torch.no_grad():
        silent, told = network(X, T), network(X, T, mixed)
        torch.testing.assert_close(network(X, T, torch.zeros_like(CONTEXT)), silent)
    torch.testing.assert_close(told[0], silent[0])
    for image in range(1, 4):
        assert not torch.allclose(told[image], silent[image], atol=1e-4)


def test_an_untrained_controlnet_is_its_unet_and_alone_learns(unet_path: Path) -> None:
    network = build_unet_baseline("controlnet", MAPS, SIDE, num_classes=2, start=unet_path)
    base = load_adapter(unet_path).network
    labels = torch.tensor([0, 1, 2, 0])
    output = network(X, T, CONTEXT, labels)
    torch.testing.assert_close(output, base(X, T, class_labels=labels))
    output.square().mean().backward()
    heard = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert heard == {name for name, _ in network.named_parameters() if name.startswith("control.")}
    assert network.control is not None
    before = base.unet.state_dict()
    copied = [name for name in network.control.state_dict() if name in before]
    assert any(name.startswith("middle_block") for name in copied)
    for name in copied:
        torch.testing.assert_close(network.control.state_dict()[name], before[name])


@pytest.mark.parametrize("architecture", ALL)
def test_a_file_gives_the_same_network_again(architecture: str, tmp_path: Path) -> None:
    network = small_unet(architecture).eval()
    path = tmp_path / "network.safetensors"
    sha256 = save(path, network, classes=["a", "b"])
    loaded = load_adapter(path)
    context = None if architecture == "unet" else CONTEXT
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(X, T, context), network(X, T, context), rtol=0, atol=0)
    assert (loaded.classes, loaded.scale_factor, loaded.sha256) == (["a", "b"], 1.5, sha256)
    assert loaded.network.settings == json.loads(json.dumps(network.settings))
    assert not loaded.network.training
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())


@pytest.mark.parametrize("architecture", ALL)
def test_training_lowers_the_loss_and_reaches_every_parameter(architecture: str) -> None:
    schedule = DiffusionSettings().build()
    network = small_unet(architecture, trained=False)
    inferer, loss = NoisePredictionInferer(schedule), AnatoDiffLoss(schedule)
    context = None if architecture == "unet" else CONTEXT
    target = DiffusionTarget(X, drawn(4, 4, SIDE, SIDE, seed=3), T, torch.zeros(4, 1, dtype=torch.long))
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    values = []
    for _ in range(4):
        prediction = inferer(X, network, target.noise, T, T % 2, context)
        value = loss(prediction, target)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(float(value.detach()))
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_samples_are_images(architecture: str, sampler: str, small_weights: dict[str, str]) -> None:
    autoencoder = load_autoencoder(small_weights["autoencoder_path"])
    sample = SamplingInferer(DiffusionSettings().build(), autoencoder, 1.0, sampler, 3, Guidance(2.0))
    network = small_unet(architecture).eval()
    images = sample(torch.tensor([0, 1]), network, torch.tensor([0, 1]))
    assert images.shape == (2, 1, SIZE, SIZE)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1


def test_the_seed_fixes_the_first_weights() -> None:
    first, same, other = (build_unet_baseline("seg-diff", MAPS, SIDE, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(tensor, same[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("pix2pix", {}, "architecture must be one of"),
        ("unet", {"context_channels": 2}, "context_channels is 2 for 'unet'"),
        ("spade", {"context_channels": 0}, "context_channels is 0 for 'spade'"),
        ("unet", {"num_classes": 0}, "num_classes must be at least 1"),
        ("unet", {"attention_levels": [True]}, "must be as many"),
        ("unet", {"channels": [8, 18]}, "multiples of norm_num_groups 4"),
        ("unet", {"channels": [8, 12]}, "num_head_channels 8"),
        ("unet", {"input_size": 9}, "input_size 9 must be a multiple of 2"),
    ],
)
def test_arguments_that_do_not_fit_are_named(architecture: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_unet(architecture, **changes)


def test_inputs_of_another_shape_are_named() -> None:
    network = small_unet("seg-diff")
    with pytest.raises(ValueError, match="takes latents of 4 x 8 x 8, got 4 x 16 x 16"):
        network(drawn(1, 4, 16, 16), T[:1])
    with pytest.raises(ValueError, match=r"takes conditions of shape \(4, 5, 8, 8\), got \(4, 6, 8, 8\)"):
        network(X, T, drawn(4, 6, SIDE, SIDE))
    unconditional = small_unet("unet").eval()
    with torch.no_grad():  # which no condition enters
        assert torch.equal(unconditional(X, T, CONTEXT), unconditional(X, T))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": 16}, "has input_size 8, wanted is 16"),
        ({"in_channels": 3}, "has in_channels 4, wanted is 3"),
        ({"num_classes": 1}, "has num_classes 2, wanted is 1"),
    ],
)
def test_a_start_that_does_not_fit_is_named(unet_path: Path, changes: dict[str, int], message: str) -> None:
    wanted = {"input_size": SIDE, "num_classes": 2} | changes
    with pytest.raises(WeightsError, match=message):
        build_unet_baseline("controlnet", MAPS, start=unet_path, **wanted)  # type: ignore[arg-type]


def test_a_start_of_another_kind_is_refused(unet_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="start is for architecture 'controlnet'"):
        build_unet_baseline("spade", MAPS, SIDE, start=unet_path)
    with pytest.raises(WeightsError, match="no such weights file"):
        build_unet_baseline("controlnet", MAPS, SIDE, start=tmp_path / "none.safetensors")
    other = tmp_path / "other.safetensors"
    save(other, small_unet("spade"), classes=["a", "b"])
    with pytest.raises(WeightsError, match="this is a 'spade'"):
        build_unet_baseline("controlnet", MAPS, SIDE, num_classes=2, start=other)
    save_base(other, Base(build_dit("DiT-XS/8", 2, SIDE), 1.0, ["a", "b"], "", "", "CC0"), {})
    with pytest.raises(WeightsError, match="found dit"):
        build_unet_baseline("controlnet", MAPS, SIDE, num_classes=2, start=other)
