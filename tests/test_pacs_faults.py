"""What can go wrong between an archive and a folder: each fault, and that the same call then goes on."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import stat
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from dicomweb import Answer, Archive, part, serving

from anatodiff.data import DatasetError, make_datalist
from anatodiff.data.pacs import fetch, session
from anatodiff.data.pacs.address import DicomwebAddress
from anatodiff.data.pacs.fetch import fetch_studies
from anatodiff.data.pacs.instances import read_instances
from anatodiff.data.pacs.session import ServerError
from anatodiff.engines.places import local_folder
from anatodiff.files import DiskFullError

OBJECTS = 6


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials of the user's, no proxies, and no long waits."""
    for name in (session.USER, session.PASSWORD, session.TOKEN, fetch.MAX_GB_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(session, "FIRST_WAIT", 0.01)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive", OBJECTS)


@pytest.fixture
def address(archive: Archive) -> Iterator[str]:
    with serving(archive) as base:
        yield base


def names(folder: Path) -> set[str]:
    return {file.stem for file in folder.glob("*.dcm")}


def reasons(folder: Path) -> dict[str, str]:
    return {row.uid: row.reason for row in read_instances(folder) if row.reason}


def test_what_is_fetched_is_what_is_there_and_nobody_else_may_read_it(
    archive: Archive, address: str, tmp_path: Path
) -> None:
    folder = fetch_studies(address, tmp_path / "deep" / "out")
    assert names(folder) == set(archive.objects)
    for uid, (_, data) in archive.objects.items():
        assert (folder / f"{uid}.dcm").read_bytes() == data
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.glob("[!.]*")} == {0o600}
    assert len(make_datalist(folder).train) + len(make_datalist(folder).test) == OBJECTS


@pytest.mark.parametrize(("page", "pages", "instances"), [(2, True, True), (None, False, True), (2, True, False)])
def test_every_page_is_read_whatever_the_server_makes_of_limits(
    page: int | None, pages: bool, instances: bool, archive: Archive, address: str, tmp_path: Path
) -> None:
    archive.page, archive.pages, archive.instances = page, pages, instances
    assert names(fetch_studies(f"{address}?Modality=CR", tmp_path / "out")) == set(archive.objects)


