"""How a DiT is told of noise and anatomy: by the paper's equations, without a change where nothing is told."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from anatodiff.autoencoders import ContextLayout
from anatodiff.diffusion import Guidance
from anatodiff.diffusion.guidance import guided
from anatodiff.networks import (
    Base,
    ConditionSettings,
    DiT,
    FineTuning,
    build_anatodiff,
    load_adapter,
    load_base,
    save_adapter,
    save_base,
    set_conditions,
    trained_names,
)
from anatodiff.networks.base import build_dit
from anatodiff.networks.conditioned_unet import ConditionedUNet
from anatodiff.networks.conditions import WAYS, Conditions, GlobalConditions, TokenConditions
from anatodiff.networks.start import start_dit
from anatodiff.weights import WeightsError

SIDE, PATCH, WIDTH, FEATURES = 8, 4, 32, 12
GRID = SIDE // PATCH
MAPS = ContextLayout(("noise", "mask"), (2, 3))
NOISE, MASK = MAPS.slices()["noise"], MAPS.slices()["mask"]
EMBEDDED = ContextLayout(("noise", "mask"), (1, 1), "embeddings")
FACTS = {"classes": ["ct"], "base_licence": "CC0"}
SOME_WAYS = [list(ways) for n in (1, 2) for ways in itertools.combinations(WAYS, n)]


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, T = drawn(3, 4, SIDE, SIDE), torch.tensor([0, 300, 999])
CONTEXT = drawn(3, 5, SIDE, SIDE, seed=2)
LABELS = torch.zeros(3, dtype=torch.long)


def how(*ways: str, layout: ContextLayout = MAPS, fusion: str = "concat") -> ConditionSettings:
    return ConditionSettings(layout, ways or ("global", "spatial"), fusion, FEATURES)


def moved(network: torch.nn.Module, seed: int = 3) -> None:
    """Take every weight away from where it starts, as a training does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in network.parameters():
            parameter.data = parameter.data + 0.1 * torch.randn_like(parameter)  # may share memory with the base


def small_base(seed: int = 0) -> Base:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DiT(input_size=SIDE, patch_size=PATCH, hidden_size=WIDTH, depth=2, num_heads=2, num_classes=3)
    moved(network)
    return Base(network.eval().requires_grad_(False), 1.5, ["a", "b", "c"], "hash", "encoder", "CC0")


def told_dit(*ways: str, layout: ContextLayout = MAPS, fusion: str = "concat") -> DiT:
    network = build_anatodiff(small_base(), 1, None, "full", conditions=how(*ways, layout=layout, fusion=fusion))
    moved(network)
    return network.eval()


def conditions_of(network: DiT) -> Conditions:
    assert network.conditions is not None
    return network.conditions


