"""A base and its adapter merged into plain weights, and the adapter taken out again."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TypeVar, cast

import torch

from anatodiff.files import replaced_when_whole
from anatodiff.networks.adapter import adapter_network
from anatodiff.networks.base import load_base
from anatodiff.networks.conditioned_unet import ConditionedUNet
from anatodiff.networks.dit import DiT
from anatodiff.networks.finetuning import LAYERS, tuned_layers
from anatodiff.networks.layers import DiTBlock
from anatodiff.networks.stem import conv_blocks
from anatodiff.weights import load_weights, save_weights

Denoising = TypeVar("Denoising", bound=DiT | ConditionedUNet)


@torch.no_grad()
def merged(network: Denoising) -> Denoising:
    """Fold what a fine-tune added into the weights that a plain DiT has.

    gamma (W x + b + B A x) becomes W' x + b' with W' = gamma (W + B A) and b' = gamma b; gamma_1 and gamma_2 of
    eq. 9-10 go into the last layer of the attention and of the feed-forward, the scale of a convolutional block into
    its last convolution. The Shape Prototype Module depends on
    its input and stays.

    Args:
        network: fine-tuned network, left as it is.

    Returns:
        a network with the same outputs to rounding and no gammas or low-rank additions; of a U-Net, which is trained
        as a whole, a copy.
    """
    new = copy.deepcopy(network)
    if isinstance(new, ConditionedUNet):
        return new
    outer: dict[int, torch.Tensor | None] = {}  # scales of a block, by its last layer
    for module in new.blocks:
        block = cast(DiTBlock, module)
        outer |= {id(block.attn.proj): block.gamma1, id(block.mlp.fc2): block.gamma2}
        block.gamma1 = block.gamma2 = None
    for conv_block in conv_blocks(new):
        outer[id(conv_block.conv2)] = conv_block.gamma
        conv_block.gamma = None
    for layer in tuned_layers(new, LAYERS):
        if layer.low_rank is not None:
            layer.weight.add_(layer.low_rank.product())  # (out, in) or (out, in, k, k)
            layer.low_rank = None
        for gamma in (layer.gamma, outer.get(id(layer))):
            if gamma is not None:
                layer.weight.mul_(gamma.reshape(-1, *[1] * (layer.weight.dim() - 1)))  # (out, in) or (out, in, k, k)
                cast(torch.Tensor, layer.bias).mul_(gamma)  # (out,)
        layer.gamma = None
    return new


def save_model(path: str | Path, network: DiT | ConditionedUNet) -> None:
    """Write the plain state dict of a fine-tuned network, base and adapter in one: what MONAI's own tools look for.

    Args:
        path: file to write, such as model.pt.
        network: fine-tuned network; it is merged first.
    """
    state = {name: tensor.cpu() for name, tensor in merged(network).state_dict().items()}
    # Through a file object: given a path, torch writes its random name inside.
    with replaced_when_whole(path) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)


def merge_adapter(adapter_path: str | Path, path: str | Path, base_path: str | Path | None = None) -> str:
    """Write base and adapter as one file that needs no base; the adapter stays inside, see `split_adapter`.

    Args:
        adapter_path: .safetensors file of `save_adapter`.
        path: file to write.
        base_path: the base of the adapter; None: the one that ships.

    Returns:
        SHA-256 of the file.
    """
    adapter = load_weights(adapter_path, "adapter")
    base = load_base(base_path)
    network = merged(adapter_network(adapter_path, adapter, base))
    settings = {
        **adapter.settings,
        "kind": "merged",
        "network": network.settings,
        "licence": base.licence,
        "adapter": adapter.settings,
    }
    kept = {f"adapter.{name}": tensor for name, tensor in adapter.tensors.items()}
    return save_weights(path, {**network.state_dict(), **kept}, settings)


def split_adapter(merged_path: str | Path, path: str | Path) -> str:
    """Take the adapter out of a merged file.

    Args:
        merged_path: file of `merge_adapter`.
        path: file to write: byte for byte the adapter that was merged.

    Returns:
        SHA-256 of the file.
    """
    whole = load_weights(merged_path, "merged")
    prefix = "adapter."
    tensors = {name.removeprefix(prefix): t for name, t in whole.tensors.items() if name.startswith(prefix)}
    return save_weights(path, tensors, whole.settings["adapter"])
