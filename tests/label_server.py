"""A MONAI Label server for the tests: a process of its own on loopback, asked with curl as in docs/monai_label.md."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from support import ROOT

import orthanc_server

APP = ROOT / "bundle" / "monailabel_app"
START_SECONDS, ASK_SECONDS, TRAIN_SECONDS, POLL_SECONDS = 240, 120, 400, 0.5
# MONAI Label answers with the record that its own thread has begun to fill, and so now and then with this.
RACE, TRIES = 500, 20
# dcmqi's program, which MONAI Label looks for when it uses DICOMweb, and else downloads; nothing here calls it.
STAND_IN = "itkimage2segimage"


def environment() -> Path:
    """Find the environment that `make monailabel-test` builds."""
    return (ROOT / os.environ.get("ANATODIFF_MONAILABEL", ".monailabel")).resolve()


def why_not() -> str | None:
    """Say what is missing to start a server; None where nothing is."""
    if not (environment() / "bin" / "monailabel").is_file():
        return "make monailabel-test builds its environment"
    return None if shutil.which("curl") else "curl is not installed"


def fresh_app(folder: Path) -> Path:
    """Copy the app without what a server may have left in it."""
    return Path(shutil.copytree(APP, folder, ignore=shutil.ignore_patterns("model", "logs", "bin", "__pycache__")))


@dataclass
class Answer:
    """What came back."""

    status: int
    kind: str
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


class LabelServer:
    """A running server; as a context it ends with the block.

    Args:
        app: the app's folder.
        studies: folder of images, or a DICOMweb address.
        home: stands in for the user's home, where MONAI Label keeps caches; the log is in it.
        conf: what `--conf` says.
        variables: of the environment.
        inside: what stands before each command, to run it in another network namespace.
    """

    def __init__(
        self,
        app: Path,
        studies: str | Path,
        home: Path,
        conf: dict[str, str] | None = None,
        variables: dict[str, str] | None = None,
        inside: Sequence[str] = (),
    ) -> None:
        self.app, self.studies, self.home, self.inside = app, str(studies), home, list(inside)
        self.conf, self.variables = conf or {}, variables or {}
        self.log, self.port = home / "server.log", free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LabelServer:
        conf = [word for key, value in self.conf.items() for word in ("--conf", key, value)]
        command = [*self.inside, "monailabel", "start_server", "--app", str(self.app)]
        command += ["--studies", self.studies, "--host", "127.0.0.1", "--port", str(self.port), *conf]
        variables = {**user_variables(self.home), **self.variables}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                env=variables,
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait(self) -> None:
        assert self.process is not None
        end = time.monotonic() + START_SECONDS
        while self.ask("GET", "/info/").status != 200:
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server does not start:\n{self.said()[-4000:]}")
            time.sleep(POLL_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.ask("DELETE", "/train/")  # a training is a process of its own
            orthanc_server.stop(self.process)

    def said(self) -> str:
        """Return the server's log."""
        return self.log.read_text(errors="replace")

    def ask(self, method: str, path: str, *options: str) -> Answer:
        """Send a request.

        Args:
            method: of HTTP.
            path: with its query.
            options: more of curl's.

        Returns:
            the answer; status 0 where there is none.
        """
        body = self.home / "answer"
        body.unlink(missing_ok=True)
        command = ["curl", "--silent", "--noproxy", "*", "--max-time", str(ASK_SECONDS), "-X", method, "-o", str(body)]
        command += ["-w", "%{http_code} %{content_type}", *options, f"http://127.0.0.1:{self.port}{path}"]
        run = subprocess.run([*self.inside, *command], capture_output=True, text=True, timeout=2 * ASK_SECONDS)
        status, _, kind = run.stdout.partition(" ")
        return Answer(int(status or 0), kind, body.read_bytes() if body.is_file() else b"")

    def infer(self, output: str = "image", **params: Any) -> Answer:
        """Ask for samples."""
        return self.ask(
            "POST", f"/infer/anatodiff_sample?image=none&output={output}", "-F", f"params={json.dumps(params)}"
        )

    def start_training(self, **options: Any) -> None:
        """Start a training."""
        header = "content-type: application/json"
        answer = self.ask("POST", "/train/anatodiff_train", "-H", header, "-d", json.dumps(options))
        assert answer.status in (200, RACE), answer

    def training(self) -> dict[str, Any]:
        """Return the state of the last training."""
        for _ in range(TRIES):
            answer = self.ask("GET", "/train/")
            if answer.status != RACE:
                return answer.json()
            time.sleep(POLL_SECONDS)
        raise AssertionError(self.said()[-4000:])

    def train(self, **options: Any) -> dict[str, Any]:
        """Train, wait for the end and return the state."""
        self.start_training(**options)
        end = time.monotonic() + TRAIN_SECONDS
        while True:
            state = self.training()
            mine = options.items() <= state.get("request", {}).items()
            if mine and state["status"] not in ("SUBMITTED", "RUNNING"):
                return state
            assert time.monotonic() < end, self.said()[-4000:]
            time.sleep(POLL_SECONDS)


def user_variables(home: Path) -> dict[str, str]:
    """Build what a user has in their shell who has activated the environment: MONAI Label calls `python` by its name.

    Args:
        home: their home.
    """
    tools = home / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    (tools / STAND_IN).write_text("#!/bin/sh\nexit 1\n")
    (tools / STAND_IN).chmod(0o755)
    hidden = ("PYTHONPATH", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    path = os.pathsep.join([str(environment() / "bin"), str(tools), os.environ["PATH"]])
    return {**kept, "PATH": path, "HOME": str(home), "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    """Find a port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
