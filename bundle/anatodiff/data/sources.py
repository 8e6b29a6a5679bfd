"""What a base learns from: a large folder, and beside it a small one of real radiographs, in common classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from anatodiff.data.folder import Datalist, make_datalist

Row = dict[str, Any]


@dataclass(frozen=True)
class Sources:
    """Rows of both folders with labels in common.

    Attributes:
        train: rows of the large folder to train on, `{"image": path, "label": index into classes, "patient": key}`.
        extra: all rows of the small folder, or None where there is none.
        test: rows of the large folder that are held out.
        classes: the domains first, each a class of its own that stands for "this domain, whatever class", then
            "domain/label"; a row without a domain has its label alone.
        parents: for each class the index of its domain; its own index where it has none.
        lists: for the name of an option, what was read of the folder that it gives.
    """

    train: list[Row]
    extra: list[Row] | None
    test: list[Row]
    classes: list[str]
    parents: list[int]
    lists: dict[str, Datalist]


def make_sources(
    dataset_dir: str | os.PathLike[str],
    extra_dir: str | os.PathLike[str] | None = None,
    test_fraction: float = 0.05,
    seed: int = 0,
    max_images: int | None = None,
    allow_burned_in: bool = False,
    labels_path: str | os.PathLike[str] | None = None,
    allow_colour: bool = False,
) -> Sources:
    """Find the images of a base's folders; both may have a column `domain` in labels.csv.

    Args:
        dataset_dir: the large folder, see `make_datalist`.
        extra_dir: the small one, used whole; None is none.
        test_fraction: share of the large folder to hold out.
        seed: of the split.
        max_images: at most this many images of the large folder.
        allow_burned_in: use DICOM images that say that annotation is burned into their pixels.
        labels_path: a table of labels of the large folder that lies elsewhere; None: its own, if there is one.
        allow_colour: take the brightness of colour images; they are photographs, no radiographs.

    Returns:
        the rows and the classes.

    Raises:
        DatasetError: a folder cannot be used, with the reason and the cure in one line.
    """
    read = partial(make_datalist, allow_burned_in=allow_burned_in, allow_colour=allow_colour)
    large = read(dataset_dir, test_fraction, seed, max_images, labels_path=labels_path)
    small = None if extra_dir is None else read(extra_dir, 0)
    lists = {"dataset_dir": large} | ({} if small is None else {"extra_dir": small})
    named = [_named(rows, datalist.classes) for datalist in lists.values() for rows in (datalist.train, datalist.test)]
    pairs = sorted({pair for rows in named for pair in rows})
    domains = sorted({domain for domain, _ in pairs if domain})
    classes = domains + [_class_name(*pair) for pair in pairs]
    parents = [domains.index(name) for name in domains]
    parents += [domains.index(domain) if domain else len(domains) + index for index, (domain, _) in enumerate(pairs)]

    def relabelled(rows: Sequence[Row], datalist: Datalist) -> list[Row]:
        names = [_class_name(*pair) for pair in _named(rows, datalist.classes)]
        return [{**row, "label": classes.index(name)} for row, name in zip(rows, names, strict=True)]

    extra = None if small is None else relabelled(small.train, small)
    return Sources(relabelled(large.train, large), extra, relabelled(large.test, large), classes, parents, lists)


def _named(rows: Sequence[Row], classes: Sequence[str]) -> list[tuple[str, str]]:
    return [(row["domain"], classes[row["label"]]) for row in rows]


def _class_name(domain: str, label: str) -> str:
    return f"{domain}/{label}" if domain else label
