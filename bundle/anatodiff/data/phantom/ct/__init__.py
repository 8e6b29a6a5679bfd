"""CT phantoms: axial slices in HU with exact labels, at full and at low dose."""

from __future__ import annotations

from .canvas import LABELS
from .dataset import write_ct_phantoms
from .make import CT_REGIONS, CTPhantom, make_ct_phantom

__all__ = ["CT_REGIONS", "LABELS", "CTPhantom", "make_ct_phantom", "write_ct_phantoms"]
