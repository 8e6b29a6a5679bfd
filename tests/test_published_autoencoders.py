"""Autoencoders that others trained: our reading of their weights gives what their own code gives."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersAutoencoderKL
from generative.networks.nets import AutoencoderKL as GenerativeAutoencoderKL
from safetensors.torch import load_file, save_file
from support import ROOT

from anatodiff.autoencoders import (
    LatentCodec,
    StableDiffusionAutoencoder,
    TinyAutoencoder,
    load_autoencoder,
    read_monai_generative,
)
from anatodiff.transforms import radiograph_transforms
from anatodiff.weights import WeightsError

PROGRAM = ROOT / "scripts" / "convert_autoencoder.py"
CLOSE = {"rtol": 0, "atol": 1e-5}
Run = Callable[..., Path]


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """Move all parameters, so that none is at a value (0, 1) that hides a mistake."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network.eval().requires_grad_(False)


def stable_diffusion(channels: tuple[int, ...] = (32, 64), **settings: Any) -> DiffusersAutoencoderKL:
    network = DiffusersAutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        **{"layers_per_block": 2, "norm_num_groups": 32, **settings},
    )
    return shaken(network)


def assert_same_as_diffusers(ours: LatentCodec, theirs: DiffusersAutoencoderKL) -> None:
    images = torch.rand(2, 1, 8 * ours.factor, 12 * ours.factor)
    posterior = theirs.encode((2 * images - 1).repeat(1, 3, 1, 1)).latent_dist
    mean, logvar = ours.encode(images)
    torch.testing.assert_close(mean, posterior.mean, **CLOSE)
    torch.testing.assert_close(logvar, posterior.logvar, **CLOSE)
    z = 3 * torch.randn_like(mean)
    wanted = (theirs.decode(z).sample.mean(dim=1, keepdim=True) / 2 + 0.5).clamp(0, 1)
    assert wanted.std() > 0.05
    torch.testing.assert_close(ours.decode(z), wanted, **CLOSE)


@pytest.mark.parametrize(
    ("channels", "settings"),
    [
        ((32, 64), {}),
        ((16, 32, 32), {"norm_num_groups": 8, "layers_per_block": 1, "latent_channels": 3, "scaling_factor": 0.25}),
    ],
)
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_stable_diffusion_gives_what_diffusers_gives(
    channels: tuple[int, ...], settings: dict[str, Any], safe: bool, tmp_path: Path
) -> None:
    theirs = stable_diffusion(channels, **settings)
    theirs.save_pretrained(tmp_path, safe_serialization=safe)
    ours = load_autoencoder(tmp_path)
    assert_same_as_diffusers(ours, theirs)
    assert ours.factor == 2 ** (len(channels) - 1)
    assert ours.latent_channels == settings.get("latent_channels", 4)
    assert ours.scaling_factor == settings.get("scaling_factor", 0.18215)
    assert not any(parameter.requires_grad for parameter in ours.parameters())


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.mark.parametrize("squeezed", [True, False], ids=["linear", "1x1 convolution"])
def test_old_names_of_attention_are_read(squeezed: bool, tmp_path: Path) -> None:
    theirs = stable_diffusion()
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {}
    for name, tensor in load_file(file).items():
        for new_part, old_part in OLD_NAMES.items():
            if f".attentions.0.{new_part}." in name:
                name = name.replace(f".{new_part}.", f".{old_part}.")
                tensor = tensor if squeezed or tensor.ndim == 1 else tensor[:, :, None, None]
        old[name] = tensor
    assert sum("proj_attn" in name for name in old) == 4
    before = load_autoencoder(file).sha256
    save_file(old, file)
    assert_same_as_diffusers(load_autoencoder(file), theirs)
    assert load_autoencoder(tmp_path).sha256 == load_autoencoder(file).sha256 != before


def test_half_precision_is_computed_in_float32(tmp_path: Path) -> None:
    theirs = stable_diffusion().half()
    theirs.save_pretrained(tmp_path)
    ours = load_autoencoder(tmp_path)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    assert_same_as_diffusers(ours, theirs.float())


def test_defaults_are_those_of_stable_diffusion() -> None:
    with torch.device("meta"):
        theirs = stable_diffusion((128, 256, 512, 512))
        ours = StableDiffusionAutoencoder()
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert {name: ours.state_dict()[own].shape for own, name in ours.names().items()} == shapes
    assert (ours.factor, ours.latent_channels, ours.scaling_factor) == (8, 4, 0.18215)
    assert {module.num_groups for module in ours.modules() if isinstance(module, torch.nn.GroupNorm)} == {32}


