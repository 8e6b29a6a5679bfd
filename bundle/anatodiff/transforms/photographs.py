"""Photographs as CT: what a network learns noise from before it sees a patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from anatodiff.files import sha256_of
from anatodiff.transforms.ct_noise import NoiseMap, check_dose
from anatodiff.transforms.emulate import EmulateCTNoise
from anatodiff.transforms.radiograph import radiograph_transforms

__all__ = ["check_photographs", "emulated_photographs"]

PHOTONS = 1e5  # per ray at full dose, the paper's I0


def check_photographs(doses: Sequence[float], window_width: float, photons: float) -> list[float]:
    """Check the options of an emulation before anything is read.

    Args:
        doses: shares of the full dose.
        window_width: HU.
        photons: that each ray starts with at full dose.

    Returns:
        the doses.

    Raises:
        ValueError: there are no doses, one is out of range or given twice, or a number is not positive.
    """
    checked = [check_dose(dose) for dose in doses]
    if not checked or len(set(checked)) < len(checked):
        raise ValueError(f"doses={list(doses)}: give at least one, and each of them once.")
    if not 0 < window_width < math.inf:
        raise ValueError(f"window_width={window_width} is not a positive number: give it in HU, 400 for the abdomen.")
    EmulateCTNoise(photons=photons)
    return checked


def emulated_photographs(
    files: Sequence[str | Path],
    image_size: int,
    doses: Sequence[float],
    seed: int,
    window_width: float = 400.0,
    batch: int = 16,
    photons: float = PHOTONS,
) -> dict[str, torch.Tensor]:
    """Read photographs and give each the noise of CT at several doses (section 3.2), with the map of it (eq. 9).

    A draw is named by the bytes of its file: the order, the batch and the place of the files change nothing.

    Args:
        files: F photographs, gray or colour (of which the luma is taken): PNG, JPEG, DICOM or NIfTI.
        image_size: side S of the square images, pixels; the short side is resized to it, the middle is kept.
        doses: D shares of the full dose, in (0, 1].
        seed: of the draws.
        window_width: HU from black to white of the CT images that come later.
        batch: files at a time, which share the grids of their projections.
        photons: that each ray starts with at full dose.

    Returns:
        images: (F * D, 1, S, S) float16, the noisy photographs, cut to [0, 1]; all doses of the first, then the next.
        noise: the same shape, float16, root mean square of the noise in HU: as large beside `window_width` as the noise
        of the image beside its range. It is that before the cut.
        doses: (F * D,) float32.

    Raises:
        ValueError: there are no files, or an option is out of range.
        RadiographError: a file cannot be read.
    """
    checked = check_photographs(doses, window_width, photons)
    if not files or batch < 1:
        raise ValueError(f"{len(files)} files in batches of {batch}: give at least one of each.")
    # Whether burned-in annotation is allowed was asked when the files were listed.
    read = radiograph_transforms(image_size, allow_burned_in=True, allow_colour=True)
    emulate, noise_map = EmulateCTNoise(photons=photons, seed=seed), NoiseMap()
    images = torch.empty(len(files), len(checked), image_size, image_size, dtype=torch.float16)
    noise = torch.empty_like(images)
    for start in tqdm(range(0, len(files), batch), "emulating"):
        part = slice(start, start + batch)
        clean = torch.stack([read({"image": str(file)})["image"].as_tensor() for file in files[part]])  # (B, 1, S, S)
        noisy, error = emulate.batch(clean, [sha256_of(file) for file in files[part]], checked)  # (B, D, S, S)
        images[part] = noisy.clamp(0, 1).half()
        noise[part] = torch.as_tensor(noise_map(error)).mul(window_width).half()
    return {
        "images": images.reshape(-1, 1, image_size, image_size),
        "noise": noise.reshape(-1, 1, image_size, image_size),
        "doses": torch.tensor(checked).repeat(len(files)),
    }
