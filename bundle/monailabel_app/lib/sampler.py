"""The bundle's own inference with a network that stays loaded between requests."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow
from safetensors import SafetensorError, safe_open

from anatodiff.weights import HEADER_KEY
from lib.settings import AppSettings

CONFIG = "inference.json"
LOADED = ("autoencoder", "adapter", "network_def")  # what takes long to read, and is the same for every request
Stamp = tuple[int, int]


class Inference(ConfigWorkflow):
    """`inference.json` without its `initialize`: a server's signals and the hook for its errors are not the config's.

    Args:
        config: the config's file.
        options: what replaces its entries, components among them.
    """

    def __init__(self, config: Path, options: dict[str, Any]) -> None:
        super().__init__(config_file=str(config), workflow_type="infer", logging_file=False, **options)
        self.parser.parse(reset=True)

    def draw(self) -> None:
        """Sample and write."""
        self.parser.get_parsed_content("evaluator").run()


class Sampler:
    """Draws samples, one request after the other.

    Args:
        settings: where the weights are.
    """

    def __init__(self, settings: AppSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._loaded: dict[str, Any] = {}
        self._stamp: Stamp | None = None

    def classes(self) -> list[str]:
        """Name the classes of the adapter, from its header alone; none while there is no adapter."""
        try:
            with safe_open(self.settings.adapter_path, framework="pt") as file:
                return list(json.loads((file.metadata() or {})[HEADER_KEY])["classes"])
        except (OSError, SafetensorError, KeyError, ValueError):
            return []  # what is wrong with it is said to who asks for a sample

    def draw(self, folder: Path, options: dict[str, Any]) -> str:
        """Write samples to a folder.

        Args:
            folder: an empty folder.
            options: of `inference.json`.

        Returns:
            SHA-256 of the adapter that they were drawn with.

        Raises:
            anatodiff.weights.WeightsError: the adapter is missing, broken, or of another base.
        """
        with self._lock:
            options = {**options, "bundle_root": str(self.settings.bundle_dir), "dataset_dir": str(folder)}
            Inference(self.settings.config(CONFIG), {**options, **self._load()}).draw()
            return str(self._loaded["adapter"].sha256)

    def _load(self) -> dict[str, Any]:
        """Read the weights, again if the adapter's file was replaced since."""
        stamp = self._adapter_stamp()
        if not self._loaded or stamp != self._stamp:
            places = {**self.settings.weights(), "adapter_path": str(self.settings.adapter_path)}
            workflow = Inference(self.settings.config(CONFIG), places)
            self._loaded = {name: workflow.parser.get_parsed_content(name) for name in LOADED}
            self._stamp = stamp
        return self._loaded

    def _adapter_stamp(self) -> Stamp | None:
        try:
            found = self.settings.adapter_path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size
