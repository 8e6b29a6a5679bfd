"""Weights files: safetensors that carry their own settings, written whole or not at all.

A weights file is never a pickle. Its settings (network sizes, scale factor, classes, the hash of the base) stand as
JSON in the header, so that one file is enough to rebuild the network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from anatodiff.files import replaced_when_whole, sha256_of
from anatodiff.layout import bundle_root

HEADER_KEY = "anatodiff"
PICKLED = (".pt", ".pth", ".bin", ".ckpt")
NESTED = ("ema", "model", "state_dict", "net")  # where training checkpoints keep the weights, best first
MODELS_DIR = bundle_root() / "models"


class WeightsError(ValueError):
    """A weights file is missing, broken or of another kind; the message names the file and the cure."""


@dataclass(frozen=True)
class Weights:
    """What one weights file holds.

    Args:
        tensors: name -> tensor, floating point ones in float32.
        settings: what the file says of itself.
        sha256: hash of the whole file, hexadecimal.
    """

    tensors: dict[str, torch.Tensor]
    settings: dict[str, Any]
    sha256: str


def save_weights(
    path: str | Path,
    tensors: dict[str, torch.Tensor],
    settings: dict[str, Any],
    half: bool = False,
) -> str:
    """Write a safetensors file with its settings in the header.

    Args:
        path: file to write; an existing one is replaced at once.
        tensors: name -> tensor.
        settings: JSON-able description of what is in the file.
        half: store floating point tensors in fp16 (shipped weights).

    Returns:
        SHA-256 of the file, hexadecimal.
    """
    ready = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        ready[name] = tensor.half() if half and tensor.is_floating_point() else tensor
    with replaced_when_whole(path) as temporary:
        temporary.write_bytes(save(ready, metadata={HEADER_KEY: json.dumps(settings, sort_keys=True)}))
    return sha256_of(path)


def load_weights(path: str | Path, kind: str) -> Weights:
    """Read a file that `save_weights` made.

    Args:
        path: file to read.
        kind: what its settings must call it: "autoencoder", "dit", "adapter", "merged" or "unet".

    Returns:
        tensors (floating point in float32), settings and the file's hash.

    Raises:
        WeightsError: the file is missing, is no safetensors file, or is of another kind.
    """
    weights = read_weights(path, f"a .safetensors file of kind {kind!r}")
    if weights.settings.get("kind") != kind:
        found = weights.settings.get("kind", "a file without AnatoDiff's header")
        raise WeightsError(f"{path}: expected weights of kind {kind!r}, found {found}; give the right file")
    return weights


def read_weights(path: str | Path, wanted: str) -> Weights:
    """Read any file of tensors: ours, another's safetensors, or a state dict that `torch.save` wrote.

    Args:
        path: file to read. A pickle is read with `weights_only`; of a training checkpoint the moving average ("ema")
            is taken, else "model", "state_dict" or "net".
        wanted: what the caller needs, for the message if there is no file.

    Returns:
        tensors (floating point in float32), settings (empty without our header) and the file's hash.

    Raises:
        WeightsError: the file is missing or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file; give the path of {wanted}")
    tensors, settings = _read_pickled(path) if path.suffix in PICKLED else _read_safetensors(path)
    # Copied into torch's own memory: kernels round differently on the unaligned buffer of the file.
    tensors = {
        name: tensor.to(torch.float32, copy=True) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in tensors.items()
    }
    return Weights(tensors, settings, sha256_of(path))


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            settings = json.loads((file.metadata() or {}).get(HEADER_KEY, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, settings  # noqa: SIM118 - no mapping
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"{path}: not a safetensors file ({error}); copy it again or make it anew") from error


def _read_pickled(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # which DiT and SiT keep beside their weights
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{path}: not a plain state dict; save its tensors alone by torch.save") from error
    for key in NESTED:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise WeightsError(f"{path}: holds no state dict; save one by torch.save(network.state_dict(), path)")
    return state, {}


def hash_of_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """Hash the names, shapes and values of tensors; returns the SHA-256, hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {list(tensor.shape)}".encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def shipped(name: str) -> Path:
    """Find a weights file that ships with the bundle.

    Args:
        name: file name in `models/`.

    Returns:
        its path in the bundle's `models/` folder.

    Raises:
        WeightsError: the folder is not there (the package was installed without the bundle).
    """
    path = MODELS_DIR / name
    if not path.is_file():
        raise WeightsError(f"{path}: the shipped weights are not there; install anatodiff again from its wheel")
    return path
