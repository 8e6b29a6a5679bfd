"""A training that is killed again and again ends as one that nothing disturbed: the short form of kill_runs.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support import ROOT

KILLS, DAMAGES = 8, 8


def test_killed_again_and_again_nothing_is_lost(tmp_path: Path) -> None:
    program = [sys.executable, str(ROOT / "scripts" / "kill_runs.py"), "--output_dir", str(tmp_path / "kills")]
    options = ["--kills", str(KILLS), "--damages", str(DAMAGES), "--seed", "1"]
    done = subprocess.run([*program, *options], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "kills" / "kills.json").read_text())
    assert found["kills"] == KILLS
    assert found["kills_in_a_checkpoint_write"] >= 2
    assert found["full_disk_at_a_write"] == DAMAGES
    assert min(found["full_disk_at_a_fsync"], found["full_disk_at_a_replace"]) >= 2
    assert min(found["cut_off"], found["changed_in_a_byte"]) >= DAMAGES
