"""LPIPS against the published definition, written out a second time, and as an option of the evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import make_lpips, make_vgg16
from torch.nn import functional

from anatodiff.engines.workflow import OptionError
from anatodiff.files import sha256_of
from anatodiff.metrics import LPIPS, lpips_diversity
from anatodiff.weights import WeightsError

# torchvision's VGG-16 as its builder writes it: widths of convolutions, each followed by a ReLU, and "M" for pooling.
PLAN = (0, 1, "M", 2, 3, "M", 4, 5, 6, "M", 7, 8, 9, "M", 10, 11, 12)
COMPARED = (1, 3, 6, 9, 12)


def reference(a: np.ndarray, b: np.ndarray, network: dict, weights: dict) -> float:
    """LPIPS of two grey images (H, W) in [0, 1], pixel by pixel of each map."""
    keys = sorted({int(key.split(".")[1]) for key in network})
    found = []
    for image in (a, b):
        rgb = np.stack([image, image, image]) * 2.0 - 1.0
        rgb = (rgb - np.array([-0.030, -0.088, -0.188])[:, None, None]) / np.array([0.458, 0.448, 0.450])[:, None, None]
        x, maps = torch.from_numpy(rgb)[None].double(), []
        for step in PLAN:
            if isinstance(step, str):
                x = functional.max_pool2d(x, 2, 2)
                continue
            weight, bias = (network[f"features.{keys[step]}.{part}"].double() for part in ("weight", "bias"))
            x = functional.conv2d(x, weight, bias, padding=1).clamp_min(0)
            if step in COMPARED:
                maps.append(x[0].numpy())
        found.append(maps)
    total = 0.0
    for layer, (first, second) in enumerate(zip(*found, strict=True)):
        w = weights[f"lin{layer}.model.1.weight"].double().numpy().ravel()
        places = []
        for y in range(first.shape[1]):
            for x in range(first.shape[2]):
                u, v = (z[:, y, x] / (np.linalg.norm(z[:, y, x]) + 1e-10) for z in (first, second))
                places.append(w @ (u - v) ** 2)
        total += float(np.mean(places))
    return total


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("lpips")
    return make_vgg16(folder, 0), make_lpips(folder, 0)


@pytest.fixture(scope="module")
def network(files: tuple[str, str]) -> LPIPS:
    return LPIPS(*files)


def images(n: int, height: int = 32, width: int = 48, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, height // 8, width // 8, generator=generator)
    return functional.interpolate(coarse, (height, width), mode="bilinear")


def test_is_the_published_definition(network: LPIPS, files: tuple[str, str]) -> None:
    first, second = images(3, seed=1), images(3, seed=2)
    tensors = [torch.load(path, weights_only=True) for path in files]
    expected = [reference(a[0].numpy(), b[0].numpy(), *tensors) for a, b in zip(first, second, strict=True)]
    assert network(first, second).tolist() == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 0.01


def test_equal_images_are_at_zero_order_does_not_matter_and_noise_is_far(network: LPIPS) -> None:
    clean = images(4)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    assert network(clean, clean).tolist() == [0.0] * 4
    distances = [network(clean, (clean + strength * noise).clamp(0, 1)) for strength in (0.02, 0.1, 0.4)]
    assert (distances[0] > 0).all()
    assert (distances[0] < distances[1]).all()
    assert (distances[1] < distances[2]).all()
    torch.testing.assert_close(network(clean, noise), network(noise, clean), rtol=1e-6, atol=0)


def test_a_black_pixel_of_a_map_is_no_division_by_zero(network: LPIPS) -> None:
    assert torch.isfinite(network(torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32))).all()


def test_either_naming_and_either_kind_of_file(network: LPIPS, files: tuple[str, str], tmp_path: Path) -> None:
    plain = make_vgg16(tmp_path, 0, prefix="")
    save_file(torch.load(files[1], weights_only=True), tmp_path / "linear.safetensors")
    other = LPIPS(plain, tmp_path / "linear.safetensors")
    first, second = images(2, seed=1), images(2, seed=2)
    assert torch.equal(other(first, second), network(first, second))
    assert other.network_sha256 == sha256_of(plain) != network.network_sha256


@pytest.mark.parametrize(
    ("broken", "key", "message"),
    [
        (0, "features.17.weight", r"lacks features\.17\.weight; give lpips_network the state dict"),
        (0, "features.28.bias", r"lacks features\.28\.bias; give lpips_network"),
        (1, "lin3.model.1.weight", r"lacks lin3\.model\.1\.weight; give lpips_weights the linear layers"),
    ],
)
def test_a_missing_key_is_named(broken: int, key: str, message: str, files: tuple[str, str], tmp_path: Path) -> None:
    tensors = torch.load(files[broken], weights_only=True)
    del tensors[key]
    torch.save(tensors, tmp_path / "broken.pth")
    paths = [str(tmp_path / "broken.pth") if number == broken else path for number, path in enumerate(files)]
    with pytest.raises(WeightsError, match=r"broken\.pth: " + message):
        LPIPS(paths[0], paths[1])


@pytest.mark.parametrize(
    ("broken", "key", "message"),
    [
        (0, "features.5.weight", r"features\.5\.weight is \(6, 3, 3, 3\), not \(6, 4, 3, 3\); give lpips_network"),
        (1, "lin1.model.1.weight", r"lin1\.model\.1\.weight is \(1, 3, 1, 1\), not \(1, 6, 1, 1\); give lpips_weights"),
    ],
)
def test_what_does_not_fit_is_named(
    broken: int, key: str, message: str, files: tuple[str, str], tmp_path: Path
) -> None:
    tensors = torch.load(files[broken], weights_only=True)
    tensors[key] = tensors[key][:, :3]
    torch.save(tensors, tmp_path / "broken.pth")
    paths = [str(tmp_path / "broken.pth") if number == broken else path for number, path in enumerate(files)]
    with pytest.raises(WeightsError, match=message):
        LPIPS(paths[0], paths[1])


def test_a_missing_file_is_named(files: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pth: no such weights file; give the path of torchvision's VGG-16"):
        LPIPS(tmp_path / "none.pth", files[1])
    with pytest.raises(WeightsError, match=r"none\.pth: no such weights file; give the path of the linear weights"):
        LPIPS(files[0], tmp_path / "none.pth")


@pytest.mark.parametrize(
    "shapes", [((2, 1, 8, 32), (2, 1, 8, 32)), ((2, 3, 32, 32),) * 2, ((2, 1, 32, 32), (1, 1, 32, 32))]
)
def test_unfit_images_are_refused(shapes: tuple, network: LPIPS) -> None:
    with pytest.raises(ValueError, match="sides of at least 16 pixels"):
        network(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_diversity_is_the_mean_over_pairs(network: LPIPS) -> None:
    some = images(6, seed=4)
    pairs = [(a, b) for a in range(6) for b in range(a + 1, 6)]
    values = {pair: float(network(some[pair[0]][None], some[pair[1]][None])) for pair in pairs}
    got = lpips_diversity(network, some)
    assert got.pairs == 15
    assert got.value == pytest.approx(np.mean(list(values.values())), rel=1e-5)
    without = np.array([np.mean([values[pair] for pair in pairs if image not in pair]) for image in range(6)])
    assert got.stderr == pytest.approx(np.sqrt(5 * without.var()), rel=1e-4)
    alike = images(1, seed=4) + 0.1 * some
    assert lpips_diversity(network, alike).value < 0.7 * got.value
    assert lpips_diversity(network, some, pairs=4, seed=1) == lpips_diversity(network, some, pairs=4, seed=1)
    assert lpips_diversity(network, some, pairs=4, seed=1) != lpips_diversity(network, some, pairs=4, seed=2)
    with pytest.raises(ValueError, match="2 images"):
        lpips_diversity(network, some[:2])


Run = Callable[..., Path]


def test_the_evaluation_measures_samples_and_real_images(run: Run, files: tuple[str, str], tmp_path: Path) -> None:
    run("evaluate", lpips_network=files[0], lpips_weights=files[1])
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    measured = json.loads((tmp_path / "out" / "metrics.json").read_text())["lpips"]
    assert measured["value"] > 5 * measured["stderr"] > 0
    assert measured["real"] == pytest.approx(
        measured["value"], rel=0.2
    )  # the samples are the same images and four more
    assert record["stderr_of_real"]["lpips"] > 0
    assert record["settings"]["lpips"] == {
        "network_sha256": sha256_of(files[0]), "weights_sha256": sha256_of(files[1]),
    }  # fmt: skip
    assert "unlikeness in pairs (LPIPS)" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(("given", "missing"), [(0, "lpips_weights"), (1, "lpips_network")])
def test_one_file_alone_is_refused(given: int, missing: str, run: Run, files: tuple[str, str]) -> None:
    name = ("lpips_network", "lpips_weights")[given]
    with pytest.raises(OptionError, match=f"{missing} is missing: LPIPS needs both"):
        run("evaluate", **{name: files[given]})
