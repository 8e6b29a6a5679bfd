"""All measures of one set of images against reference images, each with its standard error where it has one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from anatodiff.metrics.cmmd import cmmd
from anatodiff.metrics.density_coverage import density_coverage
from anatodiff.metrics.diversity import MIN_SIDE, ms_ssim_diversity
from anatodiff.metrics.frechet_distance import frechet_distance
from anatodiff.metrics.frechet_infinity import MIN_SAMPLES as LEAST_TO_EXTRAPOLATE
from anatodiff.metrics.frechet_infinity import frechet_infinity
from anatodiff.metrics.kernel_distance import kernel_distance
from anatodiff.metrics.lpips import LPIPS, lpips_diversity
from anatodiff.metrics.precision_recall import improved_precision_recall
from anatodiff.metrics.seam import seam_index
from anatodiff.metrics.spectrum import radial_spectrum, spectrum_error

__all__ = ["Measure", "feature_measures", "image_measures", "share_measure"]


@dataclass(frozen=True)
class Measure:
    """A number and its standard error, None where there is no sound one."""

    value: float
    stderr: float | None = None


def feature_measures(
    reference: torch.Tensor,
    features: torch.Tensor,
    nearest_k: int,
    seed: int = 0,
) -> dict[str, Measure]:
    """Compare features with those of the reference images, by name.

    The errors of shares are binomial: of the images at hand, with the manifolds taken as they are.

    Args:
        reference: (m, D) features.
        features: (n, D) features.
        nearest_k: k of precision, recall, density and coverage.
        seed: of the subsets of the extrapolated Frechet distance, which needs 30 images of each kind.

    Returns:
        "kid", "fid", "fid_infinity" (or not), "cmmd" (on features of length 1), "precision", "recall", "density" and
        "coverage".

    Raises:
        ValueError: too few images, or a feature is NaN or infinite.
    """
    kid = kernel_distance(reference, features)
    found = {"kid": Measure(kid.value, kid.stderr), "fid": Measure(frechet_distance(reference, features))}
    if min(len(reference), len(features)) >= LEAST_TO_EXTRAPOLATE:
        endless = frechet_infinity(reference, features, seed)
        found["fid_infinity"] = Measure(endless.value, endless.stderr)
    gaussian = cmmd(_of_length_one(reference), _of_length_one(features))
    found["cmmd"] = Measure(gaussian.value, gaussian.stderr)
    manifold = improved_precision_recall(reference, features, nearest_k)
    balls = density_coverage(reference, features, nearest_k)
    found["precision"] = share_measure(manifold.precision, len(features))
    found["recall"] = share_measure(manifold.recall, len(reference))
    found["density"] = Measure(balls.density)
    found["coverage"] = share_measure(balls.coverage, len(reference))
    return found


def _of_length_one(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features.double(), dim=1)  # (N, D)


def image_measures(
    reference: torch.Tensor,
    images: torch.Tensor,
    seed: int = 0,
    lpips: LPIPS | None = None,
    token_size: int = 32,
) -> dict[str, Measure]:
    """Compare images with the reference images, by name.

    Args:
        reference: (m, 1, H, H) in [0, 1].
        images: (n, 1, H, H) in [0, 1].
        seed: of the pairs.
        lpips: measures pairs of images, too, if given; it needs 3 images of 16 pixels.
        token_size: side of the network's tokens, pixels, for the seam index.

    Returns:
        "ms_ssim" of the images among themselves (or not: it needs 3 images of 161 pixels), "lpips" of the same kind
        (or not), "seam_index" (or not: it needs images larger than a token), and "spectrum" in decades.
    """
    found = {}
    if len(images) >= 3 and images.shape[2] >= MIN_SIDE:
        likeness = ms_ssim_diversity(images, seed=seed)
        found["ms_ssim"] = Measure(likeness.value, likeness.stderr)
    if lpips is not None:
        distance = lpips_diversity(lpips, images, seed=seed)
        found["lpips"] = Measure(distance.value, distance.stderr)
    if min(images.shape[2:]) > token_size:
        seams = seam_index(images, token_size)
        found["seam_index"] = Measure(seams.value, seams.stderr)
    found["spectrum"] = Measure(spectrum_error(radial_spectrum(reference), radial_spectrum(images)))
    return found


def share_measure(value: float, of: int) -> Measure:
    """Return a share of so many with its binomial error."""
    # With two successes and two failures more (Agresti and Coull): none of 50 is not "0 without an error".
    p, n = (value * of + 2) / (of + 4), of + 4
    return Measure(value, (p * (1 - p) / n) ** 0.5)
