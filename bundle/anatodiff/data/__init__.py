"""Radiographs and CT in and out: reading, checking, splitting by patient, writing."""

from typing import TYPE_CHECKING

from anatodiff.data.ct import (
    HU_WINDOWS,
    CTCase,
    CTItem,
    CTVolume,
    HUWindow,
    find_ct,
    read_ct,
    read_ct_item,
    read_ct_labels,
    read_ct_mask,
    read_ct_noise,
    write_ct,
    write_ct_mask,
    write_ct_noise,
)
from anatodiff.data.dicom_synthetic import DicomSettings
from anatodiff.data.errors import CTError, DatasetError, RadiographError
from anatodiff.data.folder import Datalist, make_datalist, summarise
from anatodiff.data.identity import Pseudonyms, SaltError, patient_key, pseudonyms
from anatodiff.data.items import Item
from anatodiff.data.listing import find_radiographs
from anatodiff.data.radiograph import Radiograph, read_radiograph
from anatodiff.data.rejected import Rejected, write_rejected
from anatodiff.data.sources import Sources, make_sources
from anatodiff.data.write import write_radiograph

if TYPE_CHECKING:
    from anatodiff.data.reader import RadiographReader

__all__ = [
    "HU_WINDOWS",
    "CTCase",
    "CTError",
    "CTItem",
    "CTVolume",
    "Datalist",
    "DatasetError",
    "DicomSettings",
    "HUWindow",
    "Item",
    "Pseudonyms",
    "Radiograph",
    "RadiographError",
    "RadiographReader",
    "Rejected",
    "SaltError",
    "Sources",
    "find_ct",
    "find_radiographs",
    "make_datalist",
    "make_sources",
    "patient_key",
    "pseudonyms",
    "read_ct",
    "read_ct_item",
    "read_ct_labels",
    "read_ct_mask",
    "read_ct_noise",
    "read_radiograph",
    "summarise",
    "write_ct",
    "write_ct_mask",
    "write_ct_noise",
    "write_radiograph",
    "write_rejected",
]


def __getattr__(name: str) -> object:
    # MONAI takes ten seconds to import: who only receives, sends or fetches does not wait for it.
    if name == "RadiographReader":
        from anatodiff.data.reader import RadiographReader

        return RadiographReader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
