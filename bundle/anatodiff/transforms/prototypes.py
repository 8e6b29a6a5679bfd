"""Shape prototypes: a few typical silhouettes of a training set."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import Transform
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

__all__ = ["ShapePrototypes"]

METHODS = ("kmeans",)
# Lloyd's iterations stop when no image changes its cluster, for a thousand images after some tens.
MAX_ITERATIONS = 1000


class ShapePrototypes(Transform):
    """Cluster binarized images and return the cluster centres (eq. 11).

    k-means with k-means++ seeds, run until no image changes its cluster. It starts once (``n_init=1``): every centre is
    already the best of several tries in greedy k-means++, and the paper studies stability over seeds, which a best of
    many starts would hide. It runs on one thread, because sums over a varying number of threads round differently.

    Args:
        n_prototypes: K, the number of clusters.
        method: "kmeans".
        seed: of the k-means++ draws; the same seed and images give the same prototypes.

    Raises:
        ValueError: an argument is not one of those named here.

    References:
        AnatoDiff, section III.B, eq. 11.
    """

    def __init__(self, n_prototypes: int = 25, method: str = "kmeans", seed: int = 0) -> None:
        if n_prototypes < 1:
            raise ValueError(f"n_prototypes={n_prototypes} is not a positive number of clusters.")
        if method not in METHODS:
            raise ValueError(f"method={method!r} is not one of {', '.join(map(repr, METHODS))}.")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed={seed} is outside 0..2**32-1.")
        self.n_prototypes, self.method, self.seed = n_prototypes, method, seed

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Find the prototypes of a training set.

        Args:
            img: (N, 1, H, W), in [0, 1]; binarized, as a rule.

        Returns:
            (K, 1, H, W) float32 in [0, 1], of the same kind (array or tensor): the mean of each cluster, the largest
            cluster first, of equal ones that which holds the earlier image.

        Raises:
            ValueError: the shape or range is wrong, there are fewer distinct images than prototypes, or a cluster
                stayed empty.
        """
        if img.ndim != 4 or img.shape[1] != 1:
            raise ValueError(f"images have shape {tuple(img.shape)}, not (N, 1, H, W).")
        array = img.detach().cpu().numpy() if isinstance(img, torch.Tensor) else img
        rows = np.ascontiguousarray(array, dtype=np.float32).reshape(len(array), -1)  # (N, H * W)
        self._check_rows(rows)
        labels = self._cluster(rows)  # (N,)
        sizes = np.bincount(labels, minlength=self.n_prototypes)
        if not sizes.all():
            raise ValueError(
                f"k-means left {int((sizes == 0).sum())} of {self.n_prototypes} clusters empty: lower n_prototypes."
            )
        first = np.array([np.argmax(labels == label) for label in range(self.n_prototypes)])
        # The centres are taken anew from their members, in float64: they depend on the partition and on nothing else.
        centres = [rows[labels == label].mean(axis=0, dtype=np.float64) for label in np.lexsort((first, -sizes))]
        prototypes = np.stack(centres).astype(np.float32).reshape(-1, *array.shape[1:])  # (K, 1, H, W)
        return torch.from_numpy(prototypes).to(img.device) if isinstance(img, torch.Tensor) else prototypes

    def _check_rows(self, rows: np.ndarray) -> None:
        k = self.n_prototypes
        if len(rows) < k:
            raise ValueError(
                f"{len(rows)} images cannot give n_prototypes={k}: give at least {k} or lower n_prototypes."
            )
        # Written so that NaN, which compares false with everything, is refused too.
        if not (rows.min() >= 0 and rows.max() <= 1):
            raise ValueError(f"images lie in [{rows.min():g}, {rows.max():g}], not in [0, 1]: apply Binarize first.")
        distinct = len({hashlib.sha256(row + np.float32(0)).digest() for row in rows})  # + 0 turns -0 into 0
        if distinct < k:
            raise ValueError(
                f"only {distinct} of {len(rows)} images are distinct, too few for n_prototypes={k}: lower it to at "
                f"most {distinct}, or choose a threshold of Binarize that leaves more structure."
            )

    def _cluster(self, rows: np.ndarray) -> np.ndarray:
        kmeans = KMeans(
            self.n_prototypes,
            init="k-means++",
            n_init=1,
            max_iter=MAX_ITERATIONS,
            tol=0.0,
            random_state=self.seed,
            algorithm="lloyd",
        )
        with threadpool_limits(limits=1):
            return kmeans.fit_predict(rows)
