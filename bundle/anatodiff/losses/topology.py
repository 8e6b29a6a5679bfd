"""The Anatomical Fidelity term: an exact, differentiable distance between the persistence diagrams of two images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from gudhi.sklearn.cubical_persistence import CubicalPersistence
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

__all__ = ["Pairs", "Persistence", "TopologicalWassersteinLoss", "match", "persistence_pairs"]

HOMOLOGY_GROUPS = (0, 1)
CHANNELS = ("random", "all", "mean")
REDUCTIONS = ("mean", "sum", "none")
ESSENTIALS = ("birth", "max", "none")


class GroundNorm(NamedTuple):
    """One norm of the birth-death plane, as each library calls it."""

    order: float
    metric: str
    to_diagonal: float


# to_diagonal: the distance of (b, d) to the nearest point of the diagonal, as a multiple of the persistence d - b.
GROUND_NORMS: dict[int | str, GroundNorm] = {
    1: GroundNorm(1.0, "cityblock", 1.0),
    2: GroundNorm(2.0, "euclidean", 2.0**-0.5),
    "inf": GroundNorm(float("inf"), "chebyshev", 0.5),
}


class Pairs(NamedTuple):
    """The finite points of one diagram, each by the two pixels whose values are its birth and its death.

    Both arrays have shape (n,) and hold row-major flat indices.
    """

    birth: np.ndarray
    death: np.ndarray


class Persistence(NamedTuple):
    """The diagrams of one image, as pixels.

    ``groups`` holds H0 and H1; ``lowest`` is the pixel that gives birth to the essential component, ``highest`` the
    last pixel to enter the filtration.
    """

    groups: tuple[Pairs, Pairs]
    lowest: int
    highest: int


def persistence_pairs(images: np.ndarray) -> list[Persistence]:
    """Find the pixels that give birth and death to each point of the sublevel persistence diagrams (eq. 15-17).

    A pixel is a closed square (``top_dimensional_cells``): components of H0 are 8-connected, the bright islands that H1
    stands for are 4-connected. Equal pixels enter in row-major order; points of no persistence are left out.

    Args:
        images: (N, H, W), finite.

    Returns:
        One ``Persistence`` for each image.
    """
    values = images.reshape(len(images), -1)
    order = np.argsort(values, axis=1, kind="stable")
    # On the image of ranks every birth and death is a rank, so that it names its pixel, and ties are broken once and
    # for all; the fast two-dimensional algorithm behind CubicalPersistence gives values only, no pixels.
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, np.arange(values.shape[1], dtype=ranks.dtype)[None], axis=1)
    diagrams = CubicalPersistence(HOMOLOGY_GROUPS).fit_transform(list(ranks.reshape(images.shape)))
    found = []
    for value, pixels, (h0, h1) in zip(values, order, diagrams, strict=True):
        groups = (_finite_pairs(value, pixels, h0), _finite_pairs(value, pixels, h1))
        found.append(Persistence(groups, int(pixels[0]), int(pixels[-1])))
    return found


def _finite_pairs(values: np.ndarray, order: np.ndarray, diagram: np.ndarray) -> Pairs:
    finite = diagram[np.isfinite(diagram[:, 1])].astype(np.intp)
    birth, death = order[finite[:, 0]], order[finite[:, 1]]
    persists = values[birth] < values[death]
    return Pairs(birth[persists], death[persists])


def match(points: np.ndarray, others: np.ndarray, ground_norm: int | str = 1) -> tuple[np.ndarray, np.ndarray]:
    """Match two diagrams at the least total cost (the bijection of eq. 18 with p = 1), exactly.

    Start with every point on the diagonal: matching i with j then saves ``diagonal_i + diagonal_j - cost_ij``. The
    largest total saving is an assignment problem of n x m instead of (n + m) x (n + m).

    Args:
        points: (n, 2) births and deaths.
        others: (m, 2) births and deaths.
        ground_norm: 1, 2 or "inf".

    Returns:
        Row and column indices of the points that are matched with each other; all others belong to the diagonal.
    """
    norm = GROUND_NORMS[ground_norm]
    to_diagonal = norm.to_diagonal * (points[:, 1] - points[:, 0])
    others_to_diagonal = norm.to_diagonal * (others[:, 1] - others[:, 0])
    saving = to_diagonal[:, None] + others_to_diagonal[None, :] - cdist(points, others, norm.metric)  # (n, m)
    np.maximum(saving, 0.0, out=saving)
    # A point that saves nothing with any partner is on the diagonal in every optimal matching: a smaller problem.
    rows, columns = np.flatnonzero(saving.any(axis=1)), np.flatnonzero(saving.any(axis=0))
    reduced = saving[np.ix_(rows, columns)]
    i, j = linear_sum_assignment(reduced, maximize=True)
    useful = reduced[i, j] > 0.0
    return rows[i[useful]], columns[j[useful]]


class _Transport(NamedTuple):
    """Where each point of a batch of diagram pairs goes; pixels are flat indices into the whole batch."""

    matched: torch.Tensor  # (a, 2) pixels of the input
    matched_with: torch.Tensor  # (a, 2) pixels of the target
    matched_image: torch.Tensor  # (a,)
    lone: torch.Tensor  # (b, 2) pixels of the input whose points go to the diagonal
    lone_image: torch.Tensor  # (b,)
    target_lone: torch.Tensor  # (c, 2) pixels of the target whose points go to the diagonal
    target_lone_image: torch.Tensor  # (c,)


class TopologicalWassersteinLoss(torch.nn.Module):
    """Sum of the exact 1-Wasserstein distances of the sublevel persistence diagrams of two images (eq. 15-18, p = 1).

    Differentiable in ``input`` through the pixels that give birth and death. The work is done on the CPU, wherever the
    tensors are, and is deterministic.

    Args:
        homology: the groups to sum over: 0 (components), 1 (loops).
        ground_norm: norm of the birth-death plane: 1, 2 or "inf".
        channels: "random" compares `n_random` channels of each sample, "all" sums over all of them, a number takes
            that one, "mean" compares the averages over all of them (Table IV).
        n_random: number of random channels, summed over.
        reduction: "mean" or "sum" over the batch, or "none" for one value of each sample.
        essential: the component of H0 that never dies. "birth" adds the distance of the two minima, as gudhi does;
            "max" closes its bar at the image's maximum, so that it is a point like any other; "none" leaves it out.
            It belongs to H0: without 0 in ``homology`` there is none.

    Raises:
        ValueError: an argument is not one of those named here.

    References:
        AnatoDiff, section III.C, eq. 15-18.
    """

    def __init__(
        self,
        homology: Sequence[int] = HOMOLOGY_GROUPS,
        ground_norm: int | str = 1,
        channels: str | int = "random",
        reduction: str = "mean",
        essential: str = "birth",
        n_random: int = 1,
    ) -> None:
        super().__init__()
        homology = tuple(homology)
        if not homology or len(set(homology)) < len(homology) or not set(homology) <= set(HOMOLOGY_GROUPS):
            raise ValueError(f"homology={homology} is not (0,), (1,) or (0, 1).")
        _check_choice("ground_norm", ground_norm, tuple(GROUND_NORMS))
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 0:
            _check_choice("channels", channels, (*CHANNELS, "a channel's number"))
        if n_random < 1 or (n_random > 1 and channels != "random"):
            raise ValueError(f"n_random={n_random} is for channels='random' and at least 1; channels is {channels!r}.")
        _check_choice("reduction", reduction, REDUCTIONS)
        _check_choice("essential", essential, ESSENTIALS)
        self.homology, self.ground_norm = homology, ground_norm
        self.channels, self.reduction, self.essential, self.n_random = channels, reduction, essential, n_random

    def extra_repr(self) -> str:
        """Name the settings in ``print(loss)``."""
        names = ("homology", "ground_norm", "channels", "reduction", "essential", "n_random")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def forward(self, input: torch.Tensor, target: torch.Tensor, channel: torch.Tensor | None = None) -> torch.Tensor:
        """Compare each sample of ``input`` with the same sample of ``target``.

        Args:
            input: (B, C, H, W), finite. float64 is kept, anything smaller is computed in float32.
            target: (B, C, H, W), finite. No gradient flows to it.
            channel: (B,) or (B, n_random) integers in 0..C-1, the channels of each sample, for ``channels="random"``
                only; None draws them from torch's default generator.

        Returns:
            A scalar, or (B,) with ``reduction="none"``, on the device of ``input``.

        Raises:
            ValueError: shapes, types or ``channel`` do not fit, or a value is NaN or infinite.
        """
        _check_images(input, target)
        dtype = torch.promote_types(torch.promote_types(input.dtype, target.dtype), torch.float32)
        images, targets = input.to("cpu", dtype), target.detach().to("cpu", dtype)  # (B, C, H, W)
        _check_finite("input", images)
        _check_finite("target", targets)
        if self.channels == "mean":
            images, targets = images.mean(dim=1, keepdim=True), targets.mean(dim=1, keepdim=True)  # (B, 1, H, W)
        chosen = self._choose(channel, len(images), images.shape[1])  # (B, c)
        sample = torch.arange(len(images))[:, None]  # (B, 1)
        images, targets = images[sample, chosen], targets[sample, chosen]  # (B, c, H, W)
        values = self._distances(images.flatten(0, 1), targets.flatten(0, 1))  # (B * c,)
        values = values.reshape(chosen.shape).sum(dim=1)  # (B,)
        if self.reduction != "none":
            values = values.mean() if self.reduction == "mean" else values.sum()
        return values.to(input.device)

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
        channel = channel.to("cpu", torch.int64)
        if int(channel.min()) < 0 or int(channel.max()) >= n_channels:
            raise ValueError(f"channel={channel.tolist()} has an entry outside 0..{n_channels - 1}.")
        return channel

    def _distances(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        found, wanted = persistence_pairs(images.detach().numpy()), persistence_pairs(targets.numpy())
        n, (x, y) = len(images), (images.flatten(), targets.flatten())  # (N * H * W,)
        plan = self._transport(x, y, found, wanted, images[0].numel())
        norm = GROUND_NORMS[self.ground_norm]
        moved = _points(x, plan.matched) - _points(y, plan.matched_with)  # (a, 2)
        values = images.new_zeros(n)  # (N,)
        values = values.index_add(0, plan.matched_image, torch.linalg.vector_norm(moved, norm.order, dim=1))
        values = values.index_add(0, plan.lone_image, norm.to_diagonal * _persistence(x, plan.lone))
        values = values.index_add(0, plan.target_lone_image, norm.to_diagonal * _persistence(y, plan.target_lone))
        if self.essential == "birth" and 0 in self.homology:
            start = torch.arange(n) * images[0].numel()
            lowest = start + torch.tensor([p.lowest for p in found])
            target_lowest = start + torch.tensor([p.lowest for p in wanted])
            values = values + (x.index_select(0, lowest) - y.index_select(0, target_lowest)).abs()
        return values

    def _transport(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        found: list[Persistence],
        wanted: list[Persistence],
        n_pixels: int,
    ) -> _Transport:
        # Costs are compared in float64 even where the loss is float32, so that rounding never changes the matching.
        x_values, y_values = x.detach().numpy().astype(np.float64), y.numpy().astype(np.float64)
        parts: list[tuple[np.ndarray, ...]] = []
        for image, (of_input, of_target) in enumerate(zip(found, wanted, strict=True)):
            for group in self.homology:
                a = self._group_pixels(of_input, group) + image * n_pixels  # (n, 2)
                b = self._group_pixels(of_target, group) + image * n_pixels  # (m, 2)
                rows, columns = match(x_values[a], y_values[b], self.ground_norm)
                lone, target_lone = np.delete(a, rows, axis=0), np.delete(b, columns, axis=0)
                owner = [np.full(len(part), image) for part in (rows, lone, target_lone)]
                parts.append((a[rows], b[columns], owner[0], lone, owner[1], target_lone, owner[2]))
        return _Transport(*(torch.from_numpy(np.concatenate(column)) for column in zip(*parts, strict=True)))

    def _group_pixels(self, persistence: Persistence, group: int) -> np.ndarray:
        pixels = np.stack(persistence.groups[group], axis=1)  # (n, 2)
        if group == 0 and self.essential == "max":
            pixels = np.concatenate([pixels, [[persistence.lowest, persistence.highest]]])
        return pixels


def _points(flat: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    # index_select and not flat[pixels]: its backward adds up in one fixed order, the other's does not.
    return flat.index_select(0, pixels.flatten()).reshape(-1, 2)


def _persistence(flat: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    birth, death = _points(flat, pixels).unbind(dim=1)
    return death - birth


def _check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if isinstance(value, bool) or value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}.")


def _check_images(images: torch.Tensor, targets: torch.Tensor) -> None:
    if images.shape != targets.shape or images.ndim != 4 or images.numel() == 0:
        raise ValueError(
            f"input {tuple(images.shape)} and target {tuple(targets.shape)}: give one (B, C, H, W) shape, not empty."
        )
    if not (images.is_floating_point() and targets.is_floating_point()):
        raise ValueError(f"input is {images.dtype} and target {targets.dtype}: give floating-point tensors.")


def _check_finite(name: str, images: torch.Tensor) -> None:
    finite = torch.isfinite(images)
    if bool(finite.all()):
        return
    sample, channel, row, column = (int(i) for i in torch.nonzero(~finite)[0])
    raise ValueError(
        f"{name} has {int((~finite).sum())} NaN or infinite values, the first at sample {sample}, channel {channel}, "
        f"row {row}, column {column}: topology is not defined there, check what produced it (learning rate, precision)."
    )
