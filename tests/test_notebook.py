"""docs/first_steps.ipynb runs from top to bottom, with fewer steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import ROOT

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra docs)")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra docs)")

NOTEBOOK = ROOT / "docs" / "first_steps.ipynb"
QUICK = "STEPS = 4\nIMAGES = 32\nSAMPLES = 6\nPROTOTYPES = 4\n"
SECONDS = 400  # for a cell


def test_notebook_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == 1
    assert {line.split(" = ")[0] for line in parameters[0].source.splitlines()} == {
        line.split(" = ")[0] for line in QUICK.splitlines()
    }
    parameters[0].source = QUICK
    nbclient.NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 5
    texts = "".join(output.get("text", "") for output in shown)
    assert "SYNTHETIC" in texts and "kernel distance of after" in texts


def test_notebook_says_what_it_showed_without_a_place_of_a_machine() -> None:
    text = NOTEBOOK.read_text()
    assert '"image/png"' in text  # it is kept with its pictures
    assert str(Path.home()) not in text and str(ROOT) not in text
