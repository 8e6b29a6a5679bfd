"""A detector of copies: by several views of an image, with thresholds fixed on real images before a sample is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from anatodiff.diffusion.draws import normal
from anatodiff.metrics.copies import nearest

__all__ = ["CopyDetector", "CopySearch", "planted_copies"]

Describe = Callable[[torch.Tensor], torch.Tensor]
SUSPICIOUS = 0.95  # quantile of the held-out similarities
NOISE = 0.03  # standard deviation, of images in [0, 1]
CROP = 3  # pixels off each border
SHIFT = (3, -2)  # pixels down and to the right


@dataclass(frozen=True)
class CopySearch:
    """What was found for each of N images.

    Args:
        similarity: cosine to the nearest training image by view, (N,) each.
        index: which training image that is by view, (N,) each; mirrored ones count as the image itself.
        mirrored: whether its mirror image was nearer, (N,) bool each.
        copied: (N,) bool, nearer than every held-out image in at least one view.
        suspicious: (N,) bool, nearer than 95 % of the held-out images in at least one view.
    """

    similarity: dict[str, torch.Tensor]
    index: dict[str, torch.Tensor]
    mirrored: dict[str, torch.Tensor]
    copied: torch.Tensor
    suspicious: torch.Tensor


class CopyDetector:
    """Knows the training images and how near to them other patients' images come.

    Mirror images of the training images count as training images, and the thresholds are those of images of other
    patients: the largest similarity that one of them has, and the one that 95 % of them stay below.

    Args:
        training: (M, 1, H, W) in [0, 1].
        held_out: (K, 1, H, W) in [0, 1], of other patients.
        views: by name, what turns images (N, 1, H, W) into features (N, D).

    Raises:
        ValueError: there are no images of one kind, or no views.
    """

    def __init__(self, training: torch.Tensor, held_out: torch.Tensor, views: Mapping[str, Describe]) -> None:
        if not (len(training) and len(held_out) and views):
            raise ValueError(f"{len(training)} training and {len(held_out)} held-out images: give some of each")
        self.views, self.n_training = dict(views), len(training)
        self.known = {
            name: torch.cat([describe(training), describe(training.flip(3))]) for name, describe in self.views.items()
        }  # (2 M, D) each
        self.of_held_out = self.describe(held_out)
        of_held_out = self._nearest(self.of_held_out)
        self.largest = {name: float(similarity.max()) for name, (similarity, _) in of_held_out.items()}
        self.high = {name: float(similarity.quantile(SUSPICIOUS)) for name, (similarity, _) in of_held_out.items()}
        self.held_out = self._judged(of_held_out)

    def __call__(self, images: torch.Tensor) -> CopySearch:
        """Search for images (N, 1, H, W) in [0, 1] among the training images."""
        return self.search(self.describe(images))

    def describe(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Turn images (N, 1, H, W) in [0, 1] into the features of each view, (N, D)."""
        return {name: describe(images) for name, describe in self.views.items()}

    def search(self, described: Mapping[str, torch.Tensor]) -> CopySearch:
        """Search for images among the training images by their features of each view, (N, D)."""
        return self._judged(self._nearest(described))

    def _nearest(self, described: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {name: nearest(described[name], self.known[name]) for name in self.views}

    def _judged(self, found: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> CopySearch:
        similarity = {name: values for name, (values, _) in found.items()}
        beyond = {
            which: torch.stack([similarity[name] > limits[name] for name in found]).any(dim=0)
            for which, limits in (("largest", self.largest), ("high", self.high))
        }
        return CopySearch(
            similarity,
            {name: index % self.n_training for name, (_, index) in found.items()},
            {name: index >= self.n_training for name, (_, index) in found.items()},
            beyond["largest"],
            beyond["high"],
        )


def planted_copies(images: torch.Tensor, seed: int = 0) -> dict[str, torch.Tensor]:
    """Make copies of training images that a detector must find, or its silence means nothing.

    Args:
        images: (N, 1, H, W) in [0, 1].
        seed: of the noise.

    Returns:
        by name (N, 1, H, W): the images as they are, with noise, mirrored, shifted by some pixels, and cropped by some
        pixels and brought back to their size.
    """
    size = (images.shape[2], images.shape[3])
    inner = images[:, :, CROP : size[0] - CROP, CROP : size[1] - CROP]  # (N, 1, H - 6, W - 6)
    return {
        "as they are": images,
        "with noise": (images + NOISE * normal(tuple(images.shape), seed, 0, "planted copies")).clamp(0, 1),
        "mirrored": images.flip(3),
        "shifted": images.roll(SHIFT, dims=(2, 3)),
        "cropped": torch.nn.functional.interpolate(inner, size, mode="bilinear", antialias=True),
    }
