"""Baselines of conditional generation: U-Nets before their training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from anatodiff.networks.adapter import load_adapter
from anatodiff.networks.conditioned_unet import ConditionedUNet
from anatodiff.weights import WeightsError


def build_unet_baseline(
    architecture: str,
    layout_channels: int,
    input_size: int,
    in_channels: int = 4,
    num_classes: int = 1,
    seed: int = 0,
    start: str | Path | None = None,
) -> ConditionedUNet:
    """Build the U-Net that a baseline's training starts from.

    Args:
        architecture: one that `ConditionedUNet` knows.
        layout_channels: channels of the conditions' maps: the sum of the layout's sizes; 0 for "unet".
        input_size: side of the latent.
        in_channels: channels of the latent.
        num_classes: number of classes.
        seed: seed of the initial weights.
        start: for "controlnet", the file of a trained "unet", which stays as it is; its widths and whether it learns
            the variance are taken over. None starts anew, and then the U-Net under a ControlNet is trained with it.

    Returns:
        the network, in training mode.

    Raises:
        ValueError: an argument is out of range.
        WeightsError: the start is missing, of another kind, or has another shape.
    """
    wanted = {
        "architecture": architecture,
        "context_channels": layout_channels,
        "input_size": input_size,
        "in_channels": in_channels,
        "num_classes": num_classes,
    }
    if start is not None and architecture != "controlnet":
        raise ValueError(f"start is for architecture 'controlnet', not {architecture!r}; leave it out")
    base = None if start is None else _unconditional(Path(start), wanted)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ConditionedUNet(**{**({} if base is None else base.settings), **wanted})
    if base is not None:
        network.unet = base.unet  # frozen
        network.copy_encoder()
    return network.train()


def _unconditional(path: Path, wanted: dict[str, Any]) -> ConditionedUNet:
    network = load_adapter(path).network
    if not isinstance(network, ConditionedUNet) or network.architecture != "unet":
        found = network.architecture if isinstance(network, ConditionedUNet) else "DiT"
        raise WeightsError(f"{path}: a ControlNet stands on an unconditional U-Net, this is a {found!r}; give a 'unet'")
    for name in ("input_size", "in_channels", "num_classes"):
        if network.settings[name] != wanted[name]:
            raise WeightsError(
                f"{path}: this U-Net has {name} {network.settings[name]}, wanted is {wanted[name]}; give one that was "
                "trained on such latents and classes"
            )
    return network
