"""Fetching radiographs from a DICOMweb server (WADO-RS) into a folder that goes on where it was stopped."""

from __future__ import annotations

import email.message
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from anatodiff.data.errors import DatasetError, Refusal
from anatodiff.data.pacs.address import DicomwebAddress
from anatodiff.data.pacs.instances import INSTANCES_FILE, Instance, read_instances, write_instances
from anatodiff.data.pacs.objects import (
    ENDING,
    GIGABYTE,
    RADIOGRAPH_CLASSES,
    SEND_AGAIN,
    bytes_in,
    check_object,
    is_uid,
    object_file,
    private_folder,
    write_private,
)
from anatodiff.data.pacs.query import find_instances
from anatodiff.data.pacs.session import BUSY, CutError, PacsSession, ServerError, Sessions, TooLargeError, with_retries
from anatodiff.files import remove_parts, sync_folder
from anatodiff.locks import FileLock

logger = logging.getLogger(__name__)

Wanted = Callable[[str, str], bool]  # of SOP Instance UID and Study Instance UID

THREADS = 4
MAX_GB = 100.0
MAX_GB_VARIABLE = "ANATODIFF_DICOMWEB_MAX_GB"
LOCK_FILE = ".fetch.lock"
TOLD_EVERY = 500  # images
# As it is stored: unpacked it would be several times as much.
ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
# What concerns one object; all else would concern the next one, too.
OF_ONE_OBJECT = frozenset({400, 403, 404, 406, 409, 410, 415, 500, 501})
GONE = frozenset({404, 410})


def fetch_studies(
    address: str | DicomwebAddress,
    folder: str | os.PathLike[str],
    wanted: Wanted | None = None,
    threads: int = THREADS,
    max_gb: float | None = None,
) -> Path:
    """Bring a folder to what a DICOMweb server has under an address.

    The server is asked for its list each time; `instances.csv` keeps it. Files that are there are not fetched again, so
    the same call goes on after a kill, and later adds what is new. What is gone from the server goes from the folder,
    too: an archive that takes an image back has its reasons. Where the server does not answer and all of its last list
    is there, that is used, with a warning: a training that goes on at night must not depend on an archive's
    maintenance, and its data are the ones that it had. An object that cannot be had, or is not what was asked for, is
    a row with a reason in `instances.csv`.

    Args:
        address: see `DicomwebAddress.parse`.
        folder: where to; made if missing, readable by this user alone.
        wanted: tells by SOP and Study Instance UID what to fetch; None: all that the search finds.
        threads: objects at a time.
        max_gb: most bytes of the folder, in 10^9; None: ANATODIFF_DICOMWEB_MAX_GB, or 100.

    Returns:
        the folder.

    Raises:
        AddressError: the address cannot be used.
        ServerError: the server does not answer or refuses; the same call goes on.
        DatasetError: nothing is found, or the folder would grow too large.
        DiskFullError: there is no room.
    """
    place = address if isinstance(address, DicomwebAddress) else DicomwebAddress.parse(address)
    limit = _limit(max_gb)
    target = private_folder(Path(folder))
    lock = FileLock(target / LOCK_FILE)
    if not lock.take():
        logger.info("%s: waiting for process %s, which fetches the same", place.base, lock.holder())
        lock.take(wait=True)
    try:
        remove_parts(target)
        session = PacsSession(place)
        session.warn_if_readable()
        try:
            found = find_instances(place, session)
        except ServerError as error:
            return _as_it_is(target, wanted, error)
        if found.nameless:
            logger.warning("%s: %d answers have no valid UID; they are left out", place.base, found.nameless)
        chosen = _chosen(place, found.instances, wanted)
        _take_away_what_is_gone(target, found.instances)
        write_instances(target, found.instances)
        _Fetch(place, target, limit).run(chosen, found.instances, max(1, threads))
    finally:
        lock.release()
    return target


