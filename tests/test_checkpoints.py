"""Two generations of checkpoints: damage is found, a full disk loses nothing, old files are read."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from anatodiff.engines import checkpoint_files
from anatodiff.engines.checkpoint_files import CheckpointError, Generations, read_checkpoint, write_checkpoint
from anatodiff.files import DiskFullError

Run = Callable[..., Path]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda data: data[: len(data) // 2],
    "without its hash": lambda data: data[: -checkpoint_files.FOOTER],
    "a byte of a tensor": lambda data: flipped(data, len(data) // 2),
    "a byte of its hash": lambda data: flipped(data, len(data) - 9),
    "empty": lambda data: b"",
}  # fmt: skip


def files_of(folder: Path, steps: int) -> Generations:
    files = Generations(folder)
    for step in range(1, steps + 1):
        files.write({"step": step, "tensor": torch.full((1000,), float(step))})
    return files


def step_of(folder: Path) -> int:
    found = Generations(folder).read()
    assert found is not None
    assert torch.equal(found[0]["tensor"], torch.full((1000,), float(found[0]["step"])))
    return found[0]["step"]


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_newest_falls_back_and_says_so(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = files_of(tmp_path, 3)
    files.newest.write_bytes(DAMAGES[damage](files.newest.read_bytes()))
    caplog.set_level("WARNING", "anatodiff")
    assert step_of(tmp_path) == 2
    (line,) = caplog.messages
    assert f"{files.newest}: damaged" in line
    assert f"going on from the one before, {files.before}, of step 2" in line


def test_a_damaged_one_never_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    files_of(tmp_path, 3).newest.write_bytes(b"")
    files = Generations(tmp_path)
    files.read()
    files.write({"step": 3, "tensor": torch.full((1000,), 3.0)})
    assert [read_checkpoint(path)["step"] for path in (files.newest, files.before)] == [3, 2]


def test_both_damaged_is_an_error_that_names_both_and_the_cure(tmp_path: Path) -> None:
    files = files_of(tmp_path, 2)
    for path in (files.newest, files.before):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: damaged.*checkpoint_before\.pt: damaged.*delete both"):
        Generations(tmp_path).read()


def test_a_kill_between_the_two_renames_leaves_the_one_before(tmp_path: Path) -> None:
    files = files_of(tmp_path, 2)
    files.newest.rename(files.before)
    assert step_of(tmp_path) == 2


def test_a_disk_that_is_full_keeps_what_there_was(tmp_path: Path) -> None:
    """The system itself refuses to write, by the limit on the size of files."""
    files = files_of(tmp_path, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        for _ in range(3):
            with pytest.raises(DiskFullError, match=r"checkpoint\.pt: cannot be written .*free some space"):
                files.write({"step": 3, "tensor": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert step_of(tmp_path) == 2
    assert sorted(tmp_path.iterdir()) == sorted([files.newest, files.before])


def test_a_run_that_the_full_disk_ended_goes_on_bit_for_bit(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("train", output_dir=str(tmp_path / "whole"), checkpoint_every=1, measured=[])
    written = []

    def write_until_full(path: Path, state: dict) -> None:
        written.append(path)
        if len(written) == 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write_checkpoint(path, state)

    monkeypatch.setattr(checkpoint_files, "write_checkpoint", write_until_full)
    out = tmp_path / "full"
    with pytest.raises(DiskFullError, match=r"full/checkpoint\.pt: cannot be written .No space left on device."):
        run("train", output_dir=str(out), checkpoint_every=1, measured=[])
    found = Generations(out).read()
    assert found is not None
    assert found[0]["step"] == 2
    assert not list(out.rglob("*.part"))
    run("train", output_dir=str(out), checkpoint_every=1, measured=[])
    for name in ("losses.csv", "adapter.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_falls_back_and_ends_as_if_nothing_had_been(run: Run, tmp_path: Path) -> None:
    out = run("train", measured=[])
    before = {name: (out / name).read_bytes() for name in ("losses.csv", "adapter.safetensors")}
    path = out / "checkpoint.pt"
    path.write_bytes(DAMAGES["a byte of a tensor"](path.read_bytes()))
    assert read_checkpoint(out / "checkpoint_before.pt")["step"] == 2
    run("train", measured=[])
    assert before == {name: (out / name).read_bytes() for name in before}
    assert read_checkpoint(path)["step"] == 4


def test_checkpoints_of_the_first_format_are_read(run: Run, tmp_path: Path) -> None:
    whole = run("train", output_dir=str(tmp_path / "whole"), measured=[])
    out = run("train", max_epochs=1, measured=[])
    state = read_checkpoint(out / "checkpoint.pt")
    del state["format"], state["guard"]
    torch.save(state, out / "checkpoint.pt")
    run("train", measured=[])
    assert (out / "losses.csv").read_bytes() == (whole / "losses.csv").read_bytes()


def test_too_little_room_for_checkpoints_is_found_before_the_first_step(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(CheckpointError, match="free some space or choose another output_dir"):
        run("train", measured=[])
    assert not (tmp_path / "out" / "losses.csv").exists()
