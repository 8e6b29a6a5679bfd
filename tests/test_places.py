"""Addresses in the place of folders: in every option that reads radiographs, and without what talks to servers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dicomweb import Archive, serving

from anatodiff.data.pacs import session
from anatodiff.engines import places
from anatodiff.engines.places import local_folder
from anatodiff.engines.workflow import OptionError

Run = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive", 12)


@pytest.fixture
def address(archive: Archive) -> Iterator[str]:
    with serving(archive) as base:
        yield base


def test_an_evaluation_reads_three_addresses(address: str, archive: Archive, run: Run, tmp_path: Path) -> None:
    train, reference = (f"{address}?Modality=CR&PatientID={name}" for name in ("train", "reference"))
    for number, (dataset, _) in enumerate(archive.objects.values()):
        dataset.PatientID = "train" if number < 6 else "reference"  # as the server knows it
    out = run(
        "evaluate", generated_dir=f"{address}?Modality=CR", train_dir=train, reference_dir=reference, dataset_dir=None,
        output_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    assert json.loads((out / "evaluation.json").read_text())["metrics"]
    assert len(list((tmp_path / "cache" / "dicomweb").iterdir())) == 3
    for file in out.rglob("*"):
        if file.suffix in (".json", ".csv", ".html"):
            assert "dicom-web" not in file.read_text(), file


def test_a_base_reads_its_second_images_and_their_labels_from_addresses(
    address: str, archive: Archive, run: Run, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    rows = [f"{uid},{'sick' if number % 2 else 'well'},p{number}" for number, uid in enumerate(archive.objects)]
    table.write_text("\n".join(["file,label,patient_id", *rows]) + "\n")
    out = run("pretrain", dataset_dir=address, labels_path=str(table), extra_dir=f"{address}?Modality=CR")
    manifest = (out / "dit.manifest.json").read_text()
    assert "dicom-web" not in manifest and "labels_path" not in manifest
    assert '"sick"' in (out / "dit.safetensors").read_bytes()[:20_000].decode("utf-8", "replace").replace('\\"', '"')


def test_a_server_that_is_down_is_the_last_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "FIRST_WAIT", 0.01)
    with pytest.raises(
        session.ServerError, match=r"127.0.0.1:9/dicom-web: the DICOMweb server does not answer .* it goes on"
    ):
        run("prepare", dataset_dir="http://127.0.0.1:9/dicom-web?PatientID=1")


def test_samples_are_written_to_folders_only(run: Run, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="not to an address"):
        run("inference", dataset_dir="https://host/dicom-web", run_dir=str(tmp_path))


def test_only_the_main_process_fetches(address: str, archive: Archive, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "is_main", lambda: False)
        folder = local_folder(address, tmp_path)
    assert not archive.asked
    assert local_folder(address, tmp_path) == folder and len(list(folder.glob("*.dcm"))) == 12


def test_without_a_client_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("dicomweb_client") or "data.pacs" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dicomweb_client", None)
    with pytest.raises(OptionError, match=r"pip install 'anatodiff\[pacs\]'"):
        local_folder("https://host/dicom-web", tmp_path)
    assert local_folder(tmp_path, tmp_path) == tmp_path
