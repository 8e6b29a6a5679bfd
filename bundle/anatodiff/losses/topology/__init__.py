"""The Anatomical Fidelity loss: persistence diagrams, their exact distance, and its gradient."""

from anatodiff.losses.topology.library import Pairs, Persistence, match, persistence_pairs
from anatodiff.losses.topology.loss import TopologicalWassersteinLoss

__all__ = ["Pairs", "Persistence", "TopologicalWassersteinLoss", "match", "persistence_pairs"]
