"""A network's conditions: built anew, taken over from an earlier stage of the training, kept in files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from anatodiff.autoencoders import ContextLayout
from anatodiff.networks.conditioned_unet import ConditionedUNet
from anatodiff.networks.conditions import FEATURES, Conditions
from anatodiff.networks.dit import DiT

logger = logging.getLogger(__name__)

HEADER = "conditions"  # entry of a weights file


@dataclass(frozen=True)
class ConditionSettings:
    """How a network is told of its conditions.

    Args:
        layout: of the context.
        ways: of "global", "tokens" and "spatial", see `anatodiff.networks.conditions`.
        fusion: of the global vectors, "concat" or "sum".
        features: length of a global vector; that of CLIP where the context holds its embeddings.
    """

    layout: ContextLayout
    ways: Sequence[str] = ("global", "spatial")
    fusion: str = "concat"
    features: int = FEATURES

    def as_arguments(self) -> dict[str, Any]:
        """The arguments of `DiT.add_conditions`, plain values."""
        layout = self.layout
        return {
            "names": list(layout.names),
            "sizes": list(layout.sizes),
            "form": layout.form,
            "ways": list(self.ways),
            "features": self.features,
            "fusion": self.fusion,
        }


def set_conditions(network: DiT, settings: ConditionSettings | None, seed: int = 0) -> None:
    """Give a network its conditions, and keep what an earlier stage has learned of the same ones.

    Of other conditions the projection that all share is kept (eq. 10), and the encoder of one that has stayed.

    Args:
        network: to change in place.
        settings: of the conditions; None takes them away.
        seed: of the first weights.
    """
    old = network.conditions
    network.conditions = None
    if settings is None:
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.add_conditions(settings.as_arguments())
    if old is not None and network.conditions is not None:
        taken = _take_over(network.conditions, old)
        logger.info("conditions: %d of %d tensors go on from the base", taken, len(network.conditions.state_dict()))


def _take_over(new: Conditions, old: Conditions) -> int:
    """Copy the tensors that mean the same; how many."""
    theirs = old.state_dict()
    same = new.settings == old.settings
    shared = ("parts.global.project.", *(f"parts.global.encoders.{name}." for name in new.settings["names"]))
    fitting = {
        name: theirs[name]
        for name, tensor in new.state_dict().items()
        if name in theirs and theirs[name].shape == tensor.shape and (same or name.startswith(shared))
    }
    new.load_state_dict(fitting, strict=False)
    return len(fitting)


def condition_header(network: DiT | ConditionedUNet) -> dict[str, Any]:
    """Describe a network's conditions for its file; nothing where it has none."""
    return {} if network.conditions is None else {HEADER: network.conditions.settings}


def conditions_from(network: DiT, header: dict[str, Any]) -> None:
    """Give a network the conditions that its file describes and no others; their weights are read after."""
    network.conditions = None  # a base's own may have been taken away
    if header.get(HEADER) is not None:
        network.add_conditions(header[HEADER])
