"""Folders as pipelines leave them: copies, links, pipes, names that lead elsewhere; and the table of the rejected."""

from __future__ import annotations

import csv
import errno
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from conftest import Run
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from anatodiff.data import (
    Datalist,
    DatasetError,
    RadiographError,
    find_radiographs,
    make_datalist,
    read_radiograph,
    summarise,
    write_radiograph,
    write_rejected,
)
from anatodiff.data.dicom_file import write_dicom

SHAPE = (40, 50)
REPORT_CLASS = "1.2.840.10008.5.1.4.1.1.88.11"


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE)


def png(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_radiograph(path, pixels(seed))


def dicom(path: Path, seed: int, patient: str, **elements: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = pydicom.dcmread(write_radiograph(path.with_suffix(".tmp.dcm"), pixels(seed)))
    path.with_suffix(".tmp.dcm").unlink()
    dataset.PatientID = patient
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    write_dicom(dataset, str(path))
    return path


def table(folder: Path, *rows: tuple[str, ...]) -> None:
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "label", "patient_id"), *rows])


def used(datalist: Datalist) -> list[str]:
    return sorted(Path(row["image"]).name for row in datalist.train + datalist.test)


def reasons(datalist: Datalist) -> dict[str, str]:
    return {Path(row.file).name: row.whole_reason() for row in datalist.rejected}


def test_copies_by_pixels_and_by_instance_are_used_once(tmp_path: Path) -> None:
    for index in range(4):
        dicom(tmp_path / f"{index}.dcm", index, f"p{index}", SOPInstanceUID=f"1.2.3.{index}")
    (tmp_path / "whole_copy.dcm").write_bytes((tmp_path / "1.dcm").read_bytes())
    dicom(tmp_path / "other_patient.dcm", 2, "somebody else", SOPInstanceUID="1.2.3.77")  # the same pixels
    dicom(tmp_path / "brighter.dcm", 5, "p3", SOPInstanceUID="1.2.3.3")  # the same instance
    datalist = make_datalist(tmp_path)
    assert used(datalist) == ["0.dcm", "1.dcm", "2.dcm", "3.dcm"]
    assert reasons(datalist) == {
        "whole_copy.dcm": "the same image as 1.dcm",
        "other_patient.dcm": "the same image as 2.dcm",
        "brighter.dcm": "the same image as 3.dcm",
    }
    assert make_datalist(tmp_path) == datalist
    assert "3  the same image" in summarise(datalist)


def test_copies_leave_the_split_of_the_others_as_it_was(tmp_path: Path) -> None:
    for index in range(20):
        png(tmp_path / f"{index}a.png", index)
    rows = [(f"{index}a.png", "a", f"p{index}") for index in range(20)]
    copies = [(f"{index}b.png", "a", f"p{19 - index}") for index in range(10)]  # of other patients
    table(tmp_path, *rows, *copies)
    for index in range(10):
        png(tmp_path / f"{index}b.png", 100 + index)
    before = make_datalist(tmp_path, test_fraction=0.5)
    for index in range(10):
        (tmp_path / f"{index}b.png").write_bytes((tmp_path / f"{index}a.png").read_bytes())
    after = make_datalist(tmp_path, test_fraction=0.5)
    for part in ("train", "test"):
        originals = [row for row in getattr(before, part) if row["image"].endswith("a.png")]
        assert getattr(after, part) == originals
    assert len(after.rejected) == 10
    limited = make_datalist(tmp_path, test_fraction=0.5, max_images=15)
    assert len({name[:-5] for name in used(limited)}) == len(used(limited)) <= 15


def test_an_image_with_two_labels_is_not_used_at_all(tmp_path: Path) -> None:
    for index in range(4):
        png(tmp_path / f"{index}.png", index)
    (tmp_path / "again.png").write_bytes((tmp_path / "0.png").read_bytes())
    table(tmp_path, *[(f"{index}.png", "well", f"p{index}") for index in range(4)], ("again.png", "sick", "q"))
    datalist = make_datalist(tmp_path)
    assert used(datalist) == ["1.png", "2.png", "3.png"]
    assert reasons(datalist) == {
        "0.png": "another label for the same image as again.png",
        "again.png": "another label for the same image as 0.png",
    }


