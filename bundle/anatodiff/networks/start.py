"""What a base's training starts from: an untrained DiT, or another base's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anatodiff.autoencoders import LatentCodec
from anatodiff.diffusion import DiffusionSettings
from anatodiff.networks.base import Base, build_dit, load_base, with_classes
from anatodiff.networks.dit import DiT
from anatodiff.networks.told import ConditionSettings, set_conditions
from anatodiff.weights import WeightsError


def start_dit(
    size: str,
    classes: Sequence[str],
    input_size: int,
    in_channels: int = 4,
    seed: int = 0,
    start: Base | None = None,
    conditions: ConditionSettings | None = None,
) -> DiT:
    """Build the DiT that a base's training starts from: an untrained one, or another base's.

    A base that is trained further may get other classes, another schedule or another prediction: what it has learned
    of anatomy stays in its blocks, and the last layer follows in some hundred steps.

    Args:
        size: a name in `DIT_SIZES`, the start's own where there is one.
        classes: names of the classes; one that the start has keeps its row, another begins as the null row.
        input_size: side of the latent.
        in_channels: channels of the latent.
        seed: seed of the initial weights.
        start: the base to go on from; None draws new weights.
        conditions: what the network is told of each image; None: nothing.

    Returns:
        the network, in training mode, all of it trained.

    Raises:
        WeightsError: the start has another shape.
    """
    network = build_dit(size, len(classes), input_size, in_channels, seed)
    if start is None:
        set_conditions(network, conditions, seed)
        return network
    same = {**start.network.settings, "num_classes": len(classes)}
    differing = [name for name, value in network.settings.items() if value != same[name]]
    if differing:
        name = differing[0]
        raise WeightsError(
            f"start_path: that base has {name} {same[name]}, {size} at this image_size {network.settings[name]}; set "
            "size and image_size as it has them, or give another base"
        )
    network = with_classes(start.network, len(classes))
    rows = start.network.y_embedder.embedding_table.weight
    for label, name in enumerate(classes):
        if name in start.classes:
            network.y_embedder.embedding_table.weight.data[label] = rows[start.classes.index(name)]
    set_conditions(network, conditions, seed)
    return network.requires_grad_(True).train()


def load_start(path: str | Path | None, autoencoder: LatentCodec) -> Base | None:
    """Read the base that a base's training goes on from; None where it starts anew."""
    return None if path is None else load_base(path, autoencoder)


def untrained_base(
    size: str,
    input_size: int,
    autoencoder: LatentCodec,
    scale_factor: float,
    prediction: str | None = None,
    seed: int = 0,
) -> Base:
    """Build what a training from scratch stands on: an untrained DiT, as a base.

    Args:
        size: a name in `DIT_SIZES`.
        input_size: side of the latent.
        autoencoder: the autoencoder in use.
        scale_factor: what latents are multiplied with.
        prediction: "epsilon", "v" or "flow"; None: "v". A DiT with a convolutional stem is trained on continuous noise
            levels.
        seed: seed of the initial weights.
    """
    prediction = prediction or "v"
    network = build_dit(size, 1, input_size, autoencoder.latent_channels, seed).eval().requires_grad_(False)
    plain = "flow" if prediction == "flow" else "linear"
    return Base(
        network=network,
        scale_factor=scale_factor,
        classes=[],
        sha256="",
        autoencoder_sha256=autoencoder.sha256,
        licence="none, it was untrained",
        diffusion=DiffusionSettings("continuous" if network.stem is not None else plain, prediction=prediction),
    )
