from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler
from support import SIZE, make_base, make_weights

from anatodiff.autoencoders import load_autoencoder
from anatodiff.networks import (
    DIT_SIZES,
    Base,
    DiT,
    FineTuning,
    build_anatodiff,
    build_dit,
    load_adapter,
    load_base,
    merge_adapter,
    merged,
    save_adapter,
    split_adapter,
    start_dit,
    trained_names,
    with_classes,
)
from anatodiff.weights import WeightsError


def small_dit(num_classes: int = 3, **changes: object) -> DiT:
    torch.manual_seed(0)
    settings = {"input_size": 8, "patch_size": 2, "hidden_size": 32, "depth": 4, "num_heads": 2} | changes
    network = DiT(num_classes=num_classes, **settings)  # type: ignore[arg-type]
    for parameter in network.parameters():  # a base after training: nothing is zero any more
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network


def small_base(**changes: object) -> Base:
    return Base(small_dit(**changes).eval().requires_grad_(False), 1.0, ["a", "b", "c"], "hash", "hash", "CC0")


X = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(1))
T = torch.tensor([0, 10, 300, 700, 999])
TUNINGS = [
    FineTuning("full"), FineTuning("bitfit"), FineTuning(), FineTuning(gamma="linear"), FineTuning("lora"),
    FineTuning("selora", lora_layers=["qkv", "fc2"]),
]  # fmt: skip
PROTOTYPES = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", ["DiT-S/2", "DiT-B/4", "DiT-L/8"])
def test_registry_builds_the_named_size(name: str) -> None:
    with torch.device("meta"):
        size = DIT_SIZES[name]
        network = DiT(
            input_size=32, patch_size=size["patch_size"], hidden_size=size["hidden_size"], depth=size["depth"],
            num_heads=size["num_heads"], num_classes=1000,
        )  # fmt: skip
    published = {"DiT-S/2": 33.0, "DiT-B/4": 130.0, "DiT-L/8": 459.0}[name]  # millions, DiT table 1
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(published, rel=0.02)


def test_unknown_size_names_the_choices() -> None:
    with pytest.raises(ValueError, match="DiT-XL/2"):
        build_dit("DiT-XXL/2", 1, 32)


def test_training_goes_on_from_a_base_with_its_classes_by_name(small_weights: dict[str, str], tmp_path: Path) -> None:
    base = load_base(make_base(tmp_path, 0, small_weights["autoencoder_path"]))
    network = start_dit("DiT-XS/8", ["new", "c", "a"], SIZE // 8, start=base)
    x, labels = torch.randn(4, 4, 8, 8), torch.tensor([0, 1, 2, 3])
    torch.testing.assert_close(network(x, None, None, labels), base.network(x, None, None, torch.tensor([3, 2, 0, 3])))
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in base.network.parameters())
    assert network.training


