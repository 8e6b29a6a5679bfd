"""Batches whose every draw is a function of (seed, step), and how the engines take them apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch

from anatodiff.diffusion import DiscreteSchedule, NoiseSchedule, batch_indices, even_each, normal_each, uniform_each
from anatodiff.engines.balance import Balance
from anatodiff.engines.told import Told
from anatodiff.losses import DiffusionTarget
from anatodiff.parallel import world

# What MONAI's engines expect of prepare_batch: inputs, targets, and arguments of the inferer.
EngineBatch = tuple[torch.Tensor, Any, tuple, dict[str, Any]]


class Gathers(Protocol):
    """A dataset in memory that hands out any selection of its rows."""

    def __len__(self) -> int: ...

    def gather(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the rows at `indices` (B,), each value (B, ...)."""
        ...


class StepBatches:
    """Endless batches of training steps; step k is the same whenever and wherever it is asked for.

    Several processes share each batch: every one of them takes its part of the same positions.

    Args:
        dataset: rows to draw from.
        batch_size: images per step, over all processes.
        seed: the run's seed.
        extra: rows of a small second set, drawn from in the same way; None is none.
        extra_share: most of each batch that comes from it, rounded down to whole images.
        balance: shares of the classes among the rows of `dataset`; None: random passes over all of them.

    Raises:
        ValueError: no rows, a batch that cannot be shared by the processes, or a share that is no image.
    """

    def __init__(
        self,
        dataset: Gathers,
        batch_size: int,
        seed: int,
        extra: Gathers | None = None,
        extra_share: float = 0.0,
        balance: Balance | None = None,
    ) -> None:
        if batch_size % world()[1]:
            raise ValueError(f"batch_size {batch_size} cannot be shared by {world()[1]} processes; choose a multiple")
        if len(dataset) == 0:
            raise ValueError("the training set is empty; check dataset_dir and test_fraction")
        self.dataset, self.batch_size, self.seed, self.balance = dataset, batch_size, seed, balance
        self.extra, self.n_extra = extra, 0 if extra is None else int(extra_share * batch_size)
        if extra is not None and not 1 <= self.n_extra < batch_size:
            raise ValueError(
                f"extra_share {extra_share} of a batch of {batch_size} is {self.n_extra} images; choose at least one "
                "and not the whole batch"
            )
        self.step = 0  # a resumed run sets it

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            # Counted before the batch leaves: an iterator that is thrown away must not repeat its last step.
            step, self.step = self.step, self.step + 1
            rows = self._rows(step)
            positions = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)
            rank, processes = world()
            mine = slice(rank * self.batch_size // processes, (rank + 1) * self.batch_size // processes)
            yield {"position": positions[mine], **{name: values[mine] for name, values in rows.items()}}

    def _rows(self, step: int) -> dict[str, torch.Tensor]:
        """Gather the rows of a step: those of the small set last."""
        images = self.batch_size - self.n_extra
        if self.balance is None:
            indices = batch_indices(len(self.dataset), images, self.seed, step)  # (images,)
        else:
            indices = self.balance.indices(images, self.seed, step)  # (images,)
        rows = self.dataset.gather(indices)
        if self.extra is None:
            return rows
        others = self.extra.gather(batch_indices(len(self.extra), self.n_extra, self.seed, step))
        return {name: torch.cat([values, others[name]]) for name, values in rows.items()}


class FixedBatches:
    """All rows once, in order, in batches: for validation. Row k is position k, so its noise never changes.

    Args:
        dataset: rows to go through.
        batch_size: images per batch.
    """

    def __init__(self, dataset: Gathers, batch_size: int) -> None:
        self.dataset, self.batch_size = dataset, batch_size

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for indices in torch.arange(len(self.dataset)).split(self.batch_size):
            yield {"position": indices, **self.dataset.gather(indices)}


class DiffusionBatch:
    """Turn cached posteriors into a diffusion training batch.

    Latents are drawn anew from their posterior at each step: a frozen draw would put a floor under the loss.

    Args:
        schedule: noise schedule.
        scale_factor: the base's latent scale.
        null_label: label that stands for no class.
        label_dropout: share of images whose label is dropped, so that guidance has an unconditional model.
        seed: the run's seed.
        name: keeps the draws of training and validation apart.
        parents: for each class the class that stands for its domain, see `anatodiff.data.Sources`; None has none.
        domain_share: share of the images with a label that are told their domain only, in place of their class.
        told: what the network is told beside the class; None: nothing.
        drops_conditions: leave conditions of some images out, as `told` says.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        scale_factor: float,
        null_label: int,
        label_dropout: float,
        seed: int,
        name: str = "train",
        parents: Sequence[int] | None = None,
        domain_share: float = 0.0,
        told: Told | None = None,
        drops_conditions: bool = True,
    ) -> None:
        for share_name, share in (("label_dropout", label_dropout), ("domain_share", domain_share)):
            if not 0 <= share <= 1:
                raise ValueError(f"{share_name} must be 0 to 1, got {share}")
        self.parents, self.domain_share = None if parents is None else torch.tensor(parents), domain_share
        self.schedule, self.scale_factor, self.null_label = schedule, scale_factor, null_label
        self.label_dropout, self.seed, self.name = label_dropout, seed, name
        self.told, self.drops_conditions = told, drops_conditions

    def __call__(
        self,
        batchdata: dict[str, Any],
        device: torch.device,
        non_blocking: bool = False,
    ) -> EngineBatch:
        """Draw latents, times, noise, channels and dropped labels.

        Args:
            batchdata: position (B,), mean and logvar (B, C, h, w), label (B,), and context (B, ...) where there is one.
            device: where the batch goes.
            non_blocking: as for `Tensor.to`.

        Returns:
            clean scaled latents, `DiffusionTarget`, no further arguments, keywords of `NoisePredictionInferer`.
        """
        mean, at = batchdata["mean"], batchdata["position"]
        shape = tuple(mean.shape[1:])
        posterior = normal_each(shape, self.seed, at, f"{self.name} posterior")  # (B, C, h, w)
        x0 = (mean + (0.5 * batchdata["logvar"]).exp() * posterior) * self.scale_factor  # (B, C, h, w)
        noise = normal_each(shape, self.seed, at, f"{self.name} noise")  # (B, C, h, w)
        # Even over any consecutive images; discrete schedules keep the draws of earlier versions.
        uniform = uniform_each if isinstance(self.schedule, DiscreteSchedule) else even_each
        index = self.schedule.draw(uniform(self.seed, at, f"{self.name} time"))  # (B,)
        each = [uniform_each(self.seed, at, f"{self.name} channel {c}") for c in range(shape[0])]  # C x (B,)
        channels = torch.stack(each, dim=1).argsort(dim=1)  # (B, C)
        labels = self._labels(batchdata["label"], at)  # (B,)
        x0, noise, index, channels, labels = (
            tensor.to(device, non_blocking=non_blocking) for tensor in (x0, noise, index, channels, labels)
        )
        said = {"noise": noise, "index": index, "class_labels": labels}
        if self.told is not None:
            context = self._context(batchdata["context"], at, self.told)  # (B, ...)
            said["context"] = context.to(device, non_blocking=non_blocking)  # (B, ...)
        return x0, DiffusionTarget(x0, noise, index, channels), (), said

    def _context(self, context: torch.Tensor, at: torch.Tensor, told: Told) -> torch.Tensor:
        """Leave some conditions of some images out of a context (B, ...)."""
        if not (self.drops_conditions and told.dropout):
            return context
        context = context.clone()
        for name, place in told.layout.slices().items():
            left_out = uniform_each(self.seed, at, f"{self.name} condition {name}") < told.dropout  # (B,)
            context[left_out, place] = 0
        return context

    def _labels(self, labels: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Replace some labels (B,) by the null label, and some by that of their domain."""
        draw = uniform_each(self.seed, at, f"{self.name} dropout")  # (B,)
        if self.parents is not None:
            told = self.label_dropout + self.domain_share * (1 - self.label_dropout)
            labels = torch.where(draw < told, self.parents[labels], labels)  # (B,)
        return torch.where(draw < self.label_dropout, self.null_label, labels)  # (B,)


class ReconstructionBatch:
    """Cut one random crop from each image, and draw the posterior's noise.

    Args:
        crop_size: side of the crop; 0 takes the whole image.
        latent_channels: channels of the latent.
        factor: pixels per latent pixel.
        seed: the run's seed.
        name: keeps the draws of training and validation apart.
    """

    def __init__(self, crop_size: int, latent_channels: int, factor: int, seed: int, name: str = "train") -> None:
        if crop_size % factor:
            raise ValueError(f"crop_size must be a multiple of {factor}, got {crop_size}")
        self.crop_size, self.latent_channels, self.factor = crop_size, latent_channels, factor
        self.seed, self.name = seed, name

    def __call__(
        self,
        batchdata: dict[str, Any],
        device: torch.device,
        non_blocking: bool = False,
    ) -> EngineBatch:
        """Draw crops and noise.

        Args:
            batchdata: position (B,) and image (B, 1, H, W) in [0, 1].
            device: where the batch goes.
            non_blocking: as for `Tensor.to`.

        Returns:
            crops, the same crops as target, no further arguments, the noise for `ReconstructionInferer`.
        """
        images, at = batchdata["image"].float(), batchdata["position"]
        if self.crop_size:
            corners = [uniform_each(self.seed, at, f"{self.name} {side}") for side in ("top", "left")]
            crops = [self._crop(image, top, left) for image, top, left in zip(images, *corners, strict=True)]
            images = torch.stack(crops)  # (B, 1, crop, crop)
        height, width = images.shape[2:]
        shape = (self.latent_channels, height // self.factor, width // self.factor)
        noise = normal_each(shape, self.seed, at, f"{self.name} posterior").to(device)  # (B, C, h, w)
        images = images.to(device, non_blocking=non_blocking)  # (B, 1, H, W)
        return images, images, (), {"noise": noise}

    def _crop(self, image: torch.Tensor, top: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
        rooms = (image.shape[1] - self.crop_size, image.shape[2] - self.crop_size)
        if min(rooms) < 0:
            raise ValueError(f"crop_size {self.crop_size} is larger than the image {tuple(image.shape)}; choose less")
        y, x = (int(share * (room + 1)) for share, room in zip((top, left), rooms, strict=True))
        return image[:, y : y + self.crop_size, x : x + self.crop_size]  # (1, crop, crop)
