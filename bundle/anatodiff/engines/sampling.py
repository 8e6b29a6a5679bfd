"""Sampling as an evaluation: requests in, files out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.engines.workflow import Workflow
from monai.inferers import Inferer
from monai.utils import CommonKeys
from torch import nn
from tqdm import tqdm

from anatodiff.data import DicomSettings, write_radiograph
from anatodiff.data.origin import cut, plain_text
from anatodiff.engines.batches import EngineBatch
from anatodiff.engines.manifest import Provenance
from anatodiff.engines.release import CopyRefusal
from anatodiff.engines.sample_folder import SHEET_COLUMNS, SampleFolder

SHEET_ROWS_PER_CLASS = 4
TITLE_BYTES = 80
NAME_CHARS = 40  # of up to 4 bytes; a file's name may have 255, its number and the ending included
FORMATS = ("dcm", "png", "nii.gz")


def safe_names(classes: Sequence[str]) -> list[str]:
    """Turn class names, which come from a user's table or folders, into names of files.

    Args:
        classes: class names, any text.

    Returns:
        names of letters, digits, "-" and "_", distinct also where a file system takes "a" and "A" for the same.
    """
    names = [re.sub(r"[^\w-]+", "_", name)[:NAME_CHARS].strip("_") or "class" for name in classes]
    folded = [name.casefold() for name in names]
    for i, name in enumerate(names):
        if folded.count(folded[i]) > 1:
            end = 0
            while f"{folded[i]}_{end}" in folded:
                end += 1
            names[i], folded[i] = f"{name}_{end}", f"{folded[i]}_{end}"
    return names


class SampleRequests:
    """The images that are asked for: numbers 0 .. n-1 of each class, in batches.

    Args:
        samples_per_class: n.
        classes: class names.
        batch_size: images per batch.
        only_classes: names of the classes to sample; None: all.
    """

    def __init__(
        self,
        samples_per_class: int,
        classes: Sequence[str],
        batch_size: int,
        only_classes: Sequence[str] | None = None,
    ) -> None:
        if samples_per_class < 1:
            raise ValueError(f"samples_per_class must be at least 1, got {samples_per_class}")
        wanted = list(classes) if only_classes is None else list(only_classes)
        unknown = [name for name in wanted if name not in classes]
        if unknown or not wanted:
            found = repr(unknown[0]) if unknown else "no class"
            raise ValueError(f"only_classes has {found}; the classes are {', '.join(classes)}")
        self.classes, self.batch_size = list(classes), batch_size
        labels = torch.tensor([i for i, name in enumerate(classes) if name in wanted])
        self.labels = labels.repeat_interleave(samples_per_class)
        self.numbers = torch.arange(samples_per_class).repeat(len(labels))

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for numbers, labels in zip(
            self.numbers.split(self.batch_size), self.labels.split(self.batch_size), strict=True
        ):
            yield {"number": numbers, "label": labels}


def sampling_batch(
    batchdata: dict[str, torch.Tensor],
    device: torch.device,
    non_blocking: bool = False,
) -> EngineBatch:
    """Take a request apart for MONAI's evaluator.

    Args:
        batchdata: number and label, each (B,), and context (B, ...) where there is one.
        device: where to sample.
        non_blocking: as for `Tensor.to`.

    Returns:
        numbers, labels, no further arguments, keywords of `SamplingInferer`.
    """
    labels = batchdata["label"].to(device, non_blocking=non_blocking)
    said = {"class_labels": labels}
    if "context" in batchdata:
        said["context"] = batchdata["context"].to(device, non_blocking=non_blocking)
    return batchdata["number"], labels, (), said


class SampleWriter(SampleFolder):
    """Write each sampled image, and all of them on one contact sheet.

    Args:
        directory: folder of the samples.
        classes: class names, for the files' names.
        provenance: what draws them, whose hashes and seed are kept in each file.
        formats: endings of the files to write: "dcm", "png", "nii.gz".
        overwrite: replace files of an earlier run.
        refusal: finds copies of training images, which are not written; None releases all.
        dicom: kind of DICOM object and its anatomy; None is a Secondary Capture that says nothing of anatomy.
        spacing: mm between rows and between columns; None is not known.
    """

    def __init__(
        self,
        directory: str | Path,
        classes: Sequence[str],
        provenance: Provenance,
        formats: Sequence[str] = ("dcm", "png"),
        overwrite: bool = False,
        refusal: CopyRefusal | None = None,
        dicom: DicomSettings | None = None,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(directory, provenance, formats, FORMATS, overwrite, refusal)
        if dicom is not None and dicom.sop_class == "DX" and "dcm" in formats and spacing is None:
            raise ValueError(
                "a DX image needs its pixel spacing: set spacing to two numbers in mm, or dicom_class to SC"
            )
        self.classes, self.dicom, self.spacing = list(classes), dicom, spacing
        self.file_names = safe_names(classes)
        self.images: list[list[torch.Tensor]] = [[] for _ in classes]

    def _write(self, engine: Workflow) -> None:
        output: dict[str, Any] = engine.state.output
        rows = zip(output[CommonKeys.IMAGE], output[CommonKeys.LABEL], output[CommonKeys.PRED], strict=True)
        for number, label, image in rows:
            name, stem = self.classes[int(label)], f"{self.file_names[int(label)]}_{int(number):05d}"
            if self.refusal is not None and self.refusal.is_copy(image, stem, name, int(number)):
                for ending in FORMATS:  # of an earlier run, which may have released it
                    (self.directory / f"{stem}.{ending}").unlink(missing_ok=True)
                continue
            self.images[int(label)].append(image.cpu())
            for ending in self.formats:
                path = write_radiograph(
                    self.directory / f"{stem}.{ending}",
                    image[0].cpu().numpy(),
                    spacing=self.spacing,
                    label=name,
                    number=int(number),
                    seed=self.provenance.sampling["seed"],
                    weights_hash=self.provenance.weights["adapter"],
                    recipe=self.provenance.recipe_sha256,
                    dicom=self.dicom,
                    overwrite=self.overwrite,
                )
                self.written.append(path)

    def _count(self) -> int:
        return sum(len(images) for images in self.images)

    def _counts(self) -> dict[str, Any]:
        return {name: len(images) for name, images in zip(self.classes, self.images, strict=True)}

    def drawn(self) -> torch.Tensor:
        """Return what was written, class by class, (N, 1, H, W) in [0, 1]."""
        return torch.stack([image for images in self.images for image in images])  # (N, 1, H, W)

    def _sheet(self) -> tuple[list[list[torch.Tensor]], list[str]]:
        rows, titles = [], []
        for name, images in zip(self.classes, self.images, strict=True):
            for start in range(0, min(len(images), SHEET_COLUMNS * SHEET_ROWS_PER_CLASS), SHEET_COLUMNS):
                rows.append(images[start : start + SHEET_COLUMNS])
                titles.append(f"synthetic: {cut(plain_text(name), TITLE_BYTES)}" if start == 0 else "")
        return rows, titles


def sample(
    network: nn.Module,
    inferer: Inferer,
    labels: torch.Tensor,
    batch_size: int,
    device: torch.device,
) -> torch.Tensor:
    """Sample images numbered from 0, one per label.

    Args:
        network: DiT.
        inferer: `SamplingInferer`.
        labels: (N,) classes, or the null label.
        batch_size: images per batch.
        device: where to sample.

    Returns:
        (N, 1, H, W) in [0, 1], on the CPU.
    """
    network = network.to(device).eval()
    numbers = torch.arange(len(labels)).split(batch_size)
    batches = zip(numbers, labels.to(device).split(batch_size), strict=True)
    done = [inferer(n, network, class_labels=c).cpu() for n, c in tqdm(batches, "sampling", total=len(numbers))]
    return torch.cat(done)
