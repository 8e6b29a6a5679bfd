"""Geometry: the short side of a radiograph to a given size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor, get_track_meta
from monai.transforms import MapTransform, Transform
from monai.transforms.utils import scale_affine
from monai.utils import TransformBackends, convert_to_tensor


class ResizeShortSide(Transform):
    """Resize an image so that its short side has exactly `size` pixels and its aspect ratio stays.

    By torch's antialiased bicubic interpolation, cut to the image's own range: a linear filter would blur, and what a
    model learns from blurred images is blur. MONAI's `Resize` is not used: its anti-aliasing pads with zeros, which
    darkens the borders (a constant image of 1 falls to 0.86 there at a ratio of 11), and its area mode aliases at
    ratios that are not whole.

    Args:
        size: length of the short side, pixels.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 (MONAI declares it so)

    def __init__(self, size: int) -> None:
        if int(size) != size or size < 1:
            raise ValueError(f"size is {size}; give a whole number of pixels, at least 1")
        self.size = int(size)

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """Resize one image.

        Args:
            img: (C, H, W), any range; the result stays within it.

        Returns:
            float32 (C, H', W') with min(H', W') = size; a MetaTensor keeps its metadata, with the affine rescaled.

        Raises:
            ValueError: if `img` is not (C, H, W).
        """
        if img.ndim != 3:
            raise ValueError(f"image of shape {tuple(img.shape)}; give one of shape (C, H, W)")
        source = convert_to_tensor(img, dtype=torch.float32, track_meta=False)  # (C, H, W)
        height, width = source.shape[1:]
        scale = self.size / min(height, width)
        shape = (max(self.size, round(height * scale)), max(self.size, round(width * scale)))
        resized = F.interpolate(source[None], shape, mode="bicubic", antialias=True)[0]  # (C, H', W')
        # A cubic filter overshoots at edges.
        resized = resized.clamp(float(source.min()), float(source.max()))
        if not (get_track_meta() and isinstance(img, MetaTensor)):
            return resized
        result = MetaTensor(resized).copy_meta_from(img)
        affine = torch.as_tensor(scale_affine((height, width), shape), dtype=img.affine.dtype)  # (3, 3)
        whole = torch.eye(len(img.affine), dtype=img.affine.dtype)
        whole[:2, :2], whole[:2, -1] = affine[:2, :2], affine[:2, -1]
        result.affine = img.affine @ whole
        return result


class ResizeShortSided(MapTransform):
    """`ResizeShortSide` on entries of a dictionary.

    Args:
        keys: entries to resize.
        size: length of the short side, pixels.
        allow_missing_keys: pass over keys that an item does not have.
    """

    backend = ResizeShortSide.backend

    def __init__(self, keys: KeysCollection, size: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.resize = ResizeShortSide(size)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Resize the entries of one item.

        Args:
            data: item with images (C, H, W).

        Returns:
            A new dictionary with the resized images.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.resize(item[key])
        return item
