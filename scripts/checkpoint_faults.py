"""Faults while checkpoints are written, for kill_runs.py: kills, a full disk, files cut off or with a byte changed."""

from __future__ import annotations

import builtins
import errno
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from anatodiff.engines.checkpoint_files import Generations, read_checkpoint
from anatodiff.files import DiskFullError

KINDS = ("write", "fsync", "replace")


@dataclass
class Point:
    """A call within the writing of checkpoints.

    Args:
        kind: one of `KINDS`.
        number: of the calls of this kind so far.
        after: whether the call is to be made before something happens.
    """

    kind: str
    number: int
    after: bool = False


class Torn:
    """A file whose writes are calls that can fail, each in its middle."""

    def __init__(self, file: Any, call: Callable[..., Any]) -> None:
        self.file, self.call = file, call

    def write(self, data: Any) -> int:
        """Write, or half of it before what is to happen."""
        return self.call("write", self.file.write, data, half=lambda: self.file.write(bytes(data)[: len(data) // 2]))

    def __enter__(self) -> Torn:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@contextmanager
def at_point(point: Point | None, action: Callable[[], None]) -> Iterator[Counter]:
    """Do something at a call within a checkpoint's writing; yields the counts of the calls by kind."""
    counts: Counter = Counter()
    inside, write, opened = [False], Generations.write, builtins.open

    def call(kind: str, function: Callable[..., Any], *arguments: Any, half: Callable[[], Any] | None = None) -> Any:
        counts[kind] += inside[0]
        if not inside[0] or point is None or (kind, counts[kind]) != (point.kind, point.number):
            return function(*arguments)
        if point.after:
            function(*arguments)
        elif half is not None:
            half()
        action()

    def open_torn(path: Any, mode: str = "r", *arguments: Any, **others: Any) -> Any:
        file = opened(path, mode, *arguments, **others)
        return Torn(file, call) if inside[0] and mode == "wb" else file

    def write_watched(self: Generations, state: dict[str, Any]) -> None:
        inside[0] = True
        try:
            write(self, state)
        finally:
            inside[0] = False

    fsync, replace = os.fsync, os.replace
    with (
        mock.patch.object(Generations, "write", write_watched),
        mock.patch.object(builtins, "open", open_torn),
        mock.patch.object(os, "fsync", lambda handle: call("fsync", fsync, handle)),
        mock.patch.object(os, "replace", lambda *paths: call("replace", replace, *paths)),
    ):
        yield counts


def kill_self() -> None:
    """End this process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def disk_full() -> None:
    """Fail as a write to a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def copied(run: Path) -> tuple[Generations, dict[str, Any]]:
    """Copy the two checkpoints of a run to a folder of their own, and read the newest."""
    folder = run.parent / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in (Generations(run).newest, Generations(run).before):
        shutil.copy(path, folder)
    files = Generations(folder)
    state, _ = files.read() or ({}, None)
    return files, state


def newest_step(files: Generations) -> int:
    """Return the step of the newest whole checkpoint; 0 where there is none."""
    found = Generations(files.folder).read()
    return 0 if found is None else found[0]["step"]


def calls_of_a_write(run: Path) -> Counter:
    """Count the calls of each kind by which one checkpoint of the run is written."""
    files, state = copied(run)
    with at_point(None, kill_self) as calls:
        files.write(state)
    return calls


def fill_disk(run: Path, most: int, chance: random.Random) -> Counter:
    """Let the disk be full at the calls of a checkpoint's writing: the one before must be kept, and no rubbish."""
    counts: Counter = Counter()
    for kind, number in calls_of_a_write(run).items():
        for point in (Point(kind, n) for n in sorted(chance.sample(range(1, number + 1), min(number, most)))):
            files, state = copied(run)
            last = state["step"]
            try:
                with at_point(point, disk_full):
                    files.write({**state, "step": last + 1})
                raise AssertionError(f"{point}: the full disk was not noticed")
            except DiskFullError as error:
                assert str(files.newest) in str(error)
            assert newest_step(files) >= last, point
            assert {path.name for path in files.folder.iterdir()} <= {files.newest.name, files.before.name}, point
            files.write({**state, "step": last + 2})
            assert newest_step(files) == last + 2, point
            counts[f"full_disk_at_a_{kind}"] += 1
    return counts


def damage(run: Path, number: int, chance: random.Random) -> Counter:
    """Cut off and change the newest checkpoint: that or the one before must come back, never changed tensors."""
    counts: Counter = Counter()
    files, _ = copied(run)
    whole = files.newest.read_bytes()
    before = read_checkpoint(files.before)["step"]
    cuts = [whole[:length] for length in [0, 1, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(number))]]
    flips = []
    for at in [0, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(number))]:
        flips.append(whole[:at] + bytes([whole[at] ^ chance.randint(1, 255)]) + whole[at + 1 :])
    for name, changed in (("cut_off", cuts), ("changed_in_a_byte", flips)):
        for data in changed:
            files.newest.write_bytes(data)
            state, path = Generations(files.folder).read() or ({}, None)
            assert path == files.before and state["step"] == before, (name, len(data))
            counts[name] += 1
    return counts
