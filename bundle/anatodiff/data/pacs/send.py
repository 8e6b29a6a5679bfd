"""Sending synthetic studies to an archive: by C-STORE or by DICOMweb (STOW-RS), and never a real one by mistake."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
import requests
from pydicom.dataset import Dataset

from anatodiff.data.dicom_file import read_elements
from anatodiff.data.dicom_marks import SYNTHETIC_DATA
from anatodiff.data.limits import file_bytes
from anatodiff.data.pacs.address import DicomwebAddress
from anatodiff.data.pacs.association import MAX_CONTEXTS, Archive, Outgoing, store_all
from anatodiff.data.pacs.objects import is_uid
from anatodiff.data.pacs.query import client_of
from anatodiff.data.pacs.session import PacsSession, ServerError, with_retries

logger = logging.getLogger(__name__)

BATCH = 20  # objects in one request
MAX_BATCH_BYTES = 32 << 20
DESTINATION_DIGITS = 16
SYNTHETIC_TAG = f"{SYNTHETIC_DATA:08X}"  # pydicom 2.4 does not know the keyword
CONFLICT = 409  # of objects that were not stored; the answer says which
NOT_SAID = "the server did not say that it stored it"


class SendError(ValueError):
    """Objects that are not sent; the message names the first and the cure."""


@dataclass(frozen=True)
class Sent:
    """What became of one object.

    Attributes:
        file: the file.
        uid: its SOP Instance UID.
        stored: whether the archive has it.
        reason: what the archive said; empty where all went well.
        before: whether an earlier call had sent it.
    """

    file: Path
    uid: str
    stored: bool
    reason: str = ""
    before: bool = False


def send_by_store(
    files: Sequence[str | os.PathLike[str]],
    host: str,
    port: int,
    called: str,
    calling: str = "ANATODIFF",
    allow_real: bool = False,
) -> list[Sent]:
    """Send DICOM files by C-STORE; those that an earlier call brought there are not sent again.

    Args:
        files: DICOM files.
        host: of the archive.
        port: of the archive.
        called: its AE title.
        calling: our AE title.
        allow_real: send also what is not marked synthetic.

    Returns:
        what became of each, in the order of the files.

    Raises:
        SendError: a file is no DICOM object, or not marked synthetic: nothing is sent.
        ServerError: the archive cannot be reached, or refuses us.
    """
    place = f"{host}:{port}"

    def send(objects: list[Outgoing]) -> Iterator[tuple[Outgoing, str]]:
        kinds = sorted({(item.sop_class, item.syntax) for item in objects})
        for start in range(0, len(kinds), MAX_CONTEXTS):
            part = kinds[start : start + MAX_CONTEXTS]
            waiting = [item for item in objects if (item.sop_class, item.syntax) in part]
            yield from store_all(waiting, part, Archive(host, port, called, calling))

    return _send(files, f"{place} {called}", place, allow_real, send)


def send_by_stow(
    files: Sequence[str | os.PathLike[str]], address: str | DicomwebAddress, allow_real: bool = False
) -> list[Sent]:
    """Send DICOM files by STOW-RS; those that an earlier call brought there are not sent again.

    Args:
        files: DICOM files.
        address: of the server, without a search.
        allow_real: send also what is not marked synthetic.

    Returns:
        what became of each, in the order of the files.

    Raises:
        SendError: a file is no DICOM object, or not marked synthetic: nothing is sent.
        ServerError: the server cannot be reached, or refuses us.
    """
    place = address if isinstance(address, DicomwebAddress) else DicomwebAddress.parse(address)
    session = PacsSession(place)
    session.warn_if_readable()
    client = client_of(place, session)
    session.headers["Accept"] = "application/dicom+json"

    def send(objects: list[Outgoing]) -> Iterator[tuple[Outgoing, str]]:
        for batch in _batches(objects):
            datasets = [pydicom.dcmread(item.file) for item in batch]

            def store(datasets: list[pydicom.FileDataset] = datasets) -> Dataset:
                try:
                    return client.store_instances(datasets)
                except requests.HTTPError as error:
                    return _answer_of_conflict(error)

            try:
                answer = with_retries(store, place.base)
            except (ValueError, KeyError, TypeError) as error:  # whatever broken JSON makes pydicom raise
                raise ServerError(f"{place.base}: answers nothing of STOW-RS; check the address") from error
            yield from ((item, _word_of(answer, item.uid)) for item in batch)

    return _send(files, place.base, place.base, allow_real, send)


def _send(
    files: Sequence[str | os.PathLike[str]],
    destination: str,
    shown: str,
    allow_real: bool,
    send: Callable[[list[Outgoing]], Iterator[tuple[Outgoing, str]]],
) -> list[Sent]:
    """Send what was not sent there before, and note each object that arrives beside the files, at once."""
    objects = [_described(Path(file), allow_real) for file in files]
    results: dict[str, Sent] = {}
    for item in objects:
        if item.uid in _sent_before(_note(item.file, destination)):
            results[item.uid] = Sent(item.file, item.uid, True, before=True)
    waiting = list({item.uid: item for item in objects if item.uid not in results}.values())
    for item, reason in send(waiting):
        stored = not reason or reason.startswith("warning")
        results[item.uid] = Sent(item.file, item.uid, stored, reason)
        if stored:
            with open(_note(item.file, destination), "a", encoding="ascii") as note:
                note.write(f"{item.uid}\n")
        else:
            logger.warning("%s: %s did not store it: %s", item.file.name, shown, reason)
    return [results[item.uid] for item in objects]


def _note(file: Path, destination: str) -> Path:
    # The name of the place stays out of a folder that may leave the house.
    digest = hashlib.sha256(destination.encode()).hexdigest()[:DESTINATION_DIGITS]
    return file.parent / f".sent-{digest}.txt"


def _sent_before(note: Path) -> frozenset[str]:
    try:
        lines = note.read_text(encoding="ascii").splitlines(keepends=True)
    except FileNotFoundError:
        return frozenset()
    return frozenset(line.strip() for line in lines if line.endswith("\n") and is_uid(line.strip()))


def _described(file: Path, allow_real: bool) -> Outgoing:
    try:
        data = file_bytes(file)
        header = read_elements(data, ["SOPClassUID", "SOPInstanceUID", SYNTHETIC_TAG])
    except Exception as error:  # whatever a broken file makes pydicom raise
        raise SendError(f"{file}: is no readable DICOM file; leave it out. Nothing was sent") from error
    uid, sop_class = (str(header.get(name) or "").strip() for name in ("SOPInstanceUID", "SOPClassUID"))
    syntax = str(header.file_meta.get("TransferSyntaxUID") or "")
    if not (is_uid(uid) and is_uid(sop_class) and is_uid(syntax)):
        raise SendError(f"{file}: has no SOP instance, SOP class or transfer syntax; leave it out. Nothing was sent")
    if not allow_real and not is_marked(header):
        raise SendError(
            f"{file}: is not marked synthetic (0008,001C), so it may be a patient's; leave it out, or allow real ones "
            "if that is meant. Nothing was sent"
        )
    return Outgoing(file, uid, sop_class, syntax, len(data))


def is_marked(header: Dataset) -> bool:
    """Tell whether an object says of itself that it is synthetic.

    Args:
        header: holds (0008,001C) where the file does.
    """
    value = header[SYNTHETIC_DATA].value if SYNTHETIC_DATA in header else ""
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip() == "YES"


def _batches(objects: list[Outgoing]) -> Iterator[list[Outgoing]]:
    batch: list[Outgoing] = []
    for item in objects:
        if batch and (len(batch) == BATCH or sum(one.size for one in batch) + item.size > MAX_BATCH_BYTES):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _answer_of_conflict(error: requests.HTTPError) -> Dataset:
    if error.response is None or error.response.status_code != CONFLICT:
        raise error
    return Dataset.from_json(error.response.json())


def _word_of(answer: Dataset, uid: str) -> str:
    """Say what a server wrote of one object; Orthanc adds a list of failures also where there are none."""
    for name, attribute in (("ReferencedSOPSequence", "WarningReason"), ("FailedSOPSequence", "FailureReason")):
        for item in answer.get(name) or []:
            if str(item.get("ReferencedSOPInstanceUID") or "") != uid:
                continue
            code = item.get(attribute)
            if name == "FailedSOPSequence":
                return f"failure 0x{int(code or 0):04X}"
            return "" if code is None else f"warning 0x{int(code):04X}"
    return NOT_SAID