class _Fetch:
    """One fetch: threads that add files, and what they count together."""

    def __init__(self, address: DicomwebAddress, folder: Path, limit: float) -> None:
        self.address, self.folder, self.limit = address, folder, limit
        self.sessions = Sessions(address)
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self.bytes = bytes_in(folder.glob(f"*{ENDING}"))
        self.done = 0

    def run(self, chosen: list[Instance], listed: list[Instance], threads: int) -> None:
        missing = [row for row in chosen if not object_file(self.folder, row.uid).is_file()]
        if missing:
            logger.info(
                "%s: fetching %d images, %d are here already", self.address.base, len(missing),
                len(chosen) - len(missing),
            )  # fmt: skip
        with ThreadPoolExecutor(threads) as pool:
            try:
                rows = list(pool.map(self.one, missing))
            except BaseException:
                self.stopped.set()  # the threads end their objects, and the pool waits for no others
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        sync_folder(self.folder)
        refused = {row.uid: row for row in rows if row.reason}
        write_instances(self.folder, [refused.get(row.uid, row) for row in listed])
        logger.info(
            "%s: %d images are here, %d of them new; %d could not be had%s", self.address.base,
            len(chosen) - len(refused), len(missing) - len(refused), len(refused),
            f", see {INSTANCES_FILE} in {self.folder}" if refused else "",
        )  # fmt: skip

    def one(self, row: Instance) -> Instance:
        """Fetch an object; returns its row, with the reason where it cannot be had."""
        if self.stopped.is_set():
            return row
        try:
            if row.sop_class and row.sop_class not in RADIOGRAPH_CLASSES:
                raise Refusal("no radiograph by its SOP class", "it is left where it is")
            data = self._object(row)
            check_object(data, row.uid)
            self._count(len(data))
            write_private(object_file(self.folder, row.uid), data)
        except Refusal as refusal:
            row = replace(row, reason=refusal.reason, cure=refusal.cure)
        except BaseException:
            self.stopped.set()
            raise
        with self.lock:
            self.done += 1
            if self.done % TOLD_EVERY == 0:
                logger.info("%s: %d images fetched", self.address.base, self.done)
        return row

    def _object(self, row: Instance) -> bytes:
        # Not by dicomweb-client's own: it hands out what pydicom has read, without a limit on what that unpacks to,
        # and not the bytes that were stored.
        url = f"{self.address.base}/studies/{row.study}/series/{row.series}/instances/{row.uid}"

        def ask() -> bytes:
            answer = self.sessions.session.get(url, headers={"Accept": ACCEPT})
            answer.raise_for_status()
            return only_part(answer.headers.get("Content-Type", ""), answer.content)

        try:
            return with_retries(ask, self.address.base)
        except TooLargeError as error:
            raise Refusal(f"an object of {error}", "no radiograph is that large") from error
        except ServerError as error:
            if error.status not in OF_ONE_OBJECT:
                raise
            if error.status in GONE:
                raise Refusal("the server lists it and does not have it", "it may be fetched another time") from error
            raise Refusal(f"the server answers {error.status} for it", "ask who runs the server") from error

    def _count(self, size: int) -> None:
        with self.lock:
            self.bytes += size
            if self.bytes > self.limit:
                raise DatasetError(
                    f"{self.folder}: would hold more than {self.limit / GIGABYTE:g} GB; search for fewer images, or "
                    f"raise {MAX_GB_VARIABLE}"
                )


def only_part(content_type: str, body: bytes) -> bytes:
    """Take the object out of an answer of several parts, of which it is the only one.

    Args:
        content_type: of the answer.
        body: its bytes.

    Returns:
        the object; of an answer without parts the body.

    Raises:
        Refusal: there is no part.
        CutError: it has no end.
    """
    header = email.message.Message()
    header["Content-Type"] = content_type
    if header.get_content_maintype() != "multipart":
        return body
    boundary = str(header.get_param("boundary") or "").encode()
    start = body.find(b"--" + boundary)
    begin = body.find(b"\r\n\r\n", start) + 4
    end = body.rfind(b"\r\n--" + boundary + b"--")
    if not boundary or start < 0 or begin < 4:
        raise Refusal("the server's answer has no object", SEND_AGAIN)
    if end < begin:
        raise CutError("the answer has no end")
    return body[begin:end]


def _limit(max_gb: float | None) -> float:
    text = os.environ.get(MAX_GB_VARIABLE, "")
    try:
        gigabytes = max_gb if max_gb is not None else float(text or MAX_GB)
    except ValueError as error:
        raise DatasetError(f"{MAX_GB_VARIABLE} is no number; set it to a number of gigabytes") from error
    return gigabytes * GIGABYTE


def _chosen(address: DicomwebAddress, listed: list[Instance], wanted: Wanted | None) -> list[Instance]:
    if not listed:
        raise DatasetError(
            f"{address.base}: the search finds no image of {', '.join(address.modalities)}; check what stands after "
            "the question mark of the address"
        )
    chosen = [row for row in listed if wanted is None or wanted(row.uid, row.study)]
    if not chosen:
        raise DatasetError(
            f"{address.base}: none of the {len(listed)} images that the search finds is in the table of labels; it "
            "names SOP Instance UIDs (column file) or Study Instance UIDs (column study)"
        )
    return chosen


def _take_away_what_is_gone(folder: Path, listed: list[Instance]) -> None:
    there = {row.uid for row in listed}
    gone = [file for file in folder.glob(f"*{ENDING}") if is_uid(file.stem) and file.stem not in there]
    for file in gone:
        file.unlink(missing_ok=True)
    if gone:
        logger.warning("%s: took away %d images that the server no longer has", folder, len(gone))


def _as_it_is(folder: Path, wanted: Wanted | None, error: ServerError) -> Path:
    """Use what is there, if the server is down and nothing of what it last had is missing."""
    listed = read_instances(folder)
    rows = [row for row in listed if wanted is None or wanted(row.uid, row.study)]
    whole = bool(rows) and all(row.reason or object_file(folder, row.uid).is_file() for row in rows)
    if not whole or error.status not in BUSY | {0}:
        raise error
    logger.warning("%s; USING THE %d IMAGES THAT WERE FETCHED BEFORE, in %s", error, len(rows), folder)
    return folder
