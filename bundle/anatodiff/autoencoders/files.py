"""Weights files of our own autoencoders: which architecture, which settings, which tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anatodiff.autoencoders.autoencoder import Autoencoder
from anatodiff.autoencoders.codec import LatentCodec, load_strictly
from anatodiff.autoencoders.principal import PrincipalAutoencoder
from anatodiff.weights import WeightsError, hash_of_tensors, load_weights, save_weights

ARCHITECTURES: dict[str, type[Autoencoder] | type[PrincipalAutoencoder]] = {
    "kl": Autoencoder,
    "principal": PrincipalAutoencoder,
}


def save_autoencoder(
    path: str | Path,
    autoencoder: Autoencoder | PrincipalAutoencoder,
    notes: dict[str, Any],
    half: bool = True,
) -> str:
    """Write an autoencoder.

    Args:
        path: .safetensors file.
        autoencoder: network to write.
        notes: how it was trained (data, steps, seed), kept in the header.
        half: store in fp16.

    Returns:
        SHA-256 of the file.
    """
    names = {kind: name for name, kind in ARCHITECTURES.items()}
    settings = {
        "kind": "autoencoder",
        "architecture": names[type(autoencoder)],
        "network": autoencoder.settings,
        "notes": notes,
    }
    return save_weights(path, dict(autoencoder.state_dict()), settings, half=half)


def read_autoencoder(path: str | Path) -> LatentCodec:
    """Read a file that `save_autoencoder` made.

    Args:
        path: .safetensors file.

    Returns:
        the network; its `sha256` is of the encoder's weights, or of the file where the architecture is "kl".

    Raises:
        WeightsError: the file is missing, is no autoencoder, or of an architecture that this version does not know.
    """
    weights = load_weights(path, kind="autoencoder")
    architecture = weights.settings.get("architecture", "kl")  # a file without the entry is of the first kind
    if architecture not in ARCHITECTURES:
        raise WeightsError(f"{path}: unknown architecture {architecture!r}; update anatodiff or give another file")
    autoencoder = ARCHITECTURES[architecture](**weights.settings["network"])
    load_strictly(autoencoder, weights.tensors, Path(path))
    autoencoder.sha256 = weights.sha256
    if isinstance(autoencoder, PrincipalAutoencoder):
        # Another decoder of the same latents fits the same bases: what tells two apart is the encoder.
        encoder = {name: weights.tensors[name] for name in autoencoder.encoder_names()}
        autoencoder.sha256 = hash_of_tensors(encoder)
    return autoencoder
