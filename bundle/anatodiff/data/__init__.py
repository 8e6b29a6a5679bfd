"""Radiographs in and out: reading, checking, splitting by patient, writing."""

from anatodiff.data.dicom_synthetic import DicomSettings
from anatodiff.data.errors import DatasetError, RadiographError
from anatodiff.data.folder import Datalist, make_datalist, summarise
from anatodiff.data.identity import Pseudonyms, SaltError, patient_key, pseudonyms
from anatodiff.data.listing import Item, find_radiographs
from anatodiff.data.radiograph import Radiograph, read_radiograph
from anatodiff.data.reader import RadiographReader
from anatodiff.data.rejected import Rejected, write_rejected
from anatodiff.data.sources import Sources, make_sources
from anatodiff.data.write import write_radiograph

__all__ = [
    "Datalist",
    "DatasetError",
    "DicomSettings",
    "Item",
    "Pseudonyms",
    "Radiograph",
    "RadiographError",
    "RadiographReader",
    "Rejected",
    "SaltError",
    "Sources",
    "find_radiographs",
    "make_datalist",
    "make_sources",
    "patient_key",
    "pseudonyms",
    "read_radiograph",
    "summarise",
    "write_radiograph",
    "write_rejected",
]
