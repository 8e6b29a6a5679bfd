"""The network of radiographs: what it knows again, and that it can be trained anew."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from support import ROOT

from anatodiff.data.phantom import ALL_CLASSES, make_phantom, plan_phantoms
from anatodiff.metrics import DomainFeatures, nearest, planted_copies

PROGRAM = runpy.run_path(str(ROOT / "scripts" / "train_domain_features.py"))


def phantoms(n: int, seed: int) -> torch.Tensor:
    """Draw phantoms (n, 1, 256, 256) whose seeds no training has used."""
    plan = plan_phantoms(n, ALL_CLASSES, seed=seed)
    return torch.stack(
        [torch.from_numpy(make_phantom(one.seed, one.label, 256, one.view).pixels)[None] for one in plan]
    )


def test_shipped_network_knows_a_radiograph_again() -> None:
    images, features = phantoms(12, 90001), DomainFeatures()
    known = features(images)
    assert known.shape == (12, 160)
    for way, copies in planted_copies(images).items():
        if way != "mirrored":
            similarity, index = nearest(features(copies), known)
            assert index.tolist() == list(range(12)), way
            assert float(similarity.min()) > 0.9, way
    # A mirror image is another image: in most cases it is less like its own than 1.
    mirrored = torch.nn.functional.cosine_similarity(features(images.flip(3)), known)
    assert float(mirrored.median()) < float(nearest(features(planted_copies(images)["shifted"]), known)[0].median())


def test_batches_do_not_change_the_features() -> None:
    images, features = torch.rand(70, 1, 40, 60, generator=torch.Generator().manual_seed(0)), DomainFeatures()
    torch.testing.assert_close(features(images)[-3:], features(images[-3:]), rtol=1e-4, atol=1e-5)


def test_contrast_is_small_where_partners_meet() -> None:
    points = torch.eye(6)
    loss, found = PROGRAM["contrast"](points, points)
    assert found == 1
    assert float(loss) < 0.001
    worse, none = PROGRAM["contrast"](points, points.roll(1, 0))
    assert float(worse) > 5
    assert none == 0


def test_training_brings_versions_together(small_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "own.safetensors"
    arguments = ["--dataset_dir", str(small_images), "--extra_dir", str(small_images), "--output", str(path)]
    arguments += ["--cache_dir", str(tmp_path), "--batch_size", "12", "--steps", "100"]
    PROGRAM["main"](arguments)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert float(lines[-1].split("loss ")[1].split(",")[0]) < 2.5  # of ln 23 = 3.1 by guessing
    again, first = DomainFeatures(path), path.read_bytes()
    assert again(torch.rand(2, 1, 64, 64)).shape == (2, 160)
    PROGRAM["main"](arguments)
    assert path.read_bytes() == first