def equal(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("form", ["maps", "embeddings"])
def test_the_global_vector_is_that_of_equations_10_to_14(fusion: str, form: str) -> None:
    sizes, context = ([2, 3], CONTEXT) if form == "maps" else ([1, 1], drawn(3, 2, FEATURES))
    part = GlobalConditions(["noise", "mask"], sizes, form, FEATURES, WIDTH, fusion)
    moved(part)
    x, c = drawn(3, GRID**2, WIDTH), drawn(3, WIDTH, seed=4)
    weights = part.state_dict()

    def two_layers(v: torch.Tensor, name: str) -> torch.Tensor:
        inner = v @ weights[f"{name}.0.weight"].T + weights[f"{name}.0.bias"]
        return inner * torch.sigmoid(inner) @ weights[f"{name}.2.weight"].T + weights[f"{name}.2.bias"]

    def encoded(name: str, maps: torch.Tensor) -> torch.Tensor:  # eq. 10
        for layer in (0, 2, 4):
            weight, bias = (weights[f"encoders.{name}.layers.{layer}.{which}"] for which in ("weight", "bias"))
            maps = F.silu(F.conv2d(maps, weight, bias, stride=2, padding=1))
        flat = F.adaptive_avg_pool2d(maps, 4).reshape(3, -1)
        return flat @ weights[f"encoders.{name}.out.weight"].T + weights[f"encoders.{name}.out.bias"]

    if form == "maps":
        vectors = [encoded("noise", context[:, :2]), encoded("mask", context[:, 2:])]
    else:
        vectors = [context[:, 0], context[:, 1]]
    noise, mask = (two_layers(v, "project") for v in vectors)  # eq. 11, one projection for both
    fused = torch.cat([noise, mask], dim=1) if fusion == "concat" else noise + mask  # eq. 12
    expected = c + two_layers(fused, "fuse")  # eq. 13-14
    same_x, told = part(x, c, context)
    torch.testing.assert_close(told, expected)
    equal(same_x, x)


def test_tokens_tell_each_patch_by_the_sum_of_equation_2() -> None:
    part = TokenConditions(5, PATCH, WIDTH, GRID)
    x, c = drawn(3, GRID**2, WIDTH), drawn(3, WIDTH, seed=4)
    patches = CONTEXT.reshape(3, 5, GRID, PATCH, GRID, PATCH).permute(0, 2, 4, 1, 3, 5).reshape(3, GRID**2, -1)
    weight, bias = part.embed.weight, part.embed.bias
    assert bias is not None
    z_y = patches @ weight.reshape(WIDTH, -1).T + bias + part.positions
    centred = z_y - z_y.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    same_x, told = part(x, c, CONTEXT)
    assert told.shape == (3, GRID**2, WIDTH)
    torch.testing.assert_close(told, normed + c[:, None] + z_y)
    equal(same_x, x)
    changed = CONTEXT.clone()
    changed[..., :PATCH, PATCH:] += 1  # the second patch
    differs = (part(x, c, changed)[1] != told).any(-1)
    assert differs.tolist() == [[False, True, False, False]] * 3


@pytest.mark.parametrize("ways", SOME_WAYS, ids="+".join)
def test_what_is_not_told_has_no_influence(ways: list[str]) -> None:
    network = told_dit(*ways)
    with torch.no_grad():
        silent, told = network(X, T, None, LABELS), network(X, T, CONTEXT, LABELS)
        torch.testing.assert_close(network(X, T, torch.zeros_like(CONTEXT), LABELS), silent)
        one_silent = CONTEXT.clone()
        one_silent[1] = 0
        torch.testing.assert_close(network(X, T, one_silent, LABELS)[1], silent[1])
        for place in (NOISE, MASK):  # each of them is heard
            alone = torch.zeros_like(CONTEXT)
            alone[:, place] = CONTEXT[:, place]
            assert ((network(X, T, alone, LABELS) - silent).flatten(1).abs().amax(1) > 1e-4).all()
    assert ((told - silent).flatten(1).abs().amax(1) > 1e-4).all()


def test_the_encoder_of_an_untold_condition_does_not_matter() -> None:
    network = told_dit("global")
    context = CONTEXT.clone()
    context[:, MASK] = 0
    with torch.no_grad():
        before = network(X, T, context, LABELS)
        part = conditions_of(network).parts["global"]
        assert isinstance(part, GlobalConditions)
        moved(part.encoders["mask"], seed=9)
        equal(network(X, T, context, LABELS), before)
        assert not torch.allclose(network(X, T, CONTEXT, LABELS), before, atol=1e-4)


@pytest.mark.parametrize("ways", [("global",), ("spatial",), ("global", "spatial")], ids="+".join)
@pytest.mark.parametrize("finetuning", ["full", "difffit", "lora"])
def test_before_the_first_step_the_output_is_the_bases(ways: tuple[str, ...], finetuning: str) -> None:
    base = small_base()
    network = build_anatodiff(base, 1, None, finetuning, conditions=how(*ways), start_class="b").eval()
    with torch.no_grad():
        equal(network(X, T, CONTEXT, LABELS), base.network(X, T, None, LABELS + 1))


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("ways", SOME_WAYS, ids="+".join)
def test_after_one_step_every_parameter_of_the_conditions_learns(ways: list[str], fusion: str) -> None:
    network = build_anatodiff(small_base(), 1, None, "difffit", conditions=how(*ways, fusion=fusion))
    conditions = conditions_of(network)
    optimiser = torch.optim.SGD(conditions.parameters(), 0.1)
    for _ in range(2):  # the last layers start at zero, so those before them hear of the loss in the second step
        optimiser.zero_grad()
        network(X, T, CONTEXT, LABELS).square().mean().backward()
        optimiser.step()
    silent = [name for name, p in conditions.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_embeddings_go_into_the_network_without_an_encoder() -> None:
    network = told_dit("global", layout=EMBEDDED)
    assert not any("encoders" in name for name in network.state_dict())
    context = drawn(3, 2, FEATURES)
    with torch.no_grad():
        silent = network(X, T, None, LABELS)
        equal(network(X, T, torch.zeros_like(context), LABELS), silent)
        assert not torch.allclose(network(X, T, context, LABELS), silent, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ways": []}, "condition_ways must be some of"),
        ({"ways": ["global", "cross"]}, "condition_ways must be some of"),
        ({"fusion": "mean"}, "condition_fusion must be one of"),
        ({"form": "embeddings", "ways": ["spatial"]}, "embeddings of CLIP have no places"),
        ({"form": "embeddings", "ways": ["global", "tokens"]}, "embeddings of CLIP have no places"),
    ],
)
def test_ways_that_are_not_known_are_refused(changes: dict[str, object], message: str) -> None:
    settings = {**how().as_arguments(), "hidden_size": WIDTH, "patch_size": PATCH, "grid": GRID, **changes}
    with pytest.raises(ValueError, match=message):
        Conditions(**settings)


def save(path: Path, network: DiT, base: Base, mode: str) -> Path:
    save_adapter(path, network, trained_names(network), base, FineTuning(mode), FACTS)
    return path


@pytest.mark.parametrize("ways", [["global", "spatial"], ["tokens"]], ids="+".join)
def test_a_full_adapter_needs_no_base(ways: list[str], tmp_path: Path) -> None:
    network = told_dit(*ways, fusion="sum")
    loaded = load_adapter(save(tmp_path / "a.safetensors", network, small_base(), "full")).network
    assert isinstance(loaded, DiT)
    assert conditions_of(loaded).settings == conditions_of(network).settings
    with torch.no_grad():
        equal(loaded(X, T, CONTEXT, LABELS), network(X, T, CONTEXT, LABELS))


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    save_base(tmp_path / "base.safetensors", small_base(), {}, half=False)
    return tmp_path / "base.safetensors"


def test_a_small_adapter_needs_its_base(base_path: Path, tmp_path: Path) -> None:
    base = load_base(base_path)
    network = build_anatodiff(base, 1, conditions=how()).eval()
    moved(conditions_of(network))
    path = save(tmp_path / "a.safetensors", network, base, "difffit")
    with torch.no_grad():
        equal(load_adapter(path, base_path).network(X, T, CONTEXT, LABELS), network(X, T, CONTEXT, LABELS))
    save_base(base_path, small_base(seed=5), {}, half=False)
    with pytest.raises(WeightsError, match="give its file with --base_path"):
        load_adapter(path, base_path)
    with pytest.raises(WeightsError, match="an adapter is no base; give one that was trained with finetuning 'full'"):
        load_base(path)


@pytest.fixture
def stage(tmp_path: Path) -> tuple[Path, DiT]:
    """The file of a first stage, told of noise and mask, and its network."""
    network = told_dit("global", "spatial")
    return save(tmp_path / "stage.safetensors", network, small_base(), "full"), network


@pytest.mark.parametrize("finetuning", ["full", "difffit"])
def test_a_next_stage_starts_with_the_outputs_of_the_one_before(stage: tuple[Path, DiT], finetuning: str) -> None:
    path, before = stage
    base = load_base(path)
    assert base.classes == ["ct"] and base.licence == "not stated; went on from a base of: CC0"
    network = build_anatodiff(base, 1, None, finetuning, start_class="ct", conditions=how("global", "spatial")).eval()
    with torch.no_grad():
        equal(network(X, T, CONTEXT, LABELS), before(X, T, CONTEXT, LABELS))


@pytest.mark.parametrize("finetuning", ["full", "difffit"])
@pytest.mark.parametrize("conditions", [None, how("global", layout=ContextLayout(("mask",), (3,)))], ids=["no", "mask"])
def test_a_next_stage_with_other_conditions_comes_back_from_its_file(
    stage: tuple[Path, DiT], finetuning: str, conditions: ConditionSettings | None, tmp_path: Path
) -> None:
    base = load_base(stage[0])
    network = build_anatodiff(base, 1, None, finetuning, conditions=conditions).eval()
    path = save(tmp_path / "next.safetensors", network, base, finetuning)
    loaded = load_adapter(path, stage[0]).network
    context = None if conditions is None else CONTEXT[:, MASK]
    with torch.no_grad():
        equal(loaded(X, T, context, LABELS), network(X, T, context, LABELS))


def kept_of(new: DiT, old: DiT) -> set[str]:
    theirs = conditions_of(old).state_dict()
    mine = conditions_of(new).state_dict()
    return {name for name, tensor in mine.items() if name in theirs and torch.equal(tensor, theirs[name])}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (how("global", "spatial"), ("parts.",)),
        (how("global"), ("parts.global.project.", "parts.global.encoders.")),
        (how("global", "spatial", fusion="sum"), ("parts.global.project.", "parts.global.encoders.")),
        (how(layout=ContextLayout(("noise",), (2,))), ("parts.global.project.", "parts.global.encoders.noise.")),
        (
            how("global", layout=ContextLayout(("mask",), (3,))),
            ("parts.global.project.", "parts.global.encoders.mask."),
        ),
        (how("tokens"), ()),
    ],
    ids=["the same", "without spatial", "sum", "noise alone", "mask alone", "tokens"],
)
def test_a_stage_keeps_what_means_the_same(
    settings: ConditionSettings, kept: tuple[str, ...], stage: tuple[Path, DiT], caplog: pytest.LogCaptureFixture
) -> None:
    old = stage[1]
    new = load_base(stage[0]).network
    with caplog.at_level(logging.INFO):
        set_conditions(new, settings)
    names = set(conditions_of(new).state_dict())
    expected = {name for name in names if kept and name.startswith(kept)}
    assert kept_of(new, old) == expected
    assert f"conditions: {len(expected)} of {len(names)} tensors go on from the base" in caplog.text


