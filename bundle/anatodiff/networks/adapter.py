"""AnatoDiff on a base, and the small file of what a fine-tune changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from anatodiff.autoencoders import LatentCodec
from anatodiff.diffusion import DiffusionSettings
from anatodiff.networks.base import Base, load_base, load_whole, with_classes
from anatodiff.networks.conditioned_unet import ConditionedUNet
from anatodiff.networks.dit import DiT
from anatodiff.networks.finetuning import FineTuning, prepare, set_finetuning, trained_names
from anatodiff.networks.prototypes import ShapePrototypeModule
from anatodiff.networks.told import ConditionSettings, condition_header, conditions_from, set_conditions
from anatodiff.weights import Weights, WeightsError, read_weights, save_weights

KINDS = ("adapter", "merged")
HASH_DIGITS = 12  # of a base's SHA-256, hexadecimal, that a message shows


def build_anatodiff(
    base: Base,
    num_classes: int,
    prototypes: torch.Tensor | None = None,
    finetuning: str | FineTuning = "difffit",
    spm_blocks: int | None = None,
    spm_width: int | None = 64,
    spm_query: str = "input",
    spm_learnable: bool = False,
    seed: int = 0,
    start_class: str | None = None,
    conditions: ConditionSettings | None = None,
) -> DiT:
    """Build AnatoDiff on a base; before the first step its output equals the base's for `start_class`.

    Args:
        base: pretrained DiT.
        num_classes: classes of the new data.
        prototypes: (K, C, h, w) scaled latents of the shape prototypes; None leaves the module out.
        finetuning: mode of `FineTuning` with its defaults, or all settings.
        spm_blocks: number N of last blocks with prototypes; None: a quarter of all (7 of 28 as in the paper).
        spm_width: bottleneck of the module; None: the full width D of the network.
        spm_query: "input" or "block".
        spm_learnable: train the prototypes' latents too.
        seed: seed of the module's initial weights.
        start_class: class of the base that all new ones start from; None is the base's unconditional output.
        conditions: what the network is told of each image; None: nothing.

    Returns:
        the network, with only the mode's parameters trainable; frozen ones share the base's memory.
    """
    network = with_classes(base.network, num_classes, base.label_of(start_class))
    set_conditions(network, conditions, seed)
    if prototypes is not None:
        width = network.settings["hidden_size"] if spm_width is None else spm_width
        blocks = max(1, len(network.blocks) // 4) if spm_blocks is None else spm_blocks
        _add_shapes(network, prototypes, blocks, width, spm_query, spm_learnable, seed)
    set_finetuning(network, finetuning, seed)
    _share_frozen(network, base.network)
    return network


def _add_shapes(
    network: DiT,
    prototypes: torch.Tensor,
    blocks: int,
    width: int,
    query: str,
    learnable: bool,
    seed: int,
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shapes = ShapePrototypeModule(prototypes, network.settings["hidden_size"], width, query, learnable)
    network.add_shapes(shapes, blocks)


def _share_frozen(network: DiT, base: DiT) -> None:
    """Let frozen parameters live once in memory: of DiT-XL/2 they are 2.7 GB."""
    theirs = dict(base.named_parameters())
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            parameter.data = theirs[name].data


def save_adapter(
    path: str | Path,
    network: DiT | ConditionedUNet,
    names: list[str],
    base: Base,
    finetuning: FineTuning,
    facts: dict[str, Any],
) -> str:
    """Write what a fine-tune changed: a small file that needs the base beside it.

    Args:
        path: .safetensors file.
        network: fine-tuned network (its moving average).
        names: what to write of its state dict: `trained_names` of the network that was trained.
        base: the base that it stands on.
        finetuning: how it was trained.
        facts: what else to keep: classes, settings, data licence, steps, seed.

    Returns:
        SHA-256 of the file.
    """
    settings = {
        "kind": "adapter",
        "finetuning": asdict(finetuning),
        "num_classes": network.num_classes,
        "shapes": shape_settings(network),
        **condition_header(network),
        # All of it was trained: it needs no base, and may be one.
        **({"network": network.settings} if finetuning.mode == "full" else {}),
        "base_sha256": base.sha256,
        "autoencoder_sha256": base.autoencoder_sha256,
        "scale_factor": base.scale_factor,
        "diffusion": asdict(base.diffusion),
        **facts,
    }
    state = network.state_dict()
    return save_weights(path, {name: state[name] for name in names}, settings)


def shape_settings(network: DiT | ConditionedUNet) -> dict[str, Any] | None:
    """Describe a network's Shape Prototype Module; None where it has none."""
    shapes = network.shapes
    if shapes is None:
        return None
    assert isinstance(network, DiT)
    blocks = sum(block.shape_attention is not None for block in network.blocks)
    return {"blocks": blocks, "width": shapes.width, "query": shapes.query, "learnable": shapes.learnable}


