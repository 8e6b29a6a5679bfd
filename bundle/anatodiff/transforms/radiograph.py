"""The one preprocessing of the project: from a file to a square image."""

from __future__ import annotations

import torch
from monai.transforms import CenterSpatialCropd, Compose, EnsureTyped, LoadImaged

from anatodiff.data import RadiographReader
from anatodiff.transforms.geometry import ResizeShortSided


def radiograph_transforms(image_size: int, allow_burned_in: bool = False, allow_colour: bool = False) -> Compose:
    """Compose the preprocessing that every training, sampling and evaluation shares.

    The file is read as displayed, its short side is resized to `image_size`, and the middle of the long side is kept.

    Args:
        image_size: side of the square image, pixels.
        allow_burned_in: read DICOM images that say that annotation is burned into their pixels.
        allow_colour: read PNG and JPEG files in colour, such as photographs, as their luma.

    Returns:
        A transform of items `{"image": path, ...}` to items whose "image" is a float32 MetaTensor
        (1, image_size, image_size) in [0, 1].
    """
    return Compose(
        [
            LoadImaged(
                keys="image",
                reader=RadiographReader,
                image_only=True,
                ensure_channel_first=True,
                allow_burned_in=allow_burned_in,
                allow_colour=allow_colour,
            ),
            ResizeShortSided(keys="image", size=image_size),
            CenterSpatialCropd(keys="image", roi_size=(image_size, image_size)),
            EnsureTyped(keys="image", dtype=torch.float32),
        ]
    )
