"""Folders of radiographs: labels, patients, the split, what is rejected and why."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from anatodiff.data import DatasetError, find_radiographs, make_datalist, patient_key, summarise, write_radiograph

GRAY = np.linspace(0, 255, 32 * 40).reshape(32, 40).astype(np.uint8)


def picture(path: Path) -> np.ndarray:
    """An image of its own for each name: copies are used once."""
    changed = GRAY.copy()
    changed[0] = np.frombuffer(blake2b(str(path).encode(), digest_size=40).digest(), np.uint8)
    return changed


def png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(path)).save(path)
    return path


def dicom(path: Path, patient: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = write_radiograph(path.parent / "temporary.dcm", picture(path) / 255.0, label=str(path))
    dataset = pydicom.dcmread(written)
    dataset.PatientID = patient
    dataset.save_as(path)
    written.unlink()
    return path


def table(folder: Path, rows: list[tuple[str, ...]], header: str = "file,label,patient_id") -> None:
    (folder / "labels.csv").write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")


def many(folder: Path, patients: int, images: int, label: str) -> list[tuple[str, ...]]:
    names = [(f"{label}_{p}_{i}.png", label, f"{label}-{p}") for p in range(patients) for i in range(images)]
    for name, _, _ in names:
        png(folder / name)
    return names


def names(entries: list[dict]) -> set[str]:
    return {Path(entry["image"]).name for entry in entries}


def test_flat_folder_is_one_class_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for index in range(5):
        png(tmp_path / f"{index}.png")
    (tmp_path / "README").write_text("read me")
    (tmp_path / "notes.txt").write_text("notes")
    png(tmp_path / ".hidden.png")
    png(tmp_path / ".cache" / "thumb.png")
    datalist = make_datalist(tmp_path)
    assert datalist.classes == ["all"]
    assert names(datalist.train + datalist.test) == {f"{index}.png" for index in range(5)}
    assert len(datalist.test) == 1 and datalist.rejected == []


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    for index in range(3):
        png(tmp_path / "sick" / f"s{index}.png")
        png(tmp_path / "healthy" / "deeper" / f"h{index}.png")
    datalist = make_datalist(tmp_path)
    assert datalist.classes == ["healthy", "sick"]
    for entry in datalist.train + datalist.test:
        assert datalist.classes[entry["label"]] == Path(entry["image"]).relative_to(tmp_path).parts[0]


def test_labels_table_decides_and_patients_stay_together(tmp_path: Path) -> None:
    rows = many(tmp_path, 20, 3, "a") + many(tmp_path, 10, 2, "b")
    png(tmp_path / "not_listed.png")
    table(tmp_path, rows)
    datalist = make_datalist(tmp_path, test_fraction=0.25)
    train, test = ({entry["patient"] for entry in part} for part in (datalist.train, datalist.test))
    assert train.isdisjoint(test) and len(train | test) == 30
    assert len(datalist.train) + len(datalist.test) == len(rows)
    for label, size in (("a", 60), ("b", 20)):
        held_out = sum(datalist.classes[entry["label"]] == label for entry in datalist.test)
        assert abs(held_out - 0.25 * size) <= 2


def test_patients_with_several_labels_stay_together(tmp_path: Path) -> None:
    rows = many(tmp_path, 12, 2, "a")
    rows = [(name, "b" if index % 3 == 0 else "a", patient) for index, (name, _, patient) in enumerate(rows)]
    table(tmp_path, rows)
    datalist = make_datalist(tmp_path, test_fraction=0.4)
    assert {e["patient"] for e in datalist.train}.isdisjoint({e["patient"] for e in datalist.test})


def test_split_follows_the_seed_alone(tmp_path: Path) -> None:
    table(tmp_path, many(tmp_path, 20, 1, "a"))
    first, again, other = (make_datalist(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert names(first.test) != names(other.test)


def test_dicom_patients_are_grouped_without_their_identity(tmp_path: Path) -> None:
    for index in range(12):
        dicom(tmp_path / f"1.2.840.{index}", f"Jane-{index // 3}")  # named by a UID, no ending
    items = find_radiographs(tmp_path)
    assert len({item.patient for item in items}) == 4
    assert items[0].patient == patient_key("Jane-0") and len(items[0].patient) == 16
    datalist = make_datalist(tmp_path, test_fraction=0.3)
    assert len(datalist.test) == 3
    assert "Jane" not in str(datalist)


def test_labels_table_wins_over_the_dicom_patient(tmp_path: Path) -> None:
    for index in range(4):
        dicom(tmp_path / f"{index}.dcm", "SAME")
    table(tmp_path, [(f"{index}.dcm", "a", f"p{index}") for index in range(4)])
    assert len({item.patient for item in find_radiographs(tmp_path)}) == 4


def test_broken_files_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    for index in range(4):
        png(tmp_path / f"{index}.png")
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "scan.tif").write_bytes(b"II*\0" + bytes(50))
    datalist = make_datalist(tmp_path)
    assert len(datalist.train) + len(datalist.test) == 4
    reasons = {Path(row.file).name: row.reason for row in datalist.rejected}
    assert set(reasons) == {"cut.png", "empty.dcm", "scan.tif"}
    assert reasons["empty.dcm"] == "empty file" and "TIFF" in reasons["scan.tif"]
    unchecked = make_datalist(tmp_path, check=False)
    assert len(unchecked.train) + len(unchecked.test) == 7


def test_rows_without_file_or_label_are_rejected(tmp_path: Path) -> None:
    table(tmp_path, [*many(tmp_path, 4, 1, "a"), ("gone.png", "a", "x"), ("a_0_0.PNG", "", "y")])
    reasons = {row.file: row.reason for row in make_datalist(tmp_path, check=False).rejected}
    assert reasons[str(tmp_path / "gone.png")] == "no such file"
    assert reasons[str(tmp_path / "a_0_0.PNG")] == "no label in labels.csv"


def test_max_images_takes_whole_patients_in_proportion(tmp_path: Path) -> None:
    rows = many(tmp_path, 20, 2, "a") + many(tmp_path, 10, 2, "b") + many(tmp_path, 1, 2, "rare")
    table(tmp_path, rows)
    datalist = make_datalist(tmp_path, max_images=30)
    entries = datalist.train + datalist.test
    counts = [sum(entry["label"] == index for entry in entries) for index in range(3)]
    assert datalist.classes == ["a", "b", "rare"]
    assert 26 <= sum(counts) <= 30 and abs(counts[0] - 2 * counts[1]) <= 4 and counts[2] == 2
    per_patient = [entry["patient"] for entry in entries]
    assert all(per_patient.count(patient) == 2 for patient in per_patient)
    assert datalist == make_datalist(tmp_path, max_images=30)


def test_max_images_replaces_rejected_files(tmp_path: Path) -> None:
    for index in range(10):
        png(tmp_path / f"{index}.png")
    chosen = make_datalist(tmp_path, max_images=4)
    broken = Path(chosen.train[0]["image"])
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    again = make_datalist(tmp_path, max_images=4)
    assert len(again.train) + len(again.test) == 4
    assert [row.file for row in again.rejected] == [str(broken)]


def test_no_test_part_on_request(tmp_path: Path) -> None:
    for index in range(3):
        png(tmp_path / f"{index}.png")
    datalist = make_datalist(tmp_path, test_fraction=0)
    assert len(datalist.train) == 3 and datalist.test == []


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_both_parts_have_someone(tmp_path: Path, fraction: float) -> None:
    for index in range(3):
        png(tmp_path / f"{index}.png")
    datalist = make_datalist(tmp_path, test_fraction=fraction)
    assert datalist.train and datalist.test


def test_link_loops_end(tmp_path: Path) -> None:
    for index in range(3):
        png(tmp_path / "a" / f"{index}.png")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    os.symlink(tmp_path / "nowhere.png", tmp_path / "a" / "dangling.png")
    assert len(find_radiographs(tmp_path)) == 3


def fail(folder: Path, **options: object) -> str:
    with pytest.raises(DatasetError) as caught:
        make_datalist(folder, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and ";" in str(caught.value)
    return str(caught.value)


def test_unusable_folders_say_why(tmp_path: Path) -> None:
    assert "no such folder" in fail(tmp_path / "none")
    assert "no images" in fail(tmp_path)
    png(tmp_path / "a.png")
    assert "only one usable image" in fail(tmp_path)
    assert "test_fraction is 1" in fail(tmp_path, test_fraction=1)
    assert "max_images is 1" in fail(tmp_path, max_images=1)
    png(tmp_path / "class" / "b.png")
    assert "beside sub-folders" in fail(tmp_path)


def test_split_folders_are_not_taken_for_classes(tmp_path: Path) -> None:
    png(tmp_path / "train" / "normal" / "a.png")
    png(tmp_path / "test" / "normal" / "b.png")
    assert "splits, not classes" in fail(tmp_path)


def test_no_usable_image_counts_the_reasons(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.dcm").write_bytes(b"")
    (tmp_path / "x.tif").write_bytes(b"II*\0" + bytes(50))
    message = fail(tmp_path)
    assert "3 x empty file" in message and "1 x TIFF" in message


def test_all_of_one_patient(tmp_path: Path) -> None:
    for index in range(3):
        dicom(tmp_path / f"{index}.dcm", "ANONYMOUS")
    assert "one patient" in fail(tmp_path)
    assert len(make_datalist(tmp_path, test_fraction=0).train) == 3


def test_bad_labels_tables(tmp_path: Path) -> None:
    rows = many(tmp_path, 3, 1, "a")
    table(tmp_path, rows, header="name,label,patient_id")
    assert "no column file (found: name, label, patient_id)" in fail(tmp_path)
    table(tmp_path, [])
    assert "no rows" in fail(tmp_path)
    table(tmp_path, [("x.png", "a", "1"), ("y.png", "a", "2")])
    assert "2 x no such file" in fail(tmp_path)
    table(tmp_path, [*rows, (rows[0][0], "b", rows[0][2])])
    assert "listed twice" in fail(tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"file,label\n\xff\xfe,a\n")
    assert "UTF-8" in fail(tmp_path)


def test_summary_names_at_most_ten_rejected_files(tmp_path: Path) -> None:
    table(tmp_path, many(tmp_path, 4, 2, "a") + [(f"gone{index}.png", "a", "x") for index in range(13)])
    text = summarise(make_datalist(tmp_path, test_fraction=0.25))
    lines = text.splitlines()
    assert lines[1].split() == ["a", "8", "4", "6", "2"]
    assert lines[2].split() == ["total", "8", "4", "6", "2"]
    assert lines[3] == "rejected: 13" and sum("no such file" in line for line in lines) == 11
    assert lines[4].split() == ["13", "no", "such", "file"] and lines[-1].strip() == "and 3 more"


def test_real_chest_radiographs(shared_data: Path) -> None:
    datalist = make_datalist(shared_data / "cxr", max_images=60, test_fraction=0.2)
    assert 50 <= len(datalist.train) + len(datalist.test) <= 60
    assert all(row.reason == "the same image" for row in datalist.rejected)
    assert {e["patient"] for e in datalist.train}.isdisjoint({e["patient"] for e in datalist.test})
