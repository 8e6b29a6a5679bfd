"""Placeholder until the writer is merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.utils import CommonKeys


class CTSampleWriter:
    def __init__(
        self,
        directory: Path,
        requests: Any,
        window: Any,
        provenance: Any,
        formats: Any = (),
        overwrite: bool = False,
        refusal: Any = None,
        spacing: Any = None,
        body_part: Any = None,
    ) -> None:
        self.images: list[list[Any]] = [[]]

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._w)

    def _w(self, engine: Any) -> None:
        self.images[0] += list(engine.state.output[CommonKeys.PRED].cpu())
