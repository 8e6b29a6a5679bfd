"""Measures of synthetic images: features in, numbers out."""

from anatodiff.metrics.cmmd import cmmd
from anatodiff.metrics.copies import CopyRate, copy_rate, nearest, pixel_features
from anatodiff.metrics.density_coverage import DensityCoverage, density_coverage
from anatodiff.metrics.features import (
    FeatureInput,
    FeatureNetwork,
    ShippedFeatures,
    TorchScriptFeatures,
    save_features,
)
from anatodiff.metrics.frechet_distance import frechet_distance
from anatodiff.metrics.frechet_infinity import FrechetInfinity, frechet_infinity
from anatodiff.metrics.kernel_distance import KernelDistance, kernel_distance
from anatodiff.metrics.precision_recall import PrecisionRecall, improved_precision_recall
from anatodiff.metrics.spectrum import RadialSpectrum, radial_spectrum, spectrum_error

__all__ = [
    "CopyRate",
    "DensityCoverage",
    "FeatureInput",
    "FeatureNetwork",
    "FrechetInfinity",
    "KernelDistance",
    "PrecisionRecall",
    "RadialSpectrum",
    "ShippedFeatures",
    "TorchScriptFeatures",
    "cmmd",
    "copy_rate",
    "density_coverage",
    "frechet_distance",
    "frechet_infinity",
    "improved_precision_recall",
    "kernel_distance",
    "nearest",
    "pixel_features",
    "radial_spectrum",
    "save_features",
    "spectrum_error",
]
