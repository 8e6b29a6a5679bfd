"""A small DICOMweb server on loopback that can be told to misbehave."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pydicom

from anatodiff.data import write_radiograph

BOUNDARY = b"part-of-an-answer"
KEYWORDS = {
    "Modality": "00080060", "BodyPartExamined": "00180015", "SOPClassUID": "00080016", "SOPInstanceUID": "00080018",
    "StudyInstanceUID": "0020000D", "SeriesInstanceUID": "0020000E", "PatientID": "00100020",
}  # fmt: skip
CR_STORAGE = "1.2.840.10008.5.1.4.1.1.1"
Answer = tuple[int, dict[str, str], bytes]


def write_object(folder: Path, number: int, **changes: str) -> pydicom.FileDataset:
    """Write a radiograph of a patient of its own as a device would, marked synthetic; returns what was written."""
    y, x = np.mgrid[0:64, 0:64] / 64
    noise = np.random.default_rng(number).random((64, 64))
    path = write_radiograph(folder / "new.dcm", 0.5 + 0.3 * np.sin(5 * x + number) * np.cos(3 * y) + 0.1 * noise)
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CR_STORAGE
    dataset.Modality, dataset.PatientID = "CR", f"patient-{number:03d}"
    dataset.StudyInstanceUID = f"1.2.826.0.1.{number // 2}.1"  # two images of a study
    dataset.SeriesInstanceUID = f"1.2.826.0.1.{number // 2}.2"
    dataset.SOPInstanceUID = f"1.2.826.0.1.{number // 2}.3.{number}"
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    path.unlink()
    dataset.save_as(folder / f"{number:03d}.dcm")
    return dataset


class Archive:
    """What the server holds, what it was asked, and how it answers.

    Args:
        folder: where its objects are written.
        objects: how many.
    """

    def __init__(self, folder: Path, objects: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.objects: dict[str, tuple[pydicom.FileDataset, bytes]] = {}
        for number in range(objects):
            self.add(number)
        self.asked: list[str] = []  # paths
        self.headers: list[dict[str, str]] = []
        self.page: int | None = None  # most rows of an answer
        self.pages = True  # whether offset is read
        self.instances = True  # whether it searches for instances directly
        self.strange: list[str] = []  # UIDs of objects that it lists, too
        self.user: str | None = None  # "name:password"
        self.wrong: Callable[[str, int], Answer | None] = lambda path, time: None  # what to answer instead
        self.times: Counter[str] = Counter()
        self.stored: dict[str, bytes] = {}
        self.lock = threading.Lock()

    def add(self, number: int, **changes: str) -> str:
        dataset = write_object(self.folder, number, **changes)
        uid = str(dataset.SOPInstanceUID)
        self.objects[uid] = (dataset, (self.folder / f"{number:03d}.dcm").read_bytes())
        return uid

    def fetched(self) -> list[str]:
        """UIDs of the objects that were asked for."""
        return [found[1] for path in self.asked if (found := re.search(r"/series/[^/]+/instances/(.+)$", path))]

    def answer(self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> Answer:
        with self.lock:
            self.asked.append(path)
            self.headers.append(headers)
            self.times[path] += 1
            time = self.times[path]
        if self.user is not None:
            expected = "Basic " + base64.b64encode(self.user.encode()).decode()
            if headers.get("Authorization") != expected:
                return 401, {"WWW-Authenticate": "Basic"}, b""
        if (other := self.wrong(path, time)) is not None:
            return other
        if method == "POST":
            return self._store(body)
        parts = path.strip("/").split("/")[1:]
        if len(parts) == 6:
            return part(self.objects[parts[5]][1]) if parts[5] in self.objects else (404, {}, b"")
        if parts == ["instances"] and not self.instances:
            return 400, {}, b"instances are searched for in a series"
        return self._search(parts, query)

    def _search(self, parts: list[str], query: dict[str, str]) -> Answer:
        level = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}[parts[-1]]
        wanted = {key: value for key, value in query.items() if key in KEYWORDS}
        wanted |= dict(zip(("StudyInstanceUID", "SeriesInstanceUID"), parts[1::2], strict=False))
        found = [d for d, _ in self.objects.values() if all(str(d.get(k)) == v for k, v in wanted.items())]
        rows = list({str(d.get(level)): d for d in found}.values())
        if self.pages:
            rows = rows[int(query.get("offset", 0)) :]
        rows = rows[: min(int(query.get("limit", len(rows))), self.page or len(rows))]
        content = [{tag: {"vr": "UI", "Value": [str(d.get(key))]} for key, tag in KEYWORDS.items()} for d in rows]
        content += [{**content[0], KEYWORDS[level]: {"vr": "UI", "Value": [uid]}} for uid in self.strange if content]
        return 200, {"Content-Type": "application/dicom+json"}, json.dumps(content).encode()

    def _store(self, body: bytes) -> Answer:
        done = []
        for piece in body.split(b"\r\n--")[1:-1]:
            data = piece.split(b"\r\n\r\n", 1)[1]
            file = self.folder / "stored.part"
            file.write_bytes(data)
            uid = str(pydicom.dcmread(file).SOPInstanceUID)
            self.stored[uid] = data
            done.append(uid)
        rows = [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in done]
        content = {"00081199": {"vr": "SQ", "Value": rows}, "00081198": {"vr": "SQ", "Value": []}}
        return 200, {"Content-Type": "application/dicom+json"}, json.dumps(content).encode()


def part(data: bytes, end: bool = True) -> Answer:
    """The answer with one object."""
    body = b"--" + BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n" + data
    body += b"\r\n--" + BOUNDARY + b"--\r\n" if end else b""
    return 200, {"Content-Type": f'multipart/related; type="application/dicom"; boundary={BOUNDARY.decode()}'}, body


@contextmanager
def serving(archive: Archive, cut_at: Callable[[str, int], int | None] = lambda path, time: None) -> Iterator[str]:
    """Serve an archive on loopback; yields the address.

    Args:
        archive: what to serve.
        cut_at: by path and how often it was asked: after how many bytes of the answer the connection breaks.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply("GET")

        def do_POST(self) -> None:
            self._reply("POST")

        def _reply(self, method: str) -> None:
            url = urlsplit(self.path)
            sent = self._body()
            status, headers, body = archive.answer(
                method, url.path, dict(parse_qsl(url.query)), dict(self.headers), sent
            )
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            cut = cut_at(url.path, archive.times[url.path])
            self.wfile.write(body[:cut])
            if cut is not None:
                self.close_connection = True

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, format: str, *values: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