def test_small_file_without_its_settings_is_refused(tmp_path: Path) -> None:
    stable_diffusion().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"diffusion_pytorch_model\.safetensors.*config\.json"):
        load_autoencoder(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_class_name", "AutoencoderTiny"),
        ("act_fn", "gelu"),
        ("in_channels", 1),
        ("shift_factor", 0.06),
        ("use_quant_conv", False),
        ("down_block_types", ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]),
    ],
)
def test_settings_of_another_network_are_refused(key: str, value: Any, tmp_path: Path) -> None:
    stable_diffusion().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(WeightsError, match=rf"config\.json: {key} is "):
        load_autoencoder(tmp_path)


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    stable_diffusion().save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("decoder.mid_block.attentions.0.to_k.bias")
    save_file(tensors, file)
    with pytest.raises(WeightsError, match=r"1 tensors.*decoder\.mid_block\.attentions\.0\.to_k\.bias"):
        load_autoencoder(tmp_path)


def test_workflow_runs_on_a_published_autoencoder(run: Run, tmp_path: Path) -> None:
    stable_diffusion((8, 8, 8, 8), norm_num_groups=4).save_pretrained(tmp_path / "vae")
    folder = run("pretrain", autoencoder_path=str(tmp_path / "vae"))
    assert list(folder.rglob("*.safetensors"))


def radiographs(folder: Path, count: int) -> torch.Tensor:
    transform = radiograph_transforms(256)
    files = sorted((folder / "cxr" / "kermany").glob("*.jpg"))[:count]
    return torch.stack([transform({"image": str(file)})["image"].as_tensor() for file in files])


def test_tiny_autoencoder_keeps_real_radiographs(shared_data: Path) -> None:
    autoencoder = load_autoencoder(shared_data / "weights")
    images = radiographs(shared_data, 3)
    mean, logvar = autoencoder.encode(images)
    assert mean.shape == logvar.shape == (3, 32, 32, 32)
    assert logvar.unique().tolist() == [-30]
    error = (autoencoder.decode(mean) - images).square().mean(dim=(1, 2, 3))
    assert float((-10 * error.log10()).mean()) > 33
    assert (autoencoder.latent_channels, autoencoder.factor, autoencoder.scaling_factor) == (32, 8, None)


def write_tiny(folder: Path, name: str, latent_channels: int, mixing: bool) -> TinyAutoencoder:
    network = shaken(TinyAutoencoder(latent_channels, mixing))
    for half in ("encoder", "decoder"):
        torch.save(network.get_submodule(half).half().state_dict(), folder / f"{name}_{half}.pth")
    return network.float()


def test_tiny_autoencoder_of_stable_diffusion_is_read(tmp_path: Path) -> None:
    written = write_tiny(tmp_path, "taesd", latent_channels=4, mixing=False)
    read = load_autoencoder(tmp_path / "taesd_encoder.pth")
    images = torch.rand(1, 1, 64, 96)
    z = read.encode(images)[0]
    assert z.shape == (1, 4, 8, 12)
    assert torch.equal(z, written.encode(images)[0])
    assert torch.equal(read.decode(z), written.decode(z))
    assert read.sha256 == load_autoencoder(tmp_path).sha256


def test_hash_of_a_tiny_autoencoder_covers_both_files(tmp_path: Path) -> None:
    write_tiny(tmp_path, "tiny", 4, mixing=False)
    before = load_autoencoder(tmp_path).sha256
    decoder = tmp_path / "tiny_decoder.pth"
    torch.save({name: tensor + 1 for name, tensor in torch.load(decoder, weights_only=True).items()}, decoder)
    assert load_autoencoder(tmp_path).sha256 != before


def test_halves_of_different_tiny_autoencoders_are_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path, "a", 4, mixing=False)
    write_tiny(tmp_path, "b", 4, mixing=True)
    with pytest.raises(WeightsError, match="2 encoders; give the path of one"):
        load_autoencoder(tmp_path)
    shutil.copy(tmp_path / "b_decoder.pth", tmp_path / "a_decoder.pth")
    with pytest.raises(WeightsError, match=r"a_decoder\.pth.*another network"):
        load_autoencoder(tmp_path / "a_encoder.pth")
    (tmp_path / "a_decoder.pth").unlink()
    with pytest.raises(WeightsError, match=r"a_decoder\.pth: no such weights file"):
        load_autoencoder(tmp_path / "a_encoder.pth")


def test_folder_without_an_autoencoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no autoencoder"):
        load_autoencoder(tmp_path)


