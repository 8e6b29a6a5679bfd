"""Samples of a CT run as they lie in its folder, each with what was asked for."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from anatodiff.data import DatasetError
from anatodiff.data.ct import HUWindow, read_ct, read_ct_mask, read_ct_noise
from anatodiff.data.ct.volume import CTVolume, check_same_grid
from anatodiff.data.errors import CTError, Refusal
from anatodiff.engines.ct_requests import SEPARATOR
from anatodiff.engines.ct_writer import COLUMNS, REQUESTS_NAME

CT_ENDING, MASK_ENDING, NOISE_ENDING = "_ct.nii.gz", "_seg.nii.gz", "_noise.nii.gz"


class CTSlices(Protocol):
    """What a measure needs of real slices: `anatodiff.autoencoders.CTDataset` has it.

    Attributes:
        items: rows of the list of images.
        key: hash of all that the slices depend on.
        images: (N, 1, S, S) in [0, 1], HU through the window.
        noise: (N, 1, S, S), HU; zeros where not known.
        mask: (N, S, S) uint8: 0 background, k the k-th organ; zeros where not known.
        has_noise: (N,) bool.
        has_mask: (N,) bool.
        doses: (N,) shares of the full dose.
        window: between HU and gray levels.
        organs: names of the labels from 1 on.
    """

    items: list[dict[str, Any]]
    key: str
    images: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor
    has_noise: torch.Tensor
    has_mask: torch.Tensor
    doses: torch.Tensor
    window: HUWindow
    organs: list[str]

    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class CTSamples:
    """Samples and their requests, row by row.

    Args:
        names: of the samples.
        images: (N, 1, S, S) float32 in [0, 1], HU through the window.
        mask: (N, S, S) uint8, as requested; zeros where none was.
        noise: (N, 1, S, S) float32, the requested map in HU; zeros where none was.
        has_mask: (N,) bool.
        has_noise: (N,) bool.
        doses: (N,) float32, NaN where not known.
        references: (N,) int64, row of the held-back data that the request is of; -1 where there is none.
    """

    names: list[str]
    images: torch.Tensor
    mask: torch.Tensor
    noise: torch.Tensor
    has_mask: torch.Tensor
    has_noise: torch.Tensor
    doses: torch.Tensor
    references: torch.Tensor

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, chosen: torch.Tensor) -> CTSamples:
        """Return some of the samples: chosen (N,) bool."""
        tensors = {field.name: getattr(self, field.name)[chosen] for field in fields(self) if field.name != "names"}
        return CTSamples([name for name, keep in zip(self.names, chosen, strict=True) if keep], **tensors)


def read_ct_samples(generated_dir: str | Path, dataset: CTSlices) -> CTSamples:
    """Read the samples of a folder and `requests.csv`.

    Args:
        generated_dir: the folder.
        dataset: the held-back slices, which say window, organs and size.

    Returns:
        samples in the order of their names.

    Raises:
        DatasetError: no folder, no samples, or requests that do not fit the samples or the data.
        CTError: a file cannot be read or has another size.
    """
    folder = Path(generated_dir)
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: no such folder; give run_dir a finished run or generated_dir a folder of samples"
        )
    names = sorted(file.name.removesuffix(CT_ENDING) for file in folder.glob(f"*{CT_ENDING}"))
    if not names:
        raise DatasetError(f"{folder}: no samples (NAME{CT_ENDING}) in this folder; give generated_dir one with some")
    requests = _requests(folder / REQUESTS_NAME, names, dataset)
    rows = [_sample(folder, name, requests[name][1], dataset) for name in names]
    images, masks, noise, has_mask, has_noise = zip(*rows, strict=True)
    return CTSamples(
        names,
        torch.from_numpy(dataset.window.to_unit(np.stack(images)))[:, None],
        torch.from_numpy(np.stack(masks)),
        torch.from_numpy(np.stack(noise))[:, None],
        torch.tensor(has_mask),
        torch.tensor(has_noise),
        torch.tensor([requests[name][0] for name in names], dtype=torch.float32),
        torch.tensor([requests[name][2] for name in names]),
    )


Request = tuple[float, list[str], int]


def _requests(path: Path, names: list[str], dataset: CTSlices) -> dict[str, Request]:
    if not path.is_file():
        raise DatasetError(f"{path}: no such file, so what was asked for is not known; give generated_dir a CT run's")
    with open(path, newline="") as file:
        table = csv.DictReader(file)
        missing = [column for column in COLUMNS if column not in (table.fieldnames or [])]
        if missing:
            raise DatasetError(f"{path}: lacks the column {missing[0]!r}; give it {', '.join(COLUMNS)}")
        requests = {row["sample"]: _request(path, row, dataset) for row in table}
    unknown, without = sorted(requests.keys() - set(names)), sorted(set(names) - requests.keys())
    if unknown:
        raise DatasetError(f"{path}: row {unknown[0]!r} has no {unknown[0]}{CT_ENDING}; take it out, or sample again")
    if without:
        raise DatasetError(
            f"{path}: no row for {without[0]!r} ({len(without)} samples have none); add it, or take the sample away"
        )
    return requests


def _request(path: Path, row: dict[str, str], dataset: CTSlices) -> Request:
    where = f"{path}: row {row['sample']!r}"
    try:
        dose = float(row["dose"]) if row["dose"] else math.nan
        reference = int(row["reference"]) if row["reference"] else -1
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where} has a dose or a reference that is no number; correct it") from error
    organs = [name for name in (row["organs"] or "").split(SEPARATOR) if name]
    # The order, too: it is what the labels of the mask stand for.
    if organs != [name for name in dataset.organs if name in organs]:
        raise DatasetError(
            f"{where} names the organs {SEPARATOR.join(organs)}, the data have {SEPARATOR.join(dataset.organs)}; "
            "give organs as in the run that made the samples"
        )
    if not -1 <= reference < len(dataset):
        raise DatasetError(
            f"{where} is of held-back slice {reference}, the data hold back {len(dataset)}; give the dataset_dir, "
            "test_fraction, split_seed and doses of the run that made the samples"
        )
    return dose, organs, reference


def _sample(
    folder: Path, name: str, organs: list[str], dataset: CTSlices
) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool, bool]:
    """Read one sample: HU (S, S), mask (S, S), noise (S, S), and which of the two were requested."""
    path, side = folder / f"{name}{CT_ENDING}", dataset.images.shape[2]
    volume = read_ct(path)
    if volume.slices.shape != (1, side, side):
        shape = " x ".join(map(str, volume.slices.shape))
        wanted = Refusal(f"{shape} voxels, not 1 x {side} x {side}", "give image_size that of the samples")
        raise CTError.of(path, wanted)
    mask, noise = np.zeros((side, side), np.uint8), np.zeros((side, side), np.float32)
    mask_path, noise_path = folder / f"{name}{MASK_ENDING}", folder / f"{name}{NOISE_ENDING}"
    if has_mask := mask_path.is_file():
        mask = read_ct_mask(mask_path, volume, 1 + len(dataset.organs))[0].astype(np.uint8)
        unnamed = [dataset.organs[k - 1] for k in np.unique(mask[mask > 0]) if dataset.organs[k - 1] not in organs]
        if organs and unnamed:
            wrong = Refusal(f"shows {unnamed[0]}, which {REQUESTS_NAME} does not name", "correct one of the two")
            raise CTError.of(mask_path, wrong)
    if has_noise := noise_path.is_file():
        noise = _read_map(noise_path, volume)
    return volume.slices[0], mask, noise, has_mask, has_noise


def _read_map(path: Path, volume: CTVolume) -> np.ndarray:
    """Read a noise map (S, S), and check that it lies on its sample."""
    found = read_ct_noise(path)
    try:
        affine = np.eye(4) if found.affine is None else found.affine
        check_same_grid(found.slices.shape, affine, volume, "give the map of this sample")
    except Refusal as refusal:
        raise CTError.of(path, refusal) from refusal
    return found.slices[0]
