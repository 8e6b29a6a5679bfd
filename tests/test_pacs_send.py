"""Addresses of DICOMweb servers, and sending to them: what is refused, what is sent, what is said of each object."""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
import pytest
from dicomweb import Answer, Archive, serving

from anatodiff.data.pacs import session
from anatodiff.data.pacs.address import AddressError, DicomwebAddress
from anatodiff.data.pacs.send import SendError, send_by_stow

OBJECTS = 6


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies and no long waits."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(session, "FIRST_WAIT", 0.01)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive", OBJECTS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://doctor:secret@host/dicom-web", "holds a user or a password"),
        ("https://host/dicom-web?Modalty=DX", "did you mean Modality"),
        ("https://host/dicom-web?00100021=x&zz=1", "no attribute of DICOM"),
        ("https://host/dicom-web?StudyDate=", "has no value"),
        ("https://host/dicom-web?Modality=DX&00080060=CR", "given twice"),
        ("https:///dicom-web", "no host"),
        ("http://host:port/", "broken"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused_and_its_secrets_are_not_repeated(text: str, words: str) -> None:
    with pytest.raises(AddressError, match=words) as error:
        DicomwebAddress.parse(text)
    assert "secret" not in str(error.value)


def test_an_address_says_what_is_searched_for() -> None:
    place = DicomwebAddress.parse("https://Host/dicom-web/?00180015=CHEST&StudyDate=20200101-20201231")
    assert place.base == "https://host/dicom-web" and place.modalities == ("DX", "CR", "RG")
    assert place.filters == (("BodyPartExamined", "CHEST"), ("StudyDate", "20200101-20201231"))
    same = DicomwebAddress.parse("https://host/dicom-web?StudyDate=20200101-20201231&BodyPartExamined=CHEST")
    assert same.folder_name == place.folder_name
    assert DicomwebAddress.parse("https://host/dicom-web?Modality=dx,CR").modalities == ("DX", "CR")


def test_stow_sends_what_is_synthetic_once_and_says_what_was_not_stored(archive: Archive, tmp_path: Path) -> None:
    files = sorted(archive.folder.glob("*.dcm"))
    target = Archive(tmp_path / "target", 0)
    lost = next(iter(archive.objects))
    reply = target._store

    def loses_one(body: bytes) -> Answer:
        status, headers, content = reply(body)
        return status, headers, content.replace(lost.encode(), b"9.9.9")

    target._store = loses_one  # type: ignore[method-assign]
    with serving(target) as base:
        first = send_by_stow(files, base)
        assert {one.uid for one in first if not one.stored} == {lost}
        target._store, posts = reply, len(target.asked)  # type: ignore[method-assign]
        target.stored.clear()
        second = send_by_stow(files, base)
        assert set(target.stored) == {lost} and all(one.stored for one in second)
        assert [one.before for one in second] == [one.uid != lost for one in second]
        assert len(send_by_stow(files, base)) == len(files) and len(target.asked) == posts + 1


def test_a_refusal_of_all_says_which_and_why(archive: Archive, tmp_path: Path) -> None:
    files, target = sorted(archive.folder.glob("*.dcm")), Archive(tmp_path / "target", 0)
    uids = list(archive.objects)
    rows = [{"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [0xA700]}} for uid in uids]
    content = json.dumps({"00081198": {"vr": "SQ", "Value": rows}}).encode()
    target.wrong = lambda path, time: (409, {"Content-Type": "application/dicom+json"}, content)
    with serving(target) as base:
        results = send_by_stow(files, base)
        assert [(one.uid, one.stored, one.reason) for one in results] == [
            (uid, False, "failure 0xA700") for uid in uids
        ]
        target.wrong = lambda path, time: (200, {"Content-Type": "text/html"}, b"<html>")
        assert {one.reason for one in send_by_stow(files, base)} == {"the server did not say that it stored it"}
        target.wrong = lambda path, time: (307, {"Location": "http://127.0.0.1:9/"}, b"")
        assert not any(one.stored for one in send_by_stow(files, base))  # nothing is sent on to anybody else


def test_what_is_not_marked_synthetic_is_not_sent(archive: Archive, tmp_path: Path) -> None:
    files = sorted(archive.folder.glob("*.dcm"))
    real = pydicom.dcmread(files[3])
    del real[0x0008, 0x001C]
    real.save_as(files[3])
    target = Archive(tmp_path / "target", 0)
    with serving(target) as base:
        with pytest.raises(SendError, match=r"003\.dcm: is not marked synthetic .* Nothing was sent"):
            send_by_stow(files, base)
        assert not target.asked
        assert all(one.stored for one in send_by_stow(files, base, allow_real=True))
