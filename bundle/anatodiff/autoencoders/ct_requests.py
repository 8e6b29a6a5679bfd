"""What is asked of a CT network: noise maps and masks, without the slices that they may come from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from anatodiff.autoencoders.ct_dataset import CTDataset


@dataclass(frozen=True, eq=False)
class CTRequests:
    """Conditions of slices to be sampled.

    Attributes:
        noise: (N, 1, S, S) float32 HU; zero where not asked for.
        mask: (N, S, S) uint8, 0 background and k the k-th organ; zero where not asked for.
        has_noise: (N,) bool.
        has_mask: (N,) bool.
        doses: (N,) float32 share of the full dose; NaN where not known.
        labels: (N,) int64 classes.
        references: (N,) int64, row of the held-back slice that a request comes from; -1: none.
        organs: names of the mask's organs.
    """

    noise: torch.Tensor
    mask: torch.Tensor
    has_noise: torch.Tensor
    has_mask: torch.Tensor
    doses: torch.Tensor
    labels: torch.Tensor
    references: torch.Tensor
    organs: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, dataset: CTDataset, rows: torch.Tensor) -> CTRequests:
        """Ask for what some slices of a data set show.

        Args:
            dataset: slices.
            rows: (N,) int64, which of them.
        """
        return cls(
            dataset.noise[rows].float(),
            dataset.mask[rows],
            dataset.has_noise[rows],
            dataset.has_mask[rows],
            dataset.doses[rows],
            dataset.labels[rows],
            rows,
            dataset.organs,
        )
