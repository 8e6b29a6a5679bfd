"""The autoencoder of Stable Diffusion, read from the files that diffusers writes, rebuilt of MONAI's blocks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from monai.networks.nets.autoencoderkl import Decoder, Encoder
from torch import nn

from anatodiff.autoencoders.codec import LatentCodec, load_strictly
from anatodiff.weights import Weights, WeightsError, read_weights

CONFIG_NAME = "config.json"
WEIGHTS_NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
DIFFUSERS_TENSOR = "encoder.down_blocks.0.resnets.0.conv1.weight"  # a tensor that every such file has
RGB = 3
NORM_EPS = 1e-6

# Settings that make up the network, by their names in config.json, with Stable Diffusion's own values.
DEFAULTS: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
# Settings that would make another network than Stable Diffusion's; config.json may leave them out.
REQUIRED: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "in_channels": RGB,
    "out_channels": RGB,
    "act_fn": "silu",
    "mid_block_add_attention": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
}
DOWN_BLOCK, UP_BLOCK = "DownEncoderBlock2D", "UpDecoderBlock2D"

# Where the parameters of a block are: name in MONAI's block -> name in diffusers' block.
PARTS = {
    "": "",  # a group normalisation by itself
    "conv": "",  # a convolution by itself
    "norm1": "norm1",
    "conv1.conv": "conv1",
    "norm2": "norm2",
    "conv2.conv": "conv2",
    "nin_shortcut.conv": "conv_shortcut",
    "norm": "group_norm",
    "attn.to_q": "to_q",
    "attn.to_k": "to_k",
    "attn.to_v": "to_v",
    "attn.out_proj": "to_out.0",
    "conv.conv": "conv",  # of a downsampler
    "postconv.conv": "conv",  # of an upsampler
}
# Attention was named otherwise before diffusers 0.18, and held 1x1 convolutions in the earliest files.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(rf"(\.attentions\.\d+\.)({'|'.join(OLD_ATTENTION)})\.")
_IS_ATTENTION = re.compile(r"\.attentions\.\d+\.to_.*weight$")


class StableDiffusionAutoencoder(LatentCodec):
    """The autoencoder of latent diffusion for colour images, given gray ones: three equal channels in, their mean out.

    Args:
        block_out_channels: feature channels per resolution; each after the first halves the resolution.
        layers_per_block: residual blocks per resolution in the encoder; the decoder has one more.
        latent_channels: channels of the latent.
        norm_num_groups: groups of the group normalisation; divides all channels.
        scaling_factor: what the latents are multiplied with before a DiT sees them.

    References:
        Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", https://arxiv.org/abs/2112.10752
    """

    def __init__(
        self,
        block_out_channels: Sequence[int] = DEFAULTS["block_out_channels"],
        layers_per_block: int = DEFAULTS["layers_per_block"],
        latent_channels: int = DEFAULTS["latent_channels"],
        norm_num_groups: int = DEFAULTS["norm_num_groups"],
        scaling_factor: float = DEFAULTS["scaling_factor"],
    ) -> None:
        levels = len(block_out_channels)
        super().__init__(latent_channels, factor=2 ** (levels - 1), scaling_factor=scaling_factor)
        self.levels, self.layers = levels, layers_per_block
        common: dict[str, Any] = {
            "spatial_dims": 2,
            "channels": tuple(block_out_channels),
            "norm_num_groups": norm_num_groups,
            "norm_eps": NORM_EPS,
            "attention_levels": (False,) * levels,
            "use_flash_attention": True,  # the same numbers, without a matrix of all pairs of latent pixels
        }
        self.encoder = Encoder(
            in_channels=RGB, out_channels=2 * latent_channels, num_res_blocks=(layers_per_block,) * levels, **common
        )
        self.decoder = Decoder(
            in_channels=latent_channels, out_channels=RGB, num_res_blocks=(layers_per_block + 1,) * levels, **common
        )
        for half in (self.encoder, self.decoder):  # MONAI's go from the last norm to the last convolution without it
            blocks = cast(nn.ModuleList, half.blocks)
            blocks.insert(len(blocks) - 1, nn.SiLU())
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, kernel_size=1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, kernel_size=1)

    def posterior(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute mean and log-variance (B, C, h, w) of the latents of images (B, 1, H, W) in [0, 1]."""
        maps = self.encoder((2 * x - 1).expand(-1, RGB, -1, -1))  # (B, 2C, h, w)
        mean, logvar = self.quant_conv(maps).chunk(2, dim=1)  # (B, C, h, w) each
        return mean, logvar

    def reconstruct(self, z: torch.Tensor) -> torch.Tensor:
        """Decode without the final cut, so that values outside [0, 1] still have a gradient."""
        colours = self.decoder(self.post_quant_conv(z))  # (B, 3, H, W)
        return (colours.mean(dim=1, keepdim=True) + 1) / 2  # (B, 1, H, W)

    def names(self) -> dict[str, str]:
        """Map the names of this network's parameters to those of diffusers."""
        found = {}
        for half, way, layers in (("encoder", "down", self.layers), ("decoder", "up", self.layers + 1)):
            blocks = self.get_submodule(f"{half}.blocks").children()
            for index, (block, name) in enumerate(zip(blocks, _block_names(self.levels, layers, way), strict=True)):
                for key in block.state_dict():
                    part, _, leaf = key.rpartition(".")
                    theirs = ".".join(word for word in (half, name, PARTS[part], leaf) if word)
                    found[f"{half}.blocks.{index}.{key}"] = theirs
        for name in ("quant_conv", "post_quant_conv"):
            found |= {f"{name}.{leaf}": f"{name}.{leaf}" for leaf in ("weight", "bias")}
        return found


