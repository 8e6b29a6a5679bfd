"""CT in and out: volumes and masks in Hounsfield units, windows, dose pairs."""

from __future__ import annotations

from .case import CTCase, read_ct_item
from .listing import CTItem, find_ct
from .organs import organ_labels
from .read import read_ct, read_ct_labels, read_ct_mask, read_ct_noise
from .scans import make_ct_datalist
from .volume import CTVolume
from .windows import HU_WINDOWS, HUWindow
from .write import check_writing, write_ct, write_ct_mask, write_ct_noise

__all__ = [
    "HU_WINDOWS",
    "CTCase",
    "CTItem",
    "CTVolume",
    "HUWindow",
    "check_writing",
    "find_ct",
    "make_ct_datalist",
    "organ_labels",
    "read_ct",
    "read_ct_item",
    "read_ct_labels",
    "read_ct_mask",
    "read_ct_noise",
    "write_ct",
    "write_ct_mask",
    "write_ct_noise",
]
