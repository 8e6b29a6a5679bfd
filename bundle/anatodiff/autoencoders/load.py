"""One door to every autoencoder: what lies at a path says how it is read."""

from __future__ import annotations

from pathlib import Path

from anatodiff.autoencoders.codec import LatentCodec
from anatodiff.autoencoders.files import read_autoencoder
from anatodiff.autoencoders.monai_generative import GENERATIVE_TENSOR
from anatodiff.autoencoders.stable_diffusion import (
    CONFIG_NAME,
    DIFFUSERS_TENSOR,
    WEIGHTS_NAMES,
    read_stable_diffusion_folder,
    stable_diffusion_autoencoder,
)
from anatodiff.autoencoders.tiny import ENCODER_ENDING, read_tiny_autoencoder
from anatodiff.weights import WeightsError, read_weights, shipped

SHIPPED_NAME = "autoencoder.safetensors"


def load_autoencoder(path: str | Path | None = None) -> LatentCodec:
    """Read an autoencoder, frozen and in evaluation mode.

    Args:
        path: None takes the one that ships with the bundle. Otherwise one of: a .safetensors file of our own; the
            folder or weights file of Stable Diffusion's autoencoder in the format of diffusers; the encoder of a
            TAESD autoencoder (`<name>_encoder.pth`, its decoder beside it) or the folder of both.

    Returns:
        the network; `sha256` is the hash of its weights.

    Raises:
        WeightsError: there is no autoencoder at `path`, or it is broken.
    """
    path = shipped(SHIPPED_NAME) if path is None else Path(path)
    return (_from_folder(path) if path.is_dir() else _from_file(path)).eval().requires_grad_(False)


def _from_folder(path: Path) -> LatentCodec:
    if (path / CONFIG_NAME).is_file() or any((path / name).is_file() for name in WEIGHTS_NAMES):
        return read_stable_diffusion_folder(path)
    encoders = sorted(path.glob(f"*{ENCODER_ENDING}"))
    if len(encoders) > 1:
        raise WeightsError(f"{path}: holds {len(encoders)} encoders; give the path of one, such as {encoders[0].name}")
    if not encoders:
        raise WeightsError(
            f"{path}: this folder holds no autoencoder; give one with {CONFIG_NAME} and {WEIGHTS_NAMES[0]}, one with "
            f"*{ENCODER_ENDING} and its decoder, or a .safetensors file"
        )
    return read_tiny_autoencoder(encoders[0])


def _from_file(path: Path) -> LatentCodec:
    if path.name.endswith(ENCODER_ENDING):
        return read_tiny_autoencoder(path)
    weights = read_weights(path, "a .safetensors file of kind 'autoencoder' or of a published autoencoder")
    if DIFFUSERS_TENSOR in weights.tensors:
        return stable_diffusion_autoencoder(path, weights)
    if GENERATIVE_TENSOR in weights.tensors:
        raise WeightsError(f"{path}: made by monai-generative; convert it with scripts/convert_autoencoder.py first")
    return read_autoencoder(path)
