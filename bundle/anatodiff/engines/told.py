"""What the engines tell a network beside the class: contexts in training batches, in pictures and in requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from anatodiff.autoencoders import (
    CLIPCodec,
    ContextCodec,
    ContextLayout,
    CTDataset,
    CTLatents,
    CTRequests,
    LatentCodec,
    MapCodec,
    TokenCodec,
    context_of,
)
from anatodiff.draws import generator
from anatodiff.engines.workflow import OptionError
from anatodiff.networks import ConditionSettings

TOKENS = "tokens"  # the way that reads latents of the conditions


@dataclass(frozen=True)
class Told:
    """What training batches and pictures tell a network beside the class.

    Args:
        layout: of the contexts.
        dropout: share of the images that are not told a condition, for each condition on its own.
        shown: slices whose contexts the pictures of the progress are sampled for.

    Raises:
        OptionError: the share is out of range.
    """

    layout: ContextLayout
    dropout: float
    shown: CTLatents

    def __post_init__(self) -> None:
        if not 0 <= self.dropout <= 1:
            raise OptionError(f"condition_dropout must be 0 to 1, got {self.dropout}")

    def preview(self, images: int) -> torch.Tensor:
        """Contexts (B, ...) of so many slices, evenly spread; of fewer slices some are shown again."""
        rows = torch.linspace(0, len(self.shown) - 1, images).round().long()  # (B,)
        return self.shown.context[rows]


def context_codec(
    conditions: Sequence[str],
    ways: Sequence[str],
    noise_scale: float,
    organs: Sequence[str],
    autoencoder: LatentCodec,
    scale_factor: float,
    clip_path: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> ContextCodec:
    """Choose how conditions become a context: CLIP's where a path is given, latents for tokens, maps for all else.

    Args:
        conditions: of "noise" and "mask".
        ways: how the network is told of them.
        noise_scale: HU of a noise map that become 1.
        organs: names of the organs.
        autoencoder: encodes the images.
        scale_factor: what its latents are multiplied with.
        clip_path: folder of a CLIP model; None: none.
        device: where to encode.

    Raises:
        OptionError: CLIP is to tell of places.
    """
    if clip_path is not None:
        if list(ways) != ["global"]:
            raise OptionError(f"clip_path: CLIP has no places; set condition_ways to ['global'], it is {list(ways)}")
        return CLIPCodec(conditions, noise_scale, len(organs), clip_path, device)
    if TOKENS in ways:
        return TokenCodec(conditions, noise_scale, len(organs), autoencoder, scale_factor, device)
    return MapCodec(conditions, noise_scale, len(organs), autoencoder.factor)


def condition_settings(codec: ContextCodec, ways: Sequence[str], fusion: str) -> ConditionSettings:
    """Say how the network is told of what a codec makes.

    Args:
        codec: encodes the conditions.
        ways: of "global", "tokens" and "spatial".
        fusion: "concat" or "sum" of the global vectors.
    """
    if isinstance(codec, CLIPCodec):
        return ConditionSettings(codec.layout, ways, fusion, codec.features)
    return ConditionSettings(codec.layout, ways, fusion)


class RequestBatches:
    """Requests in batches for the evaluator: number, label and context of each.

    Args:
        requests: what is asked for.
        codec: encodes it.
        batch_size: images per batch.
    """

    def __init__(self, requests: CTRequests, codec: ContextCodec, batch_size: int) -> None:
        self.labels, self.context = requests.labels, context_of(requests, codec)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for rows in torch.arange(len(self.labels)).split(self.batch_size):
            yield {"number": rows, "label": self.labels[rows], "context": self.context[rows]}


def held_back_requests(test: CTDataset, train: CTDataset, samples: int, seed: int = 0) -> CTRequests:
    """Choose what to ask for after a training: the conditions of held-back slices, every dose as often.

    Where no held-back slice has a mask, though some training slice has one, those of training slices are taken.

    Args:
        test: held-back slices.
        train: training slices.
        samples: how many requests; slices are taken in turn where there are fewer.
        seed: of the order of the slices.

    Returns:
        the requests; `references` are rows of `test`, or -1.
    """
    if samples < 1:
        raise ValueError(f"samples_per_class must be at least 1, got {samples}")
    wants_mask = bool(test.has_mask.any() or train.has_mask.any())
    source = test if not wants_mask or bool(test.has_mask.any()) else train
    usable = source.has_mask if wants_mask else torch.ones(len(source), dtype=torch.bool)
    doses = torch.unique(source.doses[usable])
    of_dose = []
    for number, dose in enumerate(doses.tolist()):
        rows = torch.nonzero(usable & (source.doses == dose))[:, 0]  # (m,)
        of_dose.append(rows[torch.randperm(len(rows), generator=generator(seed, number, "requests"))])
    turns = ((of_dose[k % len(doses)], k // len(doses)) for k in range(samples))
    rows = torch.stack([rows[turn % len(rows)] for rows, turn in turns])  # (N,)
    requests = CTRequests.of(source, rows)
    if source is train:
        requests.references.fill_(-1)
    return requests
