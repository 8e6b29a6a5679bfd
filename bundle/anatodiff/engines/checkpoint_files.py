"""The files of checkpoints: two generations, each with a hash of itself, so that any damage is found."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
from pathlib import Path
from typing import IO, Any, cast

import torch

from anatodiff.files import HASH_BLOCK, named_if_full, replaced_when_whole, sync_folder

logger = logging.getLogger(__name__)

NEWEST = "checkpoint.pt"
BEFORE = "checkpoint_before.pt"
FORMAT = 2  # 1 had no hash
MARK = b"\nanatodiff sha256 "
FOOTER = len(MARK) + 64 + 1  # the hash in hexadecimal, and an end of line
FILES_AT_ONCE = 3  # two generations and the one that is being written


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file and the cure."""


class _Hashing(io.RawIOBase):
    """A file that hashes what it is given; an error waits for `check`, as torch would hide it behind one of its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write some bytes."""
        if self.error is None:
            try:
                self.file.write(data)
                self.digest.update(data)
            except OSError as error:
                self.error = error
        return len(data)

    def check(self) -> None:
        """Raise the first error there was."""
        if self.error is not None:
            raise self.error


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and numbers, and after them the SHA-256 of all bytes before.

    Args:
        path: file to write.
        state: what `torch.load` takes with `weights_only`.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "wb") as file:
        hashing = _Hashing(file)
        torch.save({**state, "format": FORMAT}, cast(IO[bytes], hashing))
        hashing.check()
        file.write(MARK + hashing.digest.hexdigest().encode() + b"\n")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint if not a byte of it has changed.

    Args:
        path: file to read. One of the first format has no hash; of that only what torch notices is found.

    Returns:
        its state.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        known = _hash_is_right(path)
        # Not mapped: the file may be replaced while its tensors are in use.
        state = torch.load(path, map_location="cpu", weights_only=True)
        if known is None and state.get("format", 1) >= FORMAT:
            raise CheckpointError("its hash is missing")
    except CheckpointError:
        raise
    except Exception as error:  # what a torn or changed pickle raises is anybody's guess
        raise CheckpointError(f"it is cut off or changed, {type(error).__name__}") from error
    return state


def _hash_is_right(path: Path) -> bool | None:
    """Check a file against its last line; returns None where that is no hash."""
    left, digest = path.stat().st_size - FOOTER, hashlib.sha256()
    if left < 0:
        return None
    with open(path, "rb") as file:
        while left > 0:
            block = file.read(min(HASH_BLOCK, left))
            digest.update(block)
            left -= len(block)
        footer = file.read()
    if not footer.startswith(MARK):
        return None
    if footer != MARK + digest.hexdigest().encode() + b"\n":
        raise CheckpointError("its hash is wrong")
    return True


class Generations:
    """The newest checkpoint of a run and the one before it.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.newest, self.before = self.folder / NEWEST, self.folder / BEFORE
        self.newest_is_good = False  # only a good one may take the place of the one before

    def read(self) -> tuple[dict[str, Any], Path] | None:
        """Read the newest checkpoint that is whole, and say so if that is the one before.

        Returns:
            the state and its file; None where there is no checkpoint.

        Raises:
            CheckpointError: there are some, and all are damaged.
        """
        damages = []
        for path in (self.newest, self.before):
            if not path.is_file():
                continue
            try:
                state = read_checkpoint(path)
            except CheckpointError as error:
                damages.append(f"{path}: damaged ({error})")
                continue
            self.newest_is_good = path == self.newest
            if damages:
                logger.warning("%s; going on from the one before, %s, of step %d", damages[0], path, state["step"])
            return state, path
        if damages:
            them = "it" if len(damages) == 1 else "both"
            raise CheckpointError(f"{'; '.join(damages)}; delete {them} to start anew, or choose another output_dir")
        return None

    def write(self, state: dict[str, Any]) -> None:
        """Make a state the newest checkpoint, and the newest one so far the one before.

        Wherever this is interrupted, one of the two files holds the checkpoint before or this one.

        Args:
            state: tensors and numbers.

        Raises:
            DiskFullError: there is no room; what was there is kept.
        """
        with named_if_full(self.newest):
            with replaced_when_whole(self.newest) as temporary:
                write_checkpoint(temporary, state)
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())  # before the one that is whole makes way
                if self.newest_is_good and self.newest.is_file():
                    os.replace(self.newest, self.before)
            sync_folder(self.folder)
        self.newest_is_good = True

    def check_room(self, size: int) -> None:
        """Find out before the training whether there is room for its checkpoints.

        Args:
            size: of one, in bytes.

        Raises:
            CheckpointError: there is too little.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        there = sum(path.stat().st_size for path in (self.newest, self.before) if path.is_file())
        needed, free = FILES_AT_ONCE * size - there, shutil.disk_usage(self.folder).free
        if needed > free:
            raise CheckpointError(
                f"{self.folder}: {free / 1e6:.0f} MB are free and the checkpoints need {needed / 1e6:.0f} MB; "
                "free some space or choose another output_dir"
            )