def test_with_an_organ_more_the_masks_encoder_reads_anew(stage: tuple[Path, DiT]) -> None:
    new = load_base(stage[0]).network
    set_conditions(new, how("global", layout=ContextLayout(("noise", "mask"), (2, 4))))
    kept = kept_of(new, stage[1])
    assert "parts.global.encoders.mask.layers.0.weight" not in kept
    assert "parts.global.encoders.noise.layers.0.weight" in kept


def test_without_conditions_all_of_them_are_dropped(stage: tuple[Path, DiT]) -> None:
    network = load_base(stage[0]).network
    set_conditions(network, None)
    assert network.conditions is None and not any("conditions" in name for name in network.state_dict())


def test_first_weights_are_a_function_of_the_seed() -> None:
    states = []
    for seed in (0, 0, 1):
        network = small_base().network
        set_conditions(network, how("global"), seed)
        states.append(conditions_of(network).state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert not all(torch.equal(tensor, states[2][name]) for name, tensor in states[0].items())


def test_a_base_may_be_trained_with_conditions(tmp_path: Path) -> None:
    network = start_dit("DiT-XS/8", ["ct"], SIDE, conditions=how("global", "tokens"))
    moved(network)
    path = tmp_path / "base.safetensors"
    save_base(path, Base(network, 1.0, ["ct"], "", "encoder", "CC0"), {}, half=False)
    start = load_base(path)
    again = start_dit("DiT-XS/8", ["ct"], SIDE, start=start, conditions=how("global", "tokens"))
    with torch.no_grad():
        equal(again(X, T, CONTEXT, LABELS), network(X, T, CONTEXT, LABELS))
    assert all(parameter.requires_grad for parameter in again.parameters()) and again.training
    assert start_dit("DiT-XS/8", ["ct"], SIDE, start=start).conditions is None


def test_a_u_net_is_no_base(tmp_path: Path) -> None:
    network = ConditionedUNet(
        "seg-diff", SIDE, context_channels=5, channels=[8, 16], attention_levels=[False, True], norm_num_groups=4,
        num_head_channels=8,
    )  # fmt: skip
    base = Base(build_dit("DiT-XS/8", 1, SIDE), 1.0, [], "", "", "CC0")
    path = tmp_path / "unet.safetensors"
    save_adapter(path, network, list(network.state_dict()), base, FineTuning("full"), FACTS)
    with pytest.raises(WeightsError, match="seg-diff"):
        load_base(path)


class Recorder(torch.nn.Module):
    """Keeps what it is told; answers with the mean of it."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[torch.Tensor | None] = []

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None, class_labels: torch.Tensor
    ) -> torch.Tensor:
        self.contexts.append(context)
        said = torch.zeros(len(x)) if context is None else context.flatten(1).mean(1)
        return x * 0 + said[:, None, None, None]


def test_guidance_tells_one_half_everything_and_the_other_nothing() -> None:
    network = Recorder()
    denoise = guided(network, LABELS, 1, Guidance(3.0), 4, CONTEXT)
    out = denoise(X, T, 0.5)
    told = network.contexts[0]
    assert told is not None
    equal(told[:3], CONTEXT)
    equal(told[3:], torch.zeros_like(CONTEXT))
    expected = (3 * CONTEXT.flatten(1).mean(1))[:, None, None, None].expand_as(X)
    torch.testing.assert_close(out, expected)
    guided(network, LABELS, 1, Guidance(1.0), 4, CONTEXT)(X, T, 0.5)
    assert network.contexts[1] is CONTEXT
    guided(network, LABELS, 1, Guidance(3.0), 4)(X, T, 0.5)
    assert network.contexts[2] is None
