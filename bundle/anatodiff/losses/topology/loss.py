"""The Anatomical Fidelity term: an exact, differentiable distance between the persistence diagrams of two images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from anatodiff.losses.topology import library
from anatodiff.losses.topology.settings import (
    CHANNELS,
    ESSENTIALS,
    GROUND_NORMS,
    REDUCTIONS,
    SLICES,
    Metric,
    check_choice,
)

logger = logging.getLogger(__name__)
Compare = Callable[[np.ndarray, np.ndarray, Metric], tuple[np.ndarray, np.ndarray]]


class TopologicalWassersteinLoss(torch.nn.Module):
    """Sum of the exact 1-Wasserstein distances of the sublevel persistence diagrams of two images (eq. 15-18, p = 1).

    Differentiable in ``input`` through the pixels that give birth and death. The work is done on the CPU, wherever the
    tensors are, and is deterministic: images by compiled code where numba is installed, else by gudhi and SciPy, as
    volumes always are.

    Args:
        homology: the groups to sum over: 0 (components), 1 (loops), for volumes 2 (voids), too.
        ground_norm: norm of the birth-death plane: 1, 2 or "inf".
        channels: "random" compares `n_random` channels of each sample, "all" sums over all of them, a number takes
            that one, "mean" compares the averages over all of them (Table IV).
        n_random: number of random channels, summed over.
        reduction: "mean" or "sum" over the batch, or "none" for one value of each sample.
        essential: the component of H0 that never dies. "birth" adds the distance of the two minima, as gudhi does;
            "max" closes its bar at the image's maximum, so that it is a point like any other; "none" leaves it out.
            It belongs to H0: without 0 in ``homology`` there is none.
        slices: for volumes: None compares them as such, "mean" or "sum" compares them slice by slice along the depth.

    Raises:
        ValueError: an argument is not one of those named here.

    References:
        AnatoDiff, section III.C, eq. 15-18.
    """

    def __init__(
        self,
        homology: Sequence[int] = (0, 1),
        ground_norm: int | str = 1,
        channels: str | int = "random",
        reduction: str = "mean",
        essential: str = "birth",
        n_random: int = 1,
        slices: str | None = None,
    ) -> None:
        super().__init__()
        homology = tuple(homology)
        if not homology or len(set(homology)) < len(homology) or not set(homology) <= {0, 1, 2}:
            raise ValueError(f"homology={homology} is not (0,), (1,) or (0, 1), or for volumes some of (0, 1, 2).")
        check_choice("ground_norm", ground_norm, tuple(GROUND_NORMS))
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 0:
            check_choice("channels", channels, (*CHANNELS, "a channel's number"))
        if n_random < 1 or (n_random > 1 and channels != "random"):
            raise ValueError(f"n_random={n_random} is for channels='random' and at least 1; channels is {channels!r}.")
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("essential", essential, ESSENTIALS)
        check_choice("slices", slices, (*SLICES, None))
        self.homology, self.ground_norm, self.essential = homology, ground_norm, essential
        self.channels, self.n_random, self.reduction, self.slices = channels, n_random, reduction, slices

    def extra_repr(self) -> str:
        """Name the settings in ``print(loss)``."""
        names = ("homology", "ground_norm", "channels", "reduction", "essential", "n_random", "slices")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def warm_up(self) -> None:
        """Get the compiled code ready, or say that it is missing; the first call of the loss does the same."""
        _ = self._compare_images

    @cached_property
    def _compare_images(self) -> Compare:
        try:
            # numba may be missing, or (RuntimeError) find no folder for what it compiles.
            from anatodiff.losses.topology import compiled
        except (ImportError, RuntimeError) as error:
            logger.warning(
                "no compiled code (%s): gudhi and SciPy compute the anatomical loss, exactly and several times more "
                "slowly; for the fast path pip install 'anatodiff[fast]', and where nothing can be written beside the "
                "code let NUMBA_CACHE_DIR name a folder",
                error,
            )
            return library.compare
        logger.info("getting the compiled anatomical loss ready: half a minute the first time, then it is on disk")
        compiled.compare(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), Metric((0, 1), 1, "birth"))
        return compiled.compare

    def forward(self, input: torch.Tensor, target: torch.Tensor, channel: torch.Tensor | None = None) -> torch.Tensor:
        """Compare each sample of ``input`` with the same sample of ``target``.

        Args:
            input: (B, C, H, W), or volumes (B, C, D, H, W), finite where it is compared. float64 is kept, anything
                smaller is returned in float32; diagrams are compared in float64.
            target: of the same shape, finite where it is compared. No gradient flows to it.
            channel: (B,) or (B, n_random) integers in 0..C-1, the channels of each sample, for ``channels="random"``
                only; None draws them from torch's default generator.

        Returns:
            A scalar, or (B,) with ``reduction="none"``, on the device of ``input``.

        Raises:
            ValueError: shapes, types or ``channel`` do not fit, or a compared value is NaN or infinite.
        """
        self._check_images(input, target)
        target = target.detach().to(input.device)
        dtype = torch.promote_types(torch.promote_types(input.dtype, target.dtype), torch.float32)
        images, targets = input.to(dtype), target.to(dtype)  # (B, C, H, W)
        if self.channels == "mean":
            images, targets = images.mean(dim=1, keepdim=True), targets.mean(dim=1, keepdim=True)  # (B, 1, H, W)
        chosen = self._choose(channel, len(images), images.shape[1]).to(input.device)  # (B, c)
        sample = torch.arange(len(images), device=input.device)[:, None]  # (B, 1)
        places = sample, chosen.clamp(0, images.shape[1] - 1)  # (B, 1), (B, c)
        compared = [side.detach()[places].flatten() for side in (images, targets)]  # 2 x (B * c * H * W,)
        # One copy to the CPU and one back: on a GPU each of them waits for all work before it.
        host = torch.cat([*compared, chosen.flatten().to(dtype)]).to("cpu", torch.float64).numpy()
        pair, numbers = host[: -chosen.numel()], host[-chosen.numel() :]
        if not (np.isfinite(pair).all() and numbers.min() >= 0 and numbers.max() < images.shape[1]):
            self._check_values(input, target, chosen)
        pair = pair.reshape(2, *chosen.shape, *images.shape[2:])  # (2, B, c, H, W)
        values, gradients = self._distances(pair[0], pair[1])  # (B,), (B, c, H, W)
        result = torch.from_numpy(np.concatenate([values, gradients.ravel()])).to(dtype).to(input.device)
        found = result[: len(values)], result[len(values) :].reshape(gradients.shape)
        distances = _WithGradient.apply(images, *found, *places)
        if self.reduction == "none":
            return distances
        return distances.mean() if self.reduction == "mean" else distances.sum()

    def _choose(self, channel: torch.Tensor | None, batch: int, n_channels: int) -> torch.Tensor:
        if self.channels != "random":
            if channel is not None:
                raise ValueError(f'channel is for channels="random"; channels={self.channels!r} needs none: drop it.')
            chosen = range(n_channels) if isinstance(self.channels, str) else [self.channels]
            if max(chosen) >= n_channels:
                raise ValueError(f"channels={self.channels} is outside 0..{n_channels - 1}.")
            return torch.tensor(list(chosen)).expand(batch, len(chosen))
        if self.n_random > n_channels:
            raise ValueError(f"n_random={self.n_random} channels of {n_channels}: choose fewer.")
        if channel is None:
            return torch.rand(batch, n_channels).argsort(dim=1)[:, : self.n_random]
        if channel.ndim == 1:
            channel = channel[:, None]
        shape = (batch, self.n_random)
        if channel.shape != shape or channel.is_floating_point() or channel.dtype == torch.bool:
            raise ValueError(f"channel is {channel.dtype} {tuple(channel.shape)}: give integers of shape {shape}.")
        return channel.to(torch.int64)

    def _distances(self, images: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compare (B, c, H, W) or (B, c, D, H, W): (B,) distances, summed over the channels, and their gradients."""
        metric = Metric(self.homology, self.ground_norm, self.essential)
        whole = images.ndim == 5 and self.slices is None
        shape = images.shape[-3:] if whole else images.shape[-2:]
        compare = library.compare if whole else self._compare_images
        values, gradients = compare(images.reshape(-1, *shape), targets.reshape(-1, *shape), metric)
        share = images.shape[2] if self.slices == "mean" else 1
        return values.reshape(len(images), -1).sum(axis=1) / share, gradients.reshape(images.shape) / share

    def _check_images(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        if images.shape != targets.shape or images.ndim not in (4, 5) or images.numel() == 0:
            raise ValueError(
                f"input {tuple(images.shape)} and target {tuple(targets.shape)}: give one (B, C, H, W) shape, or "
                "(B, C, D, H, W) for volumes, not empty."
            )
        if not (images.is_floating_point() and targets.is_floating_point()):
            raise ValueError(f"input is {images.dtype} and target {targets.dtype}: give floating-point tensors.")
        if images.ndim == 4 and self.slices is not None:
            raise ValueError(f"slices={self.slices!r} is for volumes (B, C, D, H, W), not for {tuple(images.shape)}.")
        if 2 in self.homology and (images.ndim == 4 or self.slices is not None):
            raise ValueError(f"homology={self.homology}: group 2 is for whole volumes (B, C, D, H, W); leave it out.")

    def _check_values(self, images: torch.Tensor, targets: torch.Tensor, chosen: torch.Tensor) -> None:
        for name, tensor in (("input", images), ("target", targets)):
            wrong = (~torch.isfinite(tensor)).nonzero()
            if len(wrong):
                sample, channel, *place = wrong[0].tolist()
                where = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column"), place[-2:], strict=True))
                depth = f"slice {place[0]}, " if len(place) == 3 else ""
                raise ValueError(
                    f"{name} has {len(wrong)} NaN or infinite values, the first at sample {sample}, channel {channel}, "
                    f"{depth}{where}: topology is not defined there, check what produced it (learning rate, precision)."
                )
        if int(chosen.min()) < 0 or int(chosen.max()) >= images.shape[1]:
            raise ValueError(f"channel={chosen.tolist()} has an entry outside 0..{images.shape[1] - 1}.")


class _WithGradient(torch.autograd.Function):
    """Give each sample a value that was computed elsewhere, and its gradient in the channels that were compared."""

    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        values: torch.Tensor,
        gradients: torch.Tensor,
        sample: torch.Tensor,
        chosen: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(gradients, sample, chosen)
        ctx.shape = images.shape
        return values.clone()  # (B,)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        gradients, sample, chosen = ctx.saved_tensors
        spread = gradients.new_zeros(ctx.shape)  # (B, C, H, W)
        turned = upstream.reshape(-1, *[1] * (gradients.ndim - 1)) * gradients  # (B, c, H, W)
        spread.index_put_((sample, chosen), turned, accumulate=chosen.shape[1] > 1)  # a channel may be named twice
        return spread, None, None, None, None
