"""Errors of the way in: each is one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import os


class DatasetError(ValueError):
    """A folder of radiographs that cannot be used."""


class Refusal(ValueError):
    """Why one image is refused, raised below `read_radiograph`, which adds the file's name.

    Args:
        reason: what is wrong, a clause without a full stop.
        cure: what the user can do about it.
    """

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(reason, cure)
        self.reason = " ".join(reason.split())
        self.cure = cure


class RadiographError(ValueError):
    """An image file that cannot be read as a radiograph.

    Attributes:
        reason: the reason alone, without the file's name and the cure (for counting).
    """

    # The constructor takes the message alone: loader processes rebuild exceptions from it.
    reason: str = ""

    @classmethod
    def of(cls, path: str | os.PathLike[str], refusal: Refusal) -> RadiographError:
        """Build the error of one file.

        Args:
            path: the file.
            refusal: why it is refused.

        Returns:
            The error, one line long.
        """
        name = str(path).replace("\n", "?")
        error = cls(f"{name}: {refusal.reason}; {refusal.cure}")
        error.reason = refusal.reason
        return error
