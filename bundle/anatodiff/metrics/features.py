"""Features of radiographs for distances between sets of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from anatodiff.files import sha256_of
from anatodiff.metrics.efficientnet import SHIPPED_NAME, EfficientNetLite0
from anatodiff.weights import WeightsError, load_weights, save_weights, shipped

FEATURE_BATCH = 16


class FeatureNetwork(Protocol):
    """A network that describes images, and what to know of it beside a number that it gave.

    Attributes:
        name: what a reader knows it by.
        sha256: hash of its file.
    """

    name: str
    sha256: str

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images (N, 1, H, W) in [0, 1] into features (N, D), float32 on the CPU."""


@dataclass(frozen=True)
class FeatureInput:
    """What a network of features takes.

    Args:
        channels: channels of its input; the grey image is repeated in each.
        size: side of its input, pixels; None leaves the image as it is.
        mean: taken from the values in [0, 1], one number or one per channel.
        std: what they are then divided by, one number or one per channel.
    """

    channels: int = 1
    size: int | None = None
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"feature_channels is {self.channels}; give the number of the network's input, 3 or 1")
        if self.size is not None and self.size < 1:
            raise ValueError(f"feature_size is {self.size}; give pixels, at least 1, or null")
        for name in ("mean", "std"):
            count = torch.tensor(getattr(self, name)).numel()
            if count not in (1, self.channels):
                raise ValueError(f"feature_{name} has {count} numbers for {self.channels} channels; give 1 or one each")
        if not bool((torch.tensor(self.std) > 0).all()):
            raise ValueError(f"feature_std is {self.std}; give numbers above 0")

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Bring images (B, 1, H, W) in [0, 1] to the network's input (B, channels, size, size)."""
        if self.size is not None:
            images = torch.nn.functional.interpolate(
                images, (self.size, self.size), mode="bilinear", antialias=True
            )  # (B, 1, size, size)
        mean, std = (torch.tensor(value, device=images.device).view(-1, 1, 1) for value in (self.mean, self.std))
        return (images.expand(-1, self.channels, -1, -1) - mean) / std  # (B, channels, size, size)


class ShippedFeatures:
    """Features by the EfficientNet-Lite0 of ImageNet that ships with the bundle: the scale of docs/quality_scale.md.

    Args:
        path: file of `save_features`; None takes the shipped one.
        device: where to compute.

    Raises:
        WeightsError: the file is missing or is of another kind.
    """

    name = "EfficientNet-Lite0 of ImageNet"
    # (pixels of 0 to 255 - 127) / 128, as the network was trained.
    takes = FeatureInput(channels=3, size=224, mean=127 / 255, std=128 / 255)

    def __init__(self, path: str | Path | None = None, device: str | torch.device = "cpu") -> None:
        weights = load_weights(shipped(SHIPPED_NAME) if path is None else path, kind="features")
        self.network, self.sha256, self.device = EfficientNetLite0(), weights.sha256, torch.device(device)
        self.network.load_state_dict(weights.tensors)
        self.network.eval().requires_grad_(False).to(self.device)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images (N, 1, H, W) in [0, 1] into features (N, 1280)."""
        batches = (self.takes.prepare(batch.float().to(self.device)) for batch in images.split(FEATURE_BATCH))
        return torch.cat([self.network(batch).cpu() for batch in batches])  # (N, 1280)


def save_features(path: str | Path, network: EfficientNetLite0, notes: dict[str, Any]) -> str:
    """Write the network of features in fp16; returns the file's SHA-256."""
    return save_weights(path, dict(network.state_dict()), {"kind": "features", "notes": notes}, half=True)


class TorchScriptFeatures:
    """Features by a network of the user's own in a TorchScript file.

    Args:
        path: what `torch.jit.save` wrote.
        takes: what the network takes.
        device: where to compute.

    Raises:
        WeightsError: the file is missing or holds no TorchScript.
    """

    def __init__(self, path: str | Path, takes: FeatureInput | None = None, device: str | torch.device = "cpu") -> None:
        path = Path(path)
        if not path.is_file():
            raise WeightsError(f"{path}: no such file; give feature_network a TorchScript file, or null for our own")
        try:
            self.network = torch.jit.load(str(path), map_location=torch.device(device)).eval()
        except RuntimeError as error:
            raise WeightsError(
                f"{path}: not a TorchScript file ({_first_line(error)}); write one by torch.jit.script(network).save()"
            ) from error
        self.path, self.takes, self.device = path, takes or FeatureInput(), torch.device(device)
        self.name, self.sha256 = path.name, sha256_of(path)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Describe each image by the network's output, averaged over space where it has any.

        Args:
            images: (N, 1, H, W) in [0, 1].

        Returns:
            (N, D) float32 features on the CPU.

        Raises:
            WeightsError: the network does not take these images, or its output is no features.
        """
        rows = []
        for batch in images.split(FEATURE_BATCH):
            prepared = self.takes.prepare(batch.float().to(self.device))  # (B, channels, h, w)
            shape = tuple(prepared.shape)
            try:
                output = self.network(prepared)  # (B, D) or (B, D, h', w')
            except (RuntimeError, torch.jit.Error) as error:
                raise WeightsError(
                    f"{self.path}: the network fails on an input of shape {shape} ({_last_line(error)}); "
                    "set feature_channels and feature_size to what it takes"
                ) from error
            if not isinstance(output, torch.Tensor) or output.ndim not in (2, 4) or len(output) != len(batch):
                got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
                raise WeightsError(
                    f"{self.path}: of an input of shape {shape} the network makes {got}, not (B, D) or (B, D, h, w); "
                    "save one that ends in its features"
                )
            rows.append((output.mean((2, 3)) if output.ndim == 4 else output).float().cpu())  # (B, D)
        return torch.cat(rows)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(error: Exception) -> str:
    # TorchScript puts its own traceback first and the reason last.
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
