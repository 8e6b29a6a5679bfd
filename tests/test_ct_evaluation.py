from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image
from support import ROOT, make_lpips, make_vgg16

import anatodiff.engines
from anatodiff.data import DatasetError
from anatodiff.data.ct import HUWindow, write_ct, write_ct_mask
from anatodiff.data.errors import CTError
from anatodiff.engines.ct_downstream import downstream, halves
from anatodiff.engines.ct_evaluation import CTEvaluation, SegmentationSettings
from anatodiff.engines.ct_measures import fidelity, organ_measures, other_requests
from anatodiff.engines.ct_picture import outlined
from anatodiff.engines.ct_samples import read_ct_samples
from anatodiff.engines.ct_segmentation import SegmentationRows, segment, segmentation_network, train_segmentation
from anatodiff.engines.ct_segmentation_file import TorchScriptSegmentation
from anatodiff.engines.workflow import OptionError, cause_of
from anatodiff.metrics import LPIPS, kernel_distance
from anatodiff.weights import WeightsError

SIDE, STEPS = 64, 60
WINDOW = HUWindow(-160.0, 240.0)
ORGANS = ["liver", "spleen"]
DOSES = (0.1, 0.25, 1.0)


class PooledFeatures:
    name, sha256 = "pooled pixels", "0" * 64

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 6).flatten(1)


class Thresholds:
    """Labels made-up slices by their gray levels, after some smoothing."""

    name, sha256 = "thresholds", "1" * 64

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        smooth = torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1)
        return torch.cat([-(smooth - level).abs() for level in (0.3, 0.6, 0.85)], dim=1)