def test_mixed_studies_give_their_radiographs(tmp_path: Path) -> None:
    for index in range(3):
        dicom(tmp_path / f"study{index}" / "IM0001", index, f"p{index}", Modality="CR")
        dicom(tmp_path / f"study{index}" / "IM0002", 10 + index, f"p{index}", Modality="MR")
        dicom(
            tmp_path / f"study{index}" / "SR0001", 20 + index, f"p{index}", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11"
        )
    datalist = make_datalist(tmp_path)
    assert used(datalist) == ["IM0001"] * 3
    assert sorted(row.reason.split(" (")[0] for row in datalist.rejected) == ["not a projection radiograph"] * 6


def dicomdir(folder: Path, name: str = "DICOMDIR") -> Path:
    """A directory file whose only record points to a file outside of the folder."""
    dataset = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=bytes(128))
    dataset.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    record = Dataset()
    record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["..", "..", "OUTSIDE"]
    dataset.DirectoryRecordSequence = [record]
    write_dicom(dataset, str(folder / name))
    return folder / name


def test_a_directory_file_is_not_followed(tmp_path: Path) -> None:
    dicom(tmp_path / "OUTSIDE", 9, "outside")
    folder = tmp_path / "a" / "b"
    for index in range(3):
        png(folder / f"{index}.png", index)
    dicomdir(folder)
    dicomdir(folder, "directory.dcm")
    datalist = make_datalist(folder)
    assert used(datalist) == ["0.png", "1.png", "2.png"]
    assert reasons(datalist) == {
        "directory.dcm": "not a projection radiograph (no modality, Media Storage Directory Storage)"
    }


@pytest.mark.parametrize("by_table", [False, True])
def test_pipes_sockets_devices_and_loops_neither_block_nor_loop(tmp_path: Path, by_table: bool) -> None:
    folder = tmp_path / "f"
    for index in range(3):
        png(folder / f"{index}.png", index)
    os.mkfifo(folder / "pipe.dcm")
    (folder / "device.dcm").symlink_to("/dev/zero")
    (folder / "loop.dcm").symlink_to(folder / "loop.dcm")
    (folder / "up").symlink_to(folder)
    (folder / "gone.dcm").symlink_to(folder / "nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.dcm"))  # a socket's path must be short
        hazards = ["pipe.dcm", "device.dcm", "loop.dcm", "gone.dcm", "socket.dcm", "up"]
        if by_table:
            rows = [(f"{index}.png", "a", f"p{index}") for index in range(3)]
            table(folder, *rows, *[(name, "a", name) for name in hazards], ("nul\0.png", "a", "n"))
        datalist = make_datalist(folder)
    assert used(datalist) == ["0.png", "1.png", "2.png"]
    assert len(datalist.rejected) == (len(hazards) + 1 if by_table else 0)
    for name in hazards:
        with pytest.raises(RadiographError, match=r"not a file|no such file|cannot be opened"):
            read_radiograph(folder / name)


@pytest.mark.parametrize("name", ["../secret.png", "../../x", "a/../../secret.png", "@absolute", ".."])
def test_names_that_lead_out_of_the_folder_are_rejected_unopened(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "f"
    secret = png(tmp_path / "secret.png", 9)
    for index in range(3):
        png(folder / f"{index}.png", index)
    name = str(secret) if name == "@absolute" else name
    inside = str(folder.resolve() / "2.png")  # absolute, but inside
    table(folder, ("0.png", "a", "p0"), ("1.png", "a", "p1"), (inside, "a", "p2"), (name, "a", ""))
    opened: list[str] = []
    kept = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest, **more: opened.append(str(path)) or kept(path, *rest, **more))
    datalist = make_datalist(folder)
    assert used(datalist) == ["0.png", "1.png", "2.png"]
    assert [row.reason for row in datalist.rejected] == ["the name leads out of the folder"]
    assert not any("secret" in path for path in opened)


def test_odd_names_are_one_line_each(tmp_path: Path) -> None:
    for index in range(3):
        png(tmp_path / f"{index}.png", index)
    for name in (b"line\nend.png", b"bytes\xff.png", b"escape\x1b[31m.png", b"=cmd|'x'!A1.png"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"\x89PNG\r\n\x1a\n")
    datalist = make_datalist(tmp_path)
    assert len(datalist.rejected) == 4
    text = summarise(datalist)
    assert text.encode() and "\x1b" not in text
    # Class, total and header; that no patient is known; how many are rejected, why, and each of them.
    assert len(text.splitlines()) == 3 + 1 + 2 + 4
    write_rejected(tmp_path / "out" / "rejected.csv", {"dataset_dir": (datalist.root, datalist.rejected)})
    with open(tmp_path / "out" / "rejected.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {
        "line?end.png", "bytes\\udcff.png", "escape?[31m.png", "'=cmd|'x'!A1.png"
    }  # fmt: skip
    assert all(row["folder"] == "dataset_dir" and row["reason"] and row["cure"] for row in rows)


