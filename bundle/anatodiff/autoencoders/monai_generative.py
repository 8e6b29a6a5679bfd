"""Autoencoders that were trained with monai-generative: their settings are read off the tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anatodiff.autoencoders.autoencoder import Autoencoder
from anatodiff.weights import WeightsError, read_weights

# Tensors that every such checkpoint has.
FIRST, GENERATIVE_TENSOR = "encoder.blocks.0.conv.weight", "quant_conv_mu.conv.weight"
PRESENT = (FIRST, GENERATIVE_TENSOR, "decoder.blocks.0.conv.weight")
DIMENSIONS = {3: 1, 4: 2, 5: 3}  # of a convolution's weight -> of its images
# The tensor by which a block is known, and the letter that stands for it below.
BLOCKS = {
    "conv.weight": "C",  # convolution
    "conv1.conv.weight": "R",  # residual block
    "to_q.weight": "A",  # attention
    "conv.conv.weight": "S",  # resampling
    "weight": "N",  # group normalisation
}
NONLOCAL = "RAR"


def read_monai_generative(path: Path, norm_num_groups: int, value_range: Sequence[float] = (0, 1)) -> Autoencoder:
    """Read a checkpoint of `generative.networks.nets.AutoencoderKL` (monai-generative 0.2).

    A checkpoint with transposed convolutions (`use_convtranspose=True`) cannot be told from one without, and is not
    supported: MONAI core upsamples in another way.

    Args:
        path: PyTorch file with the state dict.
        norm_num_groups: groups of the group normalisation; the tensors do not tell.
        value_range: what the network's own values were for black and white.

    Returns:
        the network.

    Raises:
        WeightsError: the file is missing or broken, is no such checkpoint, or not of 2-D images of one channel.
    """
    tensors = read_weights(path, "a checkpoint of monai-generative").tensors
    # A network on several GPUs is saved under this prefix.
    state = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if not set(PRESENT) <= set(state):
        raise WeightsError(f"{path}: no AutoencoderKL of monai-generative; give the file of its state dict")
    weight = state[FIRST]
    if weight.ndim != 4 or weight.shape[1] != 1:
        raise WeightsError(
            f"{path}: made for {DIMENSIONS.get(weight.ndim, '?')}-D images of {weight.shape[1]} channel(s); "
            "give a checkpoint of 2-D images of 1 channel"
        )
    settings = _settings(state, path)
    if any(channels % norm_num_groups for channels in settings["channels"]):
        raise WeightsError(
            f"{path}: channels {settings['channels']} are no multiples of norm_num_groups {norm_num_groups}; "
            "give the number that the network was trained with"
        )
    autoencoder = Autoencoder(fold=1, norm_num_groups=norm_num_groups, value_range=value_range, **settings)
    for parameter in autoencoder.parameters():
        nn.init.constant_(parameter, torch.nan)  # the loader keeps what the checkpoint lacks: it has to show
    try:
        autoencoder.net.load_old_state_dict(dict(state))
    except (RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{path}: the tensors do not fit together ({reason}); save the state dict anew") from error
    for name, parameter in autoencoder.net.named_parameters():
        if not parameter.isfinite().all():
            raise WeightsError(f"{path}: {name} is missing or not finite; save the state dict anew")
    return autoencoder


def _settings(state: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """Read the network's settings off the kinds of its blocks and the shapes of their tensors."""
    encoder, decoder = _kinds(state, "encoder"), _kinds(state, "decoder")
    down, up = encoder[1:-2].split("S"), decoder[1:-2].split("S")
    in_encoder, in_decoder = not _is_level(down[-1]), not _is_level(up[0])
    if in_encoder:
        down[-1] = down[-1].removesuffix(NONLOCAL)
    if in_decoder:
        up[0] = up[0].removeprefix(NONLOCAL)
    ends = {half[0] + half[-2:] for half in (encoder, decoder)}
    if ends != {"CNC"} or down != up[::-1] or not all(map(_is_level, down)):
        raise WeightsError(f"{path}: blocks {encoder} and {decoder} are of no known AutoencoderKL; convert it by hand")
    # The last residual block before each resampling and at the end has the channels of its level.
    last = [end.start() for end in re.finditer("S|NC$", encoder)]
    residual = [encoder.rindex("R", 0, end) for end in last]
    return {
        "channels": [len(state[f"encoder.blocks.{index}.conv2.conv.weight"]) for index in residual],
        "num_res_blocks": [level.count("R") for level in down],
        "attention_levels": ["A" in level for level in down],
        "with_encoder_nonlocal_attn": in_encoder,
        "with_decoder_nonlocal_attn": in_decoder,
        "latent_channels": len(state[GENERATIVE_TENSOR]),
    }


def _kinds(state: dict[str, torch.Tensor], half: str) -> str:
    """Write an encoder or a decoder as one letter per block."""
    letters = {}
    for name in state:
        match = re.fullmatch(rf"{half}\.blocks\.(\d+)\.(.+)", name)
        if match and match[2] in BLOCKS:
            letters[int(match[1])] = BLOCKS[match[2]]
    return "".join(letters.get(index, "?") for index in range(max(letters) + 1))


def _is_level(kinds: str) -> bool:
    """Say whether blocks are of one resolution: residual ones, each with an attention after it or each without."""
    return re.fullmatch("R+|(RA)+", kinds) is not None