@pytest.mark.parametrize(
    ("size", "side", "message"),
    [("DiT-XS/4", SIZE // 8, "has patch_size 8, DiT-XS/4"), ("DiT-XS/8", 16, "has input_size 8")],
)
def test_a_start_of_another_shape_is_refused(
    size: str, side: int, message: str, small_weights: dict[str, str], tmp_path: Path
) -> None:
    base = load_base(make_base(tmp_path, 0, small_weights["autoencoder_path"]))
    with pytest.raises(WeightsError, match=message):
        start_dit(size, ["a"], side, start=base)


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_output_has_the_shape_of_the_latent(learn_sigma: bool, patch_size: int) -> None:
    network = small_dit(learn_sigma=learn_sigma, patch_size=patch_size)
    assert network(X, T).shape == (5, 8 if learn_sigma else 4, 8, 8)


def test_untrained_network_says_zero_and_unpatchify_inverts_the_cut() -> None:
    assert build_dit("DiT-XS/4", 2, 32)(torch.randn(1, 4, 32, 32), torch.tensor([5])).abs().max() == 0
    network = small_dit(learn_sigma=False)
    patches = X.reshape(5, 4, 4, 2, 4, 2).permute(0, 2, 4, 3, 5, 1).reshape(5, 16, 16)  # p, p, C inside a patch
    assert torch.equal(network.unpatchify(patches), X)


def test_output_depends_on_time_class_and_context() -> None:
    network = small_dit()
    plain = network(X, T, class_labels=torch.zeros(5, dtype=torch.long))
    assert not torch.allclose(plain, network(X, T + 1, class_labels=torch.zeros(5, dtype=torch.long)))
    assert not torch.allclose(plain, network(X, T, class_labels=torch.ones(5, dtype=torch.long)))
    assert not torch.allclose(network(X, T), network(X, T, context=torch.ones(5, 16, 32)))
    assert torch.equal(network(X, T), network(X, T, class_labels=torch.full((5,), network.null_label)))


def test_wrong_latent_size_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="image_size"):
        small_dit()(torch.zeros(1, 4, 16, 16), torch.tensor([0]))


@pytest.mark.parametrize("finetuning", TUNINGS, ids=str)
@pytest.mark.parametrize("query", ["input", "block"])
@pytest.mark.parametrize("prototypes", [None, PROTOTYPES])
def test_step_0_equals_the_base_exactly(finetuning: FineTuning, query: str, prototypes: torch.Tensor | None) -> None:
    base = small_base()
    network = build_anatodiff(base, 2, prototypes, finetuning, spm_width=8, spm_query=query)
    expected = base.network(X, T)
    for labels in (None, torch.tensor([0, 1, 2, 0, 1])):
        assert torch.equal(network(X, T, class_labels=labels), expected)


def test_building_leaves_the_base_as_it_was() -> None:
    base = small_base()
    before = {name: tensor.clone() for name, tensor in base.network.state_dict().items()}
    network = build_anatodiff(base, 2, PROTOTYPES)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data += 1
    after = base.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_difffit_trains_biases_gammas_labels_and_prototypes_only() -> None:
    network = build_anatodiff(small_base(), 2, PROTOTYPES, spm_width=8)
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert all(
        name.endswith(".bias") or "gamma" in name or name.startswith(("shapes.", "y_embedder.")) or ".shape_" in name
        for name in names
    )
    assert sum("gamma" in name for name in names) == 2 * 4
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert frozen
    assert all(name.endswith(".weight") for name in frozen)


def test_full_trains_everything_and_an_unknown_mode_is_refused() -> None:
    network = build_anatodiff(small_base(), 2, finetuning="full")
    assert all(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(ValueError, match="'lorra'"):
        build_anatodiff(small_base(), 2, finetuning="lorra")


def move_shape_layers(network: DiT) -> None:
    """Take the layers of the prototypes off zero, as training does."""
    for name, parameter in network.named_parameters():
        if ".shape_" in name and name.endswith("weight"):
            torch.nn.init.normal_(parameter, std=0.1)


@pytest.mark.parametrize("learnable", [False, True])
def test_prototypes_learn_only_when_asked(learnable: bool) -> None:
    network = build_anatodiff(small_base(), 2, PROTOTYPES, spm_width=8, spm_learnable=learnable)
    move_shape_layers(network)
    network(X, T).pow(2).sum().backward()
    assert network.shapes is not None
    assert (network.shapes.prototypes.grad is not None) == learnable
    assert "shapes.prototypes" in trained_names(network)  # it travels with the adapter either way


def test_full_width_is_that_of_the_network() -> None:
    network = build_anatodiff(small_base(), 2, PROTOTYPES, spm_width=None)
    assert network.shapes is not None
    assert network.shapes.to_key.weight.shape == (32, 32)


def test_frozen_parameters_live_once_in_memory() -> None:
    base = small_base()
    network = build_anatodiff(base, 2, PROTOTYPES)
    theirs = dict(base.network.named_parameters())
    for name, parameter in network.named_parameters():
        if name in theirs:
            assert (parameter.data_ptr() == theirs[name].data_ptr()) == (not parameter.requires_grad), name


def test_every_trained_parameter_gets_a_gradient_once_the_output_layers_have_moved() -> None:
    network = build_anatodiff(small_base(), 2, PROTOTYPES, spm_width=8)
    move_shape_layers(network)
    network(X, T, class_labels=torch.tensor([0, 1, 2, 0, 1])).pow(2).sum().backward()
    idle = [name for name, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []


def test_prototypes_enter_the_last_blocks_only_and_change_the_output() -> None:
    network = build_anatodiff(small_base(), 2, PROTOTYPES, spm_blocks=2, spm_width=8)
    seen = []
    for block in network.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    network(X, T)
    before, seen[:] = list(seen), []
    move_shape_layers(network)
    network(X, T)
    same = [torch.equal(a, b) for a, b in zip(before, seen, strict=True)]
    assert same == [True, True, False, False]


def test_prototype_attention_is_equation_12() -> None:
    network = build_anatodiff(small_base(), 2, PROTOTYPES, spm_width=8)
    shapes = network.shapes
    assert shapes is not None
    z, theta = network.embed(X), network.embed(PROTOTYPES).reshape(-1, 32)
    q, k, v = z @ shapes.to_query.weight.T, theta @ shapes.to_key.weight.T, theta @ shapes.to_value.weight.T
    expected = shapes.trunk(torch.softmax(q @ k.T / 8**0.5, -1) @ v)
    torch.testing.assert_close(shapes(z, shapes.memory(network.embed(PROTOTYPES))), expected)
    # The order of the prototypes does not matter.
    torch.testing.assert_close(shapes(z, shapes.memory(network.embed(PROTOTYPES.flip(0)))), expected)


@pytest.mark.parametrize("query", ["input", "block"])
def test_prototypes_fixed_for_a_sampling_run_give_the_same_output(query: str) -> None:
    network = build_anatodiff(small_base(), 2, PROTOTYPES, spm_width=8, spm_query=query)
    for parameter in network.parameters():
        parameter.data += 0.05
    expected = network(X, T)
    with network.fixed_prototypes():
        assert torch.equal(network(X, T), expected)
        assert network.shapes is not None
        network.shapes.prototypes = PROTOTYPES * 2  # not read again inside
        assert torch.equal(network(X, T), expected)
    assert not torch.equal(network(X, T), expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"spm_query": "both"}, "spm_query"), ({"spm_blocks": 9}, "choose 1 to 4"), ({"spm_width": 0}, "at least 1")],
)
def test_wrong_prototype_options_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_anatodiff(small_base(), 2, PROTOTYPES, **changes)


