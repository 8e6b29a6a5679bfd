"""`python -m monai.bundle` in forks of one process that has imported everything, which is most of what a run costs.

A program: it reads one request a line on standard input, {"arguments", "folder", "environment", "out", "err",
"seconds"}, and answers with the exit code, or null where it took too long. It ends with its input.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import sys
import time
from typing import Any

POLL_SECONDS = 0.02


def run(request: dict[str, Any]) -> None:
    """Be the process that a user starts; does not return."""
    for stream, name in ((1, "out"), (2, "err")):
        handle = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, stream)
        os.close(handle)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    sys.argv[1:] = request["arguments"]
    code: object = 0
    try:
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    atexit._run_exitfuncs()
    for file in (sys.stdout, sys.stderr):
        file.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def wait(child: int, seconds: float) -> int | None:
    """Wait for a fork; one that takes too long is killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(POLL_SECONDS)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main() -> None:
    """Serve until the input ends."""
    import monai.bundle  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    import anatodiff.engines
    import anatodiff.report  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            run(request)
        print(json.dumps(wait(child, request["seconds"])), file=answers, flush=True)


if __name__ == "__main__":
    main()