def test_the_search_is_the_servers_and_a_modality_that_it_ignores_is_seen(
    archive: Archive, address: str, tmp_path: Path
) -> None:
    wanted = archive.add(10, PatientID="wanted")
    archive.add(11, Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    assert names(fetch_studies(f"{address}?PatientID=wanted", tmp_path / "a")) == {wanted}
    found = archive._search
    archive._search = lambda parts, query: found(parts, {})  # type: ignore[method-assign]
    assert names(fetch_studies(address, tmp_path / "b")) == set(archive.objects) - {"1.2.826.0.1.5.3.11"}


def test_new_images_are_added_and_those_gone_are_taken_away(archive: Archive, address: str, tmp_path: Path) -> None:
    folder = fetch_studies(address, tmp_path / "out")
    before = len(archive.fetched())
    new, gone = archive.add(10), next(iter(archive.objects))
    del archive.objects[gone]
    fetch_studies(address, folder)
    assert archive.fetched()[before:] == [new]
    assert names(folder) == set(archive.objects)


def test_a_server_that_is_down_is_said_and_a_whole_folder_is_used(
    archive: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(archive) as base:
        folder = fetch_studies(base, tmp_path / "out")
    assert fetch_studies(base, folder) == folder
    assert f"USING THE {OBJECTS} IMAGES" in caplog.text
    (folder / f"{next(iter(archive.objects))}.dcm").unlink()
    for place in (folder, tmp_path / "new"):
        with pytest.raises(ServerError, match=r"does not answer .*check that it runs") as error:
            fetch_studies(f"{base}?PatientID=secret-name", place)
        shown = "".join(traceback.format_exception(error.value))
        assert base in str(error.value) and "PatientID" not in shown.replace('?PatientID=secret-name", place)', "")


def test_a_transfer_that_is_cut_is_tried_again_and_leaves_no_half_file(archive: Archive, tmp_path: Path) -> None:
    def cut(path: str, time: int) -> int | None:
        return 1000 if "/instances/" in path and time < 3 else None

    with serving(archive, cut) as base:
        folder = fetch_studies(base, tmp_path / "out")
    assert names(folder) == set(archive.objects)

    # For ever, and without a length: nothing but the missing end of the answer shows it.
    broken = next(iter(archive.objects))
    (folder / f"{broken}.dcm").unlink()
    archive.wrong = lambda path, time: part(archive.objects[broken][1][:1000], end=False) if broken in path else None
    with serving(archive) as base, pytest.raises(ServerError, match="it goes on"):
        fetch_studies(base, folder)
    assert names(folder) == set(archive.objects) - {broken}
    assert not list(folder.glob(".*.part"))
    archive.wrong = lambda path, time: None
    before = len(archive.fetched())
    with serving(archive) as base:
        fetch_studies(base, folder)
    assert archive.fetched()[before:] == [broken]


def test_a_busy_server_is_asked_again(archive: Archive, address: str, tmp_path: Path) -> None:
    archive.wrong = lambda path, time: (503, {"Retry-After": "0"}, b"") if time < 3 else None
    assert names(fetch_studies(f"{address}?Modality=CR", tmp_path / "out")) == set(archive.objects)
    archive.wrong = lambda path, time: (429, {}, b"")
    with pytest.raises(ServerError, match="429 Too Many Requests again and again"):
        fetch_studies(address, tmp_path / "other")


def test_objects_that_are_not_what_was_asked_for_are_rows_with_reasons(
    archive: Archive, address: str, tmp_path: Path
) -> None:
    missing, other, text, large, *whole = archive.objects

    def wrong(path: str, time: int) -> Answer | None:
        if path.endswith(missing):
            return 404, {}, b""
        if path.endswith(other):
            return part(archive.objects[whole[0]][1])
        return part(b"<html>" * 100) if path.endswith(text) else None

    archive.wrong = wrong
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "MAX_ANSWER_BYTES", len(archive.objects[large][1]) + 1000)
        archive.objects[large] = (archive.objects[large][0], archive.objects[large][1] + bytes(2000))
        folder = fetch_studies(address, tmp_path / "out")
    assert names(folder) == set(whole)
    found = reasons(folder)
    assert "does not have it" in found[missing]
    assert "another object" in found[other]
    assert "not a DICOM file" in found[text]
    assert "more than" in found[large]
    datalist = make_datalist(folder)
    assert {Path(row.file).stem for row in datalist.rejected} == {missing, other, text, large}


def test_what_is_no_radiograph_is_not_even_asked_for(archive: Archive, address: str, tmp_path: Path) -> None:
    state = archive.add(10, SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1")  # a presentation state that says CR
    folder = fetch_studies(address, tmp_path / "out")
    assert state not in archive.fetched() and "no radiograph" in reasons(folder)[state]


def test_a_uid_that_is_a_path_names_no_file(
    archive: Archive, address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive.strange = ["../../evil", "1.2/../../3", "1.2\x00", "1.2." + "3" * 70]
    folder = fetch_studies(address, tmp_path / "out")
    assert len(names(folder)) == OBJECTS
    assert not list(tmp_path.rglob("evil*"))
    assert "4 answers have no valid UID" in caplog.text


def test_credentials_are_asked_for_and_come_from_the_environment_or_netrc(
    archive: Archive, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    archive.user = "doctor:päss-word"
    with pytest.raises(ServerError, match=r"401 Unauthorized; put the user"):
        fetch_studies(address, tmp_path / "a")
    assert len(archive.asked) == 1  # a refused password is not tried again
    monkeypatch.setenv(session.USER, "doctor")
    monkeypatch.setenv(session.PASSWORD, "päss-word")
    folder = fetch_studies(address, tmp_path / "b")
    assert len(names(folder)) == OBJECTS
    monkeypatch.delenv(session.USER)
    with pytest.raises(ServerError, match="set alone"):
        fetch_studies(address, tmp_path / "c")
    monkeypatch.delenv(session.PASSWORD)
    archive.user = "doctor:pass-word"
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login doctor password pass-word\n")
    (tmp_path / "netrc").chmod(0o600)
    assert len(names(fetch_studies(address, tmp_path / "d"))) == OBJECTS
    monkeypatch.setenv(session.TOKEN, "secret-token")
    with pytest.raises(ServerError, match="401"):
        fetch_studies(address, tmp_path / "e")
    assert archive.headers[-1]["Authorization"] == "Bearer secret-token"
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file.name != "netrc")
    for secret in ("päss-word", "pass-word", "secret-token"):
        assert secret not in caplog.text and secret.encode() not in written


def test_credentials_do_not_follow_to_another_host(
    archive: Archive, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(session.TOKEN, "secret-token")
    (tmp_path / "netrc").write_text("default login doctor password pass-word\n")
    (tmp_path / "netrc").chmod(0o600)
    other = Archive(tmp_path / "other", OBJECTS)
    with serving(other) as elsewhere:
        archive.wrong = lambda path, time: (
            (307, {"Location": elsewhere.removesuffix("/dicom-web") + path}, b"") if "/series/" in path else None
        )
        folder = fetch_studies(address, tmp_path / "out")
    assert names(folder) == set(other.objects)
    assert all("Authorization" in headers for headers in archive.headers)
    assert other.asked and not any("Authorization" in headers for headers in other.headers)


def test_plain_http_to_another_machine_is_warned_of_if_there_are_credentials(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(session.TOKEN, "secret-token")
    for base, warned in (("http://10.1.2.3/x", True), ("https://10.1.2.3/x", False), ("http://127.0.0.1/x", False)):
        caplog.clear()
        session.PacsSession(DicomwebAddress.parse(base)).warn_if_readable()
        assert ("unencrypted" in caplog.text) == warned


def test_the_folder_grows_no_larger_than_allowed(
    archive: Archive, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(next(iter(archive.objects.values()))[1])
    with pytest.raises(DatasetError, match="would hold more than"):
        fetch_studies(address, tmp_path / "out", max_gb=3.5 * size / 1e9)
    assert len(names(tmp_path / "out")) <= 3
    monkeypatch.setenv(fetch.MAX_GB_VARIABLE, "much")
    with pytest.raises(DatasetError, match="is no number"):
        fetch_studies(address, tmp_path / "out")


def test_a_full_disk_is_said_and_the_same_call_goes_on(archive: Archive, address: str, tmp_path: Path) -> None:
    written = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if len(names(tmp_path / "out")) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DiskFullError, match="free some space and start the same command again"):
            fetch_studies(address, tmp_path / "out", threads=1)
    assert len(names(tmp_path / "out")) == 3 and not list((tmp_path / "out").glob(".*.part"))
    assert names(fetch_studies(address, tmp_path / "out")) == set(archive.objects)


def test_a_killed_fetch_goes_on_and_fetches_nothing_twice(archive: Archive, address: str, tmp_path: Path) -> None:
    folder, held = tmp_path / "out", threading.Event()

    def slow(path: str, at: int) -> Answer | None:
        if "/instances/" in path and len(archive.fetched()) > 3 and not held.is_set():
            held.wait(30)
        return None

    archive.wrong = slow
    process = multiprocessing.get_context("fork").Process(target=fetch_studies, args=(address, folder, None, 1))
    process.start()
    end = time.monotonic() + 30
    while len(names(folder)) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.join()
    held.set()
    whole, before = names(folder), len(archive.fetched())
    assert 3 <= len(whole) < OBJECTS
    fetch_studies(address, folder)
    assert sorted(archive.fetched()[before:]) == sorted(set(archive.objects) - whole)
    assert names(folder) == set(archive.objects) and not list(folder.glob(".*.part"))


def test_only_what_a_table_names_is_fetched_and_studies_label_their_images(
    archive: Archive, address: str, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    first, second, *_ = archive.objects
    table.write_text(f"file,label\n{first},sick\n{second},well\n1.2.3,sick\n")
    folder = local_folder(address, tmp_path / "cache", table)
    assert names(folder) == {first, second}
    datalist = make_datalist(folder, test_fraction=0, labels_path=table)
    assert {Path(row["image"]).stem: datalist.classes[row["label"]] for row in datalist.train} == {
        first: "sick", second: "well",
    }  # fmt: skip
    assert [(Path(row.file).name, "no such image" in row.reason) for row in datalist.rejected] == [("1.2.3", True)]

    table.write_text("study,label\n1.2.826.0.1.0.1,sick\n1.2.826.0.1.2.1,well\n9.9,well\n")
    datalist = make_datalist(local_folder(address, tmp_path / "cache", table), 0, labels_path=table)
    labels = {Path(row["image"]).stem: datalist.classes[row["label"]] for row in datalist.train}
    assert labels == {
        uid: "sick" if ".1.0.3" in uid else "well" for uid in archive.objects if ".1.0.3" in uid or ".1.2.3" in uid
    }
    assert [row.reason for row in datalist.rejected] == ["no image of this study"]
    # The same of any folder, by what stands in the files.
    for uid, (_, data) in archive.objects.items():
        (tmp_path / "plain").mkdir(exist_ok=True)
        (tmp_path / "plain" / f"export-{uid}.dcm").write_bytes(data)
    plain = make_datalist(tmp_path / "plain", 0, labels_path=table)
    assert len(plain.train) == len(labels) and plain.classes == ["sick", "well"]

    table.write_text("file,label\n8.8,sick\n")
    with pytest.raises(DatasetError, match="none of the 6 images"):
        local_folder(address, tmp_path / "cache", table)


def test_a_list_of_somebody_else_is_no_list_of_ours(tmp_path: Path) -> None:
    (tmp_path / "instances.csv").write_text("file,what\na,b\n")
    assert read_instances(tmp_path) == []
