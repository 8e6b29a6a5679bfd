"""Samples on request: nothing or a class in, synthetic DICOM out."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pydicom
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from anatodiff.engines.workflow import cause_of
from anatodiff.weights import WeightsError
from lib.errors import RequestError
from lib.parameters import SampleParameters
from lib.sampler import CONFIG, Sampler
from lib.settings import AppSettings

DIMENSION = 2
SHOWN = ("guidance_scale", "sampling_steps")  # options of inference.json whose defaults hold here, too
NOT_SENT = ".run.lock"


class SampleTask(InferTask):
    """Draw synthetic radiographs with the last adapter that was trained, or the one that `--conf` names.

    Args:
        settings: where the weights are.
    """

    def __init__(self, settings: AppSettings) -> None:
        description = "Synthetic radiographs of one class as DICOM, marked synthetic; no image goes in"
        super().__init__(type=InferType.OTHERS, labels=None, dimension=DIMENSION, description=description)
        self.settings, self.sampler = settings, Sampler(settings)
        config = json.loads(settings.config(CONFIG).read_text())
        self.defaults = {name: config[name] for name in SHOWN}

    def info(self) -> dict[str, Any]:
        """Say what `/info/` shows: the classes of the adapter as it is now."""
        return {**super().info(), "labels": self.sampler.classes()}

    def config(self) -> dict[str, Any]:
        """Name the parameters with their defaults; null: the first class, any seed."""
        return {"label": None, "seed": None, "samples": 1, **self.defaults}

    def is_valid(self) -> bool:
        """Tell whether `/info/` lists it: also before the first training, whose lack a request is told."""
        return True

    def get_path(self, validate: bool = True) -> str | None:
        """Name the adapter, which `/model/` hands out."""
        path = self.settings.adapter_path
        return str(path) if path.is_file() or not validate else None

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Draw samples.

        Args:
            request: the parameters, see `SampleParameters`.

        Returns:
            a .dcm file, or a .zip of several with their manifest and contact sheet, that the server takes away once it
            is sent; and what is in it.

        Raises:
            RequestError: there is no adapter, it does not fit, or a parameter is wrong.
        """
        if not self.settings.adapter_path.is_file():
            raise RequestError(
                409,
                f"{self.settings.adapter_path}: there is no adapter yet; train first (POST /train/anatodiff_train), "
                "or start the server with --conf adapter_path",
            )
        wanted = SampleParameters.read(request, self.sampler.classes() or [""], self.defaults)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            try:
                adapter = self.sampler.draw(folder, wanted.options())
            except Exception as error:
                cause = cause_of(error)
                if isinstance(cause, WeightsError):
                    raise RequestError(409, " ".join(str(cause).split())) from error
                raise
            files = sorted(folder.glob("*.dcm"))
            uids = [str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files]
            result = _to_send(folder, files, wanted.seed)
        return str(result), {
            "synthetic": True,
            **asdict(wanted),
            "files": [{"file": file.name, "SOPInstanceUID": uid} for file, uid in zip(files, uids, strict=True)],
            "adapter_sha256": adapter,
            "seconds": round(time.perf_counter() - start, 2),
        }


def _to_send(folder: Path, files: list[Path], seed: int) -> Path:
    """Move one file, or pack all that was written, to where the server takes it away after sending."""
    one = len(files) == 1
    stem = files[0].stem if one else files[0].stem.rsplit("_", 1)[0]
    handle, name = tempfile.mkstemp(prefix=f"{stem}_seed{seed}_", suffix=".dcm" if one else ".zip")
    os.close(handle)
    if one:
        shutil.copyfile(files[0], name)
        return Path(name)
    with zipfile.ZipFile(name, "w") as archive:
        for file in sorted(folder.iterdir()):
            if file.name != NOT_SENT:
                archive.write(file, file.name)
    return Path(name)
