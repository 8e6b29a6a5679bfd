"""Shape prototypes: a few typical silhouettes of a training set."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import Transform
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

__all__ = ["ShapePrototypes", "density_peak_clusters"]

METHODS = ("kmeans", "density_peak")
# Lloyd's iterations stop when no image changes its cluster, for a thousand images after some tens.
MAX_ITERATIONS = 1000
# The cut-off distance of the density: about so many percent of the other images count as near.
CUTOFF_PERCENTILE = 2.0
# Pixels of all images in memory at a time in float64, for the distances.
PIXEL_BLOCK = 4096
# Densities that differ by rounding are equal, so that their order is that of the images.
DENSITY_DECIMALS = 9


class ShapePrototypes(Transform):
    """Cluster images, binarized or grey, and return the means of the clusters (eq. 11).

    "kmeans": with k-means++ seeds, run until no image changes its cluster. It starts once (``n_init=1``): every centre
    is already the best of several tries in greedy k-means++, and the paper studies stability over seeds, which a best
    of many starts would hide.

    "density_peak": `density_peak_clusters`, where nothing is drawn, so that `seed` plays no part.

    Both run on one thread, because sums over a varying number of threads round differently.

    Args:
        n_prototypes: K, the number of clusters.
        method: "kmeans" or "density_peak".
        seed: of the k-means++ draws; the same seed and images give the same prototypes.

    Raises:
        ValueError: an argument is not one of those named here.

    References:
        AnatoDiff, section III.B, eq. 11, and section V.E, Table VIII.
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
                f"{self.method} left {int((sizes == 0).sum())} of {self.n_prototypes} clusters empty: lower "
                "n_prototypes."
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
            raise ValueError(f"images lie in [{rows.min():g}, {rows.max():g}], not in [0, 1]: scale or binarize them.")
        distinct = len({hashlib.sha256(row + np.float32(0)).digest() for row in rows})  # + 0 turns -0 into 0
        if distinct < k:
            raise ValueError(
                f"only {distinct} of {len(rows)} images are distinct, too few for n_prototypes={k}: lower it to at "
                f"most {distinct}, or choose a threshold of Binarize that leaves more structure, or none."
            )

    def _cluster(self, rows: np.ndarray) -> np.ndarray:
        with threadpool_limits(limits=1):
            if self.method == "density_peak":
                return density_peak_clusters(rows, self.n_prototypes)
            kmeans = KMeans(
                self.n_prototypes,
                init="k-means++",
                n_init=1,
                max_iter=MAX_ITERATIONS,
                tol=0.0,
                random_state=self.seed,
                algorithm="lloyd",
            )
            return kmeans.fit_predict(rows)


def density_peak_clusters(rows: np.ndarray, n_clusters: int) -> np.ndarray:
    """Cluster points around those that are dense and far from anything denser.

    A point's density is the sum of exp(-(d / d_c)^2) over all others, with d_c the 2nd percentile of the distances; its
    gap is the distance to the nearest point of higher density, for the densest one the largest distance. The points
    with the largest density * gap are the centres, and every other point belongs to the cluster of its nearest point of
    higher density. Of equally dense points the earlier one counts as denser.

    Args:
        rows: (N, D) points, N^2 distances fit into memory.
        n_clusters: number of clusters, at most the number of distinct points.

    Returns:
        (N,) index of the cluster, from 0, by falling density * gap of its centre.

    References:
        Rodriguez and Laio, Clustering by fast search and find of density peaks, 2014,
        https://doi.org/10.1126/science.1242072.
    """
    distances = _distances(rows)  # (N, N)
    density = _density(distances)  # (N,)
    order = np.argsort(-density, kind="stable")
    distances, density = distances[np.ix_(order, order)], density[order]  # from here on the densest point is the first
    to_denser = np.where(np.tri(len(rows), k=-1, dtype=bool), distances, np.inf)  # (N, N)
    denser = to_denser.argmin(axis=1)  # (N,) of equally near ones the densest
    gap = to_denser.min(axis=1)  # (N,)
    gap[0] = distances[0].max()
    # A density of 0 makes every product 0: then the gap decides, so that no copy of a point becomes a second centre.
    centres = np.lexsort((np.arange(len(rows)), -gap, -density * gap))[:n_clusters]
    labels = np.full(len(rows), -1)
    labels[centres] = np.arange(n_clusters)
    for point in range(len(rows)):
        if labels[point] < 0:
            labels[point] = labels[denser[point]]
    return labels[np.argsort(order)]  # back in the order of the points


def _distances(rows: np.ndarray) -> np.ndarray:
    """Euclidean distances (N, N) by products, which are exact for binary images and in float64 for all."""
    products = np.zeros((len(rows), len(rows)))
    for start in range(0, rows.shape[1], PIXEL_BLOCK):
        block = rows[:, start : start + PIXEL_BLOCK].astype(np.float64)
        products += block @ block.T
    lengths = products.diagonal()
    return np.sqrt(np.maximum(lengths[:, None] + lengths[None, :] - 2 * products, 0.0))


def _density(distances: np.ndarray) -> np.ndarray:
    pairs = distances[np.tri(len(distances), k=-1, dtype=bool)]  # (N (N - 1) / 2,)
    if not pairs.any():  # one point, or copies of one
        return np.zeros(len(distances))
    cutoff = np.percentile(pairs, CUTOFF_PERCENTILE) or pairs[pairs > 0].min()  # many copies would make it 0
    kernel = np.exp(-((distances / cutoff) ** 2))
    return np.round(kernel.sum(axis=1) - 1, DENSITY_DECIMALS)  # without the point itself
