"""One image under several names: in both parts of a split it would be measured against itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from anatodiff.data.items import Item
from anatodiff.data.rejected import Rejected

COPY = "the same image"
CONTRADICTION = "another label for the same image"


def find_copies(items: Iterable[Item], marks: Mapping[Path, list[str]]) -> list[Rejected]:
    """Find images of the same pixels, or of the same SOP Instance UID.

    The first is used. Where copies have different labels, none is: one of the labels is wrong, and which is for the
    user to say.

    Args:
        items: images, in the order that decides which is the first.
        marks: by what each of them is known again, see `read_with_marks`.

    Returns:
        The files not to use.
    """
    first: dict[str, Item] = {}
    copies: dict[Path, list[Item]] = {}  # of the first one's file
    for item in items:
        mine = marks.get(item.file, [])
        original = next((first[mark] for mark in mine if mark in first), item)
        for mark in mine:
            first.setdefault(mark, original)
        copies.setdefault(original.file, []).append(item)
    rejected: list[Rejected] = []
    for same in copies.values():
        original = same[0]
        if len({item.label for item in same}) == 1:
            cure = "nothing to do, it is used once; remove the copy to silence this"
            rejected += [Rejected(str(item.file), COPY, cure, str(original.file)) for item in same[1:]]
            continue
        for item in same:
            other = next(one for one in same if one.label != item.label)
            cure = "keep the row whose label is right, and remove the others"
            rejected.append(Rejected(str(item.file), CONTRADICTION, cure, str(other.file)))
    return rejected
