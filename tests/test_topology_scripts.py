"""The scripts about the anatomical loss."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from support import ROOT
from topology_reference import POT_WARNINGS, draw

from anatodiff.data import write_radiograph
from anatodiff.losses import TopologicalWassersteinLoss

pytestmark = [pytest.mark.filterwarnings(text) for text in POT_WARNINGS]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_compares_equal_things(capsys: pytest.CaptureFixture[str]) -> None:
    bench = script("bench_topology")
    x, y = (draw((2, 2, 9, 7), "distinct", seed).float() for seed in (1, 2))
    bench.bench("small", x, y, rounds=2)
    assert capsys.readouterr().out.startswith("| small |")
    one, other = x[:, :1].clone().requires_grad_(), x[:, :1].clone().requires_grad_()
    bench.naive(one, y[:, :1]).backward()
    TopologicalWassersteinLoss(reduction="sum")(other, y[:, :1]).backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_the_benchmark_refuses_paths_that_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = script("bench_topology")
    monkeypatch.setattr(bench, "naive", lambda images, targets: images.sum())
    with pytest.raises(SystemExit, match="disagree"):
        bench.bench("small", torch.randn(1, 1, 5, 5), torch.randn(1, 1, 5, 5), rounds=1)


def test_the_figure_shows_a_file_or_a_phantom(tmp_path: Path) -> None:
    figure = script("figure_filtration")
    write_radiograph(tmp_path / "image.png", np.linspace(0, 1, 40 * 36, dtype=np.float32).reshape(40, 36))
    assert figure.main([str(tmp_path / "file.png"), "--input", str(tmp_path / "image.png"), "--size", "16"]) == 0
    assert figure.main([str(tmp_path / "phantom.png")]) == 0
    file, phantom, kept = (
        np.asarray(Image.open(path), np.float32)
        for path in (tmp_path / "file.png", tmp_path / "phantom.png", ROOT / "docs" / "pictures" / "filtration.png")
    )
    assert (file != phantom).any()
    # The picture in the documents is what the script draws, but for the letters of another version of Pillow.
    assert phantom.shape == kept.shape and np.abs(phantom - kept).mean() < 1


def test_the_figure_names_a_file_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("figure_filtration").main([str(tmp_path / "a.png"), "--input", str(tmp_path / "none.png")]) == 1
    assert "none.png" in capsys.readouterr().err


def test_diagram_of_the_figure_closes_the_component_that_never_dies() -> None:
    image = np.full((5, 5), 0.5)
    image[1, 1], image[3, 3] = 0.1, 0.3
    image[0, 0] = 0.9
    components, loops = script("figure_filtration").persistence(image)
    np.testing.assert_allclose(components, [[0.1, 0.9], [0.3, 0.5]])
    assert len(loops) == 0
