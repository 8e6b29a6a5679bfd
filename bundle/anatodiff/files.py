"""Files that are written whole or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

HASH_BLOCK = 1 << 20  # bytes
PART = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}\.part")  # how a file is called that is not whole yet
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DiskFullError(OSError):
    """There is no room to write a file; the message names it and the cure."""


@contextlib.contextmanager
def replaced_when_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place only if the block ends well.

    Args:
        path: the file to be written; its folder is made.

    Raises:
        DiskFullError: there is no room for it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    with named_if_full(path):
        try:
            temporary.touch(exist_ok=False)  # with the user's own umask
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())  # renamed before it is on the disk, it could be empty after a power cut
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def named_if_full(path: Path) -> Iterator[None]:
    """Say which file there was no room for: the system's own error does not.

    Args:
        path: the file that the block writes.

    Raises:
        DiskFullError: there is no room for it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or isinstance(error, DiskFullError):
            raise
        raise DiskFullError(
            f"{path}: cannot be written ({error.strerror}), what was there before is kept; free some space and start "
            "the same command again, it goes on"
        ) from error


def remove_parts(folder: Path, name: str | None = None) -> int:
    """Take away what `replaced_when_whole` left behind in processes that were killed.

    Args:
        folder: looked through without its sub-folders; no other process may be writing to it.
        name: only of the file of this name.

    Returns:
        how many there were.
    """
    found = [file for file in folder.iterdir() if (part := PART.fullmatch(file.name)) and name in (None, part["name"])]
    for file in found:
        file.unlink(missing_ok=True)
    return len(found)


def sync_folder(folder: Path) -> None:
    """Bring the names of a folder's files to the disk, so that a power cut does not undo a renaming."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: str | Path) -> str:
    """Hash a file.

    Args:
        path: file to hash.

    Returns:
        SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
