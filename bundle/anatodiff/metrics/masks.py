"""How well masks agree with those that they should be: overlap, surface distance, precision and recall."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou

__all__ = ["MaskMeasures", "mask_measures"]


@dataclass(frozen=True)
class MaskMeasures:
    """One number for each mask and class, (N, C) float64; NaN where it is not defined.

    Args:
        dice: 2 |A and B| / (|A| + |B|); 1 where both are empty.
        iou: |A and B| / |A or B|; 1 where both are empty.
        hausdorff: largest distance of a border pixel to the other border, or its percentile, in the unit of `spacing`;
            NaN where either is empty.
        precision: |A and B| / |A| with A the output; NaN where A is empty.
        recall: |A and B| / |B| with B the target; NaN where B is empty.
    """

    dice: torch.Tensor
    iou: torch.Tensor
    hausdorff: torch.Tensor
    precision: torch.Tensor
    recall: torch.Tensor


def mask_measures(
    output: torch.Tensor,
    target: torch.Tensor,
    spacing: tuple[float, ...] | None = None,
    percentile: float | None = 95.0,
) -> MaskMeasures:
    """Compare each mask with its target.

    Args:
        output: (N, C, H, W) or (N, C, D, H, W) of 0 and 1; each class a channel, the background none.
        target: of the same shape.
        spacing: distance of neighbours along each axis, in mm; None counts pixels.
        percentile: of the border distances, in [0, 100]; None takes the largest.

    Returns:
        the measures of each mask and class.

    Raises:
        ValueError: the shapes differ or are no batch, or a value is neither 0 nor 1.

    References:
        Taha and Hanbury, Metrics for evaluating 3D medical image segmentation, 2015; MONAI's code for the first three.
    """
    if output.shape != target.shape or output.ndim not in (4, 5) or output.numel() == 0:
        raise ValueError(f"output is {tuple(output.shape)} and target {tuple(target.shape)}; give one batch shape")
    for name, mask in (("output", output), ("target", target)):
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(f"{name} has values other than 0 and 1; threshold it first")
    output, target = output.float(), target.float()
    overlap = (output * target).flatten(2).sum(dim=2).double()  # (N, C)
    sizes = [mask.flatten(2).sum(dim=2).double() for mask in (output, target)]  # (N, C) each
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is all 0, this may result in nan/inf distance")  # said above
        hausdorff = compute_hausdorff_distance(
            output, target, include_background=True, percentile=percentile, spacing=spacing
        ).double()
    hausdorff[(sizes[0] == 0) | (sizes[1] == 0)] = torch.nan
    return MaskMeasures(
        compute_dice(output, target, include_background=True, ignore_empty=False).double(),
        compute_iou(output, target, include_background=True, ignore_empty=False).double(),
        hausdorff,
        overlap / sizes[0],  # 0 / 0 is NaN
        overlap / sizes[1],
    )
