"""The receiver of C-STORE: who may send, what is kept, and that nothing is kept half."""

from __future__ import annotations

import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest
from dicomweb import write_object
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless
from pynetdicom import AE

from anatodiff.data import make_datalist
from anatodiff.data.pacs import association, receive
from anatodiff.data.pacs.receive import StorageReceiver
from anatodiff.data.pacs.send import send_by_store
from anatodiff.data.pacs.session import ServerError

TITLE, PEER = "ANATODIFF", "SENDER"
CT, SR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.11"
OBJECTS = 4


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(association, "FIRST_WAIT", 0.01)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "sent"
    folder.mkdir()
    for number in range(OBJECTS):
        write_object(folder, number)
    return sorted(folder.glob("*.dcm"))


@contextmanager
def receiving(
    folder: Path, peers: tuple[str, ...] = (f"{PEER}=127.0.0.1",), **limits: float
) -> Iterator[StorageReceiver]:
    receiver = StorageReceiver(folder, TITLE, list(peers), port=0, min_free_gb=limits.pop("min_free_gb", 0), **limits)
    try:
        yield receiver
    finally:
        receiver.stop()


def send(files: list[Path], receiver: StorageReceiver, called: str = TITLE, calling: str = PEER) -> list[str]:
    """Send files by our own sender; returns what was said of each."""
    return [one.reason for one in send_by_store(files, *receiver.address, called, calling)]


def store(dataset: Dataset, receiver: StorageReceiver) -> int:
    """Send one data set by pynetdicom; returns the status, -1 where the association was broken off."""
    application = AE(ae_title=PEER)
    application.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    link = application.associate(*receiver.address, ae_title=TITLE)
    assert link.is_established
    answer = link.send_c_store(dataset)
    link.abort() if "Status" not in answer else link.release()
    return answer.get("Status", -1)


def kept(folder: Path) -> set[str]:
    assert not list(folder.glob(".*.part"))
    return {file.name for file in folder.glob("*.dcm")}


def test_objects_are_kept_as_sent_once_and_for_this_user_alone(
    files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    packed = pydicom.dcmread(files[0])
    packed.PatientName = "SECRET^NAME"
    packed.compress(RLELossless)
    packed.save_as(files[0])
    folder = tmp_path / "incoming"
    with receiving(folder) as receiver:
        assert send(files, receiver) == [""] * OBJECTS
        for note in files[0].parent.glob(".sent-*"):
            note.unlink()
        first = {file: file.stat().st_mtime_ns for file in folder.glob("*.dcm")}
        assert send(files, receiver) == [""] * OBJECTS  # once more: kept once
        application = AE(ae_title=PEER)
        application.add_requested_context(receive.VERIFICATION)
        link = application.associate(*receiver.address, ae_title=TITLE)
        assert link.send_c_echo().Status == 0
        link.release()
    assert {file: file.stat().st_mtime_ns for file in folder.glob("*.dcm")} == first
    for file in files:
        ours = pydicom.dcmread(file)
        theirs = pydicom.dcmread(folder / f"{ours.SOPInstanceUID}.dcm")
        assert theirs == ours and theirs.file_meta.TransferSyntaxUID == ours.file_meta.TransferSyntaxUID
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.glob("*.dcm")} == {0o600}
    assert len(make_datalist(folder, test_fraction=0).train) == OBJECTS
    assert "SECRET" not in caplog.text and "store status=0x0000 peer=SENDER" in caplog.text


@pytest.mark.parametrize(
    ("called", "calling", "peers", "words"),
    [
        ("OTHER", PEER, ("SENDER=127.0.0.1",), "it is not called OTHER"),
        (TITLE, "STRANGER", ("SENDER=127.0.0.1",), "does not know our AE title STRANGER"),
        (TITLE, PEER, ("SENDER=10.1.2.3", "ELSE=127.0.0.1"), "does not know our AE title SENDER"),
    ],
)
def test_only_known_peers_that_call_us_by_name_may_send(
    called: str, calling: str, peers: tuple[str, ...], words: str, files: list[Path], tmp_path: Path
) -> None:
    with receiving(tmp_path / "incoming", peers) as receiver, pytest.raises(ServerError, match=words):
        send(files, receiver, called, calling)
    assert not kept(tmp_path / "incoming")


