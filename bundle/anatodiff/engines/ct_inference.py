"""Sampling with a CT network: its file says what it is told of, the user says what to tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from anatodiff.autoencoders import ContextCodec, CTDataset, CTRequests, LatentCodec
from anatodiff.data.ct import HUWindow, make_ct_datalist, organ_labels
from anatodiff.data.ct.organs import Organs, highest_label
from anatodiff.engines.ct_requests import file_requests
from anatodiff.engines.ct_writer import SPACING, CTSampleWriter
from anatodiff.engines.manifest import Provenance
from anatodiff.engines.release import CopyRefusal, asks_for_refusal
from anatodiff.engines.told import context_codec
from anatodiff.engines.workflow import OptionError
from anatodiff.metrics import ShippedFeatures
from anatodiff.networks import Adapter


def facts_of(adapter: Adapter) -> dict[str, Any]:
    """Find what a CT network's file says of its conditions.

    Args:
        adapter: the network as read from its file.

    Raises:
        OptionError: it is of no CT network.
    """
    facts = adapter.settings.get("ct")
    if not isinstance(facts, dict):
        raise OptionError(
            "this adapter is of no CT network; give one of configs/ct_cat_diff.json, or leave that config out"
        )
    return facts


def ct_requests(
    adapter: Adapter,
    autoencoder: LatentCodec,
    mask_path: str | Path | None,
    noise_path: str | Path | None,
    noise_level: float | None,
    organs: Organs,
    samples: int,
) -> CTRequests:
    """Read what the user asks for, and check that the network is told of it.

    Args:
        adapter: the network.
        autoencoder: its autoencoder.
        mask_path: label map; None: no organs are asked for.
        noise_path: noise maps in HU; None: none.
        noise_level: the same noise everywhere, HU; None: none.
        organs: which labels of the mask are the network's organs: names where the labels are known by the file's name
            (see `organ_labels`), else name -> labels.
        samples: slices for each one asked for.

    Raises:
        OptionError: the network is not told of it, or its organs are others.
    """
    facts = facts_of(adapter)
    for option, given, name in (
        ("mask_path", mask_path, "mask"),
        ("noise_path", noise_path, "noise"),
        ("noise_level", noise_level, "noise"),
    ):
        if given is not None and name not in facts["conditions"]:
            told = ", ".join(facts["conditions"])
            raise OptionError(f"{option}: this network was trained on {told} alone; leave it out, or give another")
    if mask_path is not None and list(organs) != facts["organs"]:
        raise OptionError(f"organs {list(organs)}: this network knows {facts['organs']}, in this order; name these")
    labels: Mapping[str, Sequence[int]] = {} if mask_path is None else organ_labels(organs, Path(mask_path))
    size = adapter.network.input_size * autoencoder.factor
    highest = 0 if mask_path is None else highest_label(Path(mask_path))
    return file_requests(mask_path, noise_path, noise_level, labels, size, samples, highest)


def adapter_codec(
    adapter: Adapter,
    autoencoder: LatentCodec,
    clip_path: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> ContextCodec:
    """Encode conditions as a network was trained on them.

    Args:
        adapter: the network.
        autoencoder: its autoencoder.
        clip_path: the CLIP model that it was trained with; None: it was trained without.
        device: where to encode.

    Raises:
        OptionError: it was trained with another encoder.
    """
    facts = facts_of(adapter)
    codec = context_codec(
        facts["conditions"],
        facts["ways"],
        facts["noise_scale"],
        facts["organs"],
        autoencoder,
        adapter.scale_factor,
        clip_path,
        device,
    )
    if codec.key != facts["codec"]:
        raise OptionError(
            "clip_path: this network was trained with another encoder of conditions; give that one's path"
        )
    return codec


def ct_copy_refusal(
    adapter: Adapter,
    autoencoder: LatentCodec,
    refuse_copies_of: str | Path | None,
    held_out_dir: str | Path | None,
    cache_dir: str | Path,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> CopyRefusal | None:
    """Prepare the search for copies among CT samples, see `copy_refusal`; None where it is not asked for.

    Args:
        adapter: the network, whose file says how its training read slices.
        autoencoder: its autoencoder.
        refuse_copies_of: folder of the scans that the network was trained on.
        held_out_dir: folder of scans of other patients, which fix the thresholds.
        cache_dir: folder of the caches.
        device: where to compute the features.
        seed: of the noise of the planted copies.

    Raises:
        OptionError: one folder without the other, or no CT network.
        DatasetError: a folder cannot be used.
        ReleaseError: planted copies were not found.
    """
    if not asks_for_refusal(refuse_copies_of, held_out_dir):
        return None
    facts, size = facts_of(adapter), adapter.network.input_size * autoencoder.factor
    window, reading = HUWindow(*facts["window"]), facts["reading"]
    training, held_out = (
        CTDataset(make_ct_datalist(folder, facts["organs"], [], 0.0).train, size, cache_dir, window, **reading)
        for folder in (refuse_copies_of, held_out_dir)
        if folder is not None
    )
    return CopyRefusal(training, held_out, ShippedFeatures(device=device), seed)


def ct_writer_of(
    adapter: Adapter,
    directory: str | Path,
    requests: CTRequests,
    provenance: Provenance,
    formats: Sequence[str],
    overwrite: bool,
    refusal: CopyRefusal | None,
    spacing: Sequence[float] | None,
    body_part: str | None,
) -> CTSampleWriter:
    """Write samples of a network through its window.

    Args:
        adapter: the network.
        directory: folder of the samples.
        requests: what was asked for.
        provenance: what draws them.
        formats: "nii.gz" and "dcm".
        overwrite: replace files of an earlier run.
        refusal: finds copies; None releases all.
        spacing: mm between slices, rows and columns; None: the pixels of the training slices.
        body_part: for DICOM; None is not said.
    """
    facts = facts_of(adapter)
    pixel = facts["pixel_spacing"]
    if spacing is None and pixel is not None:
        spacing = (SPACING[0], pixel, pixel)
    window = HUWindow(*facts["window"])
    return CTSampleWriter(directory, requests, window, provenance, formats, overwrite, refusal, spacing, body_part)