def test_a_quarter_of_the_blocks_is_the_default() -> None:
    network = build_anatodiff(small_base(depth=8), 2, PROTOTYPES)
    assert [block.shape_attention is not None for block in network.blocks] == [False] * 6 + [True] * 2


def test_new_classes_start_as_the_null_row() -> None:
    network = small_dit()
    table = with_classes(network, 5).y_embedder.embedding_table.weight
    assert table.shape == (6, 32)
    assert torch.equal(table, network.y_embedder.embedding_table.weight[-1:].expand(6, -1))
    assert torch.equal(
        with_classes(network, 1, 0).y_embedder.embedding_table.weight[1], network.y_embedder.embedding_table.weight[0]
    )


def tuned(base: Base, finetuning: FineTuning) -> DiT:
    """A network as training leaves it: everything that trains has moved."""
    network = build_anatodiff(base, 2, PROTOTYPES, finetuning, spm_width=8, spm_query="block", spm_blocks=2).eval()
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.rand_like(parameter)
    return network


@pytest.mark.parametrize("finetuning", TUNINGS, ids=str)
def test_adapter_round_trip_gives_the_same_network(
    finetuning: FineTuning, small_weights: dict[str, str], tmp_path: Path
) -> None:
    base = load_base(small_weights["base_path"])
    network = tuned(base, finetuning)
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, network, trained_names(network), base, finetuning, {"classes": ["a", "b"]})
    adapter = load_adapter(path, small_weights["base_path"])
    # Frozen as the adapter's network is: torch multiplies matrices another way where a gradient may be asked for.
    assert torch.equal(adapter.network(X, T), network.requires_grad_(False)(X, T))
    assert adapter.classes == ["a", "b"]
    assert adapter.scale_factor == 1.5
    assert not any(parameter.requires_grad for parameter in adapter.network.parameters())


