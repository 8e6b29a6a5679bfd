"""The report page: complete, alone, and readable in a browser."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import run_workflow

from anatodiff.engines.pictures import save_grid
from anatodiff.metrics import radial_spectrum
from anatodiff.report import (
    Figure,
    Table,
    diagrams_figure,
    embedding_figure,
    grid_figure,
    losses_figure,
    spectrum_figure,
    write_page,
)

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)


@pytest.fixture(scope="module")
def page(small_images: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of an evaluation of the small images against themselves, with losses and prototypes beside them."""
    root = tmp_path_factory.mktemp("report")
    (root / "run").mkdir()
    shutil.copytree(small_images, root / "run" / "samples")
    (root / "run" / "losses.csv").write_text(
        "step,loss,mse\n" + "".join(f"{k},{1 / k},{2 / k}\n" for k in range(1, 90))
    )
    shapes = [list(torch.rand(8, 1, 64, 64, generator=torch.Generator().manual_seed(row))) for row in range(2)]
    save_grid(root / "run" / "prototypes.png", shapes)
    run_workflow(
        "evaluate", run_dir=str(root / "run"), dataset_dir=str(small_images), cache_dir=str(root / "cache"),
    )  # fmt: skip
    return (root / "run" / "report.html").read_text()


def test_the_page_holds_everything_and_asks_nobody(page: str) -> None:
    words = (
        "kernel distance (KID)", "95 % interval", "Nearest training images", "Spectrum", "Persistence diagrams",
        "Features", "Losses of the run", "Shape prototypes", "planted", "features sha256", "images of patients",
    )  # fmt: skip
    assert all(word in page for word in words)
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    sources = re.findall(r'<img src="([^"]{0,40})', page)
    assert len(sources) == 7
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    for data in re.findall(r"base64,([^\"]+)", page):
        assert opened(base64.b64decode(data)).std() > 5


def test_all_prototypes_of_the_run_are_a_figure_of_their_own(page: str) -> None:
    """As the run drew them, pixel by pixel, and before the samples' plots."""
    found = re.search(r'Shape prototypes</h2>.*?<img src="data:image/png;base64,([^"]+)"', page, re.DOTALL)
    assert found is not None
    pixels = opened(base64.b64decode(found[1]))[:, :, 0]
    bright = (pixels != 24).mean(axis=0) > 0.5  # the sheet's background
    assert pixels.shape[0] > 2 * 64
    assert np.diff(bright.astype(int)).clip(0).sum() == 8  # columns
    assert page.index("Nearest training images") < page.index("Shape prototypes") < page.index("Persistence diagrams")


def test_a_run_without_prototypes_leaves_no_picture_of_those_before(run: Callable[..., Path]) -> None:
    assert (run("prepare") / "prototypes.png").is_file()
    assert not (run("prepare", n_prototypes=0) / "prototypes.png").exists()


def test_what_must_not_be_overlooked_is_in_a_frame(page: str) -> None:
    """The images are so small that a shift by three pixels hides a copy: the control says so."""
    found = re.search(r'<p class="warning">(.*)</p>', page)
    assert found is not None
    assert found[1].startswith("THIS PROVES NOTHING: planted copies (shifted")


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed (Debian: apt install chromium)")
def test_a_browser_shows_it(page: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page)
    done = subprocess.run(
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1600",
            f"--screenshot={tmp_path / 'page.png'}", f"--user-data-dir={tmp_path / 'profile'}",
            (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (tmp_path / "page.png").is_file(), done.stderr
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert pixels.shape == (1600, 1000)
    written = (pixels < 128).mean(axis=1) > 0
    assert written.mean() > 0.2  # rows with ink
    assert pixels[:, :8].min() > 200  # nothing runs out of the page


def test_figures_show_what_they_are_given() -> None:
    torch.manual_seed(0)
    dark, bright = torch.zeros(3, 1, 32, 32), torch.ones(2, 1, 32, 32)
    grid = opened(grid_figure([dark, bright], side=20))
    assert grid.shape == (43, 66, 3)
    assert grid[:20, :20].max() == 0
    assert grid[23:, :20].min() == 255
    noise, smooth = torch.rand(4, 1, 64, 64), torch.rand(4, 1, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3)
    plots = [
        spectrum_figure({"real": radial_spectrum(noise), "synthetic": radial_spectrum(smooth)}),
        spectrum_figure({"real": radial_spectrum(noise), "synthetic": radial_spectrum(noise)}),
        diagrams_figure({"real": noise, "synthetic": smooth}),
        diagrams_figure({"real": noise, "synthetic": noise}),
        embedding_figure({"real": torch.randn(20, 5), "synthetic": torch.randn(20, 5)}),
    ]
    assert not np.array_equal(opened(plots[0]), opened(plots[1]))
    assert not np.array_equal(opened(plots[2]), opened(plots[3]))
    assert opened(plots[4]).std() > 5


def test_losses_of_no_run_are_no_figure(tmp_path: Path) -> None:
    assert losses_figure(tmp_path / "losses.csv") is None
    (tmp_path / "losses.csv").write_text("step,loss\n")
    assert losses_figure(tmp_path / "losses.csv") is None


def test_what_looks_like_markup_is_text(tmp_path: Path) -> None:
    table = Table("<b>bold</b>", ["a"], [["<script>alert(1)</script>"]])
    figure = Figure("one", grid_figure([torch.rand(1, 1, 8, 8)]), "5 < 6")
    write_page(tmp_path / "page.html", "A & B", ["first"], [table, figure])
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "&lt;b&gt;bold" in text
    assert "A &amp; B" in text
    assert 'warning">' not in text
