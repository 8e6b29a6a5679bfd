"""One image file of a folder: its class, its patient, and what its first bytes and its header say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anatodiff.data.dicom_file import read_elements
from anatodiff.data.identity import patient_key
from anatodiff.data.limits import file_bytes
from anatodiff.data.radiograph import BARE_DICOM_STARTS

# Image files: those that are read, and those that are named with a reason instead of being passed over.
IMAGE_ENDINGS = (".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg", ".nii", ".nii.gz")
UNREAD_ENDINGS = (".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".j2k", ".mha", ".mhd", ".nrrd", ".npy")
PICTURE_MAGICS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
UNPRINTABLE = ("the label has characters that cannot be printed", "give the class another name")
PATIENT, STUDY = "PatientID", "StudyInstanceUID"


@dataclass(frozen=True)
class Item:
    """One image file with its class and its patient.

    Attributes:
        file: the file.
        label: name of its class.
        patient: 16 hexadecimal digits, the same for all files of one patient; not to be written, see `Pseudonyms`.
        identified: whether a patient id was found; else the file's name stands in for it.
        domain: what kind of image it is (region, origin), for bases of several kinds; empty where not said.
        fault: why the file is not even opened, and what to do; None where it may be.
    """

    file: Path
    label: str
    patient: str
    identified: bool = True
    domain: str = ""
    fault: tuple[str, str] | None = None


def item_of(file: Path, label: str, patient_id: str = "", domain: str = "") -> Item:
    """Describe an image file; its patient is found in its header where it is not given.

    Args:
        file: the file.
        label: name of its class.
        patient_id: of a table; empty where it has none.
        domain: what kind of image it is; empty where not said.
    """
    if not (label + domain).isprintable():
        return Item(file, label, patient_key(patient_id or file.name), identified=False, fault=UNPRINTABLE)
    stem = file.name[: -len(".nii.gz")] if file.name.lower().endswith(".nii.gz") else file.stem
    identifier = patient_id or header_text(file, PATIENT)
    return Item(file, label, patient_key(identifier or stem), identified=bool(identifier), domain=domain)


def header_text(file: Path, keyword: str) -> str:
    """Read one element of a DICOM file; empty where there is none.

    Args:
        file: any file.
        keyword: of the element.
    """
    if not _is_dicom(file, _head(file)):
        return ""
    try:
        return str(read_elements(file_bytes(file), [keyword]).get(keyword) or "").strip()
    except Exception:  # a broken file: it is named with its reason when it is checked
        return ""


def is_image(file: Path) -> bool:
    """Tell image files, also those that are not read, by name or by their first bytes.

    Args:
        file: any file.
    """
    if file.name.lower().endswith(IMAGE_ENDINGS + UNREAD_ENDINGS):
        return True
    head = _head(file)
    return _is_dicom(file, head) or head.startswith(PICTURE_MAGICS)


def _is_dicom(file: Path, head: bytes) -> bool:
    # Without a preamble only the name helps: no ending, .dcm, or a UID, whose last number looks like an ending.
    bare = file.suffix.lower() in ("", ".dcm") or file.suffix[1:].isdigit()
    return head[128:] == b"DICM" or (bare and head.startswith(BARE_DICOM_STARTS))


def _head(file: Path) -> bytes:
    try:
        if not file.is_file():  # to open a pipe would wait for somebody to write to it
            return b""
        with open(file, "rb") as stream:
            return stream.read(132)
    except OSError:
        return b""
