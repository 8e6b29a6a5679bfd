"""What ships: the files of `models/` are those of the manifest, belong together, and nothing else is large."""

from __future__ import annotations

import subprocess

import pytest
import torch
from support import ROOT

from anatodiff.autoencoders import load_autoencoder
from anatodiff.files import sha256_of
from anatodiff.metrics import ShippedFeatures
from anatodiff.networks import load_adapter, load_base
from anatodiff.weights import MODELS_DIR, load_weights

MANIFEST = MODELS_DIR / "SHA256SUMS"
LARGEST = 4e6  # bytes of any file but the shipped weights
LARGEST_DIT = 8e6  # parameters
LARGEST_AUTOENCODER = 3e6
LARGEST_ADAPTER = 2e6  # bytes: with a trained stem and head
ALL_MODELS = 20e6  # bytes
ADAPTERS = ROOT / "docs" / "evidence"


def manifest() -> dict[str, str]:
    """File names and hashes as `sha256sum` writes them."""
    return {name: digest for digest, name in (line.split() for line in MANIFEST.read_text().splitlines())}


def test_shipped_files_are_those_of_the_manifest() -> None:
    files = {path.name: sha256_of(path) for path in MODELS_DIR.glob("*.safetensors")}
    assert files == manifest()
    assert sum(path.stat().st_size for path in MODELS_DIR.iterdir()) < ALL_MODELS


def test_shipped_files_load_and_belong_together() -> None:
    autoencoder = load_autoencoder()
    base = load_base(autoencoder=autoencoder)  # refuses a base of another autoencoder
    assert sum(parameter.numel() for parameter in base.network.parameters()) <= LARGEST_DIT
    assert sum(parameter.numel() for parameter in autoencoder.parameters()) <= LARGEST_AUTOENCODER
    assert autoencoder.encode(torch.zeros(1, 1, 256, 256))[0].shape == (1, 4, 32, 32)
    assert ShippedFeatures()(torch.rand(1, 1, 256, 256)).shape == (1, 1280)


def test_base_is_conditional_on_domains_and_classes() -> None:
    """Each domain is a class of its own, and rows that training used have moved apart."""
    base = load_base()
    domains = [name for name in base.classes if "/" not in name]
    assert len(domains) >= 3
    assert {name.split("/")[0] for name in base.classes if "/" in name} == set(domains)
    table = base.network.y_embedder.embedding_table.weight
    distances = torch.cdist(table, table) + 1e9 * torch.eye(len(table))
    assert float(distances.min()) > 0


def test_headers_say_what_the_weights_saw() -> None:
    for name, kind in (("autoencoder", "autoencoder"), ("dit", "dit")):
        notes = load_weights(MODELS_DIR / f"{name}.safetensors", kind).settings["notes"]
        assert notes["images"] > 0
        assert {"data", "steps", "seed"} <= notes["run"].keys()
    assert "CC BY" in load_base().licence


def test_nothing_else_is_large() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: what is tracked cannot be told")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    large = [path.name for path in files if path.is_file() and path.stat().st_size > LARGEST]
    assert set(large) <= {"dit.safetensors", "features.safetensors", "autoencoder.safetensors"}


@pytest.mark.parametrize("name", ["difffit", "anatodiff"])
def test_kept_adapters_stand_on_the_shipped_base(name: str) -> None:
    path = ADAPTERS / f"{name}_phantoms.safetensors"
    adapter = load_adapter(path)
    assert adapter.settings["data_licence"] == "phantoms: ours"
    assert (adapter.network.shapes is None) == (name == "difffit")
    assert path.stat().st_size < LARGEST_ADAPTER
