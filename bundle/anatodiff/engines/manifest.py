"""A manifest beside each output: what made it, from what, under which licence, and the hash of every file.

It may leave the house with the files, so it names no input: no path, no file of an image, no patient. And it holds no
date and no place, so that the same run twice leaves the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import monai
import numpy as np
import pydicom
import torch

from anatodiff.data.origin import NAME, tool_version
from anatodiff.engines.inferers import SamplingInferer
from anatodiff.engines.workflow import running_options
from anatodiff.files import replaced_when_whole, sha256_of
from anatodiff.layout import bundle_root
from anatodiff.networks import Adapter

SCHEMA = 1
MANIFEST_NAME = "manifest.json"
INTENDED_USE = (
    "Research: training and testing of image analysis. Synthetic radiographs show no patient and are no basis for a "
    "diagnosis."
)
GIT_SECONDS = 20
SAMPLE_ENDINGS = (".dcm", ".png", ".nii", ".nii.gz")


@dataclass(frozen=True)
class Provenance:
    """What draws samples.

    Args:
        weights: role ("adapter", "base", "autoencoder") -> SHA-256.
        licences: of what ("data", "base") -> licence.
        sampling: settings of the sampler, the seed among them.
    """

    weights: dict[str, str]
    licences: dict[str, str]
    sampling: dict[str, Any]

    @property
    def recipe(self) -> dict[str, Any]:
        """All that fixes the pixels of a sample of a class and number, but for the rounding of the machine."""
        return {"tool": f"{NAME} {tool_version()}", "weights": self.weights, "sampling": self.sampling}

    @property
    def recipe_sha256(self) -> str:
        """Hash of the recipe, which the UIDs of the samples are derived from."""
        return hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()


def sampling_provenance(adapter: Adapter, inferer: SamplingInferer) -> Provenance:
    """Say what draws the samples of an adapter.

    Args:
        adapter: the fine-tuned network as read from its file.
        inferer: sampler.
    """
    settings = adapter.settings
    weights = {"adapter": adapter.sha256}
    weights |= {role: settings[f"{role}_sha256"] for role in ("base", "autoencoder")}
    base_licence = settings.get("base_licence", settings.get("licence", "not stated"))  # older files lack the first
    licences = {"data": settings.get("data_licence", "not stated"), "base": base_licence}
    return Provenance(weights, licences, inferer.settings)


def write_manifest(
    path: Path,
    made: str,
    files: Iterable[Path],
    *,
    weights: Mapping[str, str],
    data: Mapping[str, Any],
    licences: Mapping[str, str],
    counts: Mapping[str, Any] | None = None,
    recipe: Provenance | None = None,
    device: torch.device | str | None = None,
) -> None:
    """Write a manifest, whole or not at all.

    Args:
        path: the file, in the folder of what it lists or above it.
        made: what the files are: "samples", "fine-tune", "base", "autoencoder" or "evaluation".
        files: to be listed with their hashes; those that are not there are left out.
        weights: role -> SHA-256 of all weights that took part.
        data: name of a set of images -> {"key": hash of the set, "images": their number}; empty where none was read.
        licences: of what -> licence.
        counts: other numbers, such as of the images that were written and refused.
        recipe: what fixes the pixels, of samples.
        device: where it was computed; None is not said.
    """
    there = sorted(file for file in files if file.is_file())
    content = {
        "schema": SCHEMA,
        "made": made,
        "intended_use": INTENDED_USE,
        "licences": dict(licences),
        "tool": {"name": NAME, "version": tool_version(), "commit": _commit()},
        "options": running_options(),
        "weights_sha256": dict(weights),
        "data": dict(data),
        "recipe": None if recipe is None else {**recipe.recipe, "sha256": recipe.recipe_sha256},
        "counts": dict(counts or {}),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "monai": monai.__version__,
            "pydicom": pydicom.__version__,
            "numpy": np.__version__,
        },
        "machine": _machine(device),
        "files_sha256": {file.relative_to(path.parent).as_posix(): sha256_of(file) for file in there},
    }
    with replaced_when_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))


def differences(path: Path) -> list[str]:
    """Hash the files that a manifest lists again.

    Args:
        path: the manifest.

    Returns:
        what does not agree, a line each: a file that is missing or has other bytes, an image beside samples that the
        manifest does not list.

    Raises:
        ValueError: it is no manifest.
    """
    try:
        content = json.loads(path.read_text())
        listed, made, schema = dict(content["files_sha256"]), content["made"], content["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no manifest of this package ({type(error).__name__}: {error})") from error
    if schema != SCHEMA:
        raise ValueError(f"{path}: has schema {schema}, this version reads {SCHEMA}; use the version that wrote it")
    folder, found = path.parent.resolve(), []
    for name, digest in listed.items():
        file = (folder / name).resolve()
        if not file.is_relative_to(folder):
            found.append(f"{name}: is outside of the manifest's folder")
        elif not file.is_file():
            found.append(f"{name}: is missing")
        elif sha256_of(file) != digest:
            found.append(f"{name}: has other bytes")
    if made == "samples":
        images = (file for file in sorted(folder.iterdir()) if file.name.lower().endswith(SAMPLE_ENDINGS))
        found += [f"{file.name}: is not in the manifest" for file in images if file.name not in listed]
    return found


def image_set(key: str, images: int) -> dict[str, Any]:
    """Describe a set of images: the hash of its bytes, labels and preprocessing, and their number."""
    return {"key": key, "images": images}


def _machine(device: torch.device | str | None) -> dict[str, str]:
    # The kind alone: a host's name says whose it is.
    kind = {"system": platform.system(), "processor": platform.machine()}
    if device is None:
        return kind
    device = torch.device(device)
    name = f"cuda: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
    return {**kind, "device": name}


@cache
def _commit() -> str | None:
    """Return the commit that the code is of, with "-dirty" if it was changed since; None without a repository."""
    root, git = bundle_root(), shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    command = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS)
    except (subprocess.SubprocessError, OSError):
        return None
    return run.stdout.strip()
