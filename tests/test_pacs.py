"""A real archive: Orthanc, in a network of its own. Everything that talks to it is a process in that network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from dicomweb import write_object
from support import ROOT, SIZE

from orthanc_server import DICOM_PORT, HTTP_PORT, RECEIVER_PORT, TITLE, OrthancServer, why_not
from round_trip import make_objects

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no Orthanc: {REASON}")
SECONDS = 240
OBJECTS = 40
USER, PASSWORD = "doctor", "not-in-any-log"
USER_VARIABLE, PASSWORD_VARIABLE = "ANATODIFF_DICOMWEB_USER", "ANATODIFF_DICOMWEB_PASSWORD"


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'bundle'}:{ROOT / 'scripts'}", "NO_PROXY": "127.0.0.1", **more}


def finished(command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(**more), timeout=SECONDS)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    """An Orthanc that asks for a password."""
    with OrthancServer(tmp_path_factory.mktemp("orthanc"), users={USER: PASSWORD}) as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("objects")
    for number in range(4):
        write_object(folder, number)
    return sorted(folder.glob("*.dcm"))


def test_radiographs_go_in_by_both_ways_through_a_training_and_synthetic_ones_come_back(
    orthanc: OrthancServer, small_weights: dict[str, str], tmp_path: Path
) -> None:
    options = {
        **small_weights, "image_size": SIZE, "epoch_length": 2, "sampling_steps": 2, "samples_per_class": 6,
        "spm_width": 8, "measured": "[]", "test_fraction": 0.2,
    }  # fmt: skip
    given = [f"{name}={value}" for name, value in options.items()]
    folder = tmp_path / "trip"
    make_objects(folder / "objects", OBJECTS, size=96)
    program = [sys.executable, ROOT / "scripts" / "round_trip.py", "--inside", "--output_dir", folder, "--set", *given]
    done = finished(orthanc.inside(program), **{USER_VARIABLE: USER, PASSWORD_VARIABLE: PASSWORD})
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    record = json.loads((folder / "round_trip.json").read_text())
    assert record["differences"] == [] and len(record["steps"]) == 9
    # What the program says is looked at once more, by the files alone.
    sent = {str(pydicom.dcmread(file).SOPInstanceUID) for file in (folder / "objects").glob("*.dcm")}
    fetched = next((folder / "cache" / "dicomweb").iterdir())
    assert {file.stem for file in fetched.glob("*.dcm")} == sent and len(sent) == OBJECTS
    samples = list((folder / "run" / "samples").glob("*.dcm"))
    back = list((folder / "again").glob("*.dcm"))
    assert len(samples) == len(back) == 6
    pixels = {bytes(pydicom.dcmread(file).PixelData) for file in samples}
    assert {bytes(pydicom.dcmread(file).PixelData) for file in back} == pixels
    assert {pydicom.dcmread(file)[0x0008001C].value for file in back} == {"YES"}
    # Where it came from is in no file that may leave the house, and the password is nowhere.
    for manifest in (folder / "run").rglob("*manifest.json"):
        assert "127.0.0.1" not in manifest.read_text() and "dicom-web" not in manifest.read_text()
    assert not [file for file in folder.rglob("*") if file.is_file() and PASSWORD.encode() in file.read_bytes()]


PROGRAM = """
import sys
from pathlib import Path
from anatodiff.data.pacs.fetch import fetch_studies
from anatodiff.data.pacs.send import send_by_store, send_by_stow
from anatodiff.data.pacs import association, session
session.FIRST_WAIT = association.FIRST_WAIT = 0.01
files, base, port, title, folder = sys.argv[5:], sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])

def attempt(name, step):
    try:
        print(name, step())
    except Exception as error:
        print(name, type(error).__name__, error)

