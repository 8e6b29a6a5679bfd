"""The start and the end of a run: its folder can be written, nobody else writes to it, and signals lose nothing."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from anatodiff.data.pacs.address import is_dicomweb
from anatodiff.engines.stopping import stop_signals
from anatodiff.engines.workflow import OptionError
from anatodiff.files import remove_parts
from anatodiff.locks import FileLock
from anatodiff.parallel import is_main

logger = logging.getLogger(__name__)

LOCK_NAME = ".run.lock"
OWN_FOLDERS = (".", "samples", "progress", "checkpoints")  # of a run's folder; others may be those of other runs
TRIED_BYTES = 1 << 20
_locks: dict[Path, FileLock] = {}


class FolderInUseError(RuntimeError):
    """Another process writes to this folder; the message says which and what to do."""


def start_run(output_dir: str | Path, weights_path: str | Path | None = None) -> None:
    """Claim a run's folder before anything is read: an entry of `initialize` in each config.

    Of several processes of one run the main one claims it for all. This process may claim it again.

    Args:
        output_dir: the folder that the run writes to; it is made.
        weights_path: a file that it writes elsewhere at its end; None is none.

    Raises:
        OptionError: the folder is an address.
        OSError: one of both cannot be written.
        FolderInUseError: another process writes to the folder.
    """
    if is_dicomweb(output_dir):
        raise OptionError("a run writes to a folder, not to an address; scripts/send_studies.py sends what it wrote")
    stop_signals.install()
    if not is_main():
        return
    folder = Path(output_dir).resolve()
    check_writable(folder, "output_dir")
    if weights_path is not None:
        check_writable(Path(weights_path).parent, "weights_path")
    lock = _locks.setdefault(folder, FileLock(folder / LOCK_NAME))
    if not lock.take():
        raise FolderInUseError(
            f"{folder}: process {lock.holder()} writes to this folder; wait for it, stop it, or give another output_dir"
        )
    parts = sum(remove_parts(folder / name) for name in OWN_FOLDERS if (folder / name).is_dir())
    if parts:
        logger.info("took away %d unfinished files of a run that was killed", parts)


def end_run() -> None:
    """Give back what `start_run` claimed: the entry of `finalize` in each config."""
    for folder in list(_locks):
        _locks.pop(folder).release()
    stop_signals.restore()


def check_writable(folder: Path, option: str = "output_dir") -> None:
    """Write a file of a megabyte and take it away again.

    Args:
        folder: folder to be written to; it is made.
        option: what to change if it cannot be.

    Raises:
        OSError: it cannot be written.
    """
    tried = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(tried, "wb") as file:
                file.write(bytes(TRIED_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            tried.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: cannot be written ({error.strerror}); give another {option}") from error
