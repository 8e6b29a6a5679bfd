"""Measures of synthetic images: features in, numbers out."""

from anatodiff.metrics.features import encoder_features, standardised
from anatodiff.metrics.kernel_distance import KernelDistance, kernel_distance

__all__ = ["KernelDistance", "encoder_features", "kernel_distance", "standardised"]
