"""Published DiT and SiT checkpoints: what they are, read off their tensors' shapes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from anatodiff.weights import WeightsError

# (depth, width, heads) of the published sizes, and of the small one that ships (XS).
WIDTHS = {"XS": (8, 192, 6), "S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
SD_SCALE_FACTOR = 0.18215  # of the Stable Diffusion VAE's latents, which DiT and SiT were trained on
LICENCE = "published weights: the licence of their publisher (DiT: CC BY-NC 4.0, SiT: MIT)"


def is_published(tensors: dict[str, torch.Tensor]) -> bool:
    """Tell whether tensors carry the names of a published DiT or SiT."""
    return {"x_embedder.proj.weight", "pos_embed", "final_layer.linear.weight"} <= tensors.keys()


def published_settings(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Work out the arguments of `DiT` for a published state dict.

    DiT and SiT have the same tensors; what they predict does not show, see `load_base`.

    Args:
        path: the file, for messages.
        tensors: its state dict.

    Returns:
        keyword arguments of `DiT`.

    Raises:
        WeightsError: it is no DiT of the registry.
    """
    if not is_published(tensors):
        raise WeightsError(f"{path}: neither a base of this bundle nor a published DiT or SiT; give one of these")
    hidden_size, in_channels, patch_size, _ = tensors["x_embedder.proj.weight"].shape
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    heads = {(d, width): h for d, width, h in WIDTHS.values()}.get((depth, hidden_size))
    if heads is None:
        sizes = ", ".join(f"{name} {d} x {width}" for name, (d, width, _) in WIDTHS.items())
        raise WeightsError(f"{path}: {depth} blocks of width {hidden_size} are no published size; known are {sizes}")
    outputs = len(tensors["final_layer.linear.weight"]) // patch_size**2
    return {
        "input_size": math.isqrt(tensors["pos_embed"].shape[1]) * patch_size,
        "patch_size": patch_size,
        "in_channels": in_channels,
        "hidden_size": hidden_size,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": len(tensors["blocks.0.mlp.fc1.weight"]) / hidden_size,
        "num_classes": len(tensors["y_embedder.embedding_table.weight"]) - 1,
        "learn_sigma": outputs == 2 * in_channels,
    }