def _block_names(levels: int, layers: int, way: str) -> Iterator[str]:
    """Say how diffusers names the blocks on the way down (encoder) or up (decoder), from first to last."""
    middle = ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")
    yield "conv_in"
    if way == "up":
        yield from middle
    for level in range(levels):
        yield from (f"{way}_blocks.{level}.resnets.{layer}" for layer in range(layers))
        if level < levels - 1:
            yield f"{way}_blocks.{level}.{way}samplers.0"
    if way == "down":
        yield from middle
    yield from ("conv_norm_out", "conv_act", "conv_out")


def stable_diffusion_autoencoder(path: Path, weights: Weights) -> StableDiffusionAutoencoder:
    """Rebuild Stable Diffusion's autoencoder from tensors under diffusers' names.

    Args:
        path: the file of the tensors; the settings are read from `config.json` beside it, and are Stable Diffusion's
            own without it.
        weights: what the file holds.

    Returns:
        the network; `sha256` is the file's hash.

    Raises:
        WeightsError: the settings or the tensors are of another network.
    """
    autoencoder = StableDiffusionAutoencoder(**_settings(path.with_name(CONFIG_NAME)))
    load_strictly(autoencoder, _renamed(weights.tensors, autoencoder.names(), path), path)
    autoencoder.sha256 = weights.sha256
    return autoencoder


def read_stable_diffusion_folder(path: Path) -> StableDiffusionAutoencoder:
    """Read the folder of Stable Diffusion's autoencoder as diffusers writes it (`vae` in a published model).

    Args:
        path: folder of the weights and of `config.json`.

    Returns:
        the network; `sha256` is the hash of the weights file.

    Raises:
        WeightsError: a file is missing or broken, or the settings or tensors are of another network.
    """
    present = [path / name for name in WEIGHTS_NAMES if (path / name).is_file()]
    if not present:
        raise WeightsError(f"{path}: {CONFIG_NAME} is there, but the weights are not; add {WEIGHTS_NAMES[0]}")
    return stable_diffusion_autoencoder(present[0], read_weights(present[0], WEIGHTS_NAMES[0]))


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return DEFAULTS
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON ({error}); copy it again") from error
    blocks = {"down_block_types": DOWN_BLOCK, "up_block_types": UP_BLOCK}
    wrong = {key: config[key] for key, value in REQUIRED.items() if config.get(key, value) != value}
    wrong |= {key: config[key] for key, kind in blocks.items() if set(config.get(key, [kind])) != {kind}}
    for key, value in wrong.items():
        raise WeightsError(f"{path}: {key} is {value!r}, so this is not Stable Diffusion's autoencoder; give that one")
    return {key: config.get(key, value) for key, value in DEFAULTS.items()}


def _renamed(tensors: dict[str, torch.Tensor], names: dict[str, str], path: Path) -> dict[str, torch.Tensor]:
    """Bring tensors under the names of our network; none may be missing or left over."""
    theirs = {}
    for name, tensor in tensors.items():
        name = _OLD_NAME.sub(lambda match: f"{match[1]}{OLD_ATTENTION[match[2]]}.", name)
        theirs[name] = tensor.flatten(1) if _IS_ATTENTION.search(name) else tensor  # (C, C, 1, 1) -> (C, C)
    different = sorted(set(theirs) ^ set(names.values()))
    if different:
        raise WeightsError(
            f"{path}: {len(different)} tensors are missing or too many, the first is {different[0]}; give the weights "
            f"of Stable Diffusion's autoencoder in diffusers' format, with their {CONFIG_NAME} beside them"
        )
    return {ours: theirs[name] for ours, name in names.items()}
