"""Receive radiographs that an archive (PACS) or a device sends by C-STORE, into a folder to train on.

    python scripts/receive_studies.py --output_dir incoming --port 11112 --ae_title ANATODIFF --peer ORTHANC=10.1.2.3

Each object becomes a file named by its SOP Instance UID, as it was sent. The folder holds identities: only this user
may open it. It listens on this machine alone; `--host 0.0.0.0` opens it to others, behind a firewall only: DICOM's own
protocol knows no password. SIGTERM and Ctrl-C end it.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Receive until a signal comes; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--ae_title", default="ANATODIFF", help="our name; a sender that calls another is refused")
    parser.add_argument("--peer", action="append", default=[], help="AETITLE=host that may send; once for each")
    parser.add_argument("--port", type=int, default=11112)
    parser.add_argument("--host", default="127.0.0.1", help="own address to listen on")
    parser.add_argument("--max_gb", type=float, default=20.0, help="most that the folder may hold")
    parser.add_argument("--min_free_gb", type=float, default=2.0, help="what is left free on the disk")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        from anatodiff.data.pacs.receive import StorageReceiver

        receiver = StorageReceiver(
            given.output_dir,
            given.ae_title,
            given.peer,
            given.port,
            given.host,
            given.max_gb,
            given.min_free_gb,
        )
    except ImportError as error:
        print(f"{error.name} is missing; install it: pip install 'anatodiff[pacs]'", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    ended.wait()
    receiver.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
