"""Make of a finished run a MONAI bundle that can be given away: for the model zoo, for MONAI Label's stock app.

    python scripts/publish_bundle.py output/mine/adapter.safetensors published/anatodiff

The folder holds the configs, the shipped weights, the cards and the package itself, so that nothing needs to be
installed but what its metadata names; the adapter as `models/adapter.safetensors`, which its `configs/inference.json`
samples from; and `models/model.pt`, base and adapter in one. An adapter on a base of your own is merged first, by
scripts/merge_adapter.py.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from anatodiff.autoencoders import load_autoencoder
from anatodiff.diffusion import DiffusionSettings
from anatodiff.diffusion.continuous import TIME_RANGE
from anatodiff.layout import METADATA, PACKAGE, SHIPPED, lay_down
from anatodiff.networks import Adapter, DiT, load_adapter, save_model

ADAPTER = "models/adapter.safetensors"
MODEL = "models/model.pt"
INFERENCE = "configs/inference.json"
DATA_LICENCE = "docs/data_license.txt"
PREDICTED = {"epsilon": "noise", "v": "v", "flow": "flow velocity"}


def main(arguments: list[str] | None = None) -> int:
    """Publish the adapter that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", type=Path, help="adapter.safetensors of a run, or a merged file")
    parser.add_argument("folder", type=Path, help="an empty folder or a new one, named as the bundle is to be called")
    options = parser.parse_args(arguments)
    try:
        adapter = publish(options.adapter, options.folder)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for what, licence in licences(adapter).items():
        print(f"licence of the {what}: {licence}")
    print(f"wrote {options.folder}; now: python scripts/zoo_check.py {options.folder}")
    return 0


def publish(path: Path, folder: Path) -> Adapter:
    """Write the bundle of an adapter.

    Args:
        path: an adapter on the shipped base, or a merged file; of the shipped autoencoder.
        folder: where to; must have no files.

    Returns:
        the adapter as read.

    Raises:
        WeightsError: it is none, or of another base or autoencoder.
        FileExistsError: the folder has files.
    """
    adapter = load_adapter(path, autoencoder=load_autoencoder())
    lay_down(folder)
    ignored = shutil.ignore_patterns("__pycache__", SHIPPED)
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=ignored)
    shutil.copyfile(path, folder / ADAPTER)
    save_model(folder / MODEL, adapter.network)
    inference = json.loads((folder / INFERENCE).read_text())
    write_json(folder / INFERENCE, {**inference, "adapter_path": f"$@bundle_root + '/{ADAPTER}'"})
    metadata = json.loads((folder / METADATA).read_text())
    describe(metadata["network_data_format"], adapter.network, adapter.diffusion)
    write_json(folder / METADATA, metadata)
    with open(folder / DATA_LICENCE, "a") as file:
        said = "; ".join(f"{what}: {licence}" for what, licence in licences(adapter).items())
        file.write(f"\n{ADAPTER} and {MODEL}\n{said}\n")
    return adapter


def describe(formats: dict[str, Any], network: DiT, diffusion: DiffusionSettings) -> None:
    """Put a network's sizes, times and prediction into the metadata's description of its input and output."""
    image, times, output = formats["inputs"]["image"], formats["inputs"]["timesteps"], formats["outputs"]["pred"]
    image["spatial_shape"] = output["spatial_shape"] = [network.input_size] * 2
    continuous = diffusion.schedule == "continuous"
    times["dtype"] = "float32" if continuous else "int64"
    times["value_range"] = [0, int(TIME_RANGE) if continuous else diffusion.timesteps - 1]
    parts = {PREDICTED[diffusion.prediction]: network.in_channels}
    if network.out_channels > network.in_channels:
        parts["variance fraction"] = network.out_channels - network.in_channels
    names = [f"{part} {number}" for part, count in parts.items() for number in range(count)]
    output["format"] = " and ".join(parts)
    output["num_channels"] = network.out_channels
    output["channel_def"] = {str(channel): name for channel, name in enumerate(names)}


def licences(adapter: Adapter) -> dict[str, str]:
    """Say under what licences the data and the base are."""
    settings = adapter.settings
    base = settings.get("base_licence", settings.get("licence", "not stated"))
    return {"training images": settings.get("data_licence", "not stated"), "base": base}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a config as they are written here."""
    path.write_text(json.dumps(content, indent=4) + "\n")


if __name__ == "__main__":
    sys.exit(main())
