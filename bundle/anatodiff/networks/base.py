"""A base: a pretrained DiT from a file, ours or a published one, and what belongs to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anatodiff.autoencoders import LatentCodec
from anatodiff.diffusion import DiffusionSettings
from anatodiff.networks.dit import DiT
from anatodiff.networks.published import LICENCE, SD_SCALE_FACTOR, WIDTHS, published_settings
from anatodiff.networks.told import condition_header, conditions_from
from anatodiff.weights import Weights, WeightsError, read_weights, save_weights, shipped

SHIPPED_NAME = "dit.safetensors"
MOST_LISTED = 20
PUBLISHED_PREDICTIONS = ("epsilon", "flow")  # of DiT, of SiT
DIT_SIZES: dict[str, dict[str, Any]] = {
    f"DiT-{name}/{patch}": {"depth": depth, "hidden_size": width, "num_heads": heads, "patch_size": patch}
    for name, (depth, width, heads) in WIDTHS.items()
    for patch in (2, 4, 8)
}
# With a convolutional stem and head, for continuous noise levels: the variance is not learned.
DIT_SIZES |= {
    "ConvDiT-XS/4": {
        "depth": 4, "hidden_size": 192, "num_heads": 6, "patch_size": 4, "learn_sigma": False,
        "stem": {"channels": [48, 96], "blocks": 1}, "qk_norm": True, "gated_mlp": True,
    },
    "ConvDiT-S/4": {
        "depth": 12, "hidden_size": 384, "num_heads": 6, "patch_size": 4, "learn_sigma": False,
        "stem": {"channels": [96, 192], "blocks": 1}, "qk_norm": True, "gated_mlp": True,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Base:
    """A pretrained DiT and what belongs to it.

    Args:
        network: the DiT.
        scale_factor: what latents are multiplied with before the DiT sees them (1 / their standard deviation).
        classes: names of its classes.
        sha256: hash of its file.
        autoencoder_sha256: hash of the autoencoder in use with it.
        licence: licence of the data that it was trained on.
        diffusion: noise schedule and what the network predicts.
        notes: how it was trained, as its file has it.
    """

    network: DiT
    scale_factor: float
    classes: list[str]
    sha256: str
    autoencoder_sha256: str
    licence: str
    diffusion: DiffusionSettings = field(default_factory=DiffusionSettings)
    notes: dict[str, Any] = field(default_factory=dict)

    def label_of(self, name: str | None) -> int:
        """Find the label of a class by its name; None is the null label.

        Raises:
            ValueError: the base has no such class.
        """
        if name is None:
            return self.network.null_label
        if name not in self.classes:
            raise ValueError(f"start_class {name!r} is no class of the base; choose null or one of: {self._listed()}")
        return self.classes.index(name)

    def _listed(self) -> str:
        shown = ", ".join(self.classes[:MOST_LISTED])
        return shown if len(self.classes) <= MOST_LISTED else f"{shown} and {len(self.classes) - MOST_LISTED} more"


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
        return DiT(input_size=input_size, in_channels=in_channels, num_classes=num_classes, **DIT_SIZES[size])


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
        **condition_header(base.network),
        "scale_factor": base.scale_factor,
        "classes": base.classes,
        "autoencoder_sha256": base.autoencoder_sha256,
        "licence": base.licence,
        "diffusion": asdict(base.diffusion),
        "notes": notes,
    }
    tensors = {name: tensor for name, tensor in base.network.state_dict().items() if name != "pos_embed"}
    return save_weights(path, tensors, settings, half=half)


def load_base(
    path: str | Path | None = None,
    autoencoder: LatentCodec | None = None,
    prediction: str | None = None,
) -> Base:
    """Read a base, frozen and in evaluation mode.

    Args:
        path: a base of this bundle, or a published DiT or SiT state dict (.pt or .safetensors); None takes the base
            that ships with the bundle.
        autoencoder: the autoencoder in use; it must fit the base.
        prediction: what a published network predicts: "epsilon" (DiT, the default) or "flow" (SiT), which the file
            does not tell; None for a base of this bundle, whose file does.

    Returns:
        the base.

    Raises:
        WeightsError: the file is missing, is no DiT, or does not fit the autoencoder or the prediction.
    """
    path = shipped(SHIPPED_NAME) if path is None else Path(path)
    weights = read_weights(path, "a base of this bundle (kind 'dit') or of a published DiT or SiT")
    if weights.settings:
        return _our_base(path, weights, autoencoder, prediction)
    return _published_base(path, weights, autoencoder, prediction or "epsilon")


def _our_base(path: Path, weights: Weights, autoencoder: LatentCodec | None, prediction: str | None) -> Base:
    settings = weights.settings
    if settings["kind"] == "adapter" and "network" not in settings:
        raise WeightsError(
            f"{path}: an adapter is no base; give one that was trained with finetuning 'full', or a base"
        )
    if settings["kind"] not in ("dit", "merged", "adapter"):
        raise WeightsError(f"{path}: expected weights of kind 'dit', found {settings['kind']}; give the right file")
    if "architecture" in settings["network"]:
        found = settings["network"]["architecture"]
        raise WeightsError(f"{path}: a U-Net ({found}) is no base; give a DiT that was trained with finetuning 'full'")
    if settings.get("shapes"):
        raise WeightsError(f"{path}: merged weights with shape prototypes cannot be fine-tuned again; give their base")
    if autoencoder is not None and settings["autoencoder_sha256"] != autoencoder.sha256:
        raise WeightsError(f"{path}: this DiT was trained with another autoencoder; give the one that belongs to it")
    # A file without the entry is of the first kind of base: 1,000 linear steps, noise.
    diffusion = DiffusionSettings(**settings.get("diffusion", {}))
    if prediction is not None and prediction != diffusion.prediction:
        found = diffusion.prediction
        raise WeightsError(f"{path}: this base predicts {found!r}, not {prediction!r}; leave prediction out")
    network = DiT(**settings["network"])
    conditions_from(network, settings)
    ours = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith("adapter.")}
    load_whole(network, {**ours, "pos_embed": network.pos_embed}, path)
    return Base(
        network=network.eval().requires_grad_(False),
        scale_factor=settings["scale_factor"],
        classes=settings["classes"],
        sha256=weights.sha256,
        autoencoder_sha256=settings["autoencoder_sha256"],
        licence=settings["licence"] if "licence" in settings else licence_of_stage(settings),
        diffusion=diffusion,
        notes=settings.get("notes", {}),
    )


def licence_of_stage(settings: Mapping[str, Any]) -> str:
    """Say under what licences a fully fine-tuned network stands: of its data, and of what it went on from."""
    return f"{settings.get('data_licence', 'not stated')}; went on from a base of: {settings['base_licence']}"


def _published_base(path: Path, weights: Weights, autoencoder: LatentCodec | None, prediction: str) -> Base:
    if prediction not in PUBLISHED_PREDICTIONS:
        raise WeightsError(f"{path}: a published network predicts one of {PUBLISHED_PREDICTIONS}, not {prediction!r}")
    settings = published_settings(path, weights.tensors)
    if autoencoder is not None and (
        autoencoder.latent_channels != settings["in_channels"] or autoencoder.scaling_factor is None
    ):
        raise WeightsError(
            f"{path}: a published DiT works on latents of the Stable Diffusion VAE; give its folder by autoencoder_path"
        )
    diffusion = DiffusionSettings(schedule="flow" if prediction == "flow" else "linear", prediction=prediction)
    with torch.device("meta"):
        network = DiT(**settings)
    load_whole(network, weights.tensors, path)
    scale = None if autoencoder is None else autoencoder.scaling_factor
    return Base(
        network=network.eval().requires_grad_(False),
        scale_factor=SD_SCALE_FACTOR if scale is None else scale,
        classes=[str(number) for number in range(settings["num_classes"])],
        sha256=weights.sha256,
        autoencoder_sha256="" if autoencoder is None else autoencoder.sha256,
        licence=LICENCE,
        diffusion=diffusion,
    )


def load_whole(network: nn.Module, tensors: Mapping[str, Any], path: Path) -> None:
    """Load a network's tensors, all of them and no others.

    Args:
        network: to load into; it takes the tensors themselves.
        tensors: by its own names.
        path: where they come from, for the message.

    Raises:
        WeightsError: names or shapes differ.
    """
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise WeightsError(f"{path}: the tensors are of another network ({first}); give the right file") from error


def with_classes(network: DiT, num_classes: int, start_label: int | None = None) -> DiT:
    """Copy a DiT for other classes: each new label row, the null one too, starts as one row of the base.

    Args:
        network: the base's network, left as it is.
        num_classes: number of new classes.
        start_label: the base's row to start from; None is its null row, which says nothing of the image.

    Returns:
        a new network whose outputs all equal the base's with `start_label`.
    """
    new = copy.deepcopy(network)
    label = network.null_label if start_label is None else start_label
    row = network.y_embedder.embedding_table.weight.detach()[label, None]  # (1, D)
    table = nn.Embedding(num_classes + 1, row.shape[1], device=row.device)
    table.weight.data.copy_(row.expand(num_classes + 1, -1))
    new.y_embedder.embedding_table = table
    new.null_label = num_classes
    new.settings["num_classes"] = num_classes
    return new