attempt("title", lambda: send_by_store(files, "127.0.0.1", port, "OTHER"))
attempt("port", lambda: send_by_store(files, "127.0.0.1", port + 1, title))
attempt("stored", lambda: sum(one.stored for one in send_by_store(files, "127.0.0.1", port, title)))
attempt("denied", lambda: fetch_studies(base, folder / "denied"))
import os
os.environ[session.USER], os.environ[session.PASSWORD] = os.environ["OTHER_USER"], os.environ["OTHER_PASSWORD"]
attempt("fetched", lambda: len(list(fetch_studies(base, folder / "fetched").glob("1.2.826.0.1.*.dcm"))))
attempt("again", lambda: [one.before for one in send_by_stow(files, base)])
attempt("once more", lambda: [one.before for one in send_by_stow(files, base)])
attempt("searched", lambda: len(list(fetch_studies(base + "?PatientID=patient-002", folder / "one").glob("*.dcm"))))
attempt("down", lambda: fetch_studies(base.replace(":8042", ":8043"), folder / "down"))
"""


def test_wrong_titles_ports_and_passwords_are_said_and_right_ones_work(
    orthanc: OrthancServer, files: list[Path], tmp_path: Path
) -> None:
    program = [sys.executable, "-c", PROGRAM, OrthancServer.base, str(DICOM_PORT), TITLE, str(tmp_path)]
    done = finished(orthanc.inside([*program, *files]), OTHER_USER=USER, OTHER_PASSWORD=PASSWORD)
    assert done.returncode == 0, done.stderr[-3000:]
    said = dict(line.split(" ", 1) for line in done.stdout.replace("once more", "once-more").splitlines())
    assert said["title"].startswith("ServerError") and "it is not called OTHER" in said["title"]
    assert said["port"].startswith("ServerError") and "does not answer as a DICOM archive" in said["port"]
    assert said["stored"] == "4"
    assert said["denied"].startswith("ServerError") and "401 Unauthorized" in said["denied"]
    assert said["fetched"] == "4" and said["searched"] == "1"
    assert said["again"] == str([False] * 4) and said["once-more"] == str([True] * 4)
    assert said["down"].startswith("ServerError") and "check that it runs" in said["down"]
    assert PASSWORD not in done.stdout + done.stderr


def test_an_archive_sends_to_the_receiver_which_ends_on_sigterm(
    orthanc: OrthancServer, files: list[Path], tmp_path: Path
) -> None:
    """Orthanc is given the files by its own interface, told to send them, and one that is no radiograph."""
    scan = pydicom.dcmread(files[0])
    scan.SOPClassUID = scan.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    scan.SOPInstanceUID = scan.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.77"
    scan.PatientName = "SECRET^NAME"
    scan.save_as(tmp_path / "scan.dcm")
    script = [sys.executable, ROOT / "scripts" / "receive_studies.py", "--output_dir", tmp_path / "incoming"]
    peer = ["--port", RECEIVER_PORT, "--peer", f"{TITLE}=127.0.0.1", "--min_free_gb", "0"]
    with open(tmp_path / "log.txt", "wb") as log:
        receiver = subprocess.Popen(orthanc.inside([*script, *peer]), stderr=log, cwd=ROOT, env=environment())
    try:
        wait_for("listening", tmp_path / "log.txt", receiver)
        code = GIVE.format(port=HTTP_PORT, user=USER, password=PASSWORD)
        done = finished(orthanc.inside([sys.executable, "-c", code, *files, tmp_path / "scan.dcm"]))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["InstancesCount"] == len(files) + 1
    finally:
        receiver.send_signal(signal.SIGTERM)
        code = receiver.wait(30)
    said = (tmp_path / "log.txt").read_text()
    assert code == 0, said
    wanted = {f"{pydicom.dcmread(file).SOPInstanceUID}.dcm" for file in files}
    assert {file.name for file in (tmp_path / "incoming").glob("*.dcm")} == wanted
    assert "0x0122" in said and "stopped" in said
    assert "SECRET" not in said and "patient-" not in said


GIVE = """
import base64, json, sys, urllib.request
key = base64.b64encode(b"{user}:{password}").decode()

def post(path, body):
    request = urllib.request.Request("http://127.0.0.1:{port}" + path, body, {{"Authorization": "Basic " + key}})
    return json.loads(urllib.request.urlopen(request, timeout=60).read())

ids = [post("/instances", open(file, "rb").read())["ID"] for file in sys.argv[1:]]
print(json.dumps(post("/modalities/receiver/store", json.dumps({{"Resources": ids, "Permissive": True}}).encode())))
"""


def wait_for(word: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while word not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.05)
