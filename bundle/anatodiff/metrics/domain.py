"""A small network of features for radiographs: trained to know an image again, so it sees copies as well as kinds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anatodiff.metrics.features import FeatureInput
from anatodiff.weights import load_weights, save_weights, shipped

DOMAIN_NAME = "domain_features.safetensors"
KIND = "domain_features"
SIDE = 128  # pixels of its input
WIDTHS = (24, 32, 48, 64, 96, 128, 160)  # channels; every second step halves the side
GROUPS = 8  # of the normalisations
BATCH = 64


class DomainNetwork(nn.Module):
    """Separable convolutions, a normalisation after each, and the mean over space.

    Args:
        widths: channels after the first convolution and after each separable one.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, widths[0], 3, stride=2, padding=1), nn.GroupNorm(GROUPS, widths[0])]
        for place, (before, after) in enumerate(itertools.pairwise(widths)):
            stride = 2 if place % 2 == 0 else 1
            layers += [
                nn.SiLU(),
                nn.Conv2d(before, before, 3, stride=stride, padding=1, groups=before),
                nn.Conv2d(before, after, 1),
                nn.GroupNorm(GROUPS, after),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Describe images.

        Args:
            images: (B, 1, 128, 128), standardised as `DomainFeatures.takes` does.

        Returns:
            (B, 160).
        """
        return self.layers(images).mean(dim=(2, 3))  # (B, 160)


class DomainFeatures:
    """Features by the network of radiographs that ships with the bundle, see docs/model_card.md.

    Args:
        path: file of `save_domain_features`; None takes the shipped one.
        device: where to compute.

    Raises:
        WeightsError: the file is missing or is of another kind.
    """

    name = "AnatoDiff's network of radiographs"
    takes = FeatureInput(channels=1, size=SIDE, mean=0.5, std=0.25)

    def __init__(self, path: str | Path | None = None, device: str | torch.device = "cpu") -> None:
        weights = load_weights(shipped(DOMAIN_NAME) if path is None else path, kind=KIND)
        self.network, self.sha256, self.device = DomainNetwork(), weights.sha256, torch.device(device)
        self.network.load_state_dict(weights.tensors)
        self.network.eval().requires_grad_(False).to(self.device)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images (N, 1, H, W) in [0, 1] into features (N, 160)."""
        batches = (self.takes.prepare(batch.float().to(self.device)) for batch in images.split(BATCH))
        return torch.cat([self.network(batch).cpu() for batch in batches])  # (N, 160)


def save_domain_features(path: str | Path, network: DomainNetwork, notes: dict[str, Any]) -> str:
    """Write the network in fp16; returns the file's SHA-256."""
    return save_weights(path, dict(network.state_dict()), {"kind": KIND, "notes": notes}, half=True)
