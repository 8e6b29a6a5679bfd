"""A folder of samples: what is checked before the first one is written, and what is left beside them."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines.workflow import Workflow

from anatodiff.engines.manifest import MANIFEST_NAME, Provenance, write_manifest
from anatodiff.engines.pictures import save_grid
from anatodiff.engines.release import REFUSED_NAME, CopyRefusal
from anatodiff.files import replaced_when_whole

logger = logging.getLogger(__name__)

SHEET_NAME = "contact_sheet.png"
SHEET_COLUMNS = 8


class SampleFolder(ABC):
    """Write samples into one folder, with a contact sheet and a manifest.

    Args:
        directory: the folder.
        provenance: what draws them, whose hashes and seed are kept in each file.
        formats: endings of the files to write.
        known: those that there are.
        overwrite: replace files of an earlier run.
        refusal: finds copies of training images, which are not written; None releases all.

    Raises:
        ValueError: a format is not known.
    """

    tables: tuple[str, ...] = ()  # names of tables that lie beside the samples

    def __init__(
        self,
        directory: str | Path,
        provenance: Provenance,
        formats: Sequence[str],
        known: Sequence[str],
        overwrite: bool,
        refusal: CopyRefusal | None,
    ) -> None:
        unknown = set(formats) - set(known)
        if unknown:
            raise ValueError(f"formats must be among {tuple(known)}, got {sorted(unknown)[0]!r}")
        self.directory, self.provenance = Path(directory), provenance
        self.formats, self.overwrite, self.refusal = tuple(formats), overwrite, refusal
        self.written: list[Path] = []

    def attach(self, engine: Workflow) -> None:
        """Hook into an evaluator."""
        engine.add_event_handler(Events.STARTED, self._check)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _check(self, engine: Workflow) -> None:
        there = self.directory.iterdir() if self.directory.is_dir() else ()
        if not self.overwrite and any(not file.name.startswith(".") for file in there):  # but the run's own lock
            raise FileExistsError(
                f"{self.directory}: holds files already; give another dataset_dir, or --overwrite True to replace them"
            )
        for name in (REFUSED_NAME, MANIFEST_NAME, *self.tables):  # of an earlier run
            (self.directory / name).unlink(missing_ok=True)

    @abstractmethod
    def _write(self, engine: Workflow) -> None:
        """Write the samples of one batch."""

    @abstractmethod
    def _counts(self) -> dict[str, Any]:
        """Name the numbers of images that were written, for the manifest."""

    @abstractmethod
    def _count(self) -> int:
        """Return how many were written in all."""

    @abstractmethod
    def drawn(self) -> torch.Tensor:
        """Return what was written, (N, 1, H, W) in [0, 1]."""

    @abstractmethod
    def _sheet(self) -> tuple[list[list[torch.Tensor]], list[str]]:
        """Return the rows of the contact sheet and their titles."""

    def _table(self, name: str) -> str:
        """Return the text of one of `tables`."""
        raise KeyError(name)

    def _finish(self, engine: Workflow) -> None:
        count = self._count()
        if self.refusal is not None:
            self.refusal.write(self.directory, count + len(self.refusal.refused))
        if count == 0:
            (self.directory / SHEET_NAME).unlink(missing_ok=True)
            logger.warning("every sample was refused as a copy: nothing was written to %s", self.directory)
            return
        for name in self.tables:
            with replaced_when_whole(self.directory / name) as temporary:
                temporary.write_bytes(self._table(name).encode())
        save_grid(self.directory / SHEET_NAME, *self._sheet())
        self._write_manifest(engine.state.device)
        logger.info(
            "wrote %d synthetic images (%s) and %s to %s", count, ", ".join(self.formats), SHEET_NAME, self.directory
        )

    def _write_manifest(self, device: torch.device) -> None:
        refused = None if self.refusal is None else len(self.refusal.refused)
        beside = [self.directory / name for name in (SHEET_NAME, *self.tables)]
        write_manifest(
            self.directory / MANIFEST_NAME,
            "samples",
            [*self.written, *beside],
            weights=self.provenance.weights,
            data={},
            licences=self.provenance.licences,
            counts={"images": self._counts(), "formats": list(self.formats), "refused_as_copies": refused},
            recipe=self.provenance,
            device=device,
        )