def test_other_hosts_are_not_even_read_from(
    files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(tmp_path / "incoming", ("SENDER=10.1.2.3",)) as receiver:
        with socket.create_connection(receiver.address, timeout=10) as link:
            assert link.recv(1) == b""
        assert "unknown-host" in caplog.text
        with pytest.raises(ServerError, match="does not answer as a DICOM archive"):
            send(files, receiver)


def test_a_peer_that_announces_gigabytes_is_cut_off(files: list[Path], tmp_path: Path) -> None:
    with receiving(tmp_path / "incoming") as receiver:
        with socket.create_connection(receiver.address, timeout=10) as link:
            link.sendall(b"\x01\x00" + (1 << 31).to_bytes(4, "big") + bytes(100))
            assert link.recv(1) == b""
        assert send(files, receiver) == [""] * OBJECTS


def test_four_send_at_a_time(files: list[Path], tmp_path: Path) -> None:
    with receiving(tmp_path / "incoming") as receiver:
        application = AE(ae_title=PEER)
        application.add_requested_context(receive.VERIFICATION)
        links = [application.associate(*receiver.address, ae_title=TITLE) for _ in range(receive.MAX_ASSOCIATIONS + 1)]
        assert [link.is_established for link in links] == [True] * receive.MAX_ASSOCIATIONS + [False]
        for link in links[:-1]:
            link.release()
        assert send(files, receiver) == [""] * OBJECTS


@pytest.mark.parametrize("sop_class", [CT, SR])
def test_what_is_no_radiograph_is_refused_by_its_class(
    sop_class: str, files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = pydicom.dcmread(files[0])
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    with receiving(tmp_path / "incoming") as receiver:
        assert store(dataset, receiver) == 0x0122
    assert not kept(tmp_path / "incoming") and "no-radiograph" in caplog.text


def test_a_uid_that_leads_elsewhere_or_is_not_the_objects_is_refused(files: list[Path], tmp_path: Path) -> None:
    dataset = pydicom.dcmread(files[0])
    with receiving(tmp_path / "incoming") as receiver:
        for uid in ("../../evil", "/tmp/evil", "1.2/3"):
            dataset.SOPInstanceUID = uid
            assert store(dataset, receiver) == 0xC000
        assert send(files[1:], receiver) == [""] * (OBJECTS - 1)
    assert len(kept(tmp_path / "incoming")) == OBJECTS - 1
    assert not list(tmp_path.rglob("evil*"))


def test_limits_of_the_disk_are_a_status_and_the_rest_is_kept(files: list[Path], tmp_path: Path) -> None:
    size = files[0].stat().st_size
    with receiving(tmp_path / "incoming", max_gb=2.5 * size / 1e9) as receiver:
        assert send(files, receiver) == ["", "", "failure 0xA700", "failure 0xA700"]
    with receiving(tmp_path / "incoming", min_free_gb=1e9) as receiver:
        assert send(files, receiver) == ["", "", "failure 0xA700", "failure 0xA700"]
    assert len(kept(tmp_path / "incoming")) == 2


@contextmanager
def cutting(target: tuple[str, int], after: int) -> Iterator[tuple[tuple[str, int], list[socket.socket]]]:
    """A proxy that breaks the first connection after so many bytes, and lets the others be; and its connections."""
    listener, connections = socket.create_server(("127.0.0.1", 0)), []
    limits = iter([after])

    def pump(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        try:
            while data := source.recv(4096):
                sink.sendall(data[:limit])
                if limit is not None and (limit := limit - len(data)) <= 0:
                    break
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def accept() -> None:
        while True:
            try:
                source, _ = listener.accept()
            except OSError:
                return
            sink = socket.create_connection(target)
            connections.append(sink)
            for ends in ((source, sink, next(limits, None)), (sink, source, None)):
                threading.Thread(target=pump, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname(), connections
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_a_transfer_that_is_cut_leaves_nothing_half_and_is_sent_again(files: list[Path], tmp_path: Path) -> None:
    with receiving(tmp_path / "incoming") as receiver, cutting(receiver.address, 12_000) as (proxy, connections):
        results = send_by_store(files, *proxy, TITLE, PEER)
    assert len(connections) == 2
    assert all(one.stored for one in results)
    assert len(kept(tmp_path / "incoming")) == OBJECTS


def test_a_message_without_an_end_is_broken_off(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving(tmp_path / "incoming") as receiver:
        monkeypatch.setattr(receive, "MAX_MESSAGE_BYTES", files[0].stat().st_size + 2000)
        assert send(files, receiver) == [""] * OBJECTS  # each is counted anew
        dataset = pydicom.dcmread(files[0])
        dataset.SOPInstanceUID = "1.2.3"
        dataset.PixelData = dataset.PixelData + bytes(400_000)
        assert store(dataset, receiver) == -1
    assert "1.2.3.dcm" not in kept(tmp_path / "incoming")


@pytest.mark.parametrize(
    ("title", "peers", "words"),
    [
        ("", ["A=127.0.0.1"], "AE title"),
        ("A" * 17, ["A=127.0.0.1"], "AE title"),
        (TITLE, [], "nobody may send"),
        (TITLE, ["10.1.2.3"], "is not AETITLE=host"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(title: str, peers: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        StorageReceiver(tmp_path / "incoming", title, peers, port=0)


def test_a_port_and_a_folder_are_one_receivers(tmp_path: Path) -> None:
    with receiving(tmp_path / "a") as receiver:
        with pytest.raises(OSError, match="cannot listen there"):
            StorageReceiver(tmp_path / "b", TITLE, ["A=127.0.0.1"], port=receiver.address[1])
        with pytest.raises(ValueError, match="writes to it"):
            StorageReceiver(tmp_path / "a", TITLE, ["A=127.0.0.1"], port=0)
