"""Segmentation of CT slices: a U-Net that is trained on the slices at hand, or a network of the user's own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch import nn

from anatodiff.autoencoders.latent_cache import cached
from anatodiff.diffusion.draws import generator
from anatodiff.engines.batches import StepBatches
from anatodiff.engines.ct_segmentation_file import TorchScriptSegmentation

CHANNELS = (16, 32, 64, 128)
HALVINGS = len(CHANNELS) - 1
RESIDUAL_UNITS = 1
MAX_SIDE = 128  # pixels: organs are large, and a slice of 256 would take four times as long
BATCH = 8
LEARNING_RATE = 3e-3
MAX_NOISE = 0.08  # standard deviation that is added at most, of images in [0, 1]: 32 HU of a window of 400
MAX_SHIFT = 0.05  # of the gray level
KEY_LENGTH = 32  # hexadecimal digits of a cache's name
RECIPE = 1  # to be raised when the training changes its result


class SegmentationNetwork(Protocol):
    """Labels the pixels of CT slices.

    Attributes:
        name: what a reader knows it by.
        sha256: hash of its weights.
    """

    name: str
    sha256: str

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images (B, 1, S, S) in [0, 1] into logits (B, 1 + K, h, w), the background first."""


def segment(network: SegmentationNetwork, images: torch.Tensor) -> torch.Tensor:
    """Label the pixels of CT slices.

    Args:
        network: what labels them.
        images: (N, 1, S, S) in [0, 1].

    Returns:
        (N, S, S) uint8: 0 background, k the k-th organ.
    """
    found = [torch.zeros(0, *images.shape[2:], dtype=torch.uint8)]
    for batch in images.split(BATCH):
        logits = network(batch.float())  # (B, 1 + K, h, w)
        size = (images.shape[2], images.shape[3])
        if tuple(logits.shape[2:]) != size:
            logits = nn.functional.interpolate(logits, size, mode="bilinear")  # (B, 1 + K, S, S)
        found.append(logits.argmax(dim=1).to(torch.uint8))  # (B, S, S)
    return torch.cat(found)


