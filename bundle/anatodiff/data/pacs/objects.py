"""Received DICOM objects on the disk: their names, who may read them, and whether they are what they say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from anatodiff.data.dicom_file import CAPTURE_CLASSES, PROJECTION_CLASSES, read_elements
from anatodiff.data.errors import Refusal
from anatodiff.data.limits import MAX_FILE_BYTES
from anatodiff.files import replaced_when_whole

RADIOGRAPH_CLASSES = PROJECTION_CLASSES | CAPTURE_CLASSES
# Of any digits: devices write leading zeros, which the standard forbids. What counts here is that it leads nowhere.
UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")
UID_LENGTH = 64
ENDING = ".dcm"
FOLDER_MODE, FILE_MODE = 0o700, 0o600
PREAMBLE_BYTES = 128
MAGIC = b"DICM"
GIGABYTE = 10**9
SEND_AGAIN = "send it again from its source"


def is_uid(text: str) -> bool:
    """Tell a UID, which is safe as the name of a file, from any other text that a network may bring.

    Args:
        text: what came.
    """
    return len(text) <= UID_LENGTH and UID.fullmatch(text) is not None


def object_file(folder: Path, uid: str) -> Path:
    """Name the file of an object.

    Args:
        folder: where objects are kept.
        uid: SOP Instance UID.

    Raises:
        Refusal: it is no UID.
    """
    if not is_uid(uid):
        raise Refusal("the SOP Instance UID is no UID", "ask who runs the sender: nothing is named by it")
    return folder / f"{uid}{ENDING}"


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user may open: what is received holds identities.

    Args:
        folder: it may be there already.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    folder.chmod(FOLDER_MODE)
    return folder


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only this user may read, whole or not at all.

    Args:
        path: the file.
        data: its content.

    Raises:
        DiskFullError: there is no room.
    """
    with replaced_when_whole(path) as temporary:
        temporary.chmod(FILE_MODE)
        temporary.write_bytes(data)


def check_object(data: bytes, uid: str) -> None:
    """Look whether received bytes are the DICOM file of the object that they should be.

    Args:
        data: the file.
        uid: SOP Instance UID that was asked for or announced.

    Raises:
        Refusal: they are not; the reason quotes nothing from the file.
    """
    if len(data) > MAX_FILE_BYTES:
        raise Refusal(f"an object of more than {MAX_FILE_BYTES >> 20} MB", "no radiograph is that large")
    if data[PREAMBLE_BYTES : PREAMBLE_BYTES + len(MAGIC)] != MAGIC:
        raise Refusal("what came is not a DICOM file", SEND_AGAIN)
    try:
        found = str(read_elements(data, ["SOPInstanceUID"]).get("SOPInstanceUID") or "").strip()
    except Exception as error:  # whatever a broken file makes pydicom raise
        raise Refusal(f"what came is not a readable DICOM file ({type(error).__name__})", SEND_AGAIN) from error
    if found != uid:
        raise Refusal("what came is another object than was asked for", "ask who runs the server")


def bytes_in(files: Iterable[Path]) -> int:
    """Add up the sizes of files.

    Args:
        files: those that vanish meanwhile count nothing.
    """
    total = 0
    for file in files:
        try:
            total += os.stat(file).st_size
        except FileNotFoundError:
            continue
    return total
