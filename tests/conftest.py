"""What all tests share: real data where there is any, small weights and images, runs, and the table of skips."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT, SIZE, CTTrainer, make_weights, options_for, run_workflow

from anatodiff.data import write_radiograph
from anatodiff.data.phantom import write_ct_phantoms


@pytest.fixture(scope="session", autouse=True)
def salt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A salt of the tests' own: they leave the user's alone."""
    path = tmp_path_factory.mktemp("salt") / "salt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANATODIFF_SALT", str(path))
        yield path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(os.environ.get("ANATODIFF_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder}; set ANATODIFF_SHARED to the folder that holds data/")
    return folder


@pytest.fixture(scope="session")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """28 images of 14 patients in two classes: a bright body with two dark fields, the left one smaller in "rare"."""
    folder = tmp_path_factory.mktemp("images")
    rows = ["file,label,patient_id"]
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    for i in range(28):
        random = np.random.default_rng(i)
        label = "rare" if i % 4 < 2 else "common"
        image = 0.7 + 0.1 * random.random() + 0.02 * random.standard_normal((SIZE, SIZE))
        for centre, width in ((0.3, 0.12), (0.7, 0.06 if label == "rare" else 0.12)):
            shift = 0.03 * random.standard_normal(2)
            inside = ((x - centre - shift[0]) / width) ** 2 + ((y - 0.5 - shift[1]) / 0.3) ** 2 < 1
            image[inside] -= 0.5
        write_radiograph(folder / f"image{i:02d}.png", np.clip(image, 0, 1).astype(np.float32))
        rows.append(f"image{i:02d}.png,{label},patient{i // 2}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_weights(tmp_path_factory.mktemp("weights"), seed=0)


@pytest.fixture(scope="session")
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that evaluations share: most of their time goes into features of the same images."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="session")
def ct_phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CT of five patients, two slices each, at two doses and with labels."""
    return write_ct_phantoms(tmp_path_factory.mktemp("ct"), 5, slices=2, size=SIZE, seed=3, workers=1)


@pytest.fixture(scope="session")
def train_ct(ct_phantoms: Path, small_weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> CTTrainer:
    """Trains CT networks; slices and latents, which are the same for most of them, are kept."""
    given = {"dataset_dir": str(ct_phantoms), "cache_dir": str(tmp_path_factory.mktemp("ct_cache")), **small_weights}
    return CTTrainer(given, tmp_path_factory.mktemp)


@pytest.fixture(scope="session")
def cat_diff(train_ct: CTTrainer) -> Path:
    """A finished run of Cat-Diff."""
    return train_ct()


Run = Callable[..., Path]


@pytest.fixture
def run(small_images: Path, small_weights: dict[str, str], feature_cache: Path, tmp_path: Path) -> Run:
    """Run a workflow in this process on the small images and weights; returns its output folder."""

    def start(name: str, **options: Any) -> Path:
        given = {**options_for(name, small_images, small_weights, tmp_path), **options}
        if name == "evaluate" and "cache_dir" not in options:
            given["cache_dir"] = str(feature_cache)
        run_workflow(name, **given)
        return Path(given.get("output_dir", tmp_path))

    return start


# Files that take minutes go first, so that no process is left with one of them when the others are done.
LONGEST = ("test_options", "test_paper_size", "test_paper", "test_evaluation", "test_topology_paths", "test_notebook")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail if any test was skipped")


def _skips(reporter: object) -> list[tuple[str, str]]:
    reports = getattr(reporter, "stats", {}).get("skipped", [])
    return [
        (report.nodeid, str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr))
        for report in reports
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skips = _skips(terminalreporter)
    terminalreporter.section("skipped, and why")
    if not skips:
        terminalreporter.write_line("nothing was skipped")
    for name, reason in skips:
        terminalreporter.write_line(f"{name:<70} {reason.removeprefix('Skipped: ')}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--no-skips") and exitstatus == 0 and _skips(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
