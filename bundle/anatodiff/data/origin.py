"""What a synthetic file says about itself: what drew it, in text that no header and no viewer stumbles over."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from anatodiff import __version__

NAME = "AnatoDiff"
# Control characters, halves of surrogate pairs, unassigned ones, and separators that break a line.
UNWRITABLE = ("Cc", "Cs", "Cn", "Zl", "Zp")
# They reorder what stands around them on the screen: a label must not be able to hide the word SYNTHETIC.
REORDERING = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
CUT = " [...]"


@dataclass(frozen=True)
class Origin:
    """What the file says about where the image comes from.

    Args:
        spacing: mm between rows and between columns; None is unknown.
        description: a few words.
        seed: the seed of the sample.
        number: of the sample within its class.
        weights_hash: hash of the weights that drew it.
        recipe: hash of all that fixes the pixels, see `anatodiff.engines.manifest`.
        label: the class it was drawn for.
    """

    spacing: tuple[float, float] | None = None
    description: str = "radiograph"
    seed: int | None = None
    number: int | None = None
    weights_hash: str | None = None
    recipe: str | None = None
    label: str | None = None

    def facts(self) -> dict[str, str]:
        """Name the facts that are known, the label last: it alone may be long."""
        named = {
            "seed": self.seed,
            "number": self.number,
            "weights_hash": self.weights_hash,
            "recipe": self.recipe,
            "label": self.label,
        }
        return {key: plain_text(str(value)) for key, value in named.items() if value is not None}

    def sentence(self, limit: int | None = None) -> str:
        """Say all of it in one line.

        Args:
            limit: bytes at most; only the label, which stands at the end, is ever cut.
        """
        facts = "".join(f", {key} {value}" for key, value in self.facts().items())
        return cut(f"SYNTHETIC {self.description}, made by {NAME} {tool_version()}, not of a patient{facts}", limit)


def plain_text(text: str) -> str:
    """Turn any text into one line that every header can hold: without control, line-breaking and reordering characters.

    Args:
        text: a class name or a description from a user's table or folders.

    Returns:
        the same words, with single spaces between them.
    """
    kept = (
        " " if unicodedata.category(mark) in UNWRITABLE or unicodedata.bidirectional(mark) in REORDERING else mark
        for mark in text
    )
    return " ".join("".join(kept).split())


def cut(text: str, limit: int | None) -> str:
    """Cut text to at most `limit` bytes of UTF-8, and say so at its end; None leaves it whole.

    The limits of DICOM's VRs count characters (PS3.5 6.2), but much software counts bytes, and those are never fewer.
    """
    if limit is None or len(text.encode()) <= limit:
        return text
    return text.encode()[: limit - len(CUT)].decode(errors="ignore").rstrip() + CUT


def tool_version() -> str:
    """Return this package's version."""
    return __version__
