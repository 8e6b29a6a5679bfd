"""Groups of images that resemble each other so closely that one may be a copy, or another exposure, of the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from anatodiff.data.radiograph import read_radiograph

# Views of an image, each with the normalised correlation from which two images count as near-duplicates: a small
# reduction is blind to crops of a few pixels, a larger one sees them, and a high-pass one sees bones, not exposure.
COARSE, FINE = 24, 64
HIGH_PASS = 4.0  # standard deviation of the blur that is taken off, pixels of the fine reduction
LEAST = {"coarse": 0.975, "fine": 0.97, "edges": 0.9}


def near_duplicates(files: Sequence[str | Path]) -> list[tuple[int, int]]:
    """Find pairs of images that correlate highly in one of three reductions, as they are or mirrored.

    Args:
        files: images that `read_radiograph` reads.

    Returns:
        pairs (i, j) with i < j, sorted.
    """
    close = np.zeros((len(files), len(files)), dtype=bool)
    for name, view in _views(files).items():
        plain, mirrored = _normalised(view), _normalised(view[:, :, ::-1])  # (N, P) each
        close |= np.maximum(plain @ plain.T, plain @ mirrored.T) >= LEAST[name]
    first, second = np.nonzero(np.triu(close | close.T, k=1))
    return list(zip(first.tolist(), second.tolist(), strict=True))


def groups(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Join pairs into groups.

    Args:
        count: number of members.
        pairs: members that belong together.

    Returns:
        for each member the lowest member of its group.
    """
    first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
    links = coo_array((np.ones(len(pairs)), (first, second)), shape=(count, count))
    labels = connected_components(links, directed=False)[1]  # (count,)
    lowest = {int(label): member for member, label in reversed(list(enumerate(labels)))}
    return [lowest[int(label)] for label in labels]


def _views(files: Sequence[str | Path]) -> dict[str, np.ndarray]:
    """Reduce each image, whatever its shape, to squares (N, side, side)."""
    coarse: list[np.ndarray] = []
    fine: list[np.ndarray] = []
    for file in files:
        image = Image.fromarray(read_radiograph(file).pixels)
        for side, found in ((COARSE, coarse), (FINE, fine)):
            found.append(np.asarray(image.resize((side, side), Image.Resampling.BOX)))
    stack = np.stack(fine)  # (N, 64, 64)
    edges = stack - gaussian_filter(stack, (0, HIGH_PASS, HIGH_PASS))  # (N, 64, 64)
    return {"coarse": np.stack(coarse), "fine": stack, "edges": edges}


def _normalised(images: np.ndarray) -> np.ndarray:
    """Flatten images (N, H, W) to vectors (N, P) of mean 0 and length 1; a constant image becomes 0."""
    rows = images.reshape(len(images), -1).astype(np.float32)  # (N, P)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
