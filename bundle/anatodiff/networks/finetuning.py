"""Which parameters a fine-tune trains."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from anatodiff.networks.dit import DiT
from anatodiff.networks.layers import DiTBlock, TunedLinear
from anatodiff.networks.low_rank import ConvLowRank, LowRank
from anatodiff.networks.stem import KERNEL, TunedConv2d, conv_blocks

logger = logging.getLogger(__name__)

MODES = ("full", "bitfit", "difffit", "lora", "selora")
GAMMAS = ("block", "linear")
LINEAR_LAYERS = ("qkv", "proj", "fc1", "fc2")
CONVOLUTIONS = "conv"  # the convolutions of the stem's and the head's blocks
LAYERS = (*LINEAR_LAYERS, CONVOLUTIONS)
SELORA_START = 1  # rank that every layer begins with (Mao et al., section 3)


@dataclass(frozen=True)
class FineTuning:
    """How a DiT is fine-tuned.

    Args:
        mode: "full": every parameter. "bitfit": the biases. "difffit": the biases and scales gamma that start at 1.
            "lora": low-rank additions to linear layers. "selora": the same, growing from rank 1 where the Fisher
            information asks for it. All but "full" leave every other weight as it is; the label table, which is new,
            and the Shape Prototype Module and the conditions, where there are any, always train.
        gamma: scales of "difffit": "block": one vector on the attention and one on the feed-forward output of each
            block (AnatoDiff eq. 9-10), and one on the output of each convolutional block; "linear": one on each
            linear layer and convolution of the blocks (DiffFit's own).
        lora_rank: rank of "lora", largest rank of "selora".
        lora_scale: factor of the additions (alpha / rank in LoRA's terms).
        lora_layers: layers of each block that get an addition, of "qkv", "proj", "fc1", "fc2", "conv".
        stem: also train every parameter of the convolutional stem and head; None: where the network has them. Does
            nothing with "full".

    Raises:
        ValueError: an argument is not one of those named here, or would do nothing.

    References:
        Zaken et al., "BitFit", https://arxiv.org/abs/2106.10199; Xie et al., "DiffFit",
        https://arxiv.org/abs/2304.06648; Hu et al., "LoRA", https://arxiv.org/abs/2106.09685; Mao et al., "SeLoRA",
        https://arxiv.org/abs/2408.07196
    """

    mode: str = "difffit"
    gamma: str = "block"
    lora_rank: int = 8
    lora_scale: float = 1.0
    lora_layers: Sequence[str] = ("qkv", "proj")
    stem: bool | None = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"finetuning must be one of {MODES}, got {self.mode!r}")
        if self.gamma not in GAMMAS:
            raise ValueError(f"gamma must be one of {GAMMAS}, got {self.gamma!r}")
        if not self.lora_layers or not set(self.lora_layers) <= set(LAYERS):
            raise ValueError(f"lora_layers must be some of {LAYERS}, got {list(self.lora_layers)}")
        if self.stem and self.mode == "full":
            raise ValueError("train_stem does nothing with finetuning 'full', which trains everything; leave it out")


def set_finetuning(model: DiT, mode: str | FineTuning = "difffit", seed: int = 0) -> DiT:
    """Freeze a DiT except for what the mode trains, and say what that is.

    Args:
        model: network to change in place.
        mode: a mode of `FineTuning` with its defaults, or all settings.
        seed: of the low-rank layers' first weights.

    Returns:
        the same network.

    Raises:
        ValueError: unknown mode.
    """
    how = FineTuning(mode) if isinstance(mode, str) else mode
    prepare(model, how, seed)
    parts = trained_parts(model)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(parts.values())
    listed = ", ".join(f"{part} {count:,}" for part, count in parts.items())
    logger.info(
        "fine-tuning %r trains %s of %s parameters (%.3f %%): %s",
        how.mode,
        f"{trained:,}",
        f"{total:,}",
        100 * trained / total,
        listed,
    )
    return model


def prepare(model: DiT, how: FineTuning, seed: int = 0) -> None:
    """Do what `set_finetuning` does, in silence: an adapter that is read back trains nothing.

    Args:
        model: network to change in place.
        how: settings.
        seed: of the low-rank layers' first weights.
    """
    if how.mode == "difffit":
        _add_gammas(model, how.gamma)
    if how.mode in ("lora", "selora"):
        _add_low_rank(model, how, seed)
    if how.stem and model.stem is None:
        raise ValueError("train_stem does nothing here: this base has no convolutional stem; leave it out")
    stems = model.stem is not None if how.stem is None else how.stem
    for name, parameter in model.named_parameters():
        stem = stems and name.startswith(("stem.", "head."))
        parameter.requires_grad_(how.mode == "full" or stem or _is_new(name) or _is_tuned(name, how.mode))


def _add_gammas(model: DiT, gamma: str) -> None:
    if gamma == "block":
        for block in (*model.blocks, *conv_blocks(model)):
            block.add_gammas() if isinstance(block, DiTBlock) else block.add_gamma()
        return
    for layer in tuned_layers(model, LAYERS):
        layer.add_gamma()


def _add_low_rank(model: DiT, how: FineTuning, seed: int) -> None:
    if how.lora_layers == [CONVOLUTIONS] and not conv_blocks(model):
        raise ValueError("lora_layers is 'conv', but this network has no convolutional stem; choose linear layers")
    start = SELORA_START if how.mode == "selora" else None
    rest = how.lora_rank, how.lora_scale, start
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in tuned_layers(model, how.lora_layers):
            if isinstance(layer, TunedConv2d):
                addition = ConvLowRank(layer.in_channels, layer.out_channels, KERNEL, *rest)
                layer.low_rank = addition.to(layer.weight.device)
            else:
                layer.low_rank = LowRank(layer.in_features, layer.out_features, *rest).to(layer.weight.device)


def tuned_layers(model: DiT, names: Sequence[str]) -> list[TunedLinear | TunedConv2d]:
    """List the layers of all blocks that a fine-tune may enter.

    Args:
        model: network.
        names: of `LAYERS`.

    Returns:
        linear layers, then convolutions, each in the order of the network.
    """
    found: list[TunedLinear | TunedConv2d] = [layer for block in model.blocks for layer in block_layers(block, names)]
    if CONVOLUTIONS in names:
        found += [layer for block in conv_blocks(model) for layer in (block.conv1, block.conv2)]
    return found


def block_layers(block: nn.Module, names: Sequence[str]) -> list[TunedLinear]:
    """List the linear layers of a block that a fine-tune may enter.

    Args:
        block: a `DiTBlock`.
        names: of "qkv", "proj", "fc1", "fc2".

    Returns:
        the layers, in the order of the block.
    """
    found = cast(DiTBlock, block)
    layers = {"qkv": found.attn.qkv, "proj": found.attn.proj, "fc1": found.mlp.fc1, "fc2": found.mlp.fc2}
    return [layer for name, layer in layers.items() if name in names]


def _is_new(name: str) -> bool:
    return name.startswith(("shapes.", "y_embedder.", "conditions.")) or ".shape_" in name


def _is_tuned(name: str, mode: str) -> bool:
    if mode in ("lora", "selora"):
        return ".low_rank." in name
    return name.endswith(".bias") or ".gamma" in name


def trained_parts(model: DiT) -> dict[str, int]:
    """Count the trained parameters by kind.

    Args:
        model: network after `set_finetuning`.

    Returns:
        kind -> number of parameters, empty kinds left out.
    """
    counts: dict[str, int] = {}
    grows = any(not bool(addition.active.all()) for _, addition in low_ranks(model) if not addition.active.is_meta)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("shapes.") or ".shape_" in name:
            part = "shape prototype module"
        elif name.startswith("y_embedder."):
            part = "label table"
        elif name.startswith("conditions."):
            part = "conditions"
        elif ".gamma" in name:
            part = "gamma"
        elif ".low_rank." in name:
            part = "low-rank additions once grown" if grows else "low-rank additions"
        else:
            part = "biases" if name.endswith(".bias") else "weights"
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def low_ranks(model: nn.Module) -> list[tuple[str, LowRank]]:
    """List the low-rank additions of a network.

    Args:
        model: network after `set_finetuning`.

    Returns:
        (name, module) in their fixed order; empty for the other modes.
    """
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LowRank)]


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """List what the optimiser gets.

    Args:
        model: network after `set_finetuning`.

    Returns:
        its parameters that require a gradient, in their fixed order.
    """
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def trained_names(model: nn.Module) -> list[str]:
    """Name what makes this network different from its base.

    Args:
        model: network after `set_finetuning`.

    Returns:
        names in its state dict: each trained parameter, and the buffers that a fine-tune adds.
    """
    new = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # An adapter gets the prototypes' tokens from its base; a network that was trained as a whole has none.
    whole = all(parameter.requires_grad for parameter in model.parameters())
    kept = ("shapes.prototypes", "shapes.tokens") if whole else ("shapes.prototypes",)
    new |= {name for name, _ in model.named_buffers() if ".low_rank." in name or name in kept}
    return [name for name in model.state_dict() if name in new]
