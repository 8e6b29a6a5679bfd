"""Features of radiographs for distances between sets of them."""

from __future__ import annotations

import torch

from anatodiff.autoencoders import Autoencoder

POOLED_SIDE = 4  # cells per side: coarse enough to ignore shifts, fine enough to tell left from right
FEATURE_BATCH = 16


@torch.no_grad()
def encoder_features(images: torch.Tensor, autoencoder: Autoencoder) -> torch.Tensor:
    """Describe each image by the autoencoder's last feature maps, averaged over a coarse grid.

    Args:
        images: (N, 1, H, W) in [0, 1].
        autoencoder: its encoder gives the feature maps, before they become a latent.

    Returns:
        (N, channels * 16) float32 features on the CPU.
    """
    device = next(autoencoder.parameters()).device
    rows = []
    for batch in images.split(FEATURE_BATCH):
        maps = autoencoder.features(batch.float().to(device))  # (B, channels, h, w)
        pooled = torch.nn.functional.adaptive_avg_pool2d(maps, POOLED_SIDE)  # (B, channels, 4, 4)
        rows.append(pooled.flatten(1).cpu())  # (B, channels * 16)
    return torch.cat(rows)


def standardised(reference: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
    """Bring features to the mean and deviation of a reference set, so that no single one rules the kernel.

    Args:
        reference: (N, D) features whose statistics are used.
        others: (M, D) features of other sets.

    Returns:
        the reference and the others, standardised.
    """
    mean = reference.mean(0)
    deviation = reference.std(0).clamp_min(1e-6)  # a feature that is constant in the reference must not explode
    return [(features - mean) / deviation for features in (reference, *others)]
