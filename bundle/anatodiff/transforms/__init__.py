"""MONAI transforms: the shared preprocessing, binary images and prototypes of shape, and the physics of CT."""

from anatodiff.transforms.augmentation import Augmentation
from anatodiff.transforms.binarize import Binarize, Binarized
from anatodiff.transforms.ct_noise import LowDose, LowDosed, NoiseMap, NoiseMapd
from anatodiff.transforms.emulate import EmulateCTNoise, EmulateCTNoised
from anatodiff.transforms.geometry import ResizeShortSide, ResizeShortSided
from anatodiff.transforms.parallel_beam import iradon, radon
from anatodiff.transforms.photographs import emulated_photographs
from anatodiff.transforms.prototypes import ShapePrototypes
from anatodiff.transforms.radiograph import radiograph_transforms
from anatodiff.transforms.square import to_square

__all__ = [
    "Augmentation",
    "Binarize",
    "Binarized",
    "EmulateCTNoise",
    "EmulateCTNoised",
    "LowDose",
    "LowDosed",
    "NoiseMap",
    "NoiseMapd",
    "ResizeShortSide",
    "ResizeShortSided",
    "ShapePrototypes",
    "emulated_photographs",
    "iradon",
    "radiograph_transforms",
    "radon",
    "to_square",
]
