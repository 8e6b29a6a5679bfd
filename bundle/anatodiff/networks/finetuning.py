"""Which parameters a fine-tune trains."""

from __future__ import annotations

import logging
from typing import cast

from torch import nn

from anatodiff.networks.dit import DiT
from anatodiff.networks.layers import DiTBlock

logger = logging.getLogger(__name__)

MODES = ("difffit", "full")


def set_finetuning(model: DiT, mode: str = "difffit") -> DiT:
    """Freeze a DiT except for what the mode trains, and say what that is.

    "difffit": all biases, the label table, and one scale gamma on the attention and one on the feed-forward output of
    each block (AnatoDiff eq. 9-10), which start at 1. "full": every parameter. The Shape Prototype Module, where there
    is one, is new and always trains.

    Args:
        model: network to change in place.
        mode: "difffit" or "full".

    Returns:
        the same network.

    Raises:
        ValueError: unknown mode.

    References:
        Xie et al., "DiffFit", https://arxiv.org/abs/2304.06648
    """
    freeze(model, mode)
    parts = trained_parts(model)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(parts.values())
    listed = ", ".join(f"{part} {count:,}" for part, count in parts.items())
    logger.info(
        "fine-tuning %r trains %s of %s parameters (%.2f %%): %s",
        mode,
        f"{trained:,}",
        f"{total:,}",
        100 * trained / total,
        listed,
    )
    return model


def freeze(model: DiT, mode: str) -> None:
    """Do what `set_finetuning` does, in silence: an adapter that is read back trains nothing.

    Args:
        model: network to change in place.
        mode: "difffit" or "full".
    """
    if mode not in MODES:
        raise ValueError(f"finetuning must be one of {MODES}, got {mode!r}")
    if mode == "difffit":
        for block in model.blocks:
            cast(DiTBlock, block).add_gammas()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(mode == "full" or _in_difffit(name))


def _in_difffit(name: str) -> bool:
    return name.endswith(".bias") or name.startswith(("shapes.", "y_embedder.")) or ".gamma" in name


def trained_parts(model: DiT) -> dict[str, int]:
    """Count the trained parameters by kind.

    Args:
        model: network after `set_finetuning`.

    Returns:
        kind -> number of parameters, empty kinds left out.
    """
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("shapes."):
            part = "shape prototype module"
        elif name.startswith("y_embedder."):
            part = "label table"
        elif ".gamma" in name:
            part = "gamma"
        else:
            part = "biases" if name.endswith(".bias") else "weights"
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


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
        names in its state dict: each trained parameter, and the prototypes' latents.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return [name for name in model.state_dict() if name in trained or name == "shapes.prototypes"]
