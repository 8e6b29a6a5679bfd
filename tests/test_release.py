"""Copies of training images are not released by the sampling: on a sampler that gives one back, and on real runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from support import SIZE, smooth_pictures, write_pictures

from anatodiff.autoencoders import ImageDataset
from anatodiff.data import make_datalist, read_radiograph
from anatodiff.engines import SampleRequests, SampleWriter, copy_refusal, sampling_batch
from anatodiff.engines.manifest import Provenance
from anatodiff.engines.release import CopyRefusal, ReleaseError
from anatodiff.engines.workflow import OptionError

Run = Callable[..., Path]
CLASSES = ["common", "rare"]


class Means:
    """Describes an image by its means in squares: a cheap network of features."""

    name, sha256 = "means", ""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images.float(), 8).flatten(1) - 0.5  # (N, 64)


class GivesBack(Inferer):
    """Samples new images, but for some (class, number) a given one."""

    def __init__(self, given: dict[tuple[int, int], torch.Tensor]) -> None:
        self.given = given

    def __call__(self, inputs, network, class_labels):  # type: ignore[no-untyped-def]
        keys = zip(class_labels.tolist(), inputs.tolist(), strict=True)
        return torch.stack([self.given.get(key, torch.full((1, SIZE, SIZE), 0.5)) for key in keys])


def images_in(folder: Path, n: int, seed: int) -> ImageDataset:
    write_pictures(folder, smooth_pictures(n, seed))
    return ImageDataset(make_datalist(folder, test_fraction=0).train, SIZE, folder / "cache")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageDataset, ImageDataset]:
    """Training and held-out images."""
    root = tmp_path_factory.mktemp("real")
    return images_in(root / "train", 12, seed=0), images_in(root / "held_out", 30, seed=1)


def sampled(folder: Path, refusal: CopyRefusal | None, given: dict[tuple[int, int], torch.Tensor]) -> set[str]:
    """Sample three images of each class, some of them given; returns the names of the files."""
    provenance = Provenance({"adapter": "hash"}, {"data": "CC0"}, {"seed": 1})
    writer = SampleWriter(folder, CLASSES, provenance, ("dcm", "png"), overwrite=True, refusal=refusal)
    SupervisedEvaluator(
        device=torch.device("cpu"), val_data_loader=SampleRequests(3, CLASSES, 4), network=torch.nn.Identity(),
        prepare_batch=sampling_batch, inferer=GivesBack(given), val_handlers=[writer], decollate=False,
    ).run()  # fmt: skip
    return {file.name for file in folder.iterdir()}


def test_a_training_image_is_never_written(
    real: tuple[ImageDataset, ImageDataset], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training, held_out = real
    fresh = smooth_pictures(6, seed=2)
    given = {(k // 3, k % 3): fresh[k] for k in range(6)}
    given |= {(0, 1): training.images[4].float().flip(2), (1, 2): 0.8 * training.images[7].float() + 0.1}
    everything = sampled(tmp_path, None, given)
    assert {"common_00001.dcm", "rare_00002.png", "contact_sheet.png"} < everything
    released = sampled(tmp_path, CopyRefusal(training, held_out, Means()), given)
    copies = {f"{stem}.{ending}" for stem in ("common_00001", "rare_00002") for ending in ("dcm", "png")}
    assert released == everything - copies | {"refused.json"}  # those of the earlier run are gone, too
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["counts"]["refused_as_copies"] == 2
    assert manifest["counts"]["images"] == {"common": 2, "rare": 2}
    assert not {name for name in manifest["files_sha256"] if name.split(".")[0] in ("common_00001", "rare_00002")}
    assert "train04" not in json.dumps(manifest) and "refused.json" not in manifest["files_sha256"]
    record = json.loads((tmp_path / "refused.json").read_text())
    assert record["samples"] == 6
    one, two = record["refused"]
    assert (one["sample"], one["label"], one["number"], one["mirrored"]) == ("common_00001", "common", 1, True)
    assert [row["training_image"] for row in (one, two)] == ["train04.png", "train07.png"]
    assert all(row["similarity"] > row["threshold"] == record["thresholds"][row["view"]] for row in (one, two))
    assert "rare_00002 is not released: a copy of train07.png by" in caplog.text
    sheet = read_radiograph(tmp_path / "contact_sheet.png").pixels
    assert sheet.shape[1] < 3 * SIZE  # two images in each row
    assert sampled(tmp_path, None, given) == everything  # and no list of an earlier run stays


def test_a_new_image_is_written_whatever_its_batch(real: tuple[ImageDataset, ImageDataset], tmp_path: Path) -> None:
    refusal = CopyRefusal(*real, Means())
    files = sampled(tmp_path, refusal, {(0, 0): real[1].images[3].float()})  # a held-out image is no copy
    assert not refusal.refused
    assert len(files) == 2 * 6 + 3


def test_where_all_are_copies_nothing_is_left_to_see(
    real: tuple[ImageDataset, ImageDataset], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {(label, number): real[0].images[number].float() for label in (0, 1) for number in range(3)}
    sampled(tmp_path, None, given)
    assert sampled(tmp_path, CopyRefusal(*real, Means()), given) == {"refused.json"}
    assert "every sample was refused" in caplog.text


def test_a_search_that_would_prove_nothing_is_refused(real: tuple[ImageDataset, ImageDataset]) -> None:
    with pytest.raises(ReleaseError, match=r"planted copies \(as they are.* patients that were not trained on"):
        CopyRefusal(real[0], real[0], Means())


def test_the_workflow_refuses_what_it_is_told_to(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anatodiff.engines.release.ShippedFeatures", lambda device: Means())
    out = run("train", max_epochs=1, measured=[])
    plain = run("inference", run_dir=str(out)) / "generated"
    # The folder of training images gets what the network will sample again.
    sample = torch.from_numpy(read_radiograph(plain / "rare_00001.png").pixels)[None, None]
    places = {
        "refuse_copies_of": write_pictures(tmp_path / "train", torch.cat([smooth_pictures(24, 0), sample])),
        "held_out_dir": write_pictures(tmp_path / "held_out", smooth_pictures(24, 1)),
    }
    checked = tmp_path / "checked"
    run("inference", run_dir=str(out), dataset_dir=str(checked), **places)
    record = json.loads((checked / "refused.json").read_text())
    refused = {row["sample"]: row["training_image"] for row in record["refused"]}
    assert refused["rare_00001"] == "train24.png"
    every = {file.name for file in plain.glob("*.dcm")}
    assert {file.name for file in checked.glob("*.dcm")} == every - {f"{stem}.dcm" for stem in refused}


@pytest.mark.parametrize("given", ["refuse_copies_of", "held_out_dir"])
def test_one_folder_alone_is_refused(given: str, small_images: Path, tmp_path: Path) -> None:
    folders = {"refuse_copies_of": None, "held_out_dir": None, given: str(small_images)}
    missing = next(name for name, folder in folders.items() if folder is None)
    with pytest.raises(OptionError, match=f"{missing} is missing"):
        copy_refusal(**folders, image_size=SIZE, cache_dir=tmp_path)


def test_only_some_classes_are_asked_for() -> None:
    requests = SampleRequests(2, ["a", "b", "c"], batch_size=8, only_classes=["c", "a"])
    (batch,) = list(requests)
    assert (batch["label"].tolist(), batch["number"].tolist()) == ([0, 0, 2, 2], [0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"only_classes has 'd'; the classes are a, b, c"):
        SampleRequests(2, ["a", "b", "c"], batch_size=8, only_classes=["d"])
    with pytest.raises(ValueError, match="only_classes has no class"):
        SampleRequests(2, ["a", "b", "c"], batch_size=8, only_classes=[])
