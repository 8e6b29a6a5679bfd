"""State dicts of the published DiT and SiT, read by path, against diffusers' own network."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import make_weights

from anatodiff.autoencoders import load_autoencoder
from anatodiff.networks import DiT, build_anatodiff, build_dit, load_base
from anatodiff.weights import WeightsError, load_weights

CLASSES = 12


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """diffusers' DiT-S/8 with random weights."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is in the extra 'test'")
    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=6, attention_head_dim=64, in_channels=4, out_channels=8, num_layers=12, sample_size=32,
        patch_size=8, num_embeds_ada_norm=CLASSES,
    )  # fmt: skip
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return network.eval()


def published(theirs: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Rename diffusers' tensors to the published ones; diffusers keeps an embedder of time and class in each block."""
    state, ours = theirs.state_dict(), {}
    ours["pos_embed"] = theirs.pos_embed.pos_embed  # type: ignore[union-attr,assignment]
    for end in ("weight", "bias"):
        ours[f"x_embedder.proj.{end}"] = state[f"pos_embed.proj.{end}"]
        ours[f"final_layer.linear.{end}"] = state[f"proj_out_2.{end}"]
        ours[f"final_layer.adaLN_modulation.1.{end}"] = state[f"proj_out_1.{end}"]
        first = "transformer_blocks.0.norm1.emb.timestep_embedder"
        ours[f"t_embedder.mlp.0.{end}"] = state[f"{first}.linear_1.{end}"]
        ours[f"t_embedder.mlp.2.{end}"] = state[f"{first}.linear_2.{end}"]
        for i in range(12):
            block, old = f"blocks.{i}", f"transformer_blocks.{i}"
            ours[f"{block}.attn.qkv.{end}"] = torch.cat([state[f"{old}.attn1.to_{part}.{end}"] for part in "qkv"])
            for name, theirs_name in {
                "attn.proj": "attn1.to_out.0", "mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2",
                "adaLN_modulation.1": "norm1.linear",
            }.items():  # fmt: skip
                ours[f"{block}.{name}.{end}"] = state[f"{old}.{theirs_name}.{end}"]
    table = "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    ours["y_embedder.embedding_table.weight"] = state[table]
    return ours


def same_embedders(theirs: torch.nn.Module) -> None:
    """Make diffusers' embedders those of the published network: one for all blocks, with the published frequencies.

    The published DiT and SiT divide the exponent of their 128 frequencies by 128, diffusers' port by 127.
    """
    first = theirs.transformer_blocks[0].norm1.emb.state_dict()
    for block in theirs.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
        block.norm1.emb.time_proj.downscale_freq_shift = 0


X = torch.randn(3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
T, LABELS = torch.tensor([0, 333, 999]), torch.tensor([0, 7, CLASSES])


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize("nested", [False, True])
def test_outputs_equal_diffusers(theirs: torch.nn.Module, ending: str, nested: bool, tmp_path: Path) -> None:
    same_embedders(theirs)
    path, tensors = tmp_path / f"dit{ending}", published(theirs)
    if ending == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save({"ema": tensors, "model": {}} if nested else tensors, path)
    base = load_base(path)
    assert base.network.num_classes == CLASSES
    assert base.scale_factor == 0.18215
    assert base.diffusion.prediction == "epsilon"
    with torch.no_grad():
        expected = theirs(X, timestep=T, class_labels=LABELS).sample
        out = base.network(X, T, class_labels=LABELS)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_any_number_of_classes_starts_from_the_null_row(tmp_path: Path) -> None:
    path = write(tmp_path, "DiT-S/8", 32)
    base = load_base(path)
    network = build_anatodiff(base, 3)
    assert network.num_classes == 3
    expected = base.network(X, T, class_labels=torch.full((3,), base.network.null_label))
    torch.testing.assert_close(network(X, T, class_labels=torch.tensor([0, 1, 3])), expected)


def write(folder: Path, size: str, side: int) -> Path:
    network = build_dit(size, CLASSES, side)
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    path = folder / "published.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize(("size", "side"), [("DiT-S/4", 32), ("DiT-B/8", 64)])
def test_size_and_resolution_are_read_off_the_tensors(size: str, side: int, tmp_path: Path) -> None:
    network = load_base(write(tmp_path, size, side)).network
    assert network.input_size == side  # 32: 256 x 256 images, 64: 512 x 512
    assert network.patch_size == int(size[-1])
    assert isinstance(network, DiT)


@pytest.mark.parametrize(("prediction", "first_time"), [(None, 0), ("epsilon", 0), ("flow", 0.999)])
def test_sit_is_told_apart_by_the_option(prediction: str | None, first_time: float, tmp_path: Path) -> None:
    base = load_base(write(tmp_path, "DiT-S/8", 32), prediction=prediction)
    schedule = base.diffusion.build()
    assert schedule.prediction == (prediction or "epsilon")
    assert float(schedule.timesteps[0]) == pytest.approx(first_time)


@pytest.mark.parametrize("prediction", ["epsilon", "flow"])
def test_published_weights_fine_tune_and_sample(prediction: str, run: Callable[..., Path], tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is in the extra 'test'")
    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=4,
        norm_num_groups=4, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
    ).save_pretrained(tmp_path / "vae")  # fmt: skip
    weights = {"base_path": str(write(tmp_path, "DiT-S/4", 8)), "autoencoder_path": str(tmp_path / "vae")}
    out = run("train", **weights, prediction=None if prediction == "epsilon" else prediction)
    settings = load_weights(out / "adapter.safetensors", "adapter").settings
    assert settings["diffusion"]["prediction"] == prediction
    assert settings["scale_factor"] == 0.18215
    parts = (out / "losses.csv").read_text().splitlines()[0].split(",")
    assert ("variance" in parts) == (prediction == "epsilon")
    run("inference", **weights, run_dir=str(out), dataset_dir=str(tmp_path / "samples"))
    assert len(list((tmp_path / "samples").glob("*.dcm"))) == 6


def test_its_latents_must_be_the_stable_diffusion_vaes(tmp_path: Path) -> None:
    autoencoder = load_autoencoder(make_weights(tmp_path, seed=0)["autoencoder_path"])
    with pytest.raises(WeightsError, match="Stable Diffusion VAE"):
        load_base(write(tmp_path, "DiT-S/8", 32), autoencoder)


def test_training_checkpoints_of_dit_are_read_and_take_no_other_prediction(tmp_path: Path) -> None:
    path = write(tmp_path, "DiT-S/8", 32)
    state = torch.load(path, weights_only=True)
    torch.save({"model": state, "ema": state, "args": argparse.Namespace(lr=1e-4)}, path)
    assert load_base(path).network.num_classes == CLASSES
    with pytest.raises(WeightsError, match="not 'v'"):
        load_base(path, prediction="v")


def test_what_is_no_dit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="neither a base"):
        load_base(path)
    torch.save({"conv.weight": 3}, path)
    with pytest.raises(WeightsError, match="no state dict"):
        load_base(path)
    path.write_bytes(b"not a pickle")
    with pytest.raises(WeightsError, match="not a plain state dict"):
        load_base(path)
    state = build_dit("DiT-S/8", 1, 32).state_dict()
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith("blocks.11.")}, path)
    with pytest.raises(WeightsError, match="no published size"):
        load_base(path)
