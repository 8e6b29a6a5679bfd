from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from support import ROOT, SIZE, SMALL, make_features, run_bundle, run_workflow

from anatodiff.autoencoders import ImageDataset
from anatodiff.data import make_datalist, read_radiograph, write_radiograph
from anatodiff.engines.evaluation_inputs import read_samples
from anatodiff.files import sha256_of
from anatodiff.metrics import (
    FeatureInput,
    ShippedFeatures,
    TorchScriptFeatures,
    density_coverage,
    frechet_distance,
    improved_precision_recall,
    kernel_distance,
)
from anatodiff.weights import WeightsError

Run = Callable[..., Path]
Measured = Callable[..., dict]


@pytest.fixture
def measured(run: Run, tmp_path: Path) -> Measured:
    """Run the evaluation and read what it wrote."""

    def start(**options: object) -> dict:
        run("evaluate", **options)
        return json.loads((tmp_path / "out" / "evaluation.json").read_text())

    return start


@pytest.fixture(scope="module")
def noisy(small_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small images under strong noise."""
    folder = tmp_path_factory.mktemp("noisy")
    for i, file in enumerate(sorted(small_images.glob("*.png"))):
        noise = 0.3 * np.random.default_rng(i).standard_normal((SIZE, SIZE))
        write_radiograph(folder / file.name, np.clip(read_radiograph(file).pixels + noise, 0, 1).astype(np.float32))
    return folder


def test_numbers_are_those_of_the_metrics(measured: Measured, small_images: Path, noisy: Path, tmp_path: Path) -> None:
    record = measured(generated_dir=str(noisy))
    datalist = make_datalist(small_images)
    n = len(datalist.train)
    assert record["settings"]["samples"] == 28
    assert record["settings"]["training_images"] == {"measured": n, "of": n}
    assert record["settings"]["reference_images"] == 28 - n
    network = ShippedFeatures()
    assert record["settings"]["features"]["sha256"] == network.sha256
    sets = (datalist.test, datalist.train, read_samples(noisy, SIZE, tmp_path / "again").items)
    images = [ImageDataset(items, SIZE, tmp_path / "again").images for items in sets]
    reference, train, ours = (network(one) for one in images)
    metrics = record["metrics"]
    for features, column in ((ours, "value"), (train, "real")):
        shares, balls = improved_precision_recall(reference, features), density_coverage(reference, features, 3)
        expected = {
            "kid": kernel_distance(reference, features).value, "fid": frechet_distance(reference, features),
            "precision": shares.precision, "recall": shares.recall, "density": balls.density,
            "coverage": balls.coverage,
        }  # fmt: skip
        assert {name: metrics[name][column] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert metrics["kid"]["stderr"] == pytest.approx(kernel_distance(reference, ours).stderr, rel=1e-6)
    assert metrics["fid"]["stderr"] is None
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics


def test_noise_is_farther_than_real_and_real_is_as_far_as_real(measured: Measured, noisy: Path) -> None:
    metrics = measured(generated_dir=str(noisy))["metrics"]
    assert metrics["kid"]["value"] > 5 * metrics["kid"]["real"]
    assert metrics["fid"]["value"] > 2 * metrics["fid"]["real"]
    assert metrics["precision"]["value"] == 0 < metrics["precision"]["real"]
    assert metrics["spectrum"]["value"] > 0.5 > 5 * metrics["spectrum"]["real"]
    again = measured()["metrics"]["fid"]  # the real images themselves as samples
    assert again["value"] < 1.2 * again["real"]


def test_csv_says_the_same(measured: Measured, noisy: Path, tmp_path: Path) -> None:
    metrics = measured(generated_dir=str(noisy))["metrics"]
    with open(tmp_path / "out" / "evaluation.csv", newline="") as file:
        rows = {row["measure"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(metrics)
    for name, row in rows.items():
        assert float(row["value"]) == metrics[name]["value"]
        for column in ("real", "stderr"):
            assert row[column] == ("" if metrics[name][column] is None else str(metrics[name][column]))
        assert row["features_sha256"] == ShippedFeatures().sha256
    assert not list((tmp_path / "out").rglob("*.part"))


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three folders of smooth images of one distribution, PNG in two and DICOM in one, large enough for MS-SSIM."""
    folders, rng = [], np.random.default_rng(0)
    for name, ending in (("generated", "dcm"), ("reference", "png"), ("train", "png")):
        folders.append(tmp_path_factory.mktemp(name))
        for i in range(31):
            image = gaussian_filter(rng.standard_normal((176, 176)), 6)
            pixels = ((image - image.min()) / (image.max() - image.min())).astype(np.float32)
            write_radiograph(folders[-1] / f"{i:02d}.{ending}", pixels)
    return folders


def test_any_two_folders_of_one_distribution_are_zero_within_the_error(halves: list[Path], tmp_path: Path) -> None:
    generated, reference, train = halves
    done = run_bundle(
        "evaluate.json", "--generated_dir", generated, "--reference_dir", reference, "--train_dir", train,
        "--output_dir", tmp_path / "out", "--cache_dir", tmp_path / "cache", "--image_size", 176,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert abs(metrics["kid"]["value"]) < 3 * metrics["kid"]["stderr"]
    assert {"fid_infinity", "ms_ssim", "cmmd", "spectrum"} < set(metrics)
    assert metrics["spectrum"]["value"] < 0.1
    settings = json.loads((tmp_path / "out" / "evaluation.json").read_text())["settings"]
    assert settings["training_images"] == {"measured": 31, "of": 31}
    assert settings["reference_images"] == 31


def test_as_a_user_runs_it(small_images: Path, noisy: Path, tmp_path: Path) -> None:
    done = run_bundle(
        "evaluate.json", "--run_dir", tmp_path / "out", "--dataset_dir", small_images, "--generated_dir", noisy,
        "--cache_dir", tmp_path / "cache", "--image_size", SIZE, "--nearest_k", 3,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.partition("evaluation: ")[2] for line in done.stdout.splitlines() if ".evaluation: " in line]
    said = next(number for number, line in enumerate(lines) if "bias" in line)
    table = lines[1:said]
    assert lines[0] == "against 4 reference images:"
    assert table[0].split() == ["28", "synthetic", "24", "real"]
    assert len({len(line) for line in table}) == 1
    assert "±" in table[1]
    assert "fewer real images (24) than samples (28)" in lines[said + 1]


def test_samples_of_a_run_are_found_and_the_same_command_again_changes_nothing(run: Run, measured: Measured) -> None:
    out = run("train")
    record = measured(generated_dir=str(out / "samples"))
    assert record["settings"]["samples"] == 6
    assert record["settings"]["training_images"] == {"measured": 6, "of": 24}
    before = (out / "evaluation.json").read_bytes()
    measured(generated_dir=str(out / "samples"))
    assert (out / "evaluation.json").read_bytes() == before


def test_patients_that_were_trained_on_are_not_held_back(run: Run, measured: Measured) -> None:
    out = run("train")
    with pytest.raises(ValueError, match=r"patients held back here are in the training part of .*datalist\.json; give"):
        measured(generated_dir=str(out / "samples"), seed=5)


def test_one_image_in_two_formats_counts_once(small_images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    for i in range(3):
        pixels = np.full((SIZE, SIZE), 0.25 * (i + 1), dtype=np.float32)
        pixels[:8] = 0
        pixels[-8:] = 1
        write_radiograph(folder / f"a_{i}.dcm", pixels)
        write_radiograph(folder / f"a_{i}.png", 1 - pixels)
    write_radiograph(folder / "b.nii.gz", pixels)
    write_radiograph(folder / "c.png", 1 - pixels)
    for name in ("contact_sheet.png", ".hidden.png"):
        shutil.copy(folder / "c.png", folder / name)
    (folder / "notes.txt").write_text("no image")
    samples = read_samples(folder, SIZE, tmp_path / "cache")
    middle = samples.images[:, 0, SIZE // 2, SIZE // 2].tolist()
    assert middle == pytest.approx([0.25, 0.5, 0.75, 0.75, 0.25], abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generated_dir": "@two"}, "only 2 samples, measuring with nearest_k=3 needs 4; sample more$"),
        ({"generated_dir": "@three"}, "only 3 samples.*sample more or lower nearest_k"),
        ({"test_fraction": 0.01}, "only 2 reference images.*raise test_fraction"),
        ({"test_fraction": 0.9, "nearest_k": 5}, "only 4 training images.*more patients or lower nearest_k"),
        ({"nearest_k": 0}, "nearest_k is 0; give at least 1"),
        ({"reference_dir": "@three"}, "train_dir is missing: give both"),
        ({"reference_dir": "@three", "train_dir": "@three"}, "dataset_dir is not read beside"),
        ({"generated_dir": "nowhere"}, "nowhere: no such folder; give run_dir"),
        ({"generated_dir": str(ROOT / "tests")}, "no DICOM, PNG, JPEG or NIfTI"),
        ({"feature_size": 32}, "read for a network of your own only"),
        ({"feature_network": "nowhere.pt"}, "nowhere.pt: no such file; give feature_network"),
    ],
)
def test_errors_say_the_cure(
    options: dict, message: str, measured: Measured, small_images: Path, tmp_path: Path
) -> None:
    for name, count in (("two", 2), ("three", 3)):
        (tmp_path / name).mkdir()
        for i in range(count):
            shutil.copy(small_images / f"image{i:02d}.png", tmp_path / name)
    places = {"@two": str(tmp_path / "two"), "@three": str(tmp_path / "three")}
    places["@features"] = make_features(tmp_path, seed=0)
    with pytest.raises(ValueError, match=message):
        measured(**{key: places.get(str(value), value) for key, value in options.items()})


def test_three_images_are_enough_for_fewer_neighbours(measured: Measured, small_images: Path, tmp_path: Path) -> None:
    (tmp_path / "three").mkdir()
    for i in range(3):
        shutil.copy(small_images / f"image{i:02d}.png", tmp_path / "three")
    assert measured(generated_dir=str(tmp_path / "three"), nearest_k=2)["settings"]["samples"] == 3


def test_a_network_of_the_user(measured: Measured, small_images: Path, noisy: Path, tmp_path: Path) -> None:
    path = make_features(tmp_path, seed=0)
    takes = {"feature_channels": 3, "feature_mean": 0.5, "feature_std": 0.5}
    record = measured(generated_dir=str(noisy), feature_network=path, **takes)
    network = {"name": "features0.pt", "sha256": sha256_of(path), "dimensions": 6}
    assert record["settings"]["features"] == network
    assert record["metrics"]["fid"]["value"] > 2 * record["metrics"]["fid"]["real"]
    datalist = make_datalist(small_images)
    parts = [ImageDataset(items, SIZE, tmp_path / "again").images for items in (datalist.test, datalist.train)]
    network = TorchScriptFeatures(path, FeatureInput(3, mean=0.5, std=0.5))
    plain = frechet_distance(*(network(images) for images in parts))
    assert record["metrics"]["fid"]["real"] == pytest.approx(plain, rel=1e-6)


class Means(torch.nn.Module):
    """The mean of each channel, and the number of rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.full((x.shape[0], 1), float(x.shape[2]))
        return torch.cat([x.mean((2, 3)), rows], dim=1)


class Pair(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


def scripted(folder: Path, network: torch.nn.Module) -> Path:
    torch.jit.script(network).save(str(folder / "network.pt"))
    return folder / "network.pt"


def test_the_network_gets_what_the_options_say(tmp_path: Path) -> None:
    images = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    mean = images.mean((1, 2, 3))
    plain = TorchScriptFeatures(scripted(tmp_path, Means()))(images)
    assert plain.shape == (20, 2)
    expected = torch.stack([mean, torch.full((20,), 16.0)], dim=1)
    torch.testing.assert_close(plain, expected)
    takes = FeatureInput(channels=2, size=8, mean=[0.1, 0.2], std=(0.5, 0.25))
    other = TorchScriptFeatures(tmp_path / "network.pt", takes)(images.half())
    torch.testing.assert_close(other[:, 0], (mean - 0.1) / 0.5, atol=0.02, rtol=0)
    torch.testing.assert_close(other[:, 1], (mean - 0.2) / 0.25, atol=0.04, rtol=0)
    assert other[:, 2].tolist() == [8.0] * 20


def test_maps_are_averaged_over_space(tmp_path: Path) -> None:
    images = torch.rand(3, 1, 16, 16)
    got = TorchScriptFeatures(scripted(tmp_path, torch.nn.Identity()), FeatureInput(1, mean=0.0, std=1.0))(images)
    torch.testing.assert_close(got, images.mean((2, 3)))


def test_networks_that_do_not_fit_are_refused_with_the_cure(tmp_path: Path) -> None:
    images = torch.rand(3, 1, 16, 16)
    with pytest.raises(WeightsError, match=r"input of shape \(3, 1, 16, 16\) .*set feature_channels"):
        TorchScriptFeatures(make_features(tmp_path, seed=0), FeatureInput(channels=1))(images)
    with pytest.raises(WeightsError, match=r"makes tuple, not \(B, D\)"):
        TorchScriptFeatures(scripted(tmp_path, Pair()))(images)
    with pytest.raises(WeightsError, match=r"makes \(3, 768\)|makes \(768,\), not"):
        TorchScriptFeatures(scripted(tmp_path, torch.nn.Flatten(0)))(images)


@pytest.mark.parametrize("content", [b"", b"no zip at all", "weights"])
def test_a_file_that_is_no_torchscript_is_refused(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    if isinstance(content, str):
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"network\.pt: not a TorchScript file \(.*\); write one by") as caught:
        TorchScriptFeatures(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"channels": 0}, "feature_channels is 0"),
        ({"size": 0}, "feature_size is 0"),
        ({"mean": [0.1, 0.2]}, "feature_mean has 2 numbers for 1 channels"),
        ({"std": 0.0}, "feature_std is 0.0"),
    ],
)
def test_unfit_inputs_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureInput(**given)


def test_phantoms_stand_in_where_no_folder_is_given(noisy: Path, tmp_path: Path) -> None:
    run_workflow(
        "evaluate", **SMALL["evaluate"], phantom_images=20, generated_dir=str(noisy), run_dir=str(tmp_path / "out"),
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["settings"]["reference_images"] == 4
