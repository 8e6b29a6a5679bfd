"""Builders: sizes of the registry, a base from a file, AnatoDiff on a base, an adapter and back."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anatodiff.networks.dit import DiT
from anatodiff.networks.finetuning import freeze, set_finetuning, trained_names
from anatodiff.networks.prototypes import ShapePrototypeModule
from anatodiff.weights import WeightsError, load_weights, save_weights, shipped

SHIPPED_NAME = "dit.safetensors"
# (depth, width, heads) of the published sizes, and of the small one that ships (XS).
_WIDTHS = {"XS": (8, 192, 6), "S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
DIT_SIZES: dict[str, dict[str, int]] = {
    f"DiT-{name}/{patch}": {"depth": depth, "hidden_size": width, "num_heads": heads, "patch_size": patch}
    for name, (depth, width, heads) in _WIDTHS.items()
    for patch in (2, 4, 8)
}


@dataclass(frozen=True)
class Base:
    """A pretrained DiT and what belongs to it.

    Args:
        network: the DiT.
        scale_factor: what latents are multiplied with before the DiT sees them (1 / their standard deviation).
        classes: names of its classes.
        sha256: hash of its file.
        autoencoder_sha256: hash of the autoencoder that it was trained with.
        licence: licence of the data that it was trained on.
        timesteps: steps of the linear noise schedule that it was trained with.
    """

    network: DiT
    scale_factor: float
    classes: list[str]
    sha256: str
    autoencoder_sha256: str
    licence: str
    timesteps: int = 1000


def build_dit(size: str, num_classes: int, input_size: int, in_channels: int = 4, seed: int = 0) -> DiT:
    """Build an untrained DiT of the registry.

    Args:
        size: a name in `DIT_SIZES`, e.g. "DiT-XL/2".
        num_classes: number of classes.
        input_size: side of the latent.
        in_channels: channels of the latent.
        seed: seed of the initial weights.

    Returns:
        the network.

    Raises:
        ValueError: unknown size.
    """
    if size not in DIT_SIZES:
        raise ValueError(f"unknown DiT size {size!r}; choose one of {', '.join(DIT_SIZES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = DIT_SIZES[size]
        return DiT(
            input_size=input_size,
            patch_size=shape["patch_size"],
            in_channels=in_channels,
            hidden_size=shape["hidden_size"],
            depth=shape["depth"],
            num_heads=shape["num_heads"],
            num_classes=num_classes,
        )


def save_base(path: str | Path, base: Base, notes: dict[str, Any], half: bool = True) -> str:
    """Write a base.

    Args:
        path: .safetensors file.
        base: what to write; its `sha256` is ignored.
        notes: how it was trained.
        half: store in fp16.

    Returns:
        SHA-256 of the file.
    """
    settings = {
        "kind": "dit",
        "network": base.network.settings,
        "scale_factor": base.scale_factor,
        "classes": base.classes,
        "autoencoder_sha256": base.autoencoder_sha256,
        "licence": base.licence,
        "timesteps": base.timesteps,
        "notes": notes,
    }
    tensors = {name: tensor for name, tensor in base.network.state_dict().items() if name != "pos_embed"}
    return save_weights(path, tensors, settings, half=half)


def load_base(path: str | Path | None = None, autoencoder_sha256: str | None = None) -> Base:
    """Read a base, frozen and in evaluation mode.

    Args:
        path: .safetensors file; None takes the one that ships with the bundle.
        autoencoder_sha256: hash of the autoencoder in use; it must be the one that the base was trained with.

    Returns:
        the base.

    Raises:
        WeightsError: the file is missing, is no DiT, or belongs to another autoencoder.
    """
    path = shipped(SHIPPED_NAME) if path is None else Path(path)
    weights = load_weights(path, kind="dit")
    settings = weights.settings
    if autoencoder_sha256 is not None and settings["autoencoder_sha256"] != autoencoder_sha256:
        raise WeightsError(f"{path}: this DiT was trained with another autoencoder; give the one that belongs to it")
    network = DiT(**settings["network"])
    network.load_state_dict({**weights.tensors, "pos_embed": network.pos_embed})
    return Base(
        network=network.eval().requires_grad_(False),
        scale_factor=settings["scale_factor"],
        classes=settings["classes"],
        sha256=weights.sha256,
        autoencoder_sha256=settings["autoencoder_sha256"],
        licence=settings["licence"],
        timesteps=settings["timesteps"],
    )


def with_classes(network: DiT, num_classes: int) -> DiT:
    """Copy a DiT for other classes: each new label row starts as the base's null row, so it says nothing yet.

    Args:
        network: the base's network, left as it is.
        num_classes: number of new classes.

    Returns:
        a new network whose labelled and unlabelled outputs equal the base's unlabelled one.
    """
    new = copy.deepcopy(network)
    null_row = network.y_embedder.embedding_table.weight.detach()[-1:]
    table = nn.Embedding(num_classes + 1, null_row.shape[1], device=null_row.device)
    table.weight.data.copy_(null_row.expand(num_classes + 1, -1))
    new.y_embedder.embedding_table = table
    new.num_classes = num_classes
    new.settings["num_classes"] = num_classes
    return new


def build_anatodiff(
    base: Base,
    num_classes: int,
    prototypes: torch.Tensor | None = None,
    finetuning: str = "difffit",
    spm_blocks: int | None = None,
    spm_width: int = 64,
    spm_query: str = "input",
    seed: int = 0,
) -> DiT:
    """Build AnatoDiff on a base; before the first step its output equals the base's unconditional one.

    Args:
        base: pretrained DiT.
        num_classes: classes of the new data.
        prototypes: (K, C, h, w) scaled latents of the shape prototypes; None leaves the module out.
        finetuning: mode of `set_finetuning`.
        spm_blocks: number N of last blocks with prototypes; None: a quarter of all (7 of 28 as in the paper).
        spm_width: bottleneck of the module.
        spm_query: "input" or "block".
        seed: seed of the module's initial weights.

    Returns:
        the network, with only the mode's parameters trainable.
    """
    network = _with_prototypes(base, num_classes, prototypes, spm_blocks, spm_width, spm_query, seed)
    return set_finetuning(network, finetuning)


def _with_prototypes(
    base: Base,
    num_classes: int,
    prototypes: torch.Tensor | None,
    spm_blocks: int | None,
    spm_width: int,
    spm_query: str,
    seed: int,
) -> DiT:
    network = with_classes(base.network, num_classes)
    if prototypes is not None:
        blocks = max(1, len(network.blocks) // 4) if spm_blocks is None else spm_blocks
        if blocks > len(network.blocks):
            raise ValueError(f"spm_blocks is {blocks}, but the network has {len(network.blocks)} blocks; choose fewer")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network.shapes = ShapePrototypeModule(
                prototypes, network.settings["hidden_size"], blocks, width=spm_width, query=spm_query
            )
    return network


def save_adapter(
    path: str | Path,
    network: DiT,
    names: list[str],
    base: Base,
    finetuning: str,
    facts: dict[str, Any],
) -> str:
    """Write what a fine-tune changed: a small file that needs the base beside it.

    Args:
        path: .safetensors file.
        network: fine-tuned network (its moving average).
        names: what to write of its state dict: `trained_names` of the network that was trained.
        base: the base that it stands on.
        finetuning: mode that was used.
        facts: what else to keep: classes, settings, data licence, steps, seed.

    Returns:
        SHA-256 of the file.
    """
    shapes = network.shapes
    settings = {
        "kind": "adapter",
        "finetuning": finetuning,
        "num_classes": network.num_classes,
        "shapes": None if shapes is None else {"blocks": shapes.blocks, "width": shapes.width, "query": shapes.query},
        "base_sha256": base.sha256,
        "autoencoder_sha256": base.autoencoder_sha256,
        "scale_factor": base.scale_factor,
        "timesteps": base.timesteps,
        **facts,
    }
    state = network.state_dict()
    return save_weights(path, {name: state[name] for name in names}, settings)


@dataclass(frozen=True)
class Adapter:
    """A fine-tuned network as read from its file.

    Args:
        network: base and adapter together, frozen.
        classes: names of the classes.
        settings: all that the file says of itself.
        sha256: hash of the adapter's file.
    """

    network: DiT
    classes: list[str]
    settings: dict[str, Any]
    sha256: str


def load_adapter(path: str | Path, base: Base) -> Adapter:
    """Read an adapter onto its base.

    Args:
        path: .safetensors file of `save_adapter`.
        base: the base that it was trained on.

    Returns:
        the fine-tuned network, frozen and in evaluation mode.

    Raises:
        WeightsError: the file is missing, is no adapter, or was trained on another base.
    """
    weights = load_weights(path, kind="adapter")
    settings = weights.settings
    if settings["base_sha256"] != base.sha256:
        raise WeightsError(f"{path}: this adapter was trained on another base; give its own with --base_path")
    shapes = settings["shapes"] or {}
    network = _with_prototypes(
        base,
        settings["num_classes"],
        weights.tensors.get("shapes.prototypes"),
        shapes.get("blocks"),
        shapes.get("width", 1),
        shapes.get("query", "input"),
        seed=0,  # every weight is read from the file
    )
    freeze(network, settings["finetuning"])
    missing = set(trained_names(network)) ^ set(weights.tensors)
    if missing:
        raise WeightsError(
            f"{path}: parameters do not fit ({sorted(missing)[0]}, ...); the file is damaged, make it anew"
        )
    network.load_state_dict(weights.tensors, strict=False)
    return Adapter(network.eval().requires_grad_(False), settings["classes"], settings, weights.sha256)