def slices(patients: int, seed: int) -> SimpleNamespace:
    """Stand-in of a CTDataset: a liver and, in every second patient, a spleen, at three doses each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    images, masks, noises, doses, items = [], [], [], [], []
    for patient in range(patients):
        a, b = rng.integers(22, 30), rng.integers(20, 40)
        mask = ((x - a) ** 2 + (y - b) ** 2 < 16**2).astype(np.uint8)
        if patient % 2:
            mask[(x - 53) ** 2 + (y - b) ** 2 < 8**2] = 2
        for dose in DOSES:
            level = 8 / dose**0.5  # HU
            hu = np.array([-40.0, 80.0, 180.0])[mask] + level * rng.standard_normal(mask.shape)
            images.append(WINDOW.to_unit(hu))
            masks.append(mask)
            noises.append(np.full(mask.shape, level))
            doses.append(dose)
            items.append({"patient": f"patient{seed}-{patient}", "label": 0})
    n = len(images)
    return SimpleNamespace(
        items=items, key=f"key{seed}", images=torch.from_numpy(np.stack(images))[:, None].half(),
        noise=torch.from_numpy(np.stack(noises))[:, None].half(), mask=torch.from_numpy(np.stack(masks)),
        has_noise=torch.ones(n, dtype=torch.bool), has_mask=torch.ones(n, dtype=torch.bool),
        doses=torch.tensor(doses), labels=torch.zeros(n, dtype=torch.long), window=WINDOW, organs=list(ORGANS),
    )  # fmt: skip


class Slices(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.images)


@pytest.fixture(scope="module")
def train() -> Any:
    return Slices(**vars(slices(6, seed=0)))


@pytest.fixture(scope="module")
def test() -> Any:
    return Slices(**vars(slices(4, seed=1)))


def write_samples(folder: Path, test: Any, rows: list[int], shown: list[int] | None = None) -> Path:
    """Write requests of held-back rows; each sample shows its own held-back slice, or another one."""
    lines = ["sample,dose,organs,reference"]
    for number, row in enumerate(rows):
        stem = folder / f"sample_{number:05d}"
        hu = WINDOW.to_hu(test.images[row if shown is None else shown[number]].float().numpy())
        write_ct(f"{stem}_ct.nii.gz", hu, (3, 1, 1))
        write_ct_mask(f"{stem}_seg.nii.gz", test.mask[row][None].numpy(), (3, 1, 1))
        write_ct(f"{stem}_noise.nii.gz", test.noise[row].float().numpy(), (3, 1, 1))
        names = [organ for k, organ in enumerate(ORGANS, 1) if bool((test.mask[row] == k).any())]
        lines.append(f"{stem.name},{float(test.doses[row]):g},{';'.join(names)},{row}")
    (folder / "requests.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def perfect(test: Any, tmp_path: Path) -> Path:
    (tmp_path / "samples").mkdir()
    return write_samples(tmp_path / "samples", test, list(range(len(test))))


def evaluated(folder: Path, train: Any, test: Any, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict:
    """Evaluate with thresholds in the place of a network; returns what was written."""
    monkeypatch.setattr("anatodiff.engines.ct_evaluation.segmentation_network", lambda *_: Thresholds())
    out = folder.parent / "out"
    samples = read_ct_samples(folder, test)
    CTEvaluation(samples, train, test, PooledFeatures(), out, cache_dir=folder.parent / "cache", **settings).run()
    return json.loads((out / "ct_metrics.json").read_text())


def test_samples_are_read_as_written(perfect: Path, test: Any) -> None:
    samples = read_ct_samples(perfect, test)
    assert torch.allclose(samples.images, test.images.float(), atol=2e-3)
    assert torch.equal(samples.mask, test.mask)
    assert torch.allclose(samples.noise, test.noise.float(), atol=0.02)
    assert torch.equal(samples.doses, test.doses)
    assert samples.references.tolist() == list(range(len(test)))
    assert bool(samples.has_mask.all() and samples.has_noise.all())


def test_what_was_not_requested_is_not_there(perfect: Path, test: Any) -> None:
    for ending in ("seg", "noise"):
        (perfect / f"sample_00001_{ending}.nii.gz").unlink()
    text = (perfect / "requests.csv").read_text().splitlines()
    (perfect / "requests.csv").write_text("\n".join([*text[:2], "sample_00001,,,", *text[3:]]))
    samples = read_ct_samples(perfect, test)
    assert samples.has_mask.tolist() == samples.has_noise.tolist() == [True, False] + [True] * 10
    assert samples.references[1] == -1
    assert bool(samples.doses[1].isnan())


def test_perfect_samples_reach_the_ceiling(
    perfect: Path, train: Any, test: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = evaluated(perfect, train, test, monkeypatch, pixel_spacing=0.5)
    assert set(record["anatomy"]) == set(ORGANS)
    for organ, measures in record["anatomy"].items():
        for name, found in measures.items():
            assert found["value"]["value"] == pytest.approx(found["real"]["value"], rel=0.05), (organ, name)
        assert measures["dice"]["value"]["value"] > 0.85
        assert measures["dice"]["floor"]["value"] < measures["dice"]["value"]["value"] - 0.1
        assert measures["hausdorff_mm"]["value"]["value"] == measures["hausdorff"]["value"]["value"] / 2
    assert record["anatomy"]["liver"]["dice"]["images"] == 12
    assert record["anatomy"]["spleen"]["dice"]["images"] == 6
    assert record["fidelity"]["kid"]["value"]["value"] < record["fidelity"]["kid"]["real"]["value"]
    noise = record["noise"]["samples"]
    assert noise["falls"] is True
    assert noise["correlation"]["value"] > 0.9
    assert [level["dose"] for level in noise["levels"]] == pytest.approx(DOSES)
    for level in noise["levels"]:
        assert level["measured"]["value"] == pytest.approx(level["requested"], rel=0.1)
        assert level["images"] == 4


def test_wrong_masks_reach_the_floor(test: Any, train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(range(len(test)))
    (tmp_path / "samples").mkdir()
    folder = write_samples(tmp_path / "samples", test, rows, [(row - 3) % 12 for row in rows])  # the patient before
    record = evaluated(folder, train, test, monkeypatch)
    dice = record["anatomy"]["liver"]["dice"]
    assert dice["value"]["value"] < dice["real"]["value"] - 0.1
    assert dice["value"]["value"] == pytest.approx(dice["floor"]["value"], abs=0.15)
    assert "hausdorff_mm" not in record["anatomy"]["liver"]
    assert record["anatomy"]["spleen"]["recall"]["value"]["value"] == 0
    assert record["copies"]["copied"]["value"]["value"] == 0


def test_noise_that_ignores_the_request(test: Any, train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(range(len(test)))
    (tmp_path / "samples").mkdir()
    folder = write_samples(tmp_path / "samples", test, rows, [row - row % 3 + 1 for row in rows])  # always a quarter
    record = evaluated(folder, train, test, monkeypatch)
    assert abs(record["noise"]["samples"]["correlation"]["value"]) < 0.6
    assert record["noise"]["real"]["correlation"]["value"] > 0.9


def test_csv_and_picture(perfect: Path, train: Any, test: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record = evaluated(perfect, train, test, monkeypatch)
    out = perfect.parent / "out"
    with open(out / "ct_evaluation.csv", newline="") as file:
        rows = {(row["group"], row["of"], row["measure"]): row for row in csv.DictReader(file)}
    dice, row = record["anatomy"]["spleen"]["dice"], rows["anatomy", "spleen", "dice"]
    for column in ("value", "real", "floor"):
        assert float(row[column]) == dice[column]["value"]
    assert float(row["stderr"]) == dice["value"]["stderr"]
    assert float(rows["fidelity", "", "kid"]["real"]) == record["fidelity"]["kid"]["real"]["value"]
    assert ("noise", "dose 0.25", "measured_hu") in rows
    with Image.open(out / "ct_report.png") as picture:
        assert picture.height > 5 * SIDE
        assert picture.width > 6 * SIDE
    assert len(record["nearest"]) == 12
    assert not list(out.rglob("*.part"))


def test_fidelity_is_that_of_the_metrics(perfect: Path, train: Any, test: Any, tmp_path: Path) -> None:
    samples, features = read_ct_samples(perfect, test), PooledFeatures()
    found = fidelity(features, samples, train, test, lpips=LPIPS(make_vgg16(tmp_path, 0), make_lpips(tmp_path, 0)))
    expected = kernel_distance(features(test.images), features(samples.images))
    assert found["kid"].value.value == pytest.approx(expected.value)
    assert found["kid"].value.stderr == pytest.approx(expected.stderr)
    assert found["lpips"].value.value == pytest.approx(0, abs=1e-3)  # each is its own reference
    assert found["lpips"].real is not None
    assert found["lpips"].real.value > 10 * found["lpips"].value.value


def test_copied_training_slices_are_found(
    train: Any, test: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "samples").mkdir()
    folder = write_samples(tmp_path / "samples", train, [0, 4, 8])
    record = evaluated(folder, train, test, monkeypatch)
    assert record["copies"]["copied"]["value"]["value"] == 1
    assert [row["training_row"] for row in record["nearest"]] == [0, 4, 8]


def test_measures_by_hand() -> None:
    found, target = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8)
    target[0, 2:4, 2:6] = 1  # 8 pixels
    found[0, 2:4, 4:8] = 1  # 8, 4 of them right, each border 2 away
    target[1, :2, :2] = 1  # not found
    found[2, 0, 0] = 1  # not in the target: another organ's business
    measures = organ_measures(found, target, ["liver"], pixel_spacing=1.5)["liver"]
    expected = {"dice": 0.25, "iou": 1 / 6, "recall": 0.25, "precision": 0.5, "hausdorff": 2, "hausdorff_mm": 3}
    assert {name: measure.value for name, measure in measures.items()} == pytest.approx(expected)
    assert measures["dice"].stderr == pytest.approx(0.25)
    assert measures["hausdorff"].stderr is None  # of one image


def test_another_request_is_another_mask() -> None:
    mask = torch.tensor([0, 0, 1, 2, 2])[:, None, None].expand(-1, 4, 4)
    here, other = other_requests(mask)
    assert here.tolist() == [0, 1, 2, 3, 4]
    assert other.tolist() == [2, 2, 3, 0, 0]
    assert [len(rows) for rows in other_requests(mask[:2])] == [0, 0]


def test_outlines() -> None:
    found, requested = torch.zeros(16, 16), torch.zeros(16, 16)
    found[2:6, 2:6], requested[8:14, 8:14] = 1, 1
    drawn = outlined(torch.full((1, 16, 16), 0.5), found, requested)[0]
    assert set(drawn[2, 2:6].tolist()) == {1.0}
    assert drawn[3, 3] == drawn[10, 10] == drawn[0, 0] == 0.5
    assert set(drawn[8, 8:14].tolist()) == {0.0, 1.0}


@pytest.fixture(scope="module")
def rows(train: Any) -> SegmentationRows:
    return SegmentationRows(train.images, train.mask)


def test_unet_learns_organs_at_every_dose(rows: SegmentationRows, test: Any, tmp_path: Path) -> None:
    network = train_segmentation(rows, 2, STEPS, cache_dir=tmp_path)
    found = segment(network, test.images)
    assert found.dtype == torch.uint8
    for dose in DOSES:
        at = test.doses == dose
        assert organ_measures(found[at], test.mask[at], ORGANS)["liver"]["dice"].value > 0.9
    assert sum(p.numel() for p in network.network.parameters()) < 1_000_000
    first, again = (train_segmentation(rows, 2, 3, cache_dir=tmp_path / name) for name in ("first", "again"))
    assert torch.equal(first(test.images), again(test.images))
    assert segment(network, test.images[:0]).shape == (0, SIDE, SIDE)


def test_training_is_remembered(rows: SegmentationRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train_segmentation(rows, 2, 2, cache_dir=tmp_path)
    monkeypatch.setattr("anatodiff.engines.ct_segmentation._train", None)  # not called again
    assert torch.equal(
        segment(first, rows.images[:2]), segment(train_segmentation(rows, 2, 2, cache_dir=tmp_path), rows.images[:2])
    )
    with pytest.raises(TypeError):
        train_segmentation(rows, 2, 3, cache_dir=tmp_path)
    with pytest.raises(TypeError):
        train_segmentation(rows, 2, 2, seed=1, cache_dir=tmp_path)


def test_labels_survive_reduction(rows: SegmentationRows) -> None:
    small = rows.reduced(32)
    assert small.images.shape == (18, 1, 32, 32)
    share = [float((given.mask == 1).float().mean()) for given in (rows, small)]
    assert share[1] == pytest.approx(share[0], rel=0.05)


class Scripted(torch.nn.Module):
    def __init__(self, outputs: int, divisor: int = 1) -> None:
        super().__init__()
        self.outputs, self.divisor = outputs, divisor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = torch.nn.functional.avg_pool2d(x, self.divisor) - 0.5
        return torch.cat([bright * 0, bright] + [bright - 1] * (self.outputs - 2), dim=1)


class Flat(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


class Picky(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@pytest.mark.parametrize("divisor", [1, 2])
def test_a_network_of_the_users_own(tmp_path: Path, divisor: int) -> None:
    path = tmp_path / "own.pt"
    torch.jit.script(Scripted(3, divisor)).save(str(path))
    image = torch.zeros(1, 1, 32, 32)
    image[..., 8:24, 8:24] = 1
    network = segmentation_network(path, SegmentationRows(image, image[:, 0].byte()), 2, 1)
    assert network is not None
    found = segment(network, image)
    assert found.shape == (1, 32, 32)
    assert found.sum() == pytest.approx(256, abs=40)
    assert network.name == "own.pt"


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Scripted(2), r"own.pt: .* makes \(1, 2, 16, 16\), not \(B, 3, h, w\)"),
        (Flat(), r"own.pt: .* makes \(1, 1\), not"),
        (Picky(), r"own.pt: the network fails on an input of shape \(1, 1, 16, 16\) .*channels.*; save one"),
    ],
)
def test_a_network_that_does_not_fit(tmp_path: Path, network: torch.nn.Module, message: str) -> None:
    path = tmp_path / "own.pt"
    torch.jit.script(network).save(str(path))
    with pytest.raises(WeightsError, match=message):
        TorchScriptSegmentation(path, 2)(torch.rand(1, 1, 16, 16))


def test_no_network_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file; give segmentation_network"):
        TorchScriptSegmentation(tmp_path / "none.pt", 1)
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(WeightsError, match="not a TorchScript file"):
        TorchScriptSegmentation(tmp_path / "text.pt", 1)


def test_downstream_measures_patients_that_no_sample_shows(perfect: Path, train: Any, test: Any) -> None:
    samples = read_ct_samples(perfect, test)
    parts = halves(samples, test)
    shown = {test.items[row]["patient"] for row in samples.references[parts.samples].tolist()}
    measured = {item["patient"] for item, chosen in zip(test.items, parts.slices, strict=True) if chosen}
    assert len(shown) == len(measured) == 2
    assert not shown & measured
    # Without names of patients, slices of one mask are one.
    unnamed = Slices(**{**vars(test), "items": [{} for _ in test.items]})
    parts = halves(samples, unnamed)
    masks = [{test.mask[row].numpy().tobytes() for row in at.nonzero()[:, 0].tolist()} for at in vars(parts).values()]
    assert masks[0]
    assert not masks[0] & masks[1]
    single = Slices(**{**vars(test), "items": [{"patient": "one"} for _ in test.items]})
    with pytest.raises(OptionError, match="raise test_fraction, or leave downstream out"):
        halves(samples, single)


def test_samples_are_worth_something(perfect: Path, train: Any, test: Any, tmp_path: Path) -> None:
    few = Slices(**{name: value[:3] if name not in ("window", "organs", "key") else value
                    for name, value in vars(train).items()})  # fmt: skip
    found = downstream(read_ct_samples(perfect, test), few, test, 15, (0, 1), cache_dir=tmp_path)
    liver = found["liver"]["dice"]
    assert liver.difference.value == pytest.approx(liver.both.value - liver.real.value)
    assert liver.interval.mean == pytest.approx(liver.difference.value)
    assert liver.slices == 6
    assert liver.both.stderr is not None


def without(text: str, number: int) -> str:
    lines = text.splitlines()
    return "\n".join(lines[:number] + lines[number + 1 :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + "sample_00099,,,\n", r"requests.csv: row 'sample_00099' has no .*; take it out"),
        (lambda text: without(text, 3), r"requests.csv: no row for 'sample_00002' \(1 samples have none\)"),
        (lambda text: text.replace("liver", "lung"), r"requests.csv: .* names the organs lung.*; give organs"),
        (lambda text: text.replace("liver;spleen", "spleen;liver"), r"requests.csv: .* names the organs spleen;liver"),
        (
            lambda text: text.replace(",11\n", ",12\n"),
            r"held-back slice 12, the data hold back 12; give",
        ),
        (lambda text: text.replace(",11\n", ",x\n"), r"'sample_00011' has a dose or a reference that is no number"),
        (lambda text: text.replace("organs", "parts"), r"requests.csv: lacks the column 'organs'"),
    ],
)
def test_requests_that_do_not_fit(perfect: Path, test: Any, change: Any, message: str) -> None:
    path = perfect / "requests.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(DatasetError, match=message):
        read_ct_samples(perfect, test)


def test_no_samples(tmp_path: Path, test: Any, perfect: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder; give run_dir"):
        read_ct_samples(tmp_path / "none", test)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no samples"):
        read_ct_samples(tmp_path / "empty", test)
    (perfect / "requests.csv").unlink()
    with pytest.raises(DatasetError, match=r"requests\.csv: no such file"):
        read_ct_samples(perfect, test)


def test_samples_of_another_size_or_other_organs(perfect: Path, test: Any) -> None:
    larger = Slices(**{**vars(test), "images": torch.zeros(12, 1, 128, 128)})
    with pytest.raises(CTError, match=r"_ct.nii.gz: 1 x 64 x 64 voxels, not 1 x 128 x 128; give image_size"):
        read_ct_samples(perfect, larger)
    text = (perfect / "requests.csv").read_text()
    (perfect / "requests.csv").write_text(text.replace("liver;spleen", "liver"))
    with pytest.raises(CTError, match=r"sample_00003_seg.nii.gz: shows spleen, which requests.csv does not name"):
        read_ct_samples(perfect, test)
    fewer = Slices(**{**vars(test), "organs": ["liver"]})
    with pytest.raises(CTError, match=r"_seg.nii.gz: label 2 is out of range"):
        read_ct_samples(perfect, fewer)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({"noise_organ": "heart"}, {}, "noise_organ is 'heart', the data have liver, spleen"),
        ({"pixel_spacing": 0.0}, {}, "pixel_spacing is 0.0"),
        ({}, {"has_mask": torch.zeros(18, dtype=torch.bool)}, "no training slice has a mask"),
    ],
)
def test_bad_options(perfect: Path, train: Any, test: Any, settings: dict, changes: dict, message: str) -> None:
    samples = read_ct_samples(perfect, test)
    with pytest.raises(OptionError, match=message):
        CTEvaluation(samples, Slices(**{**vars(train), **changes}), test, PooledFeatures(), "out", **settings)


def test_without_organs_the_rest_is_measured(perfect: Path, train: Any, test: Any, tmp_path: Path) -> None:
    for file in perfect.glob("*_seg.nii.gz"):
        file.unlink()
    text = "\n".join(",".join([*line.split(",")[:2], "", line.split(",")[3]]) for line in
                     (perfect / "requests.csv").read_text().splitlines()[1:])  # fmt: skip
    (perfect / "requests.csv").write_text("sample,dose,organs,reference\n" + text)
    bare = [Slices(**{**vars(given), "organs": []}) for given in (train, test)]
    samples = read_ct_samples(perfect, bare[1])
    CTEvaluation(samples, *bare, PooledFeatures(), tmp_path / "out").run()
    record = json.loads((tmp_path / "out" / "ct_metrics.json").read_text())
    assert {"fidelity", "copies"} <= record.keys()
    assert not {"anatomy", "noise", "downstream"} & record.keys()
    with pytest.raises(OptionError, match="downstream needs masks"):
        CTEvaluation(samples, *bare, PooledFeatures(), "out", SegmentationSettings(downstream=True))


def run_config(**options: Any) -> None:
    workflow = ConfigWorkflow(str(ROOT / "configs" / "ct_evaluate.json"), workflow_type="train", **options)
    try:
        workflow.initialize()
        workflow.run()
    except Exception as error:
        raise cause_of(error) from None
    finally:
        workflow.finalize()


def test_workflow(perfect: Path, train: Any, test: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict] = []

    def ct_slices(part: str, **settings: Any) -> Any:
        asked.append({"part": part, **settings})
        return {"train": train, "test": test}[part]

    monkeypatch.setattr(anatodiff.engines, "ct_slices", ct_slices, raising=False)
    places = {"generated_dir": str(perfect), "output_dir": str(tmp_path / "out"), "cache_dir": str(tmp_path / "cache")}
    run_config(
        **places, segmentation_steps=STEPS, image_size=SIDE, organs=ORGANS, downstream=True, downstream_seeds=[0]
    )
    assert sorted(given.pop("part") for given in asked) == ["test", "train"]  # each is read once
    assert asked[0] == asked[1]
    assert asked[0]["image_size"] == SIDE
    record = json.loads((tmp_path / "out" / "ct_metrics.json").read_text())
    assert record["anatomy"]["liver"]["dice"]["value"]["value"] > 0.9
    assert record["downstream"]["liver"]["dice"]["interval"]["half"] is None  # a single seed tells nothing
    assert (tmp_path / "out" / "ct_report.png").is_file()
    with pytest.raises(OptionError, match="did you mean 'noise_organ'"):
        run_config(**places, noise_organs="liver")
