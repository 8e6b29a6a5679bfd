"""Membership inference: can samples tell which real images the network learned from?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from anatodiff.metrics.pairs import Features, checked_pair

__all__ = ["Membership", "membership_inference", "membership_scores"]

FALSE_POSITIVES = 0.01
BLOCK = 512


@dataclass(frozen=True)
class Membership:
    """What an attacker gains who knows the samples and suspects an image.

    Args:
        auc: area under the curve of true over false positives; 0.5 for nothing learned, 1 for all of it.
        stderr: its standard error (Hanley and McNeil).
        true_positives: share of the training images that are found where 1 % of the others are accused.
    """

    auc: float
    stderr: float
    true_positives: float


def membership_scores(real: Features, synthetic: Features) -> torch.Tensor:
    """Score real images by how near the nearest sample is, (n,): less the distance, so that larger says "member".

    Args:
        real: (n, D) features, finite.
        synthetic: (m, D) features, finite.

    Raises:
        ValueError: the shapes do not fit, a set is empty, or a feature is NaN or infinite.

    References:
        Hilprecht et al., Monte Carlo and reconstruction membership inference attacks, 2019.
    """
    first, second = (side.double() for side in checked_pair(real, synthetic, 1, ("real", "synthetic")))
    return -torch.cat([torch.cdist(block, second).min(dim=1).values for block in first.split(BLOCK)])


def membership_inference(members: Features, others: Features) -> Membership:
    """Measure how well scores tell training images from others.

    Args:
        members: (n,) scores of training images.
        others: (m,) scores of held-out images of the same distribution.

    Returns:
        area, its standard error, and the true positives at 1 % of false ones.

    Raises:
        ValueError: a set is empty or no row, or a score is NaN or infinite.

    References:
        Hanley and McNeil, The meaning and use of the area under a ROC curve, 1982.
        Carlini et al., Membership inference attacks from first principles, 2022: true positives at few false ones.
    """
    sets = [np.asarray(scores, dtype=np.float64) for scores in (members, others)]
    for name, scores in zip(("members", "others"), sets, strict=True):
        if scores.ndim != 1 or len(scores) == 0 or not np.isfinite(scores).all():
            raise ValueError(f"{name} has shape {scores.shape}; give a row of finite scores, at least one")
    truth = np.repeat([1, 0], [len(scores) for scores in sets])
    together = np.concatenate(sets)
    auc = float(roc_auc_score(truth, together))
    false, true, _ = roc_curve(truth, together, drop_intermediate=False)
    n, m = len(sets[0]), len(sets[1])
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (n - 1) * (q1 - auc**2) + (m - 1) * (q2 - auc**2)) / (n * m)
    return Membership(auc, float(np.sqrt(variance)), float(true[false <= FALSE_POSITIVES].max()))
