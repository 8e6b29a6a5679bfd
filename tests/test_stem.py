"""A DiT between a convolutional stem and head: outputs, fine-tuning modes, files, conditions and export."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler

from anatodiff.autoencoders import ContextLayout
from anatodiff.networks import (
    Base,
    ConditionSettings,
    DiT,
    FineTuning,
    build_anatodiff,
    build_dit,
    load_adapter,
    load_base,
    merge_adapter,
    merged,
    save_adapter,
    save_base,
    split_adapter,
    trained_names,
    trained_parts,
)
from anatodiff.networks.layers import Attention, FeedForward
from anatodiff.networks.low_rank import ConvLowRank
from anatodiff.networks.stem import TunedConv2d, conv_blocks

STEM = {"channels": [8, 16], "blocks": 1}
GATED = {"qk_norm": True, "gated_mlp": True}
SIDE = 16
X = torch.randn(5, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
T = torch.tensor([0.0, 10.5, 300.0, 700.25, 999.0])
LABELS = torch.tensor([0, 1, 2, 0, 1])
PROTOTYPES = torch.randn(6, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
TUNINGS = [
    FineTuning("full"), FineTuning("bitfit"), FineTuning(), FineTuning(stem=True), FineTuning(gamma="linear"),
    FineTuning("lora", lora_rank=3, lora_layers=["qkv", "conv"]), FineTuning("lora", lora_rank=3, lora_layers=["conv"]),
    FineTuning("selora", lora_rank=3, lora_layers=["proj", "conv"]),
]  # fmt: skip
MAPS = ContextLayout(("noise", "mask"), (1, 2))


def stem_dit(**changes: object) -> DiT:
    torch.manual_seed(0)
    settings = {"input_size": SIDE, "patch_size": 4, "hidden_size": 32, "depth": 4, "num_heads": 2, "num_classes": 3}
    network = DiT(**{**settings, "learn_sigma": False, "stem": STEM, **GATED, **changes})  # type: ignore[arg-type]
    move(network)  # a base after training: nothing is zero any more
    return network


def move(network: torch.nn.Module, size: float = 0.05) -> None:
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + size * torch.randn_like(parameter)


def stem_base(**changes: object) -> Base:
    return Base(stem_dit(**changes).eval().requires_grad_(False), 1.0, ["a", "b", "c"], "hash", "hash", "CC0")


@pytest.fixture
def saved_base(tmp_path: Path) -> tuple[Base, Path]:
    """A base with a stem, as read from its file."""
    path = tmp_path / "base.safetensors"
    save_base(path, stem_base(), {})
    return load_base(path), path


@pytest.mark.parametrize("channels", [[8], [8, 16], [8, 16, 24]])
@pytest.mark.parametrize("learn_sigma", [False, True])
def test_output_has_the_shape_of_the_latent(channels: list[int], learn_sigma: bool) -> None:
    network = stem_dit(stem={"channels": channels, "blocks": 2}, learn_sigma=learn_sigma)
    assert network(X, T, class_labels=LABELS).shape == (5, 8 if learn_sigma else 4, SIDE, SIDE)


def test_an_untrained_network_predicts_zero() -> None:
    network = build_dit("ConvDiT-XS/4", 3, 32)
    assert not network(torch.randn(2, 4, 32, 32), torch.tensor([10, 900])).any()
    assert sum(parameter.numel() for parameter in network.parameters()) < 5.3e6  # what may ship


def test_a_pixel_reaches_beyond_its_token() -> None:
    # In a plain DiT without attention a token's output depends on its own square alone: the squares that one sees.
    network = stem_dit(depth=1)
    for parameter in network.blocks.parameters():
        torch.nn.init.zeros_(parameter)
    x = X[:1].clone().requires_grad_()
    network(x, T[:1])[0, :, 5, 5].sum().backward()
    assert x.grad is not None
    assert x.grad[0, :, 3, 3].any()  # of the next token, across the border at 4


@pytest.mark.parametrize(
    ("stem", "words"),
    [
        ({"channels": [8, 16]}, "channels and blocks"),
        ({"channels": [8, 12], "blocks": 1}, "multiple of 8"),
        ({"channels": [], "blocks": 1}, "one multiple of 8 for each level"),
        ({"channels": [8], "blocks": 0}, "at least 1"),
        ({"channels": [8, 8, 8, 8], "blocks": 1}, "cannot be halved 3 times"),
    ],
)
def test_settings_that_do_not_fit_are_refused(stem: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        stem_dit(stem=stem)


@pytest.mark.parametrize("finetuning", TUNINGS, ids=str)
@pytest.mark.parametrize("query", ["input", "block", None])
def test_step_0_equals_the_base_exactly(finetuning: FineTuning, query: str | None) -> None:
    base = stem_base()
    prototypes = None if query is None else PROTOTYPES
    network = build_anatodiff(base, 2, prototypes, finetuning, spm_width=8, spm_query=query or "input")
    expected = base.network(X, T)
    for labels in (None, LABELS):
        assert torch.equal(network(X, T, class_labels=labels), expected)


@pytest.mark.parametrize("finetuning", TUNINGS, ids=str)
def test_every_trained_parameter_gets_a_gradient(finetuning: FineTuning) -> None:
    network = build_anatodiff(stem_base(), 2, PROTOTYPES, finetuning, spm_width=8)
    move(network)
    network(X, T, class_labels=LABELS).pow(2).sum().backward()
    trained = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert trained
    # A key's bias of the attention and a constant before a normalisation are without effect by construction.
    idle = [name for name, p in trained if p.grad is None or (not p.grad.any() and not name.endswith(".bias"))]
    assert not idle


def test_difffit_scales_each_convolutional_block_and_leaves_its_kernels() -> None:
    network = build_anatodiff(stem_base(), 2)
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert sum(name.endswith(".gamma") for name in names) == len(conv_blocks(network)) == 4
    assert not any(name.startswith(("stem.", "head.")) and name.endswith(".weight") for name in names)
    assert any(name.startswith("stem.") and name.endswith("conv1.bias") for name in names)


def test_the_stem_and_the_head_are_trained_when_asked() -> None:
    network = build_anatodiff(stem_base(), 2, finetuning=FineTuning(stem=True))
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad or not name.startswith(("stem.", "head.")), name
    assert "weights" in trained_parts(network)
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert any(name.startswith("blocks.") for name in frozen)


def test_left_open_the_stem_is_trained_where_there_is_one() -> None:
    with_stem, plain = (build_anatodiff(stem_base(**stem), 2, finetuning=FineTuning(stem=None))
                        for stem in ({}, {"stem": None}))  # fmt: skip
    asked = build_anatodiff(stem_base(), 2, finetuning=FineTuning(stem=True))
    assert trained_names(with_stem) == trained_names(asked)
    assert trained_names(plain) == trained_names(build_anatodiff(stem_base(stem=None), 2))


def test_training_the_stem_is_refused_where_it_does_nothing() -> None:
    with pytest.raises(ValueError, match="train_stem does nothing with finetuning 'full'"):
        FineTuning("full", stem=True)
    with pytest.raises(ValueError, match="no convolutional stem"):
        build_anatodiff(stem_base(stem=None), 2, finetuning=FineTuning(stem=True))


def test_convolutions_get_additions_only_where_there_are_any() -> None:
    plain = stem_base(stem=None)
    with pytest.raises(ValueError, match="no convolutional stem"):
        build_anatodiff(plain, 2, finetuning=FineTuning("lora", lora_rank=2, lora_layers=["conv"]))


def test_a_low_rank_addition_is_a_convolution_with_its_product() -> None:
    conv = TunedConv2d(8, 16)
    conv.low_rank = ConvLowRank(8, 16, 3, rank=2, scale=0.7)
    torch.nn.init.normal_(conv.low_rank.b)
    x = torch.randn(2, 8, 6, 6)
    kernel = conv.weight + conv.low_rank.product()
    expected = torch.nn.functional.conv2d(x, kernel, conv.bias, padding=1)
    torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-5)


def tuned(base: Base, finetuning: FineTuning) -> DiT:
    """A network as training leaves it: everything that trains has moved."""
    network = build_anatodiff(base, 2, PROTOTYPES, finetuning, spm_width=8, spm_query="block", spm_blocks=2).eval()
    move(network)
    return network


@pytest.mark.parametrize("finetuning", TUNINGS, ids=str)
def test_files_give_the_same_network_and_the_adapter_back(
    finetuning: FineTuning, saved_base: tuple[Base, Path], tmp_path: Path
) -> None:
    base, base_path = saved_base
    network = tuned(base, finetuning)
    paths = [tmp_path / f"{name}.safetensors" for name in ("adapter", "merged", "again")]
    facts = {"classes": ["a", "b"], "base_licence": "CC0", "data_licence": "CC0"}
    save_adapter(paths[0], network, trained_names(network), base, finetuning, facts)
    read = load_adapter(paths[0], base_path).network
    network.requires_grad_(False)
    if finetuning.mode != "full":
        assert torch.equal(read(X, T, None, LABELS), network(X, T, None, LABELS))
        merge_adapter(paths[0], paths[1], base_path)
        whole = load_adapter(paths[1]).network  # no base is needed
        plain = {name for name in whole.state_dict() if not name.startswith("shapes.") and ".shape_" not in name}
        assert plain == set(base.network.state_dict())
        torch.testing.assert_close(whole(X, T, None, LABELS), network(X, T, None, LABELS), rtol=1e-4, atol=1e-4)
        split_adapter(paths[1], paths[2])
        assert paths[2].read_bytes() == paths[0].read_bytes()
    else:
        alone = load_adapter(paths[0]).network
        assert torch.equal(alone(X, T, None, LABELS), network(X, T, None, LABELS))
    torch.testing.assert_close(merged(network)(X, T, None, LABELS), network(X, T, None, LABELS), rtol=1e-4, atol=1e-4)


def test_an_adapter_of_a_plain_dit_has_no_tokens_and_one_of_a_stem_leaves_them_to_its_base() -> None:
    stem = build_anatodiff(stem_base(), 2, PROTOTYPES)
    assert "shapes.tokens" in stem.state_dict()
    assert "shapes.tokens" not in trained_names(stem)
    plain = build_anatodiff(stem_base(stem=None), 2, PROTOTYPES)
    assert "shapes.tokens" not in plain.state_dict()


@pytest.mark.parametrize("learnable", [False, True])
def test_prototypes_are_embedded_by_the_stem(learnable: bool) -> None:
    base = stem_base()
    network = build_anatodiff(base, 2, PROTOTYPES, spm_width=8, spm_learnable=learnable)
    tokens = network.prototype_tokens()
    torch.testing.assert_close(tokens, base.network.embed(PROTOTYPES))
    assert tokens.requires_grad == learnable
    features = base.network.stem.start(PROTOTYPES)  # type: ignore[union-attr]
    assert not torch.allclose(tokens, base.network.embed(PROTOTYPES.roll(1, 0)))
    assert features.shape == (6, 8, SIDE, SIDE)


@pytest.mark.parametrize("query", ["input", "block", None])
def test_torchscript_gives_the_same_outputs(query: str | None) -> None:
    prototypes = None if query is None else PROTOTYPES
    network = build_anatodiff(stem_base(), 2, prototypes, spm_width=8, spm_query=query or "input").eval()
    move(network)
    script = torch.jit.script(merged(network))
    torch.testing.assert_close(script(X, T, None, LABELS), network(X, T, None, LABELS), rtol=1e-4, atol=1e-4)


def test_monais_inferer_samples_it() -> None:
    network = stem_dit().eval()
    scheduler = DDIMScheduler(num_train_timesteps=1000, prediction_type="v_prediction")
    scheduler.set_timesteps(3)
    with torch.no_grad():
        samples = DiffusionInferer(scheduler).sample(X[:2], network, scheduler, verbose=False)
    assert samples.shape == (2, 4, SIDE, SIDE)
    assert samples.isfinite().all()


@pytest.mark.parametrize("ways", [("global",), ("spatial",), ("tokens",), ("global", "spatial")])
def test_conditions_change_nothing_before_the_first_step_and_the_output_after_it(ways: tuple[str, ...]) -> None:
    base = stem_base()
    network = build_anatodiff(base, 1, None, "full", conditions=ConditionSettings(MAPS, ways))
    context = torch.randn(5, 3, SIDE, SIDE)
    # Without a context tokens add nothing; with one they modulate at once, as in a plain DiT.
    expected = base.network(X, T)
    torch.testing.assert_close(network(X, T), expected)
    if "tokens" not in ways:
        torch.testing.assert_close(network(X, T, context=context), expected)
    move(network)
    with torch.no_grad():
        one, other = network(X, T, context=context), network(X, T, context=torch.zeros_like(context))
    assert not torch.allclose(one, other)
    torch.testing.assert_close(other, network(X, T))


def test_spatial_conditions_keep_the_resolution_of_the_latent() -> None:
    network = build_anatodiff(stem_base(depth=1), 1, None, "full", conditions=ConditionSettings(MAPS, ("spatial",)))
    move(network)
    context = torch.zeros(1, 3, SIDE, SIDE, requires_grad=True)
    network(X[:1], T[:1], context=context)[0, 0, 5, 5].backward()
    assert context.grad is not None
    reach = context.grad[0].abs().amax(0)  # (h, w)
    assert reach[5, 5] != reach[4, 4]  # two pixels of one token are told apart


def test_a_gated_feed_forward_layer_is_the_product_of_equation_6_of_its_paper() -> None:
    layer = FeedForward(32, 4.0, gated=True)
    x = torch.randn(2, 3, 32)
    gate, value = torch.nn.functional.linear(x, layer.fc1.weight, layer.fc1.bias).split(layer.fc2.in_features, 2)
    torch.testing.assert_close(layer(x), layer.fc2(gate * torch.sigmoid(gate) * value))
    plain = FeedForward(32, 4.0)
    counts = [sum(parameter.numel() for parameter in module.parameters()) for module in (layer, plain)]
    assert counts[0] == pytest.approx(counts[1], rel=0.07)


def test_normalised_queries_and_keys_do_not_depend_on_their_size() -> None:
    x = torch.randn(2, 5, 32)
    for qk_norm in (True, False):
        attention = Attention(32, 2, qk_norm)
        before = attention(x)
        attention.qkv.weight.data[:64] *= 3  # queries and keys, not values
        attention.qkv.bias.data[:64] *= 3
        assert torch.allclose(attention(x), before, atol=1e-4) == qk_norm


def test_settings_travel_with_the_file(saved_base: tuple[Base, Path]) -> None:
    base, _ = saved_base
    assert base.network.settings["stem"] == STEM
    torch.testing.assert_close(base.network(X, T), stem_base().network(X, T), rtol=0.02, atol=0.02)  # fp16
    assert dataclasses.asdict(base.diffusion)["schedule"] == "linear"