@pytest.mark.parametrize("finetuning", TUNINGS, ids=str)
def test_merged_weights_are_plain_and_give_the_same_outputs_and_the_adapter_back(
    finetuning: FineTuning, small_weights: dict[str, str], tmp_path: Path
) -> None:
    base = load_base(small_weights["base_path"])
    network = tuned(base, finetuning)
    paths = [tmp_path / f"{name}.safetensors" for name in ("adapter", "merged", "again")]
    save_adapter(paths[0], network, trained_names(network), base, finetuning, {"classes": ["a", "b"]})
    merge_adapter(paths[0], paths[1], small_weights["base_path"])
    whole = load_adapter(paths[1]).network  # no base is needed
    names = {name for name in whole.state_dict() if not name.startswith("shapes.") and ".shape_" not in name}
    assert names == set(base.network.state_dict())
    labels = torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(whole(X, T, None, labels), network(X, T, None, labels), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(merged(network)(X, T, None, labels), whole(X, T, None, labels))
    split_adapter(paths[1], paths[2])
    assert paths[2].read_bytes() == paths[0].read_bytes()


def test_merged_weights_without_prototypes_are_a_base_again(small_weights: dict[str, str], tmp_path: Path) -> None:
    base = load_base(small_weights["base_path"])
    network = build_anatodiff(base, 2, finetuning=FineTuning("lora"))
    paths = [tmp_path / f"{name}.safetensors" for name in ("adapter", "merged")]
    save_adapter(paths[0], network, trained_names(network), base, FineTuning("lora"), {"classes": ["a", "b"]})
    merge_adapter(paths[0], paths[1], small_weights["base_path"])
    again = load_base(paths[1])
    assert again.classes == ["a", "b"]
    torch.testing.assert_close(again.network(X, T), network(X, T))


@pytest.mark.parametrize("query", ["input", "block", None])
def test_torchscript_gives_the_same_outputs(query: str | None) -> None:
    prototypes = None if query is None else PROTOTYPES
    network = build_anatodiff(small_base(), 2, prototypes, spm_width=8, spm_query=query or "input").eval()
    move_shape_layers(network)
    script = torch.jit.script(merged(network))
    labels = torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(script(X, T, None, labels), network(X, T, None, labels))
    torch.testing.assert_close(script(X), network(X, torch.zeros(5)))


def test_adapter_of_another_base_and_base_of_another_autoencoder_are_refused(
    small_weights: dict[str, str], tmp_path: Path
) -> None:
    base = load_base(small_weights["base_path"])
    network = build_anatodiff(base, 1)
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, network, trained_names(network), base, FineTuning(), {"classes": ["a"]})
    other = make_weights(tmp_path, seed=1)
    wanted, found = base.sha256[:12], load_base(other["base_path"]).sha256[:12]
    with pytest.raises(WeightsError, match=f"trained on the base {wanted}, this one is {found}; give its file"):
        load_adapter(path, other["base_path"])
    for load in (load_adapter, load_base):
        with pytest.raises(WeightsError, match="another autoencoder"):
            load(other["base_path"] if load is load_base else path, autoencoder=load_autoencoder())
    with pytest.raises(WeightsError, match="predicts 'epsilon', not 'flow'"):
        load_base(small_weights["base_path"], prediction="flow")
    with pytest.raises(WeightsError, match="an adapter is no base"):
        load_base(path)
    with pytest.raises(WeightsError, match="no such weights file"):
        load_base(tmp_path / "nothing.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_base(tmp_path / "broken.safetensors")


def test_monai_inferer_samples_it() -> None:
    network = small_dit(learn_sigma=False).eval()
    scheduler = DDIMScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(3)
    with torch.no_grad():
        image = DiffusionInferer(scheduler).sample(X, network, scheduler, verbose=False)
    assert image.shape == X.shape
    assert torch.isfinite(image).all()
