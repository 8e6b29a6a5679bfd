"""What is asked for of a network that makes CT slices."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class CTRequests:
    """Conditions of N slices.

    Args:
        noise: (N, 1, S, S) float32, root mean square of the noise (eq. 9), HU; zeros where none is asked for.
        mask: (N, S, S) uint8, 0 background, k is organs[k - 1]; zeros where none is asked for.
        has_noise: (N,) bool.
        has_mask: (N,) bool.
        doses: (N,) float32, share of the full dose; NaN where it is not known.
        labels: (N,) int64, class.
        references: (N,) int64, rows of held-back data that the requests were taken from; -1 for none.
        organs: names, in the order of the labels.
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
