"""Patients' keys and pseudonyms: the same for one user, of no use to another, and never what the file said."""

from __future__ import annotations

import json
import logging
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import Run
from support import options_for, run_workflow

from anatodiff.data import Pseudonyms, SaltError, find_radiographs, patient_key, pseudonyms
from anatodiff.data import write_radiograph as write


def test_pseudonyms_differ_by_salt_and_patient_and_are_not_the_key() -> None:
    one, two = Pseudonyms(bytes(32)), Pseudonyms(b"\1" * 32)
    jane, joe = patient_key("Jane"), patient_key("Joe")
    assert len({one.of(jane), one.of(joe), two.of(jane), two.of(joe), jane, joe}) == 6
    assert one.of(jane) == Pseudonyms(bytes(32)).of(jane) and len(one.of(jane)) == 16
    assert one.salt_id != two.salt_id and bytes(32).hex()[:16] != one.salt_id


def test_salt_is_made_once_for_the_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANATODIFF_SALT")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with ThreadPoolExecutor(8) as pool:
        found = {names.salt for names in pool.map(lambda _: pseudonyms(), range(16))}
    path = tmp_path / "config" / "anatodiff" / "salt"
    assert found == {bytes.fromhex(path.read_text())}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["salt"]
    read = "from anatodiff.data import pseudonyms; print(pseudonyms().salt_id)"
    other = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == pseudonyms().salt_id


@pytest.mark.parametrize("content", ["", "not hexadecimal", "abcd", "00" * 31])
def test_file_that_holds_no_salt_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    path = tmp_path / "salt"
    path.write_text(content)
    monkeypatch.setenv("ANATODIFF_SALT", str(path))
    with pytest.raises(SaltError, match=f"{path}: .*ANATODIFF_SALT"):
        pseudonyms()
    assert path.read_text() == content


def test_salt_that_cannot_be_kept_holds_for_the_process_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ANATODIFF_SALT", str(tmp_path / "file" / "salt"))
    with caplog.at_level(logging.WARNING):
        assert pseudonyms() == pseudonyms()
    assert [record.message for record in caplog.records if "cannot be kept" in record.message] != []


def test_listing_has_pseudonyms(run: Run) -> None:
    out = run("prepare")
    listing = json.loads((out / "datalist.json").read_text())
    rows = listing["train"] + listing["test"]
    assert {row["patient"] for row in rows} == {pseudonyms().of(patient_key(f"patient{i}")) for i in range(14)}
    assert listing["salt"] == pseudonyms().salt_id
    assert not any(patient_key(f"patient{i}") in (out / "datalist.json").read_text() for i in range(14))


def test_listing_of_another_salt_is_said_not_to_tell(
    run: Run, small_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = run("train", split_seed=1)
    options = {**options_for("evaluate", small_images, {}, tmp_path), "generated_dir": str(out / "samples")}
    with pytest.raises(ValueError, match="are in the training part"):
        run_workflow("evaluate", **options, split_seed=5)
    assert "another salt" not in capfd.readouterr().err
    monkeypatch.setenv("ANATODIFF_SALT", str(tmp_path / "another"))
    run_workflow("evaluate", **options, split_seed=5)
    captured = capfd.readouterr()
    assert "datalist.json has pseudonyms of another salt" in captured.out + captured.err


def test_folders_of_single_patients_are_no_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for patient in ("DOE^JANE", "DOE^JOE"):
        for number in range(2):
            path = write(tmp_path / patient / f"{number}.dcm", np.random.default_rng(number).random((40, 40)))
            _rename(path, patient)
    items = find_radiographs(tmp_path)
    assert {item.label for item in items} == {"all"} and len({item.patient for item in items}) == 2
    assert "each of its 2 sub-folders holds one patient" in caplog.text
    assert "DOE" not in caplog.text.replace(str(tmp_path), "")
    (tmp_path / "labels.csv").write_text("file,label\nDOE^JANE/0.dcm,a\nDOE^JOE/0.dcm,b\n")
    assert {item.label for item in find_radiographs(tmp_path)} == {"a", "b"}


def _rename(path: Path, patient: str) -> None:
    dataset = pydicom.dcmread(path)
    dataset.PatientID = patient
    dataset.save_as(path)
