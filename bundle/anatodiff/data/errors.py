"""Errors of the way in: each is one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import os
from typing import TypeVar

MAX_REASON = 300  # characters
Kind = TypeVar("Kind", bound="ImageError")


def printable(text: str) -> str:
    """Make a text fit for one line of a log: names of files may hold line ends, control codes and broken characters.

    Args:
        text: any text.

    Returns:
        the text with a question mark for each character that is not printable.
    """
    return "".join(character if character.isprintable() else "?" for character in text)


class DatasetError(ValueError):
    """A folder of radiographs that cannot be used."""


class Refusal(ValueError):
    """Why one image is refused, raised below `read_radiograph`, which adds the file's name, as `read_ct` does.

    Args:
        reason: what is wrong, a clause without a full stop.
        cure: what the user can do about it.
    """

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(reason, cure)
        self.reason = printable(" ".join(reason.split()))[:MAX_REASON]
        self.cure = cure


class ImageError(ValueError):
    """An image file that cannot be read or written.

    Attributes:
        reason: the reason alone, without the file's name and the cure (for counting).
        cure: what the user can do about it.
    """

    # The constructor takes the message alone: loader processes rebuild exceptions from it.
    reason: str = ""
    cure: str = ""

    @classmethod
    def of(cls: type[Kind], path: str | os.PathLike[str], refusal: Refusal) -> Kind:
        """Build the error of one file.

        Args:
            path: the file.
            refusal: why it is refused.

        Returns:
            The error, one line long.
        """
        error = cls(f"{printable(str(path))}: {refusal.reason}; {refusal.cure}")
        error.reason, error.cure = refusal.reason, refusal.cure
        return error


class RadiographError(ImageError):
    """An image file that cannot be read as a radiograph, or not be written."""


class CTError(ImageError):
    """A file or folder that cannot be read as CT or as a mask of one, or not be written."""
