"""Slices of CT in memory: at several doses, with the map of their noise and the mask of their organs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from anatodiff.autoencoders.latent_cache import CACHE_VERSION, cache_key, cached
from anatodiff.data.ct import CTCase, CTItem, HUWindow, read_ct_item
from anatodiff.data.phantom.ct.noise import PHOTONS, dose_pair
from anatodiff.files import sha256_of
from anatodiff.transforms import LowDose, NoiseMap, to_square

NOISE_WINDOW = 5  # k of eq. 9
FIELD = 350.0  # mm that a slice without a known spacing is taken to show, for the simulation of its noise
AIR = -1024.0  # HU of what is padded
TENSORS = ("images", "noise", "mask", "has_noise", "has_mask", "doses", "spacing", "scan", "slice")


class CTDataset:
    """CT slices through a window, each at every dose.

    Args:
        items: scans, rows of `make_ct_datalist`.
        image_size: S, side of the square slices in pixels.
        cache_dir: folder of the caches.
        window: HU that are black and white.
        doses: shares of the full dose, in (0, 1]: 1 is the slice as it was scanned.
        available_dose: dose of the scans' low-dose partners, in (0, 1).
        slices: most slices of a scan, evenly over those with an organ where there is a mask, else over all.
        simulate: simulate low-dose partners where there are none; else such a scan has the dose 1 alone, and no noise.

    Attributes:
        images: (N, 1, S, S) float16 in [0, 1].
        noise: (N, 1, S, S) float16 HU, the root mean square map of the dose's noise (eq. 9); zero where not known.
        mask: (N, S, S) uint8, 0 background and k the k-th organ; zero where not known.
        has_noise: (N,) bool.
        has_mask: (N,) bool.
        doses: (N,) float32.
        spacing: (N,) float32 mm along a pixel; NaN where not known.
        labels: (N,) int64 classes.
        key: hash of all that the slices depend on.
        reading: the arguments to read other scans in the same way, beside the window and the size.

    Raises:
        ValueError: there are no scans, or a dose is out of range.
        CTError: a scan cannot be read.
    """

    def __init__(
        self,
        items: Sequence[dict[str, Any]],
        image_size: int,
        cache_dir: str | Path,
        window: HUWindow,
        doses: Sequence[float] = (1.0,),
        available_dose: float = 0.25,
        slices: int = 8,
        simulate: bool = True,
    ) -> None:
        if not items:
            raise ValueError("a split has no scans; give more patients or another test_fraction between 0 and 1")
        if slices < 1 or not doses:
            raise ValueError(f"slices_per_scan is {slices} and doses {list(doses)}; give at least one of each")
        self.window, self.n_slices = window, slices
        self.simulators = [LowDose(dose, available_dose) for dose in doses]  # checks the doses
        self.organs, self.simulate, self.available = list(items[0]["organs"]), simulate, available_dose
        self.reading = {"doses": list(doses), "available_dose": available_dose, "slices": slices, "simulate": simulate}
        parts = [[*(_hash(item[name]) for name in ("image", "low_dose", "mask")), item["rows"]] for item in items]
        settings = [image_size, window.low, window.high, list(doses), available_dose, slices, simulate]
        organs = [item["organs"] for item in items]
        self.key = cache_key(["ct", CACHE_VERSION, settings, organs, parts])
        stored = cached(Path(cache_dir) / f"ct-{self.key}.safetensors", lambda: self._read(items, image_size))
        self.images, self.noise, self.mask = (stored[name] for name in ("images", "noise", "mask"))
        self.has_noise, self.has_mask, self.doses = (stored[name] for name in ("has_noise", "has_mask", "doses"))
        self.spacing = stored["spacing"]
        rows = zip(stored["scan"].tolist(), stored["slice"].tolist(), self.doses.tolist(), strict=True)
        self.items = [{**items[scan], "slice": place, "dose": dose} for scan, place, dose in rows]
        self.labels = torch.tensor([int(item["label"]) for item in self.items])

    def __len__(self) -> int:
        return len(self.labels)

    def _read(self, items: Sequence[dict[str, Any]], image_size: int) -> dict[str, torch.Tensor]:
        found: dict[str, list[torch.Tensor]] = {name: [] for name in TENSORS}
        for number, item in enumerate(tqdm(items, "reading CT")):
            for name, values in self._of_scan(item, image_size).items():
                found[name].append(values)
            found["scan"].append(torch.full((len(found["doses"][-1]),), number))
        return {name: torch.cat(values) for name, values in found.items()}

    def _of_scan(self, item: dict[str, Any], size: int) -> dict[str, torch.Tensor]:
        """Read one scan: its chosen slices, dose by dose."""
        case = read_ct_item(_item_of(item))
        mask = None if case.mask is None else _organs_of(case.mask, item["organs"])  # (n, H, W)
        chosen = _chosen(len(case.slices), mask, self.n_slices)
        pixel = (case.spacing[1] if case.spacing else FIELD / size) * max(case.slices.shape[1:]) / size
        full = _square(case.slices[chosen], size)  # (m, 1, S, S)
        low = self._low_dose(item, case, chosen, full, pixel)  # (m, 1, S, S)
        small = torch.zeros(len(chosen), size, size, dtype=torch.uint8)
        if mask is not None:
            small = to_square(torch.as_tensor(mask[chosen])[:, None], size, "nearest")[:, 0]  # (m, S, S)
        if low is None:
            doses, images, maps = [1.0], [full], [torch.zeros_like(full)]
        else:
            doses = [simulate.dose for simulate in self.simulators]
            images, noises = zip(*(simulate(full, low) for simulate in self.simulators), strict=True)
            maps = [torch.as_tensor(NoiseMap(NOISE_WINDOW)(noise)) for noise in noises]  # n x (m, 1, S, S)
        m, n = len(chosen), len(doses)
        return {
            "images": torch.as_tensor(self.window.to_unit(torch.cat(list(images)).numpy())).half(),
            "noise": torch.cat(maps).half(),
            "mask": small.repeat(n, 1, 1),
            "has_noise": torch.full((m * n,), low is not None),
            "has_mask": torch.full((m * n,), mask is not None),
            "doses": torch.tensor(doses).repeat_interleave(m),
            "spacing": torch.full((m * n,), pixel if case.spacing else float("nan")),
            "slice": torch.as_tensor(chosen).repeat(n),
        }

    def _low_dose(
        self, item: dict[str, Any], case: CTCase, chosen: np.ndarray, full: torch.Tensor, pixel: float
    ) -> torch.Tensor | None:
        """The low-dose slices (m, 1, S, S), simulated where the scan has none; None where they are not to be."""
        if case.low_dose is not None:
            return _square(case.low_dose[chosen], full.shape[-1])
        if not self.simulate:
            return None
        # What is inserted has the variance (1 / available - 1) of the full dose's: that of so many fewer photons.
        photons = PHOTONS / (1 / self.available - 1)
        seed = hashlib.blake2b(f"{_hash(item['image'])} {item['rows']}".encode(), digest_size=8).digest()
        random = np.random.default_rng(int.from_bytes(seed, "little"))
        low, _ = dose_pair(full[:, 0].double().numpy(), pixel, 1.0, random, photons)
        return torch.as_tensor(low)[:, None]


def _square(slices: np.ndarray, size: int) -> torch.Tensor:
    return to_square(torch.as_tensor(np.ascontiguousarray(slices))[:, None], size, value=AIR)  # (m, 1, S, S)


def _chosen(slices: int, mask: np.ndarray | None, most: int) -> np.ndarray:
    """Places of at most so many slices, evenly spread."""
    places = np.arange(slices) if mask is None else np.flatnonzero(mask.any(axis=(1, 2)))
    if len(places) == 0:  # a segmentation without the organs
        places = np.arange(slices)
    if len(places) <= most:
        return places
    return places[np.round((np.arange(most) + 0.5) * len(places) / most - 0.5).astype(int)]


def _organs_of(mask: np.ndarray, organs: dict[str, list[int]]) -> np.ndarray:
    """Number the organs of a label map from 1, a later one over an earlier one."""
    found = np.zeros(mask.shape, np.uint8)
    for number, labels in enumerate(organs.values(), start=1):
        found[np.isin(mask, labels)] = number
    return found


def _item_of(item: dict[str, Any]) -> CTItem:
    mask, low_dose = (None if item[name] is None else Path(item[name]) for name in ("mask", "low_dose"))
    return CTItem(item["patient"], Path(item["image"]), mask, low_dose, item["rows"])


def _hash(path: str | None) -> str:
    """Hash a file, or the files of a series."""
    if path is None:
        return ""
    if Path(path).is_file():
        return sha256_of(path)
    names = sorted(file for file in Path(path).iterdir() if file.is_file() and not file.name.startswith("."))
    return hashlib.sha256("".join(sha256_of(file) for file in names).encode()).hexdigest()
