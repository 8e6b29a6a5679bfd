"""The copy check finds copies, and only copies."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from support import ROOT

from anatodiff.metrics import CopyDetector, copy_rate, nearest, pixel_features, planted_copies


def pictures(n: int, seed: int, size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, 6, 6, generator=generator)
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)


def test_nearest_is_the_copy_whatever_its_brightness() -> None:
    training = pictures(300, seed=0)
    similarity, index = nearest(pixel_features(0.5 * training[[7, 290]] + 0.2), pixel_features(training))
    assert index.tolist() == [7, 290]
    torch.testing.assert_close(similarity, torch.ones(2), rtol=0, atol=1e-3)


def test_pixel_similarity_is_the_correlation() -> None:
    one, other = pictures(1, seed=1), pictures(1, seed=2)
    similarity, _ = nearest(pixel_features(one), pixel_features(other))
    expected = np.corrcoef(one.flatten(), other.flatten())[0, 1]
    assert float(similarity) == pytest.approx(expected, abs=1e-4)


def test_rate_has_an_exact_interval() -> None:
    rate = copy_rate(torch.tensor([False, False, True, False]))
    ends = stats.beta.ppf([0.025, 0.975], [1, 2], [4, 3])  # Clopper and Pearson for 1 of 4
    assert rate.value == 0.25
    np.testing.assert_allclose([rate.low, rate.high], ends, rtol=1e-6)


def test_detector_finds_every_kind_of_copy_and_no_new_image() -> None:
    training, held_out, fresh = (
        pictures(40, seed=0, size=96),
        pictures(60, seed=1, size=96),
        pictures(60, seed=2, size=96),
    )
    detector = CopyDetector(training, held_out, {"pixels": pixel_features})
    for name, images in planted_copies(training).items():
        found = detector(images)
        assert found.copied.all(), name
        assert found.index["pixels"].tolist() == list(range(40)), name
        assert found.mirrored["pixels"].all() == (name == "mirrored"), name
    assert not detector.held_out.copied.any()
    assert int(detector.held_out.suspicious.sum()) == 3  # of 60
    new = detector(fresh)
    assert float(new.copied.float().mean()) < 0.1
    assert (new.suspicious | ~new.copied).all()


def test_one_view_is_enough_for_a_copy() -> None:
    training, held_out = pictures(10, seed=0), pictures(10, seed=1)
    views = {"pixels": pixel_features, "nothing": lambda images: torch.ones(len(images), 2)}
    found = CopyDetector(training, held_out, views)(training)
    assert found.copied.all()
    assert not (found.similarity["nothing"] > 1).any()
    with pytest.raises(ValueError, match="0 held-out images"):
        CopyDetector(training, held_out[:0], views)


def test_program_catches_its_controls_and_clears_an_untrained_base(
    small_weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, seed, n in (("train", 0, 12), ("held_out", 5, 12)):
        folder = tmp_path / name
        folder.mkdir()
        for number, image in enumerate(pictures(n, seed, size=80)):
            Image.fromarray((255 * image[0].numpy()).astype(np.uint8)).save(folder / f"{number}.png")
        with open(folder / "labels.csv", "w", newline="") as file:
            csv.writer(file).writerows([("file", "label"), *((f"{i}.png", "a") for i in range(n))])
    main = runpy.run_path(str(ROOT / "scripts" / "copy_check.py"))["main"]
    arguments = [
        "--train_dir", tmp_path / "train", "--held_out_dir", tmp_path / "held_out", "--cache_dir", tmp_path / "cache",
        "--base_path", small_weights["base_path"], "--autoencoder_path", small_weights["autoencoder_path"],
        "--image_size", 64, "--samples", 6, "--sampling_steps", 2, "--picture", tmp_path / "worst.png",
    ]  # fmt: skip
    code = main([str(argument) for argument in arguments])
    out = capsys.readouterr().out
    controls = [line for line in out.splitlines() if "| either | control" in line]
    assert len(controls) == 5
    assert all("| 100.0 % (" in line for line in controls)
    assert "| either | samples | 0.0 % (0.0 to " in out
    assert (tmp_path / "worst.png").is_file()
    assert code == 0
    assert main(["--train_dir", str(tmp_path / "no"), "--held_out_dir", str(tmp_path)]) == 2
    assert "no such folder" in capsys.readouterr().err
