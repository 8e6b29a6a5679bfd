"""An Orthanc with DICOMweb in a network of its own, for tests and for scripts/round_trip.py.

Orthanc 1.10 listens on every address, whatever its settings say. So it is started in a new network namespace, where
there is nothing but loopback, and its clients are started in the same one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

HTTP_PORT, DICOM_PORT, RECEIVER_PORT = 8042, 4242, 11112
TITLE = "ORTHANC"
PLUGIN = "libOrthancDicomWeb.so"
PLUGIN_FOLDERS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")
STARTED = "Orthanc has started"
START_SECONDS, STOP_SECONDS, POLL_SECONDS = 60.0, 20.0, 0.05


def plugin() -> Path | None:
    """Find the DICOMweb plugin."""
    return next((file for folder in PLUGIN_FOLDERS if (file := Path(folder) / PLUGIN).exists()), None)


def why_not() -> str | None:
    """Say what is missing to start it; None where nothing is."""
    for program in ("Orthanc", "unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: orthanc orthanc-dicomweb util-linux iproute2)"
    if plugin() is None:
        return f"{PLUGIN} is not installed (Debian: orthanc-dicomweb)"
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode != 0:
        return "no right to make a network namespace (unshare -n)"
    return None


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server; one that does not end by itself is killed."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class OrthancServer:
    """A running Orthanc; as a context it ends with the block.

    Args:
        folder: its own, for its settings, images and log.
        users: name -> password; without any it asks for none.
        settings: others of Orthanc's.
    """

    base = f"http://127.0.0.1:{HTTP_PORT}/dicom-web"

    def __init__(
        self, folder: Path, users: Mapping[str, str] | None = None, settings: Mapping[str, object] | None = None
    ) -> None:
        self.folder, self.log = folder, folder / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.settings = {
            "Name": "test",
            "StorageDirectory": str(folder / "images"),
            "IndexDirectory": str(folder / "images"),
            "Plugins": [str(plugin())],
            "HttpPort": HTTP_PORT,
            "DicomPort": DICOM_PORT,
            "DicomAet": TITLE,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": True,
            "DicomModalities": {"receiver": ["ANATODIFF", "127.0.0.1", RECEIVER_PORT]},
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": bool(users),
            "RegisteredUsers": dict(users or {}),
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            **(settings or {}),
        }

    def __enter__(self) -> OrthancServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(self.settings))
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec Orthanc "$0"', str(path)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        end = time.monotonic() + START_SECONDS
        while STARTED not in self.log.read_text(errors="replace"):
            if self.process.poll() is not None or time.monotonic() > end:
                self.__exit__(None, None, None)
                raise RuntimeError(f"Orthanc does not start:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(POLL_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            stop(self.process)

    def inside(self, command: Sequence[object]) -> list[str]:
        """Return the command line that runs a command where the server can be reached.

        Args:
            command: program and arguments.
        """
        assert self.process is not None
        return ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", *map(str, command)]

    def environment(self) -> dict[str, str]:
        """Return the environment for clients: no proxy stands between them and loopback."""
        hidden = ("http_proxy", "https_proxy", "all_proxy")
        return {key: value for key, value in os.environ.items() if key.lower() not in hidden}
