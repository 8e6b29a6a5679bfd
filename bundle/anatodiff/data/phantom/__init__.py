"""Parametric chest radiographs by projection through a 3-D patient, with exact masks, labels and counts."""

from __future__ import annotations

from .dataset import PlannedPhantom, encode_masks, plan_phantoms, write_phantoms
from .dicom import Encoding, write_phantom_dicom
from .disease import ALL_CLASSES, PHANTOM_CLASSES, RARE_CLASS
from .make import Phantom, make_phantom
from .projection import MASK_NAMES

__all__ = [
    "ALL_CLASSES",
    "MASK_NAMES",
    "PHANTOM_CLASSES",
    "RARE_CLASS",
    "Encoding",
    "Phantom",
    "PlannedPhantom",
    "encode_masks",
    "make_phantom",
    "plan_phantoms",
    "write_phantom_dicom",
    "write_phantoms",
]
