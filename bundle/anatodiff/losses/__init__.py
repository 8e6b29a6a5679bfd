"""Training objectives."""

from anatodiff.losses.diffusion import AnatoDiffLoss, DiffusionTarget, Prediction, variance_bound
from anatodiff.losses.edges import LatentEdgeLoss
from anatodiff.losses.perceptual import PerceptualLoss
from anatodiff.losses.reconstruction import ReconstructionLoss
from anatodiff.losses.topology import TopologicalWassersteinLoss, persistence_pairs

__all__ = [
    "AnatoDiffLoss",
    "DiffusionTarget",
    "LatentEdgeLoss",
    "PerceptualLoss",
    "Prediction",
    "ReconstructionLoss",
    "TopologicalWassersteinLoss",
    "persistence_pairs",
    "variance_bound",
]
