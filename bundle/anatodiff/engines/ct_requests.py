"""Requests of CT slices from files: which organs lie where, and how much noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from anatodiff.autoencoders import CTRequests
from anatodiff.data import CTError, CTVolume, read_ct_labels, read_ct_noise
from anatodiff.data.ct.volume import check_same_grid
from anatodiff.data.errors import Refusal
from anatodiff.engines.workflow import OptionError
from anatodiff.transforms import to_square

MOST_NOISE = 500.0  # HU; more than any slice has that somebody looks at
MOST_ORGANS = 255  # of a mask of bytes
SEPARATOR = ";"  # between names of organs in the table of a folder of samples


def file_requests(
    mask_path: str | Path | None,
    noise_path: str | Path | None,
    noise_level: float | None,
    organs: Mapping[str, Sequence[int]],
    image_size: int,
    samples: int,
    highest_label: int = 0,
) -> CTRequests:
    """Make requests of a user's files, slice by slice: a mask, noise, or both.

    Slices are padded to squares with background and without noise, and these resized.

    Args:
        mask_path: label map, NIfTI or the folder of a DICOM CT series of label values; None: no organs are asked for.
        noise_path: maps of the noise (eq. 9) in HU, NIfTI or such a folder: one slice, or as many as the mask has;
            None: no map.
        noise_level: the same noise everywhere, HU, in place of a map; None: none.
        organs: name -> labels of the mask that are this organ, in the order of the network's; a later one takes a
            label from an earlier one. Other labels up to the highest named one are background.
        image_size: side S of the slices to make, pixels.
        samples: slices to make for each one asked for; they follow each other.
        highest_label: of the mask, where it is known and above all that are named.

    Returns:
        The requests.

    Raises:
        OptionError: nothing is asked for, noise is asked for twice, or an option is out of range.
        CTError: a file cannot be read, has a label out of range or noise below 0, or the two are not of the same place.
    """
    _check_options(mask_path, noise_path, noise_level, image_size, samples)
    channels = _channels(organs, mask_path is not None, highest_label)
    mask = None if mask_path is None else read_ct_labels(mask_path, len(channels))
    noise = None if noise_path is None else read_ct_noise(noise_path)
    if mask is not None and noise is not None:
        noise = _on_mask(noise, Path(str(noise_path)), mask, Path(str(mask_path)))
    given = mask if mask is not None else noise
    n = 1 if given is None else len(given.slices)
    labels = torch.zeros(n, 1, image_size, image_size, dtype=torch.uint8)
    hu = torch.full((n, 1, image_size, image_size), float(noise_level or 0))
    if mask is not None:
        labels = to_square(torch.from_numpy(channels[mask.slices])[:, None], image_size, "nearest")
    if noise is not None:
        hu = to_square(torch.from_numpy(noise.slices.copy())[:, None], image_size, "bilinear")
    has_noise = noise is not None or noise_level is not None
    rows = torch.arange(n).repeat_interleave(samples)
    return CTRequests(
        noise=hu[rows],
        mask=labels[rows, 0],
        has_noise=torch.full((len(rows),), has_noise),
        has_mask=torch.full((len(rows),), mask is not None),
        doses=torch.full((len(rows),), torch.nan),
        labels=torch.zeros(len(rows), dtype=torch.int64),
        references=torch.full((len(rows),), -1),
        organs=list(organs),
    )


def _check_options(
    mask_path: str | Path | None,
    noise_path: str | Path | None,
    noise_level: float | None,
    image_size: int,
    samples: int,
) -> None:
    if mask_path is None and noise_path is None and noise_level is None:
        raise OptionError("nothing is asked for: give mask_path, noise_path or noise_level")
    if noise_path is not None and noise_level is not None:
        raise OptionError("noise_path and noise_level are both given: give one of them")
    if noise_level is not None and not 0 < noise_level <= MOST_NOISE:
        raise OptionError(f"noise_level is {noise_level}; give HU above 0 and at most {MOST_NOISE:g}")
    for name, value in (("image_size", image_size), ("samples", samples)):
        if value < 1:
            raise OptionError(f"{name} is {value}; give at least 1")


def _channels(organs: Mapping[str, Sequence[int]], needed: bool, highest_label: int) -> np.ndarray:
    """Table from the labels of a file, up to the highest that is known, to those of the network, uint8."""
    if (needed and not organs) or len(organs) > MOST_ORGANS:
        raise OptionError(f"organs names {len(organs)} organs; give 1 to {MOST_ORGANS}, each with its labels")
    named = [(name, label) for name, labels in organs.items() for label in labels]
    for name, labels in organs.items():
        if not name or not name.isprintable() or SEPARATOR in name:
            raise OptionError(f"organs has the name {name!r}; give printable names without {SEPARATOR!r}")
        if not labels:
            raise OptionError(f"organs gives {name} no label; give a list of labels of the mask")
    table = np.zeros(max([highest_label, *(label for _, label in named if _is_label(label))]) + 1, np.uint8)
    for name, label in named:
        if not _is_label(label):
            raise OptionError(f"organs gives {name} the label {label!r}; give whole numbers from 1 to 65535")
        table[label] = list(organs).index(name) + 1
    return table


def _is_label(label: object) -> bool:
    return isinstance(label, int) and not isinstance(label, bool) and 0 < label <= np.iinfo(np.uint16).max


def _on_mask(noise: CTVolume, noise_path: Path, mask: CTVolume, mask_path: Path) -> CTVolume:
    """Check that noise lies on a mask; one slice of it is repeated for all of the mask's."""
    slices, affine = noise.slices, noise.affine
    if len(slices) == 1:
        slices = np.broadcast_to(slices, (len(mask.slices), *slices.shape[1:]))
        if affine is not None and mask.affine is not None:
            # It is for any height, so that of the mask takes the place of its own.
            affine = affine.copy()
            affine[:, 2], affine[2] = mask.affine[:, 2], mask.affine[2]
    cure = "give a map of the same slices, one slice for all, or noise_level in its place"
    unplaced = replace(mask, affine=None) if affine is None else mask
    try:
        check_same_grid(slices.shape, np.eye(4) if affine is None else affine, unplaced, cure, mask_path.name)
    except Refusal as refusal:
        raise CTError.of(noise_path, refusal) from refusal
    return replace(noise, slices=slices)
