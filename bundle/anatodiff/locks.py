"""Locks between processes, which the kernel takes back when their process ends, however it ends."""

from __future__ import annotations

import errno
import logging
import os
import socket
import weakref
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: one has to take care oneself
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS}


class FileLock:
    """An exclusive lock by `flock` on a file that says who holds it.

    The lock belongs to the open file, so a process that was killed leaves a file but no lock. On NFS Linux turns
    `flock` into a lock of the server, which works between hosts as far as the server has locks at all (not if mounted
    with `nolock` or `local_lock=all`); a file system without locks is said and then nothing is kept apart.

    Args:
        path: the lock's file; it is taken away on release.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file: IO[str] | None = None

    def take(self, wait: bool = False) -> bool:
        """Take the lock.

        Args:
            wait: until the other process has given it back.

        Returns:
            whether this process has it now; where there are no locks, always.

        Raises:
            OSError: the file cannot be made.
        """
        while self.file is None:
            file = open(self.path, "a+")  # noqa: SIM115 - stays open as long as the lock is held
            if not _lock(file, wait):
                file.close()
                return False
            if not _is_at(file, self.path):  # given back, and taken away, while this process waited for it
                file.close()
                continue
            file.truncate(0)
            file.write(f"{os.getpid()} on {socket.gethostname()}")
            file.flush()
            self.file = file
            _held.add(self)
        return True

    def holder(self) -> str:
        """Return process id and host of who holds the lock, as far as they are known."""
        try:
            return self.path.read_text() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        """Give the lock back; without it nothing happens."""
        if self.file is not None:
            self.path.unlink(missing_ok=True)  # still held: whoever waits for this file sees that it is gone
            self.file.close()
            self.file = None


_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _close_in_child() -> None:
    """Leave the locks to the parent: a worker that outlives it would hold them on."""
    for lock in _held:
        if lock.file is not None:
            lock.file.close()
            lock.file = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _lock(file: IO[str], wait: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logger.warning("%s: this file system has no locks; see to it yourself that no other run writes here", file.name)
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
