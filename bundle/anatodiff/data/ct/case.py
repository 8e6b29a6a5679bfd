"""One listed item, read: slices with their mask and their low-dose partner, on one grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anatodiff.data.ct.listing import CTItem
from anatodiff.data.ct.read import read_ct, read_ct_mask
from anatodiff.data.ct.volume import CTVolume, check_same_grid
from anatodiff.data.errors import CTError, RadiographError, Refusal
from anatodiff.data.radiograph import read_radiograph


@dataclass(frozen=True, eq=False)
class CTCase:
    """Slices of one patient.

    Attributes:
        slices: float32 (N, H, W), HU, or gray levels in [0, 1] where `in_hu` is False.
        low_dose: the same of a lower dose, or None.
        mask: uint16 (N, H, W) labels, or None.
        spacing: mm between slices, rows and columns, or None.
        in_hu: whether the values are Hounsfield units.
    """

    slices: np.ndarray
    low_dose: np.ndarray | None
    mask: np.ndarray | None
    spacing: tuple[float, float, float] | None
    in_hu: bool


def read_ct_item(item: CTItem, n_labels: int | None = None) -> CTCase:
    """Read one item of `find_ct`, and check that its parts lie on one grid.

    Args:
        item: what to read.
        n_labels: number of labels of the mask with the background; None: any.

    Returns:
        Its slices; those of a patient alone where a file holds several.

    Raises:
        CTError: a part cannot be read, lies on another grid than the image, or has a label out of range.
    """
    if not item.in_hu:
        return _gray_pair(item)
    image = read_ct(item.image)
    mask = None if item.mask is None else read_ct_mask(item.mask, image, n_labels)
    low_dose = None if item.low_dose is None else _low_dose(item, image)
    rows = slice(None) if item.rows is None else list(item.rows)
    return CTCase(image.slices[rows], low_dose, mask, image.spacing, True)


def _low_dose(item: CTItem, image: CTVolume) -> np.ndarray:
    assert item.low_dose is not None
    low = read_ct(item.low_dose)
    cure = f"give the low-dose reconstruction of the same slices as {item.image.name}"
    try:
        placed = np.eye(4) if low.affine is None else low.affine
        check_same_grid(low.slices.shape, placed, image, cure)
    except Refusal as refusal:
        raise CTError.of(item.low_dose, refusal) from refusal
    return low.slices


def _gray_pair(item: CTItem) -> CTCase:
    assert item.low_dose is not None
    try:
        full, low = (read_radiograph(file).pixels[None] for file in (item.image, item.low_dose))
    except RadiographError as error:
        raise CTError(str(error)) from error
    if full.shape != low.shape:
        sizes = " x ".join(map(str, low.shape[1:])), " x ".join(map(str, full.shape[1:]))
        refusal = Refusal(f"{sizes[0]} pixels, but {item.image.name} has {sizes[1]}", "give both doses of one slice")
        raise CTError.of(item.low_dose, refusal)
    return CTCase(full, low, None, None, False)
