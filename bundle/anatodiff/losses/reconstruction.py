"""The autoencoder's loss."""

from __future__ import annotations

import torch
from torch import nn


class ReconstructionLoss(nn.Module):
    """Absolute error of pixels and of their gradients, and the distance of the posterior from a standard normal.

    Args:
        kl_weight: weight of the Kullback-Leibler divergence per latent value (Rombach et al. use 1e-6).
        edge_weight: weight of the error of horizontal and vertical differences; keeps edges sharp.
    """

    def __init__(self, kl_weight: float = 1e-6, edge_weight: float = 1.0) -> None:
        super().__init__()
        self.kl_weight, self.edge_weight = kl_weight, edge_weight
        self.parts: dict[str, float] = {}

    def forward(self, prediction: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            prediction: reconstruction (B, 1, H, W), mean and logvar (B, C, h, w).
            target: (B, 1, H, W) in [0, 1].

        Returns:
            the loss, a scalar.
        """
        error = prediction["reconstruction"] - target  # (B, 1, H, W)
        pixels = error.abs().mean()
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        mean, logvar = prediction["mean"], prediction["logvar"]
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        self.parts = {"pixels": float(pixels.detach()), "edges": float(edges.detach()), "kl": float(kl.detach())}
        return pixels + self.edge_weight * edges + self.kl_weight * kl
