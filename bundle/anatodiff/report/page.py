"""One HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from anatodiff.files import replaced_when_whole


@dataclass(frozen=True)
class Figure:
    """A picture with the words that say how to read it.

    Args:
        title: a heading.
        png: bytes of the picture.
        text: what it shows.
    """

    title: str
    png: bytes
    text: str

    @property
    def source(self) -> str:
        """The picture as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Table:
    """Rows of words and numbers.

    Args:
        title: a heading.
        head: names of the columns.
        rows: cells, as many in each row.
        text: how to read it.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: str = ""


def write_page(
    path: Path,
    title: str,
    summary: Sequence[str],
    parts: Sequence[Figure | Table],
    warning: str | None = None,
) -> None:
    """Write a report.

    Args:
        path: .html file to write, whole or not at all.
        title: of the page.
        summary: what a reader must know, a paragraph each.
        parts: tables and figures, in order.
        warning: what must not be overlooked, in a frame of its own.
    """
    environment = Environment(
        loader=PackageLoader("anatodiff.report", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [("figure" if isinstance(part, Figure) else "table", part) for part in parts]
    text = environment.get_template("page.html").render(title=title, summary=summary, parts=shown, warning=warning)
    with replaced_when_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