@dataclass(frozen=True, eq=False)
class SegmentationRows:
    """Slices and their labels, to train on.

    Args:
        images: (N, 1, S, S) in [0, 1].
        mask: (N, S, S) uint8.
    """

    images: torch.Tensor
    mask: torch.Tensor

    def __len__(self) -> int:
        return len(self.mask)

    def gather(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return image (B, 1, S, S) and mask (B, 1, S, S) at `indices` (B,)."""
        return {"image": self.images[indices].float(), "mask": self.mask[indices][:, None].long()}

    def joined(self, other: SegmentationRows) -> SegmentationRows:
        """Return these rows and the other ones."""
        images = torch.cat([self.images.float(), other.images.float()])  # (N + M, 1, S, S)
        return SegmentationRows(images, torch.cat([self.mask, other.mask]))

    def reduced(self, side: int) -> SegmentationRows:
        """Bring slices and labels to (N, 1, side, side) and (N, side, side)."""
        if self.images.shape[2] == side:
            return self
        images = _resized(self.images, side)  # (N, 1, side, side)
        mask = nn.functional.interpolate(self.mask[:, None].float(), (side, side), mode="nearest-exact")
        return SegmentationRows(images, mask[:, 0].to(torch.uint8))

    def digest(self) -> str:
        """Hash slices and labels."""
        digest = hashlib.sha256(f"{tuple(self.images.shape)} {self.images.dtype}".encode())
        for tensor in (self.images, self.mask):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


def _resized(images: torch.Tensor, side: int) -> torch.Tensor:
    # Filtered, or the noise of a large slice would not shrink with it.
    return nn.functional.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)


class TrainedSegmentation:
    """A MONAI U-Net with its weights.

    Args:
        network: labels slices of `side` pixels.
        side: of its input, pixels.
        sha256: of what it was trained on and how.
        device: where to compute.
    """

    name = "U-Net trained on the real slices"

    def __init__(self, network: UNet, side: int, sha256: str, device: str | torch.device = "cpu") -> None:
        self.network, self.side, self.sha256, self.device = network.to(device).eval(), side, sha256, device

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images (B, 1, S, S) in [0, 1] into logits (B, 1 + K, side, side)."""
        return self.network(_resized(images, self.side).to(self.device)).float().cpu()


def segmentation_network(
    path: str | Path | None,
    rows: SegmentationRows,
    n_organs: int,
    steps: int,
    seed: int = 0,
    cache_dir: str | Path = "output/cache",
    device: str | torch.device = "cpu",
) -> SegmentationNetwork | None:
    """Choose the network that labels samples.

    Args:
        path: TorchScript file; None trains a U-Net.
        rows: slices with labels to train on.
        n_organs: K; 0 is none.
        steps: of the training.
        seed: of the training.
        cache_dir: folder of the caches.
        device: where to compute.

    Returns:
        the network; None without organs.
    """
    if n_organs == 0:
        return None
    if path is not None:
        return TorchScriptSegmentation(path, n_organs, device)
    return train_segmentation(rows, n_organs, steps, seed, cache_dir, device)


@dataclass(frozen=True)
class SegmentationBatch:
    """Prepare batches of a segmentation: each slice with noise of its own and a small shift of its gray level.

    So the network sees any dose between those of the data, and none is the only one that it knows.

    Args:
        seed: of the draws.
    """

    seed: int

    def __call__(
        self, batch: dict[str, torch.Tensor], device: str | torch.device = "cpu", non_blocking: bool = False, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take a batch of `StepBatches` of `SegmentationRows` apart: image (B, 1, S, S) and mask (B, 1, S, S)."""
        image = batch["image"]  # (B, 1, S, S)
        drawn = generator(self.seed, int(batch["position"][0]), "segmentation augmentation")
        level = MAX_NOISE * torch.rand(len(image), 1, 1, 1, generator=drawn)  # (B, 1, 1, 1)
        shift = MAX_SHIFT * (2 * torch.rand(len(image), 1, 1, 1, generator=drawn) - 1)  # (B, 1, 1, 1)
        image = image + shift + level * torch.randn(image.shape, generator=drawn)  # (B, 1, S, S)
        return image.clamp(0, 1).to(device), batch["mask"].to(device)


def train_segmentation(
    rows: SegmentationRows,
    n_organs: int,
    steps: int,
    seed: int = 0,
    cache_dir: str | Path = "output/cache",
    device: str | torch.device = "cpu",
) -> TrainedSegmentation:
    """Train a small U-Net, or take the one of the same slices, labels and settings from the cache.

    Args:
        rows: slices with labels, of all doses.
        n_organs: highest label.
        steps: of the training, with 8 slices each.
        seed: of weights, batches and augmentation.
        cache_dir: folder of the caches.
        device: where to train.

    Returns:
        the network.

    Raises:
        ValueError: there is nothing to train on, or for less than a step.

    References:
        Ronneberger et al., U-Net, 2015, https://arxiv.org/abs/1505.04597; MONAI's implementation with residual units.
    """
    if len(rows) == 0 or n_organs < 1:
        raise ValueError(f"{len(rows)} slices with masks of {n_organs} organs to train a segmentation; give some")
    if steps < 1:
        raise ValueError(f"segmentation_steps is {steps}; give at least 1")
    # Each level halves the side, and what is put together again must have the same one.
    side = max(min(rows.images.shape[2], MAX_SIDE) >> HALVINGS, 1) << HALVINGS
    recipe = [RECIPE, CHANNELS, RESIDUAL_UNITS, n_organs, steps, seed, side, BATCH, LEARNING_RATE, MAX_NOISE, MAX_SHIFT]
    key = hashlib.sha256(f"{rows.digest()} {recipe}".encode()).hexdigest()
    network = _unet(n_organs, seed)

    def trained() -> dict[str, torch.Tensor]:
        _train(network, rows.reduced(side), steps, seed, torch.device(device))
        return {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}

    network.load_state_dict(cached(Path(cache_dir) / f"segmentation-{key[:KEY_LENGTH]}.safetensors", trained))
    return TrainedSegmentation(network, side, key, device)


def _unet(n_organs: int, seed: int) -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Of each slice on its own, so that a slice's labels do not hang on those beside it in its batch.
        return UNet(2, 1, 1 + n_organs, CHANNELS, (2,) * HALVINGS, num_res_units=RESIDUAL_UNITS, norm="INSTANCE")


def _train(network: UNet, rows: SegmentationRows, steps: int, seed: int, device: torch.device) -> None:
    optimizer = torch.optim.AdamW(network.to(device).parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=1,
        train_data_loader=StepBatches(rows, BATCH, seed),
        network=network,
        optimizer=optimizer,
        loss_function=DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True),
        epoch_length=steps,
        prepare_batch=SegmentationBatch(seed),
        decollate=False,
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: schedule.step())
    trainer.run()
