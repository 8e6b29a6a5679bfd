"""The pages: they are one site whose links lead somewhere, and they name every option and every program."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

from anatodiff.engines.workflow import TRACKING_KEYS

# Heading of a section -> configs whose options it explains.
CONFIGS = {
    "# Options": ("train", "inference"),
    "## CT": ("ct_cat_diff", "ct_controlnet"),
    "## Photographs before CT": ("ct_natural",),
    "## Evaluation of CT": ("ct_evaluate",),
}
# Ids of MONAI's, not options.
NO_OPTIONS = {"initialize", "finalize", "run", "training", "handlers", "network", "network_def", "bundle_root"}
NO_OPTIONS |= {"elsewhere", "+elsewhere"}
NO_OPTIONS |= TRACKING_KEYS


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does: a link that leads nowhere is an error."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra docs)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    pages = {file.stem for file in (ROOT / "docs").iterdir() if file.suffix in (".md", ".ipynb")} - {"README"}
    assert pages | {"index"} <= {file.stem for file in site.glob("*.html")}
    assert "first_steps.html" in (site / "index.html").read_text()


def test_the_site_needs_no_network(site: Path) -> None:
    for page in site.glob("*.html"):
        loaded = re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"(https?://[^\"]+)", page.read_text())
        assert not loaded, (page.name, loaded)


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / "README.md").read_text())
    assert len(links) > 10
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


@pytest.mark.parametrize(("heading", "names"), CONFIGS.items(), ids=[", ".join(names) for names in CONFIGS.values()])
def test_every_option_is_explained(heading: str, names: tuple[str, ...]) -> None:
    sections = re.split(r"^(?=#)", (ROOT / "docs" / "options.md").read_text(), flags=re.MULTILINE)
    text = next(section for section in sections if section.startswith(f"{heading}\n"))
    for name in names:
        config = json.loads((ROOT / "configs" / f"{name}.json").read_text())
        plain = {key for key, value in config.items() if not isinstance(value, dict)} - NO_OPTIONS
        components = {key for key in plain if str(config[key]).startswith("$") and not key.endswith(("_dir", "_path"))}
        assert [key for key in sorted(plain - components) if f"`{key}`" not in text] == []


def test_every_program_is_named() -> None:
    text = (ROOT / "docs" / "scripts.md").read_text()
    assert [file.name for file in sorted((ROOT / "scripts").glob("*.py")) if file.name not in text] == []
    named = set(re.findall(r"`scripts/(\w+\.py)`", text))
    assert {name for name in named if not (ROOT / "scripts" / name).is_file()} == set()
