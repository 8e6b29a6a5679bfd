"""MONAI transforms: the shared preprocessing, and the binary images and prototypes of shape."""

from anatodiff.transforms.binarize import Binarize, Binarized
from anatodiff.transforms.geometry import ResizeShortSide, ResizeShortSided
from anatodiff.transforms.prototypes import ShapePrototypes
from anatodiff.transforms.radiograph import radiograph_transforms

__all__ = [
    "Binarize",
    "Binarized",
    "ResizeShortSide",
    "ResizeShortSided",
    "ShapePrototypes",
    "radiograph_transforms",
]