def test_labels_that_cannot_be_printed_are_rejected(tmp_path: Path) -> None:
    for index in range(4):
        png(tmp_path / f"{index}.png", index)
    table(tmp_path, *[(f"{index}.png", "a", f"p{index}") for index in range(3)], ("3.png", "a\nb", "p3"))
    assert reasons(make_datalist(tmp_path)) == {"3.png": "the label has characters that cannot be printed"}


def test_unreadable_files_and_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(4):
        png(tmp_path / "a" / f"{index}.png", index)
    (tmp_path / "b").mkdir()

    def denied(closed: Path, kept: Callable[..., Any]) -> Callable[..., Any]:  # root, as in a container, reads all
        def call(path: Any, *rest: Any, **more: Any) -> Any:
            if str(path) == str(closed):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return kept(path, *rest, **more)

        return call

    monkeypatch.setattr(os, "open", denied(tmp_path / "a" / "0.png", os.open))
    monkeypatch.setattr(os, "scandir", denied(tmp_path / "b", os.scandir))
    assert reasons(make_datalist(tmp_path)) == {
        "0.png": "cannot be opened (Permission denied)", "b": "the folder cannot be read (Permission denied)"
    }  # fmt: skip


def test_only_one_image_left_says_what_happened_to_the_others(tmp_path: Path) -> None:
    for name in "abc":
        png(tmp_path / f"{name}.png", 0)
    with pytest.raises(DatasetError, match=r"only one usable image .*2 x the same image"):
        make_datalist(tmp_path)


def burned_in(folder: Path, files: int) -> None:
    for index in range(files):
        dicom(folder / f"{index}.dcm", index, f"p{index}", BurnedInAnnotation="YES" if index % 2 else "NO")


def test_burned_in_annotation_is_refused_unless_allowed(tmp_path: Path) -> None:
    burned_in(tmp_path, 6)
    datalist = make_datalist(tmp_path)
    assert used(datalist) == ["0.dcm", "2.dcm", "4.dcm"]
    assert {row.reason for row in datalist.rejected} == {"BurnedInAnnotation (0028,0301) is YES"}
    assert "allow_burned_in" in datalist.rejected[0].cure
    assert len(used(make_datalist(tmp_path, allow_burned_in=True))) == 6
    np.testing.assert_allclose(read_radiograph(tmp_path / "1.dcm", allow_burned_in=True).pixels, pixels(1), atol=1e-3)


@pytest.mark.parametrize("name", ["prepare", "train_autoencoder", "evaluate"])
def test_a_run_writes_its_rejected_files(run: Run, small_images: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for file in small_images.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "empty.png").write_bytes(b"")
    with open(folder / "labels.csv", "a") as file:
        file.write("empty.png,rare,patient0\n../x.png,rare,patient0\n")
    run(name, dataset_dir=str(folder))
    out, table_name = tmp_path / "out", "evaluation_rejected.csv" if name == "evaluate" else "rejected.csv"
    with open(out / table_name, newline="") as table_file:
        rows = [tuple(row.values())[:3] for row in csv.DictReader(table_file)]
    assert sorted(rows) == [
        ("dataset_dir", "../x.png", "the name leads out of the folder"),
        ("dataset_dir", "empty.png", "empty file"),
    ]
    if name == "prepare":
        assert len(json.loads((out / "datalist.json").read_text())["rejected"]) == 2


def test_links_to_files_are_used(tmp_path: Path) -> None:
    for index in range(3):
        png(tmp_path / "store" / f"{index}.png", index)
        (tmp_path / "f").mkdir(exist_ok=True)
        (tmp_path / "f" / f"{index}.png").symlink_to(tmp_path / "store" / f"{index}.png")
    assert len(find_radiographs(tmp_path / "f")) == 3
    assert Image.open(tmp_path / "f" / "0.png").size == SHAPE[::-1]
    assert len(used(make_datalist(tmp_path / "f"))) == 3
