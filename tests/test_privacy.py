"""The privacy part of the evaluation, on samples that were copied and on samples that were not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from support import run_workflow

from anatodiff.engines.privacy import examine
from anatodiff.metrics import ShippedFeatures

SIDE = 96


def smooth(n: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    images = np.stack([gaussian_filter(rng.standard_normal((1, SIDE, SIDE)), (0, 7, 7)) for _ in range(n)])
    low, high = images.min(axis=(1, 2, 3), keepdims=True), images.max(axis=(1, 2, 3), keepdims=True)
    return torch.from_numpy((images - low) / (high - low)).float()


@pytest.fixture(scope="module")
def features() -> ShippedFeatures:
    return ShippedFeatures()


def test_half_copied_samples_are_found_out_and_new_ones_cleared(features: ShippedFeatures) -> None:
    training, reference, fresh = smooth(40, 0), smooth(40, 1), smooth(40, 2)
    half = torch.cat([0.9 * training[:20], fresh[:20]])
    found = examine(features, half, training, reference)
    assert found.proves
    assert not found.clean
    assert found.found.copied[:20].all()
    assert found.verdict().startswith("COPIES: ")
    assert {k for k, _ in found.worst()} <= set(range(20))
    clear = examine(features, fresh, training, reference)
    assert clear.clean
    assert "COPIES" not in clear.verdict()
    assert found.authentic.value < clear.authentic.value
    assert found.membership.auc > clear.membership.auc + 2 * clear.membership.stderr
    ours, real = found.measures()
    assert ours["copy_rate"].value >= 0.5 > real["copy_rate"].value == 0
    assert real.keys() < ours.keys()


def test_a_control_that_is_missed_voids_the_report(features: ShippedFeatures) -> None:
    found = examine(features, smooth(5, 2), smooth(12, 0), smooth(12, 1))
    blind = replace(found, caught={**found.caught, "mirrored": 0.9})
    assert not blind.proves
    assert not blind.clean
    assert blind.verdict() == "THIS PROVES NOTHING: planted copies (mirrored) were not found"


def test_the_evaluation_writes_it(tmp_path: Path) -> None:
    sets = {"generated": smooth(12, 0).flip(3), "train": smooth(12, 0), "reference": smooth(30, 1)}
    for name, images in sets.items():
        (tmp_path / name).mkdir()
        for k, image in enumerate(images):
            Image.fromarray((255 * image[0].numpy()).round().astype(np.uint8)).save(tmp_path / name / f"{k:02d}.png")
    places = {f"{name}_dir": str(tmp_path / name) for name in sets}
    run_workflow(
        "evaluate", **places, output_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"),
        image_size=SIDE, nearest_k=3,
    )  # fmt: skip
    record = json.loads((tmp_path / "out" / "privacy.json").read_text())
    assert record["copies"]["value"] == 1
    assert not record["clean"]
    for pair in record["nearest_pairs"]:
        assert pair["sample"] == pair["training_image"]
        assert pair["mirrored"]
        assert pair["copy"]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["copy_rate"]["value"], metrics["copy_rate"]["real"]) == (1, 0)
    assert Image.open(tmp_path / "out" / "worst_pairs.png").height > 2 * SIDE