def generative(**settings: Any) -> GenerativeAutoencoderKL:
    standard = {
        "spatial_dims": 2, "num_channels": (8, 16, 16), "num_res_blocks": (1, 2, 1), "latent_channels": 3,
        "attention_levels": (False, False, False), "norm_num_groups": 4,
        "with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False,
    }  # fmt: skip
    return shaken(GenerativeAutoencoderKL(**{**standard, **settings}))


def assert_same_as_generative(
    ours: LatentCodec, theirs: GenerativeAutoencoderKL, value_range: tuple[float, float]
) -> None:
    black, white = value_range
    images = torch.rand(2, 1, 32, 48)
    mean, deviation = theirs.encode(black + (white - black) * images)
    found, logvar = ours.encode(images)
    torch.testing.assert_close(found, mean, **CLOSE)
    torch.testing.assert_close((0.5 * logvar).exp(), deviation, **CLOSE)
    wanted = ((theirs.decode(mean) - black) / (white - black)).clamp(0, 1)
    assert wanted.std() > 0.01
    torch.testing.assert_close(ours.decode(mean), wanted, **CLOSE)


def test_converted_by_the_program(tmp_path: Path) -> None:
    theirs = generative(attention_levels=(False, True, False), with_encoder_nonlocal_attn=True)
    torch.save(theirs.state_dict(), tmp_path / "in.pt")
    target = tmp_path / "out.safetensors"
    arguments = (tmp_path / "in.pt", target, "--norm_num_groups", 4, "--value_range", 0, 1)
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    ours = load_autoencoder(target)
    assert ours.sha256 in done.stdout
    assert (ours.factor, ours.latent_channels) == (4, 3)
    assert_same_as_generative(ours, theirs, (0, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"with_decoder_nonlocal_attn": True},
        {"with_encoder_nonlocal_attn": True, "with_decoder_nonlocal_attn": True, "num_res_blocks": (2, 2, 2)},
        {"attention_levels": (False, True, True), "num_res_blocks": (1, 1, 1)},
        {
            "attention_levels": (False, False, True),
            "with_encoder_nonlocal_attn": True,
            "with_decoder_nonlocal_attn": True,
        },
    ],
)
def test_settings_of_monai_generative_are_read_off_the_tensors(settings: dict[str, Any], tmp_path: Path) -> None:
    theirs = generative(**settings)
    parallel = {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": parallel}, tmp_path / "in.pt")
    ours = read_monai_generative(tmp_path / "in.pt", norm_num_groups=4, value_range=(-1, 1))
    assert_same_as_generative(ours, theirs, (-1, 1))


@pytest.mark.parametrize(
    ("settings", "groups", "message"),
    [
        ({"spatial_dims": 3}, 4, r"3-D images of 1 channel"),
        ({"in_channels": 3, "out_channels": 3}, 4, r"2-D images of 3 channel"),
        ({}, 5, r"no multiples of norm_num_groups 5"),
    ],
)
def test_what_cannot_be_converted_is_refused(
    settings: dict[str, Any], groups: int, message: str, tmp_path: Path
) -> None:
    torch.save(generative(**settings).state_dict(), tmp_path / "in.pt")
    with pytest.raises(WeightsError, match=rf"in\.pt: .*{message}"):
        read_monai_generative(tmp_path / "in.pt", norm_num_groups=groups)


@pytest.mark.parametrize("lacking", ["decoder.blocks.1.conv2.conv.bias", "encoder.blocks.1.norm1.weight"])
def test_incomplete_checkpoint_is_refused(lacking: str, tmp_path: Path) -> None:
    state = generative().state_dict()
    state.pop(lacking)
    torch.save(state, tmp_path / "in.pt")
    with pytest.raises(WeightsError, match=rf"{lacking} is missing"):
        read_monai_generative(tmp_path / "in.pt", norm_num_groups=4)


@pytest.mark.parametrize(
    ("tensors", "options", "message"),
    [
        ({"weight": torch.zeros(3)}, ("4", "--value_range", "0", "1"), "in.pt: no AutoencoderKL of monai-generative"),
        (None, ("4", "--value_range", "1", "1"), "black and white must differ"),
    ],
)
def test_failing_program_says_one_line(
    tensors: dict[str, torch.Tensor] | None,
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(tensors or generative().state_dict(), tmp_path / "in.pt")
    target = tmp_path / "out.safetensors"
    main = runpy.run_path(str(PROGRAM))["main"]
    assert main([str(tmp_path / "in.pt"), str(target), "--norm_num_groups", *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not target.exists()


def test_unconverted_checkpoint_names_the_program(tmp_path: Path) -> None:
    torch.save(generative().state_dict(), tmp_path / "in.pt")
    with pytest.raises(WeightsError, match=r"scripts/convert_autoencoder\.py"):
        load_autoencoder(tmp_path / "in.pt")
