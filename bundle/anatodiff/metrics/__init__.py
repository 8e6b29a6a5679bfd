"""Measures of synthetic images: features in, numbers out."""

from anatodiff.metrics.features import (
    FeatureInput,
    FeatureNetwork,
    ShippedFeatures,
    TorchScriptFeatures,
    save_features,
)
from anatodiff.metrics.frechet_distance import frechet_distance
from anatodiff.metrics.kernel_distance import KernelDistance, kernel_distance
from anatodiff.metrics.precision_recall import PrecisionRecall, improved_precision_recall

__all__ = [
    "FeatureInput",
    "FeatureNetwork",
    "KernelDistance",
    "PrecisionRecall",
    "ShippedFeatures",
    "TorchScriptFeatures",
    "frechet_distance",
    "improved_precision_recall",
    "kernel_distance",
    "save_features",
]
