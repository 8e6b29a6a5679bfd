"""What a training on CT is made of: the folder, the window, the base, and the samples after it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anatodiff.autoencoders import (
    ContextCodec,
    CTDataset,
    CTEncoded,
    CTRequests,
    LatentCodec,
    latent_scale,
)
from anatodiff.data.ct import HU_WINDOWS, HUWindow, make_ct_datalist
from anatodiff.data.ct.organs import Organs
from anatodiff.data.phantom.ct import write_ct_phantoms
from anatodiff.engines.ct_writer import SPACING, CTSampleWriter
from anatodiff.engines.manifest import Provenance
from anatodiff.engines.told import RequestBatches, held_back_requests
from anatodiff.engines.workflow import OptionError
from anatodiff.networks import Base, load_base, untrained_base
from anatodiff.parallel import main_first

logger = logging.getLogger(__name__)

PHANTOM_SLICES, PHANTOM_SIZE, PHANTOM_SEED = 8, 256, 30_000
PARTS = ("train", "test")


def ct_folder(dataset_dir: str | None, cache_dir: str | Path, phantom_images: int) -> Path:
    """Choose the folder of CT; without one, make phantoms.

    Args:
        dataset_dir: the user's folder, or None.
        cache_dir: where the phantoms go.
        phantom_images: how many patients.

    Returns:
        a folder of CT, see `anatodiff.data.ct.find_ct`.
    """
    if dataset_dir is not None:
        return Path(dataset_dir)
    folder = Path(cache_dir) / f"phantoms-ct-{phantom_images}"
    logger.warning(
        "NO dataset_dir WAS GIVEN: using CT PHANTOMS of %d patients, written as NIfTI to %s. "
        "For your own data: --dataset_dir /path/to/ct",
        phantom_images,
        folder,
    )
    with main_first():
        write_ct_phantoms(folder, phantom_images, PHANTOM_SLICES, PHANTOM_SIZE, PHANTOM_SEED)
    return folder


def photograph_folder(dataset_dir: str | None) -> Path:
    """Take the folder of photographs; there are none to stand in for them.

    Args:
        dataset_dir: the user's folder.

    Raises:
        OptionError: none is given.
    """
    if dataset_dir is None:
        raise OptionError("dataset_dir: give a folder of photographs, gray or in colour; a thousand are a start")
    return Path(dataset_dir)


def ct_window(window: str | Sequence[float]) -> HUWindow:
    """Turn the option `window` into a window.

    Args:
        window: a name of `HU_WINDOWS`, or two HU, black and white.

    Raises:
        OptionError: neither.
    """
    try:
        if isinstance(window, str):
            return HUWindow.of(window)
        low, high = window
        return HUWindow(float(low), float(high))
    except (ValueError, TypeError) as error:
        raise OptionError(f"window is {window!r}; give two HU, or one of {', '.join(HU_WINDOWS)}") from error


def ct_slices(
    part: str,
    dataset_dir: str | None,
    cache_dir: str | Path,
    organs: Organs,
    conditions: Sequence[str],
    window: str | Sequence[float] = "abdomen",
    image_size: int = 256,
    doses: Sequence[float] = (1.0,),
    available_dose: float = 0.25,
    slices_per_scan: int = 8,
    simulate_low_dose: bool = True,
    test_fraction: float = 0.2,
    seed: int = 0,
    max_scans: int | None = None,
    phantom_images: int = 60,
) -> CTDataset:
    """Read one part of a folder as a training on it does: the same split, the same slices.

    Args:
        part: "train" or "test".
        dataset_dir: the folder; None takes phantoms.
        cache_dir: folder of the caches.
        organs: of the masks, see `anatodiff.data.ct.organ_labels`.
        conditions: of "noise" and "mask".
        window: see `ct_window`.
        image_size: side of the slices in pixels.
        doses: of each slice, shares of the full dose.
        available_dose: dose of the low-dose scans.
        slices_per_scan: most slices of a scan.
        simulate_low_dose: simulate low-dose scans where there are none.
        test_fraction: share of the scans that is held out.
        seed: of the split.
        max_scans: most scans; None: all.
        phantom_images: patients where there is no folder.

    Returns:
        the slices.
    """
    if part not in PARTS:
        raise OptionError(f"part must be one of {PARTS}, got {part!r}")
    folder = ct_folder(dataset_dir, cache_dir, phantom_images)
    datalist = make_ct_datalist(folder, organs, list(conditions), test_fraction, seed, max_scans, simulate_low_dose)
    items = datalist.train if part == "train" else datalist.test
    return CTDataset(
        items, image_size, cache_dir, ct_window(window), doses, available_dose, slices_per_scan, simulate_low_dose
    )


def ct_base(
    path: str | Path | None,
    size: str | None,
    autoencoder: LatentCodec,
    encoded: CTEncoded,
    prediction: str | None = None,
    seed: int = 0,
) -> Base:
    """Choose what a CT network starts from: an earlier stage's file, a base, the shipped one, or nothing.

    Args:
        path: a base, or the adapter of a stage that was trained with finetuning "full"; None: the shipped base.
        size: a name in `DIT_SIZES`: start from an untrained network of this size.
        autoencoder: the autoencoder in use; it must fit the file.
        encoded: the training slices, for the latent scale of an untrained network.
        prediction: what an untrained or a published network predicts.
        seed: of an untrained network's weights.

    Raises:
        OptionError: both are given.
        WeightsError: the file does not fit.
    """
    if size is None:
        return load_base(path, autoencoder, prediction)
    if path is not None:
        raise OptionError(f"size {size!r} starts from nothing, base_path from a file; give one of them")
    side = encoded.mean.shape[-1]
    return untrained_base(size, side, autoencoder, latent_scale(encoded), prediction, seed)


@dataclass(frozen=True)
class CTSampling:
    """How a CT training samples at its end: the conditions of held-back slices, slices in HU.

    Args:
        train: training slices.
        test: held-back slices.
        codec: encodes conditions.
        ways: how the network is told of them.
        seed: of the choice of the requests.
    """

    train: CTDataset
    test: CTDataset
    codec: ContextCodec
    ways: Sequence[str]
    seed: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """What the network's file says, so that sampling later needs no options."""
        slices = self.train
        return {
            "conditions": list(self.codec.names),
            "noise_scale": self.codec.noise_scale,
            "organs": slices.organs,
            "window": [slices.window.low, slices.window.high],
            "ways": list(self.ways),
            "codec": self.codec.key,
            "reading": slices.reading,
            "pixel_spacing": self.pixel_spacing,
        }

    @property
    def pixel_spacing(self) -> float | None:
        """Median side of a pixel of the training slices in mm; None where not known."""
        spacing = self.train.spacing
        known = spacing[~spacing.isnan()]
        return float(known.median()) if len(known) else None

    def requests(self, samples: int) -> CTRequests:
        """Choose what to ask for.

        Args:
            samples: how many.
        """
        return held_back_requests(self.test, self.train, samples, self.seed)

    def batches(self, requests: CTRequests, batch_size: int) -> RequestBatches:
        """Bring requests to batches."""
        return RequestBatches(requests, self.codec, batch_size)

    def writer(self, directory: Path, requests: CTRequests, provenance: Provenance) -> CTSampleWriter:
        """Build what writes the samples, over those of an earlier run."""
        pixel = self.pixel_spacing
        spacing = None if pixel is None else (SPACING[0], pixel, pixel)
        window = self.train.window
        return CTSampleWriter(directory, requests, window, provenance, overwrite=True, spacing=spacing)