@dataclass(frozen=True)
class Adapter:
    """A fine-tuned network as read from its file.

    Args:
        network: base and adapter together, frozen.
        classes: names of the classes.
        scale_factor: what latents are multiplied with before the network sees them.
        diffusion: noise schedule and what the network predicts.
        settings: all that the file says of itself.
        sha256: hash of the file.
    """

    network: DiT | ConditionedUNet
    classes: list[str]
    scale_factor: float
    diffusion: DiffusionSettings
    settings: dict[str, Any]
    sha256: str


def load_adapter(
    path: str | Path,
    base_path: str | Path | None = None,
    autoencoder: LatentCodec | None = None,
) -> Adapter:
    """Read a fine-tuned network: an adapter onto its base, or both from one merged file.

    Args:
        path: .safetensors file of `save_adapter` or `save_merged`.
        base_path: the base that the adapter was trained on; None: the one that ships. Not read for a merged file.
        autoencoder: the autoencoder in use; it must be the one that the network was trained with.

    Returns:
        the fine-tuned network, frozen and in evaluation mode.

    Raises:
        WeightsError: the file is missing, is of another kind, or belongs to another base or autoencoder.
    """
    weights = read_weights(path, "a .safetensors file of kind 'adapter' or 'merged'")
    settings = weights.settings
    if settings.get("kind") not in KINDS:
        found = settings.get("kind", "a file without AnatoDiff's header")
        raise WeightsError(f"{path}: expected weights of kind {KINDS[0]!r} or {KINDS[1]!r}, found {found}")
    if autoencoder is not None and settings["autoencoder_sha256"] != autoencoder.sha256:
        raise WeightsError(f"{path}: this adapter is of another autoencoder; give its own by autoencoder_path")
    diffusion = DiffusionSettings(**settings["diffusion"])
    if settings["kind"] == "merged":
        network: DiT | ConditionedUNet = _merged_network(weights)
    elif "network" in settings and base_path is None:
        network = network_alone(path, weights)
    else:
        network = adapter_network(path, weights, load_base(base_path, autoencoder))
    return Adapter(
        network.eval().requires_grad_(False),
        settings["classes"],
        settings["scale_factor"],
        diffusion,
        settings,
        weights.sha256,
    )


def adapter_network(path: str | Path, weights: Weights, base: Base) -> DiT:
    """Put an adapter onto its base.

    Args:
        path: the adapter's file, for messages.
        weights: what it holds.
        base: the base that it was trained on.

    Returns:
        the fine-tuned network.

    Raises:
        WeightsError: it was trained on another base, or its parameters do not fit.
    """
    settings = weights.settings
    if settings["base_sha256"] != base.sha256:
        wanted, found = (sha256[:HASH_DIGITS] for sha256 in (settings["base_sha256"], base.sha256))
        raise WeightsError(
            f"{path}: this adapter was trained on the base {wanted}, this one is {found}; give its file with "
            "--base_path"
        )
    network = with_classes(base.network, settings["num_classes"])
    _shapes_from(network, weights)
    conditions_from(network, settings)
    prepare(network, FineTuning(**settings["finetuning"]))
    missing = set(trained_names(network)) ^ set(weights.tensors)
    if missing:
        raise WeightsError(
            f"{path}: parameters do not fit ({sorted(missing)[0]}, ...); the file is damaged, make it anew"
        )
    network.load_state_dict(weights.tensors, strict=False)
    return network


def network_alone(path: str | Path, weights: Weights) -> DiT | ConditionedUNet:
    """Build a network that was trained as a whole, a DiT or one of the U-Nets beside it, from its own file.

    Args:
        path: the file, for messages.
        weights: what it holds.

    Raises:
        WeightsError: its parameters do not fit.
    """
    settings = weights.settings["network"]
    if "architecture" in settings:
        unet = ConditionedUNet(**settings)
        load_whole(unet, weights.tensors, Path(path))
        return unet
    network = DiT(**settings)
    _shapes_from(network, weights)
    conditions_from(network, weights.settings)
    load_whole(network, {**weights.tensors, "pos_embed": network.pos_embed}, Path(path))
    return network


def _shapes_from(network: DiT, weights: Weights) -> None:
    shapes = weights.settings["shapes"]
    if shapes is not None:
        prototypes = weights.tensors["shapes.prototypes"]
        _add_shapes(
            network,
            prototypes,
            shapes["blocks"],
            shapes["width"],
            shapes["query"],
            shapes["learnable"],
            seed=0,  # every weight is read from the file
        )


def _merged_network(weights: Weights) -> DiT:
    network = DiT(**weights.settings["network"])
    _shapes_from(network, weights)
    conditions_from(network, weights.settings)
    plain = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith("adapter.")}
    network.load_state_dict(plain, assign=True)
    return network
