"""Parametric radiographs and CT slices of 3-D patients who never lived, with exact masks, labels and counts."""

from __future__ import annotations

from .abdomen import ABDOMEN_CLASSES
from .ct import CT_REGIONS, CTPhantom, make_ct_phantom, write_ct_phantoms
from .dataset import PlannedPhantom, encode_masks, plan_phantoms, write_phantoms
from .dicom import Encoding, write_phantom_dicom
from .disease import CHEST_CLASSES, PHANTOM_CLASSES, RARE_CLASS
from .humerus import HUMERUS_CLASSES
from .make import ALL_CLASSES, Phantom, make_phantom, mask_names
from .projection import MASK_NAMES

__all__ = [
    "ABDOMEN_CLASSES",
    "ALL_CLASSES",
    "CHEST_CLASSES",
    "CT_REGIONS",
    "HUMERUS_CLASSES",
    "MASK_NAMES",
    "PHANTOM_CLASSES",
    "RARE_CLASS",
    "CTPhantom",
    "Encoding",
    "Phantom",
    "PlannedPhantom",
    "encode_masks",
    "make_ct_phantom",
    "make_phantom",
    "mask_names",
    "plan_phantoms",
    "write_ct_phantoms",
    "write_phantom_dicom",
    "write_phantoms",
]
