"""Images of a base: a large folder to train on, a small second one, and one held out, in common classes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from anatodiff.data.errors import DatasetError
from anatodiff.data.folder import Datalist, make_datalist

Row = dict[str, Any]


@dataclass(frozen=True)
class Sources:
    """Rows of both folders with labels in common.

    Attributes:
        train: rows of the large folder to train on, `{"image": path, "label": index into classes, "patient": key}`.
        extra: all rows of the small folder, or None where there is none.
        test: rows that are held out, of the large folder or of a folder of their own.
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
    validation_dir: str | os.PathLike[str] | None = None,
) -> Sources:
    """Find the images of a base's folders; all may have a column `domain` in labels.csv.

    Args:
        dataset_dir: the large folder, see `make_datalist`.
        extra_dir: the small one, used whole; None is none.
        test_fraction: share of the large folder to hold out; of no effect where `validation_dir` is given.
        seed: of the split.
        max_images: at most this many images of the large folder.
        allow_burned_in: use DICOM images that say that annotation is burned into their pixels.
        labels_path: a table of labels of the large folder that lies elsewhere; None: its own, if there is one.
        allow_colour: take the brightness of colour images; they are photographs, no radiographs.
        validation_dir: a folder that is held out whole, in place of a share of the large one; None is none.

    Returns:
        the rows and the classes.

    Raises:
        DatasetError: a folder cannot be used, with the reason and the cure in one line.
    """
    read = partial(make_datalist, allow_burned_in=allow_burned_in, allow_colour=allow_colour)
    share = test_fraction if validation_dir is None else 0
    large = read(dataset_dir, share, seed, max_images, labels_path=labels_path)
    small = None if extra_dir is None else read(extra_dir, 0)
    held_out = None if validation_dir is None else read(validation_dir, 0)
    learned = {"dataset_dir": large} | ({} if small is None else {"extra_dir": small})
    pairs = sorted({pair for datalist in learned.values() for pair in _pairs_of(datalist)})
    if held_out is not None:
        _check_held_out(held_out, learned, set(pairs))
    lists = learned | ({} if held_out is None else {"validation_dir": held_out})
    domains = sorted({domain for domain, _ in pairs if domain})
    classes = domains + [_class_name(*pair) for pair in pairs]
    parents = [domains.index(name) for name in domains]
    parents += [domains.index(domain) if domain else len(domains) + index for index, (domain, _) in enumerate(pairs)]

    def relabelled(rows: Sequence[Row], datalist: Datalist) -> list[Row]:
        names = [_class_name(*pair) for pair in _named(rows, datalist.classes)]
        return [{**row, "label": classes.index(name)} for row, name in zip(rows, names, strict=True)]

    extra = None if small is None else relabelled(small.train, small)
    test = relabelled(large.test, large) if held_out is None else relabelled(held_out.train, held_out)
    return Sources(relabelled(large.train, large), extra, test, classes, parents, lists)


def _check_held_out(held_out: Datalist, learned: Mapping[str, Datalist], pairs: set[tuple[str, str]]) -> None:
    """Refuse a held-out folder that shares a patient with the training, or has a class that the training lacks."""
    for option, datalist in learned.items():
        files = {row["patient"]: row["image"] for row in datalist.train}
        for row in held_out.train:
            if (other := files.get(row["patient"])) is not None:
                raise DatasetError(
                    f"validation_dir: {row['image']} is of the same patient as {other} of {option}; leave one out"
                )
    unknown = sorted(_class_name(*pair) for pair in set(_pairs_of(held_out)) - pairs)
    if unknown:
        raise DatasetError(
            f"validation_dir: no training image is of class {', '.join(unknown)}; leave these images out or name the "
            "classes as in the training"
        )


def _pairs_of(datalist: Datalist) -> list[tuple[str, str]]:
    return _named(datalist.train + datalist.test, datalist.classes)


def _named(rows: Sequence[Row], classes: Sequence[str]) -> list[tuple[str, str]]:
    return [(row["domain"], classes[row["label"]]) for row in rows]


def _class_name(domain: str, label: str) -> str:
    return f"{domain}/{label}" if domain else label
