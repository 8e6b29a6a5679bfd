"""scripts/merge_adapter.py as a user starts it."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import ROOT, SIZE

from anatodiff.networks import FineTuning, build_anatodiff, load_adapter, load_base, save_adapter, trained_names

PROGRAM = ROOT / "scripts" / "merge_adapter.py"


def main(*arguments: object) -> int:
    """The program in this process, which is faster; returns its exit status."""
    try:
        return runpy.run_path(str(PROGRAM))["main"](list(map(str, arguments)))
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture
def adapter(small_weights: dict[str, str], tmp_path: Path) -> Path:
    base = load_base(small_weights["base_path"])
    network = build_anatodiff(base, 2)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, network, trained_names(network), base, FineTuning(), {"classes": ["a", "b"]})
    return path


def test_merge_and_split(adapter: Path, small_weights: dict[str, str]) -> None:
    merged, again = adapter.with_name("merged.safetensors"), adapter.with_name("again.safetensors")
    command = [sys.executable, PROGRAM, adapter, merged, "--base", small_weights["base_path"]]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    whole = load_adapter(merged)
    assert whole.sha256 in done.stdout
    latents, times = torch.randn(2, 4, SIZE // 8, SIZE // 8), torch.tensor([3, 700])
    parts = load_adapter(adapter, small_weights["base_path"])
    torch.testing.assert_close(whole.network(latents, times), parts.network(latents, times), rtol=1e-5, atol=1e-5)
    assert main("--split", merged, again) == 0
    assert again.read_bytes() == adapter.read_bytes()


def test_half_is_half_as_large_and_nearly_the_same(
    adapter: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    small = tmp_path / "small.safetensors"
    assert main("--half", adapter, small) == 0
    first, second = (load_adapter(path, small_weights["base_path"]) for path in (adapter, small))
    assert second.settings == first.settings
    sizes = [sum(tensor.nbytes for tensor in load_file(path).values()) for path in (adapter, small)]
    assert sizes[1] == sizes[0] / 2
    for name, tensor in first.network.state_dict().items():
        torch.testing.assert_close(second.network.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("adapter.safetensors", "merged.safetensors"), 1, "give its file with --base_path"),
        (("nothing.safetensors", "merged.safetensors"), 1, "no such weights file"),
        (("--split", "adapter.safetensors", "again.safetensors"), 1, "expected weights of kind 'merged'"),
        (("adapter.safetensors", "merged.pt"), 2, "must end in .safetensors"),
        (("adapter.safetensors", "adapter.safetensors"), 2, "give the file to write another name"),
        (("--split", "--base", "dit.safetensors", "adapter.safetensors", "again.safetensors"), 2, "not allowed with"),
    ],
)
def test_what_is_wrong_stands_in_the_last_line(
    adapter: Path, arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word if word.startswith("--") else adapter.parent / word for word in arguments]
    before = sorted(adapter.parent.iterdir())
    assert main(*given) == code
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert sorted(adapter.parent.iterdir()) == before
