"""A picture of CT samples beside what was asked for."""

from __future__ import annotations

from pathlib import Path

import torch

from anatodiff.engines.ct_samples import CTSamples, CTSlices
from anatodiff.engines.pictures import save_grid

SHOWN = 6  # samples
DASH = 3  # pixels of a dash, and between two
TITLES = (
    "requested noise, the brightest is the largest of these",
    "requested mask",
    "sample",
    "sample; outlines: found white, requested dashed",
    "real slice that the request is of",
)


def save_report(path: str | Path, samples: CTSamples, test: CTSlices, found: torch.Tensor | None) -> None:
    """Draw requests, samples, what a segmentation found in them, and their reference slices, a column each.

    Args:
        path: .png file.
        samples: as many as fit are drawn, evenly spread.
        test: the held-back slices.
        found: (N, S, S) labels that were found in the samples; None where nothing was looked for.
    """
    rows = torch.linspace(0, len(samples) - 1, min(SHOWN, len(samples))).round().long().tolist()
    brightest = samples.noise[rows].max().clamp_min(1e-6)
    empty = torch.zeros_like(samples.images[0])  # (1, S, S)
    columns = []
    for row in rows:
        image, mask, reference = samples.images[row], samples.mask[row], int(samples.references[row])
        drawn = image if found is None else outlined(image, found[row], mask)
        columns.append(
            (
                samples.noise[row] / brightest,
                mask[None].float() / max(len(test.organs), 1),
                image,
                drawn,
                test.images[reference].float() if reference >= 0 else empty,
            )
        )
    save_grid(path, list(zip(*columns, strict=True)), TITLES)


def outlined(image: torch.Tensor, found: torch.Tensor, requested: torch.Tensor) -> torch.Tensor:
    """Draw the border of what was found in white, and that of what was requested dashed, black and white.

    Args:
        image: (1, S, S) in [0, 1].
        found: (S, S) labels.
        requested: (S, S) labels.

    Returns:
        (1, S, S).
    """
    y, x = (torch.arange(side) for side in image.shape[1:])
    dash = ((y[:, None] + x) // DASH % 2).float()  # (S, S)
    drawn = image[0].masked_fill(_border(found), 1.0)  # (S, S)
    return torch.where(_border(requested), dash, drawn)[None]


def _border(labels: torch.Tensor) -> torch.Tensor:
    """Find the pixels of labels (S, S) beside another label."""
    padded = torch.nn.functional.pad(labels[None, None].float(), (1, 1, 1, 1), mode="replicate")
    most = torch.nn.functional.max_pool2d(padded, 3, stride=1)[0, 0]  # (S, S)
    least = -torch.nn.functional.max_pool2d(-padded, 3, stride=1)[0, 0]  # (S, S)
    return (labels > 0) & (most != least)
