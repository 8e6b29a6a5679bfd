"""Photographs with the noise of CT, kept on disk: what the first stage of NA-Diff is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from anatodiff.autoencoders.latent_cache import CACHE_VERSION, cache_key, cached
from anatodiff.data import HUWindow
from anatodiff.files import sha256_of
from anatodiff.transforms.photographs import PHOTONS, check_photographs, emulated_photographs

DOSES = (0.05, 0.1, 0.25, 0.5, 0.75)


class EmulatedPhotographs:
    """Photographs in memory, each at several doses, with the attributes of slices of CT.

    Args:
        items: F rows of a datalist: {"image": path, "label": int, ...}.
        image_size: side S of the square images, in pixels.
        cache_dir: folder of the caches.
        doses: D shares of the full dose, in (0, 1].
        seed: of the photons.
        window_width: HU from black to white of the CT images that come later; it gives the noise its unit.
        photons: that each ray starts with at full dose.

    Attributes:
        items: N = F * D rows, all doses of the first photograph, then of the next; each with its "dose".
        key: hash of all that the images depend on.
        images: (N, 1, S, S) float16 in [0, 1].
        noise: (N, 1, S, S) float16, root mean square map of the noise (eq. 9), in HU of a window of that width.
        mask: (N, S, S) uint8 zeros, which take no memory.
        has_noise: (N,) bool, all True.
        has_mask: (N,) bool, all False.
        doses: (N,) float32.
        labels: (N,) int64.
        window: of that width, from 0: only its width means something, as the gray levels are no HU.
        organs: none.

    Raises:
        ValueError: there are no items, or an option is out of range.

    References:
        NA-Diff, section 3.2; appendix D for the doses.
    """

    def __init__(
        self,
        items: Sequence[dict[str, Any]],
        image_size: int,
        cache_dir: str | Path,
        doses: Sequence[float] = DOSES,
        seed: int = 0,
        window_width: float = 400.0,
        photons: float = PHOTONS,
    ) -> None:
        if not items:
            raise ValueError("a split has no photographs; give more files or another test_fraction between 0 and 1")
        checked = check_photographs(doses, window_width, photons)
        parts = [[sha256_of(item["image"]), int(item["label"])] for item in items]
        settings = [image_size, checked, seed, float(window_width), float(photons)]
        self.key = cache_key(["emulated photographs", CACHE_VERSION, *settings, parts])
        files = [item["image"] for item in items]
        stored = cached(
            Path(cache_dir) / f"photographs-{self.key}.safetensors",
            lambda: emulated_photographs(files, image_size, checked, seed, window_width, photons=photons),
        )
        self.items = [{**item, "dose": dose} for item in items for dose in checked]
        self.images: torch.Tensor = stored["images"]
        self.noise: torch.Tensor = stored["noise"]
        self.doses: torch.Tensor = stored["doses"]
        self.labels = torch.tensor([int(item["label"]) for item in self.items])
        n = len(self.items)
        self.mask = torch.zeros(1, 1, 1, dtype=torch.uint8).expand(n, image_size, image_size)
        self.has_noise, self.has_mask = torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
        self.window = HUWindow(0.0, float(window_width))
        self.organs: list[str] = []

    def __len__(self) -> int:
        return len(self.items)
