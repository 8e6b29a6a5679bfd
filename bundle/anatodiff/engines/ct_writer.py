"""Sampled CT slices to files, each beside what was asked for."""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.engines.workflow import Workflow
from monai.utils import CommonKeys

from anatodiff.autoencoders import CTRequests
from anatodiff.data import HUWindow, write_ct, write_ct_mask, write_ct_noise
from anatodiff.data.ct import check_writing
from anatodiff.data.origin import cut, plain_text
from anatodiff.engines.ct_requests import SEPARATOR
from anatodiff.engines.manifest import Provenance
from anatodiff.engines.release import CopyRefusal
from anatodiff.engines.sample_folder import SHEET_COLUMNS, SampleFolder

FORMATS = ("nii.gz", "dcm")
REQUESTS_NAME = "requests.csv"
COLUMNS = ("sample", "dose", "organs", "reference")
STEM = "sample_{:05d}"
SHEET_BLOCKS = 4  # of a row of maps, one of masks and one of samples
TITLE_BYTES = 80
SPACING = (3.0, 1.5, 1.5)  # mm; an abdomen of 384 mm on 256 pixels
WORDS = "CT slice"


class CTSampleWriter(SampleFolder):
    """Write each sampled slice in HU with its request, a table of the requests, and a contact sheet.

    Of sample number n: `sample_0000n_ct.nii.gz` and `sample_0000n_dicom/`, as `formats` says; and always as NIfTI,
    where they were asked for, `sample_0000n_seg.nii.gz` (0 background, k the k-th organ) and
    `sample_0000n_noise.nii.gz` (HU).

    The size of a pixel is nothing that a network knows: files of CT must have one, so it is what `spacing` says.

    Args:
        directory: folder of the samples.
        requests: what was asked for; a sample's number is its row.
        window: brings images to HU; what lies outside of it no sample shows.
        provenance: what draws them, whose hashes and seed are kept in each file.
        formats: of the slices: "nii.gz", "dcm" (a folder with a series of one slice).
        overwrite: replace files of an earlier run.
        refusal: finds copies of training images, which are not written; None releases all.
        spacing: mm between slices, rows and columns; None: 3.0, 1.5, 1.5, an abdomen of 384 mm on 256 pixels.
        body_part: one of `anatodiff.data.dicom_synthetic.REGIONS`; None is not said. DICOM only.

    Raises:
        ValueError: a format, the spacing, the body part or a name of an organ is not usable.
    """

    tables = (REQUESTS_NAME,)

    def __init__(
        self,
        directory: str | Path,
        requests: CTRequests,
        window: HUWindow,
        provenance: Provenance,
        formats: Sequence[str] = FORMATS,
        overwrite: bool = False,
        refusal: CopyRefusal | None = None,
        spacing: Sequence[float] | None = None,
        body_part: str | None = None,
    ) -> None:
        super().__init__(directory, provenance, formats, FORMATS, overwrite, refusal)
        self.spacing = check_writing(SPACING if spacing is None else spacing, body_part)
        if any(SEPARATOR in name for name in requests.organs):
            raise ValueError(f"organs {requests.organs}: give names without {SEPARATOR!r}, which stands between them")
        self.requests, self.window, self.body_part = requests, window, body_part
        self.images: dict[int, torch.Tensor] = {}
        self.rows: dict[int, dict[str, str]] = {}

    def _write(self, engine: Workflow) -> None:
        output: dict[str, Any] = engine.state.output
        for number, image in zip(output[CommonKeys.IMAGE].tolist(), output[CommonKeys.PRED].cpu(), strict=True):
            stem, side = STEM.format(number), self.requests.mask.shape[-2:]
            if image.shape[-2:] != side:
                raise ValueError(
                    f"samples of {image.shape[-1]} pixels, requests of {side[-1]}: give both one image_size"
                )
            self._remove(stem)
            if self.refusal is not None and self.refusal.is_copy(image, stem, WORDS, number):
                continue
            self.images[number] = image
            self.rows[number] = self._row(stem, number)
            self._write_slice(stem, number, image)
            self._write_request(stem, number)

    def _remove(self, stem: str) -> None:
        """Take away what an earlier run has left of a sample: a folder is never replaced, a request may be another."""
        for part in ("ct", "seg", "noise"):
            (self.directory / f"{stem}_{part}.nii.gz").unlink(missing_ok=True)
        shutil.rmtree(self.directory / f"{stem}_dicom", ignore_errors=True)

    def _write_slice(self, stem: str, number: int, image: torch.Tensor) -> None:
        for ending in self.formats:
            name, part = (f"{stem}_dicom", self.body_part) if ending == "dcm" else (f"{stem}_ct.{ending}", None)
            path = write_ct(
                self.directory / name,
                self.window.to_hu(image.float().numpy()),
                self.spacing,
                body_part=part,
                description=WORDS,
                seed=self.provenance.sampling["seed"],
                weights_hash=self.provenance.weights["adapter"],
                number=number,
                recipe=self.provenance.recipe_sha256,
            )
            self.written += sorted(path.iterdir()) if path.is_dir() else [path]

    def _write_request(self, stem: str, number: int) -> None:
        if self.requests.has_mask[number]:
            mask = self.requests.mask[number][None].numpy()
            self.written.append(write_ct_mask(self.directory / f"{stem}_seg.nii.gz", mask, self.spacing))
        if self.requests.has_noise[number]:
            noise = self.requests.noise[number].float().numpy()
            self.written.append(write_ct_noise(self.directory / f"{stem}_noise.nii.gz", noise, self.spacing))

    def _row(self, stem: str, number: int) -> dict[str, str]:
        dose, reference = float(self.requests.doses[number]), int(self.requests.references[number])
        return {
            "sample": stem,
            "dose": "" if math.isnan(dose) else f"{dose:g}",
            "organs": SEPARATOR.join(self.requests.organs) if self.requests.has_mask[number] else "",
            "reference": "" if reference < 0 else str(reference),
        }

    def _table(self, name: str) -> str:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(row for _, row in sorted(self.rows.items()))
        return text.getvalue()

    def _count(self) -> int:
        return len(self.rows)

    def _counts(self) -> dict[str, Any]:
        return {"ct": len(self.rows)}

    def drawn(self) -> torch.Tensor:
        """Return what was written, in the order of the requests, (N, 1, S, S) in [0, 1]."""
        return torch.stack([self.images[number] for number in sorted(self.images)])  # (N, 1, S, S)

    def _sheet(self) -> tuple[list[list[torch.Tensor]], list[str]]:
        numbers = sorted(self.images)[: SHEET_COLUMNS * SHEET_BLOCKS]
        most = max(float(self.requests.noise[numbers].max()), torch.finfo(torch.float32).tiny)
        names = ", ".join(self.requests.organs) or "none"
        titles = [
            f"requested noise to {most:.3g} HU",
            cut(plain_text(f"requested: {names}"), TITLE_BYTES),
            "synthetic: CT",
        ]
        rows: list[list[torch.Tensor]] = []
        for start in range(0, len(numbers), SHEET_COLUMNS):
            part = numbers[start : start + SHEET_COLUMNS]
            rows.append([self.requests.noise[number].float() / most for number in part])
            rows.append([self.requests.mask[number][None] / max(len(self.requests.organs), 1) for number in part])
            rows.append([self.images[number].float() for number in part])
        return rows, titles * (len(rows) // len(titles))
