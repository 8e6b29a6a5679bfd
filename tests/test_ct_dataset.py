"""CT as a training takes it: slices at every dose, maps of their noise, masks, and a split without a patient twice."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from anatodiff.autoencoders import CTDataset
from anatodiff.data import CTError, DatasetError, HUWindow, read_ct, read_ct_mask, write_ct, write_ct_mask
from anatodiff.data.ct import make_ct_datalist, organ_labels
from anatodiff.data.phantom import write_ct_phantoms
from anatodiff.data.phantom.ct import LABELS
from anatodiff.transforms import NoiseMap

SIDE, PATIENTS, SLICES = 64, 3, 2
ORGANS = ["liver", "kidneys"]
WINDOW = HUWindow(-300.0, 300.0)
CONDITIONS = ["noise", "mask"]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ct_phantoms(tmp_path_factory.mktemp("ct") / "phantoms", PATIENTS, SLICES, SIDE, seed=1, workers=1)


def copied(phantoms: Path, folder: Path, *without: str) -> Path:
    """Copy the phantoms without some of their files."""
    folder.mkdir()
    for file in phantoms.iterdir():
        if not file.name.endswith(tuple(f"{what}.nii.gz" for what in without)):
            shutil.copy(file, folder)
    return folder


def entries(folder: Path, organs: Any = ORGANS, conditions: Sequence[str] = (), **options: Any) -> list[dict[str, Any]]:
    return make_ct_datalist(folder, organs, list(conditions), **{"test_fraction": 0, **options}).train


def read(items: list[dict[str, Any]], cache: Path, doses: Sequence[float] = (1.0,), **options: Any) -> CTDataset:
    return CTDataset(items, SIDE, cache, WINDOW, doses, **options)


def hounsfield(dataset: CTDataset) -> torch.Tensor:
    return dataset.images.float() * (WINDOW.high - WINDOW.low) + WINDOW.low  # (N, 1, S, S)


@pytest.fixture(scope="module")
def dataset(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> CTDataset:
    return read(entries(phantoms), tmp_path_factory.mktemp("cache"), (0.1, 0.25, 1.0))


def test_every_slice_is_there_at_every_dose(dataset: CTDataset, phantoms: Path) -> None:
    n = PATIENTS * SLICES * 3
    assert len(dataset) == len(dataset.items) == n
    assert dataset.images.shape == dataset.noise.shape == (n, 1, SIDE, SIDE)
    assert (dataset.images.dtype, dataset.noise.dtype, dataset.mask.dtype) == (
        torch.float16,
        torch.float16,
        torch.uint8,
    )
    assert dataset.mask.shape == (n, SIDE, SIDE)
    assert float(dataset.images.min()) >= 0 and float(dataset.images.max()) <= 1
    assert dataset.has_noise.all() and dataset.has_mask.all()
    assert dataset.labels.dtype == torch.int64 and dataset.labels.tolist() == [0] * n
    assert dataset.organs == ORGANS and dataset.window == WINDOW
    spacing = read_ct(phantoms / "abdomen_0000_ct.nii.gz").spacing
    assert spacing is not None
    assert dataset.spacing[:6].tolist() == pytest.approx([spacing[1]] * 6)
    rows = [(item["image"], item["slice"], round(item["dose"], 4)) for item in dataset.items]
    assert len(set(rows)) == n
    assert [row[2] for row in rows] == pytest.approx(dataset.doses.tolist())


def rows_at(dataset: CTDataset, dose: float) -> torch.Tensor:
    """Rows of a dose (m,), in the order of scans and slices."""
    rows = torch.nonzero((dataset.doses - dose).abs() < 1e-6)[:, 0].tolist()
    return torch.tensor(sorted(rows, key=lambda row: (dataset.items[row]["image"], dataset.items[row]["slice"])))


def volumes(folder: Path, what: str) -> torch.Tensor:
    files = sorted(folder.glob(f"*_{what}.nii.gz"))
    return torch.cat([torch.from_numpy(read_ct(file).slices.copy()) for file in files])[:, None]  # (N, 1, S, S)


def test_full_and_available_dose_are_the_files_themselves(dataset: CTDataset, phantoms: Path) -> None:
    for dose, what in ((1.0, "ct"), (0.25, "lowdose")):
        expected = torch.as_tensor(WINDOW.to_unit(volumes(phantoms, what).numpy()))
        torch.testing.assert_close(dataset.images[rows_at(dataset, dose)].float(), expected, atol=5e-4, rtol=0)


def test_noise_goes_as_one_over_the_dose(dataset: CTDataset, phantoms: Path) -> None:
    rows = {dose: rows_at(dataset, dose) for dose in (0.1, 0.25, 1.0)}
    full, low = volumes(phantoms, "ct"), volumes(phantoms, "lowdose")
    # Eq. 9 of the whole noise: what was inserted at a quarter of the dose has the variance 1 / 0.25 - 1 = 3.
    expected = NoiseMap(5)(low - full)
    assert isinstance(expected, torch.Tensor)
    for dose, place in rows.items():
        map_of_dose = dataset.noise[place].float()
        torch.testing.assert_close(map_of_dose, expected * (1 / dose / 3) ** 0.5, rtol=2e-3, atol=0.05)
    images = hounsfield(dataset)
    inside = (images > WINDOW.low + 1) & (images < WINDOW.high - 1)
    inside_all = inside[rows[0.1]] & inside[rows[0.25]] & inside[rows[1.0]]
    added = {dose: (images[place] - images[rows[1.0]])[inside_all].var() for dose, place in rows.items()}
    assert float(added[0.1] / added[0.25]) == pytest.approx((1 / 0.1 - 1) / (1 / 0.25 - 1), rel=0.03)
    assert float(added[1.0]) == 0


def test_masks_show_the_organs_that_are_named(dataset: CTDataset, phantoms: Path, tmp_path: Path) -> None:
    place = rows_at(dataset, 1.0)
    files = sorted(phantoms.glob("*_ct.nii.gz"))
    labels = np.concatenate(
        [read_ct_mask(Path(str(file).replace("_ct.", "_seg.")), read_ct(file)) for file in files]
    )  # (N, S, S)
    liver, kidneys = [LABELS.index(name) for name in ("liver", "liver_lesion")], [LABELS.index("kidneys")]
    expected = np.select([np.isin(labels, kidneys), np.isin(labels, liver)], [2, 1], 0)
    np.testing.assert_array_equal(dataset.mask[place], expected)
    assert (expected == 1).any()
    for dose in (0.1, 0.25):
        assert torch.equal(dataset.mask[rows_at(dataset, dose)], dataset.mask[place])
    other = read(entries(phantoms, {"b": kidneys, "a": [*liver, *kidneys]}), tmp_path)
    assert other.organs == ["b", "a"] and other.key != dataset.key
    np.testing.assert_array_equal(other.mask, np.where(expected > 0, 2, 0))  # the later one is painted over


def test_a_second_construction_reads_no_scan(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = entries(phantoms)[:1]
    first = read(items, tmp_path, (0.25, 1.0))

    def refuse(*_: object) -> None:
        raise AssertionError("a scan is read")

    monkeypatch.setattr("anatodiff.autoencoders.ct_dataset.read_ct_item", refuse)
    second = read(items, tmp_path, (0.25, 1.0))
    assert second.key == first.key and second.items == first.items
    for name in ("images", "noise", "mask", "has_noise", "has_mask", "doses", "spacing", "labels"):
        torch.testing.assert_close(getattr(second, name), getattr(first, name), rtol=0, atol=0, equal_nan=True)
    moved = [{**items[0], "patient": "another"}]
    assert read(moved, tmp_path, (0.25, 1.0)).items[0]["patient"] == "another"
    with pytest.raises(AssertionError, match="a scan is read"):
        read(items, tmp_path, (0.5, 1.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"doses": (0.5,)},
        {"available_dose": 0.5},
        {"slices": 1},
        {"simulate": False},
    ],
    ids=str,
)
def test_another_setting_has_another_key(changes: dict[str, Any], phantoms: Path, tmp_path: Path) -> None:
    items = entries(phantoms)[:1]
    assert read(items, tmp_path).key != read(items, tmp_path, **changes).key


def array(path: Path, n: int = 6, **more: Any) -> Path:
    """Slices of water in air, each with a brightness of its own."""
    hu = np.full((n, 32, 32), -1000.0, np.float32)
    hu[:, 4:-4, 4:-4] = 10.0 * np.arange(n)[:, None, None]
    np.savez_compressed(path, hu=hu, **more)
    return path


def test_an_array_of_several_patients_gives_each_its_rows(tmp_path: Path) -> None:
    array(tmp_path / "a.npz", patient=np.array(["x", "y", "x", "y", "y", "x"]))
    items = entries(tmp_path, conditions=["noise"])
    assert sorted(item["rows"] for item in items) == [(0, 2, 5), (1, 3, 4)]
    data = CTDataset(items, 32, tmp_path / "cache", WINDOW, (1.0,))
    shown = {item["rows"]: [] for item in items}
    for row, item in enumerate(data.items):
        shown[item["rows"]].append(float(hounsfield(data)[row, 0, 16, 16]))
    assert shown[(0, 2, 5)] == pytest.approx([0, 20, 50], abs=0.5)
    assert shown[(1, 3, 4)] == pytest.approx([10, 30, 40], abs=0.5)
    assert data.spacing.isnan().all() and data.has_noise.all() and not data.has_mask.any()
    noise = {item["rows"]: data.noise[row] for row, item in enumerate(data.items)}
    assert not torch.equal(noise[(0, 2, 5)], noise[(1, 3, 4)]), "two patients have the same noise"


@pytest.mark.parametrize("most", [1, 2, 3, 4, 6, 9])
def test_slices_are_spread_evenly(most: int, tmp_path: Path) -> None:
    items = entries(array(tmp_path / "a.npz").parent)
    data = CTDataset(items, 32, tmp_path / "cache", WINDOW, slices=most, simulate=False)
    chosen = [item["slice"] for item in data.items]
    assert len(chosen) == min(most, 6) and chosen == sorted(set(chosen))
    ends = np.arange(len(chosen) + 1) * 6 / len(chosen)  # each stands for a part of the scan of the same length
    assert all(low - 0.5 <= place <= high - 0.5 for place, low, high in zip(chosen, ends, ends[1:], strict=False)), (
        chosen
    )


def test_slices_with_an_organ_come_first(tmp_path: Path) -> None:
    hu = np.zeros((6, 32, 32), np.float32)
    hu[:, 16:] = 50
    mask = np.zeros((6, 32, 32), np.uint8)
    mask[2:4, 8:16, 8:16] = 7
    write_ct(tmp_path / "p_ct.nii.gz", hu, (2.0, 1.5, 1.5))
    write_ct_mask(tmp_path / "p_seg.nii.gz", mask, (2.0, 1.5, 1.5))

    def chosen(organs: dict[str, list[int]]) -> list[int]:
        data = CTDataset(entries(tmp_path, organs), 32, tmp_path / "cache", WINDOW, slices=3, simulate=False)
        assert data.has_mask.all()
        return [item["slice"] for item in data.items]

    assert chosen({"a": [7]}) == [2, 3]
    assert len(chosen({"a": [6]})) == 3  # of an organ that is nowhere: any slices


@pytest.mark.parametrize("shape", [(32, 32), (32, 64)])
def test_spacing_is_that_of_the_resized_slice(shape: tuple[int, int], tmp_path: Path) -> None:
    hu = np.zeros((2, *shape))
    hu[1] = 50
    write_ct(tmp_path / "p_ct.nii.gz", hu, (2.0, 1.5, 1.5))
    data = CTDataset(entries(tmp_path), 16, tmp_path / "cache", WINDOW, simulate=False)
    assert data.spacing.tolist() == pytest.approx([1.5 * max(shape) / 16] * 2)
    if shape[0] < shape[1]:  # padded with air
        assert not data.images[:, :, :4].any() and (data.images[0, :, 6:10] == 0.5).all()


def test_a_low_dose_partner_that_is_missing_is_simulated(phantoms: Path, tmp_path: Path) -> None:
    items = entries(copied(phantoms, tmp_path / "ct", "lowdose"), conditions=["noise"])[:1]
    data = read(items, tmp_path / "cache", (0.1, 0.25, 1.0))
    assert data.has_noise.all() and data.doses.tolist() == pytest.approx([0.1] * 2 + [0.25] * 2 + [1.0] * 2)
    body = data.mask[4:6] > 0
    levels = [float(data.noise[2 * k : 2 * k + 2, 0].float()[body].mean()) for k in range(3)]
    assert levels[0] > levels[1] > levels[2] > 0
    assert levels[1] / levels[2] == pytest.approx(2, rel=0.01)
    # As the phantoms' own low dose, which is of a scan with as many photons.
    true = read(entries(phantoms)[:1], tmp_path / "cache", (0.1, 0.25, 1.0))
    assert levels[1] == pytest.approx(float(true.noise[2:4, 0].float()[body].mean()), rel=0.3)
    again = read(items, tmp_path / "other", (0.1, 0.25, 1.0))
    assert torch.equal(again.noise, data.noise)


def test_without_simulation_a_scan_says_nothing_of_noise(phantoms: Path, tmp_path: Path) -> None:
    folder = copied(phantoms, tmp_path / "ct", "0000_lowdose")
    data = read(entries(folder, conditions=["mask"]), tmp_path / "cache", (0.25, 1.0), simulate=False)
    alone = torch.tensor(["0000" in item["image"] for item in data.items])
    assert int(alone.sum()) == SLICES and data.doses[alone].tolist() == [1.0] * SLICES
    assert torch.equal(data.has_noise, ~alone) and not data.noise[alone].any()
    assert data.noise[~alone].flatten(1).any(1).all()


def test_a_scan_without_a_mask_says_nothing_of_organs(
    phantoms: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(phantoms, tmp_path / "ct", "0001_seg")
    with caplog.at_level(logging.WARNING):
        data = read(entries(folder, conditions=CONDITIONS), tmp_path / "cache")
    alone = torch.tensor(["0001" in item["image"] for item in data.items])
    assert torch.equal(data.has_mask, ~alone) and int(alone.sum()) == SLICES
    assert not data.mask[alone].any()
    assert "1 of 3 scans have no segmentation" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"doses": ()}, "give at least one of each"),
        ({"slices": 0}, "slices_per_scan is 0"),
        ({"doses": (0.0,)}, "dose=0"),
        ({"doses": (1.5,)}, "dose=1.5"),
        ({"available_dose": 1.0}, "available=1"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str, phantoms: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read(entries(phantoms), tmp_path, **options)


def test_no_scans_and_broken_scans_are_named(phantoms: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a split has no scans"):
        read([], tmp_path)
    folder = copied(phantoms, tmp_path / "ct")
    items = entries(folder)
    shifted = nib.load(items[1]["mask"])
    nib.save(nib.Nifti1Image(np.asarray(shifted.dataobj)[:-4], shifted.affine), items[1]["mask"])
    with pytest.raises(CTError, match=r"abdomen_0001_seg\.nii\.gz"):
        read(items, tmp_path / "cache")


@pytest.mark.parametrize("seed", range(3))
def test_a_patient_is_in_one_part_alone(seed: int, tmp_path: Path) -> None:
    for number in range(2):
        array(tmp_path / f"{number}.npz", patient=np.array(["a", "b", "c", "d", "e", "f"]))
    datalist = make_ct_datalist(tmp_path, ORGANS, [], 0.3, seed)
    train, test = ({item["patient"] for item in part} for part in (datalist.train, datalist.test))
    assert len(train) == 4 and len(test) == 2 and not train & test
    assert len(datalist.train) == 8 and datalist.classes == ["ct"]
    again = make_ct_datalist(tmp_path, ORGANS, [], 0.3, seed)
    assert (again.train, again.test) == (datalist.train, datalist.test)


def test_both_parts_have_segmented_scans(phantoms: Path, tmp_path: Path) -> None:
    for number in range(4):
        array(tmp_path / f"{number}.npz")
    folder = copied(phantoms, tmp_path / "ct")
    datalist = make_ct_datalist(folder.parent, ORGANS, CONDITIONS, 0.4)
    for part in (datalist.train, datalist.test):
        assert {item["mask"] is None for item in part} == {True, False}
    entry = next(item for item in datalist.train if item["mask"] is None)
    assert entry["organs"] == {"liver": [], "kidneys": []} and entry["low_dose"] is None and entry["label"] == 0


def test_max_scans_keeps_whole_patients(tmp_path: Path) -> None:
    array(tmp_path / "0.npz", patient=np.array(list("abcdef")))
    array(tmp_path / "1.npz", patient=np.array(list("abcdef")))
    datalist = make_ct_datalist(tmp_path, ORGANS, [], 0.5, max_scans=5)
    patients = [item["patient"] for item in (*datalist.train, *datalist.test)]
    assert len(patients) == 4 and all(patients.count(name) == 2 for name in patients)
    with pytest.raises(DatasetError, match="max_scans is 1; give at least 2"):
        make_ct_datalist(tmp_path, ORGANS, [], max_scans=1)


def test_folders_that_do_not_serve_are_refused(phantoms: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no CT in a layout that is known"):
        make_ct_datalist(tmp_path / "empty", ORGANS, CONDITIONS)
    unsegmented = copied(phantoms, tmp_path / "unsegmented", "seg")
    with pytest.raises(DatasetError, match="no scan has a segmentation; add them, or leave 'mask' out"):
        make_ct_datalist(unsegmented, ORGANS, CONDITIONS)
    assert all(item["mask"] is None for item in entries(unsegmented, conditions=["noise"]))
    full_alone = copied(phantoms, tmp_path / "full", "lowdose")
    with pytest.raises(DatasetError, match="has no low-dose partner; add it, or simulate it by simulate_low_dose True"):
        make_ct_datalist(full_alone, ORGANS, CONDITIONS, simulate_low_dose=False)
    assert len(entries(full_alone, conditions=["mask"], simulate_low_dose=False)) == PATIENTS
    with pytest.raises(DatasetError, match="test_fraction is 1"):
        make_ct_datalist(phantoms, ORGANS, CONDITIONS, 1.0)
    one = copied(phantoms, tmp_path / "one", *(f"{n:04d}_{what}" for n in (1, 2) for what in ("ct", "seg", "lowdose")))
    with pytest.raises(DatasetError, match="all scans are of one patient"):
        make_ct_datalist(one, ORGANS, CONDITIONS)


def test_gray_pictures_are_no_ct(tmp_path: Path) -> None:
    from anatodiff.data import write_radiograph

    for what in ("highdose", "lowdose"):
        write_radiograph(tmp_path / f"p_{what}.png", np.zeros((16, 16), np.float32))
    with pytest.raises(DatasetError, match="no CT in Hounsfield units"):
        make_ct_datalist(tmp_path, ORGANS, CONDITIONS)
    array(tmp_path / "a.npz")
    datalist = make_ct_datalist(tmp_path, ORGANS, [], 0)
    assert len(datalist.train) == len(datalist.rejected) == 1


def test_an_organ_that_is_not_known_matters_where_masks_are_told(phantoms: Path) -> None:
    with pytest.raises(DatasetError, match=r"no organ 'brain', known there are .*liver"):
        entries(phantoms, ["brain"], CONDITIONS)
    items = entries(phantoms, ["brain"], ["noise"])
    assert all(item["mask"] is None and item["organs"] == {"brain": []} for item in items)


@pytest.mark.parametrize(
    ("name", "organs", "expected"),
    [
        ("segmentation-12.nii.gz", ["liver_lesion", "liver"], {"liver_lesion": [2], "liver": [1, 2]}),
        ("s0011_seg117.nii.gz", ["kidneys", "lungs"], {"kidneys": [2, 3], "lungs": [10, 11, 12, 13, 14]}),
        ("p_seg.nii.gz", ["liver", "spleen"], {"liver": [3, 4], "spleen": [5]}),
        ("p_seg.nii.gz", {"tumour": (4, 9)}, {"tumour": [4, 9]}),
        (None, ["liver"], {"liver": []}),
        (None, {"liver": [4]}, {"liver": [4]}),
    ],
    ids=["LiTS", "TotalSegmentator", "phantoms", "labels", "no mask", "labels without mask"],
)
def test_organs_by_name(name: str | None, organs: Any, expected: dict[str, list[int]], tmp_path: Path) -> None:
    (tmp_path / "phantoms.json").write_text(json.dumps({"labels": list(LABELS)}))
    found = organ_labels(organs, None if name is None else tmp_path / name)
    assert found == expected and list(found) == list(expected)


@pytest.mark.parametrize(
    ("name", "organs", "message"),
    [
        ("segmentation-1.nii", ["kidneys"], "no organ 'kidneys', known there are liver, liver_lesion"),
        ("p_seg.nii.gz", ["liver"], "no organ 'liver', its labels' names are not known"),
        (None, [], "organs: 0 of them"),
        (None, {f"organ {k}": [k + 1] for k in range(65)}, "organs: 65 of them"),
        (None, {"liver": [0]}, r"'liver' has labels \[0\]; give whole numbers above 0"),
        (None, {"liver": []}, r"'liver' has labels \[\]"),
        (None, {"liver": [1.5]}, "'liver' has labels"),
        (None, {"liver": 1}, "'liver' has labels 1"),
        (None, {"liver": "1"}, "'liver' has labels 1"),
        (None, {"liver": [True]}, "'liver' has labels"),
    ],
)
def test_organs_that_are_none_are_refused(name: str | None, organs: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        organ_labels(organs, None if name is None else tmp_path / name)
