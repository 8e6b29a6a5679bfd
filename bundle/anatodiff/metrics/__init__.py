"""Measures of synthetic images: features in, numbers out."""

from anatodiff.metrics.authenticity import Authenticity, authenticity
from anatodiff.metrics.cmmd import cmmd
from anatodiff.metrics.copies import CopyRate, copy_rate, nearest, pixel_features
from anatodiff.metrics.copy_detector import CopyDetector, CopySearch, planted_copies
from anatodiff.metrics.density_coverage import DensityCoverage, density_coverage
from anatodiff.metrics.diversity import Diversity, ms_ssim_diversity
from anatodiff.metrics.domain import DomainFeatures, DomainNetwork, save_domain_features
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
from anatodiff.metrics.lpips import LPIPS, lpips_diversity
from anatodiff.metrics.masks import MaskMeasures, mask_measures
from anatodiff.metrics.membership import Membership, membership_inference, membership_scores
from anatodiff.metrics.noise_level import DoseLevel, DoseResponse, dose_response, mean_measure, noise_level
from anatodiff.metrics.paired import PairedMeasures, paired_measures
from anatodiff.metrics.precision_recall import PrecisionRecall, improved_precision_recall
from anatodiff.metrics.seam import SeamIndex, seam_index
from anatodiff.metrics.spectrum import RadialSpectrum, radial_spectrum, spectrum_error
from anatodiff.metrics.summary import Measure, feature_measures, image_measures, share_measure
from anatodiff.metrics.trials import Interval, paired_difference, student_interval

__all__ = [
    "LPIPS",
    "Authenticity",
    "CopyDetector",
    "CopyRate",
    "CopySearch",
    "DensityCoverage",
    "Diversity",
    "DomainFeatures",
    "DomainNetwork",
    "DoseLevel",
    "DoseResponse",
    "FeatureInput",
    "FeatureNetwork",
    "FrechetInfinity",
    "Interval",
    "KernelDistance",
    "MaskMeasures",
    "Measure",
    "Membership",
    "PairedMeasures",
    "PrecisionRecall",
    "RadialSpectrum",
    "SeamIndex",
    "ShippedFeatures",
    "TorchScriptFeatures",
    "authenticity",
    "cmmd",
    "copy_rate",
    "density_coverage",
    "dose_response",
    "feature_measures",
    "frechet_distance",
    "frechet_infinity",
    "image_measures",
    "improved_precision_recall",
    "kernel_distance",
    "lpips_diversity",
    "mask_measures",
    "mean_measure",
    "membership_inference",
    "membership_scores",
    "ms_ssim_diversity",
    "nearest",
    "noise_level",
    "paired_difference",
    "paired_measures",
    "pixel_features",
    "planted_copies",
    "radial_spectrum",
    "save_domain_features",
    "save_features",
    "seam_index",
    "share_measure",
    "spectrum_error",
    "student_interval",
]
