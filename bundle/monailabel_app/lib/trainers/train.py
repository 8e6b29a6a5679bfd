"""A fine-tune on the images of the datastore, by the bundle's own training."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from anatodiff.engines.finish import MODEL_NAME, QUALITY_NAME
from anatodiff.files import replaced_when_whole
from lib.collect import Image, find_images, write_folder
from lib.errors import RequestError
from lib.options import CONFIG, read_options, training_options
from lib.settings import ADAPTER_NAME, AppSettings

logger = logging.getLogger(__name__)

RUN_ID = "training"
LENGTH = "max_epochs"  # the one option with another value of which a run goes on
RECORD_NAME = "last_training.json"
OPTIONS_NAME = "request.json"
LOSSES_NAME = "losses.csv"
ID_CHARS = 12
PUBLISHED = (MODEL_NAME, QUALITY_NAME, ADAPTER_NAME)  # the adapter last: with it the others are there


class FineTuneTask(TrainTask):
    """Fine-tune on the datastore's images; the same request on the same images goes on where it was stopped.

    Args:
        settings: where things are.
    """

    def __init__(self, settings: AppSettings) -> None:
        super().__init__("Fine-tunes on the images of the datastore, then measures its samples against held-back ones")
        self.settings = settings

    def config(self) -> dict[str, Any]:
        """Name the options of one plain value; lists can be set, but viewers would take them for a choice."""
        options = training_options(self.settings)
        return {key: value for key, value in options.items() if isinstance(value, bool | int | float | str)}

    def stats(self) -> dict[str, Any]:
        """Say how far the last training is, and at its end what it reached."""
        record = _read_json(self.settings.model_dir / RECORD_NAME)
        if not record:
            return {}
        run = self.settings.model_dir / "runs" / record["run"]
        step, loss = _last_loss(run / LOSSES_NAME)
        quality = _read_json(run / QUALITY_NAME)
        return {**record, "step": step, "loss": loss, "quality": quality or None}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, and leave adapter and model where samples are drawn with them.

        Args:
            request: options of `train.json`.
            datastore: the images.

        Returns:
            `stats`.

        Raises:
            RequestError: an option is not known, there are no images, or the training failed: with its last line.
        """
        options = read_options(request, training_options(self.settings))
        images = find_images(datastore, self.settings.labels_path)
        run = self.settings.model_dir / "runs" / _run_id(options, images)
        logger.info("training on %d images of the datastore in %s", len(images), run)
        write_folder(images, run / "images")
        with replaced_when_whole(run / OPTIONS_NAME) as temporary:
            temporary.write_text(json.dumps({**options, **self._places(run)}, indent=1))
        self._note(run, images, {**training_options(self.settings), **options})
        (run / QUALITY_NAME).unlink(missing_ok=True)  # of the same run when it was shorter
        _train([str(self.settings.config(CONFIG)), str(run / OPTIONS_NAME)])
        for name in PUBLISHED:
            if (run / name).is_file():  # quality.json is not written where nothing is measured
                with replaced_when_whole(self.settings.model_dir / name) as temporary:
                    shutil.copyfile(run / name, temporary)
        return self.stats()

    def _places(self, run: Path) -> dict[str, str | None]:
        return {
            **self.settings.weights(),
            "bundle_root": str(self.settings.bundle_dir),
            "dataset_dir": str(run / "images"),
            "output_dir": str(run),
            "cache_dir": str(self.settings.model_dir / "cache"),
        }

    def _note(self, run: Path, images: list[Image], options: dict[str, Any]) -> None:
        labels = sorted({image.label for image in images})
        record = {
            "run": run.name,
            "images": {label: sum(image.label == label for image in images) for label in labels},
            "steps": options["max_epochs"] * options["epoch_length"],
        }
        with replaced_when_whole(self.settings.model_dir / RECORD_NAME) as temporary:
            temporary.write_text(json.dumps(record, indent=1))


def _run_id(options: dict[str, Any], images: list[Image]) -> str:
    """Name a run by all that must be the same for it to go on."""
    files = [(image.file.name, image.file.stat().st_size, image.label, image.patient) for image in images]
    same = {name: value for name, value in options.items() if name != LENGTH}
    return hashlib.sha256(json.dumps([same, files], sort_keys=True).encode()).hexdigest()[:ID_CHARS]


def _train(configs: list[str]) -> None:
    """Run the bundle's training in a process of its own, as a user does, and pass on what it says.

    MONAI Label keeps the last lines for `/train/`, and to stop a training it kills this process and its children.
    """
    command = [sys.executable, "-m", "monai.bundle", "run", RUN_ID, "--config_file", str(configs)]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                last = line.strip()
                print(last, flush=True)
    if process.returncode:
        raise RequestError(409, f"the training failed: {last}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _last_loss(path: Path) -> tuple[int, float | None]:
    try:
        lines = path.read_text().splitlines()
        step, loss = lines[-1].split(",")[:2]
        return int(step), float(loss)
    except (OSError, ValueError, IndexError):  # not begun, or a line that is being written
        return 0, None
