"""The address of a DICOMweb server with a search: where the radiographs are, and which of them are meant."""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from pydicom.datadict import DicomDictionary, tag_for_keyword

SCHEMES = ("http", "https")
# Digitized film (RG) is a radiograph, too. Secondary captures (OT) are not searched for: among them are synthetic ones.
DEFAULT_MODALITIES = ("DX", "CR", "RG")
MODALITY = "Modality"
TAG = re.compile(r"[0-9A-Fa-f]{8}")
NAME_DIGITS = 24  # hexadecimal, of a folder's name
EXAMPLE = "https://host/dicom-web?Modality=DX&BodyPartExamined=CHEST"


class AddressError(ValueError):
    """An address that cannot be used; the message says why and repeats no part that may be secret."""


def is_dicomweb(text: object) -> bool:
    """Tell the address of a server from the path of a folder.

    Args:
        text: what the user gave.
    """
    return str(text).lower().startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


@dataclass(frozen=True)
class DicomwebAddress:
    """A DICOMweb server, and what to search for on it.

    Attributes:
        base: root of its QIDO, WADO and STOW services, without a slash at its end. It may be printed.
        filters: (keyword or tag, value) pairs, sorted, without the modality. They may name a patient: never printed.
        modalities: each is searched for on its own.
    """

    base: str
    filters: tuple[tuple[str, str], ...] = ()
    modalities: tuple[str, ...] = DEFAULT_MODALITIES

    @classmethod
    def parse(cls, text: str) -> DicomwebAddress:
        """Take an address such as https://host/dicom-web?Modality=DX&StudyDate=20200101-20201231 apart.

        What stands after the question mark are attributes to match: keywords of the DICOM dictionary, or tags of
        8 digits. Without `Modality` it is what a radiologist calls a plain film: digital (DX), computed (CR) and
        digitized (RG) radiography. Several are written with commas: `Modality=DX,CR`. Mammograms (MG), intra-oral (IO)
        and panoramic (PX) images are found where they are asked for, and so are secondary captures (`Modality=OT`).

        Args:
            text: the address.

        Raises:
            AddressError: it is none, holds a user or a password, or an attribute that is not known.
        """
        try:
            parts = urlsplit(text)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise AddressError(f"the address of the DICOMweb server is broken; write it as {EXAMPLE}") from error
        if parts.scheme.lower() not in SCHEMES or not host:
            raise AddressError(f"the address of the DICOMweb server has no host; write it as {EXAMPLE}")
        place = parts.netloc.rpartition("@")[2]
        if place != parts.netloc:
            raise AddressError(
                f"{place}: the address holds a user or a password, which would stand in logs; leave them out and put "
                "them into ~/.netrc, or into ANATODIFF_DICOMWEB_USER and ANATODIFF_DICOMWEB_PASSWORD"
            )
        base = f"{parts.scheme.lower()}://{place.lower()}{parts.path.rstrip('/')}"
        if parts.fragment:
            raise AddressError(f"{base}: the address has a part after '#'; leave it out")
        found: dict[str, str] = {}
        for key, value in parse_qsl(parts.query, keep_blank_values=True):
            name = _attribute(base, key)
            if name in found:
                raise AddressError(f"{base}: {name} is given twice; give it once")
            if not value.strip():
                raise AddressError(f"{base}: {name} has no value; give one or leave it out")
            found[name] = value.strip()
        given = found.pop(MODALITY, ",".join(DEFAULT_MODALITIES))
        modalities = tuple(dict.fromkeys(part.strip().upper() for part in given.split(",") if part.strip()))
        return cls(base, tuple(sorted(found.items())), modalities)

    @property
    def folder_name(self) -> str:
        """Name of the folder for what is fetched: the same for the same search, and it tells nothing of it."""
        text = repr((self.base, self.filters, sorted(self.modalities)))
        return hashlib.sha256(text.encode()).hexdigest()[:NAME_DIGITS]

    @property
    def is_encrypted(self) -> bool:
        """Whether what is sent cannot be read on the way: by https, or because it never leaves the machine."""
        host = urlsplit(self.base).hostname or ""
        return self.base.startswith("https:") or is_loopback(host)


def is_loopback(host: str) -> bool:
    """Tell the names and numbers of this machine itself.

    Args:
        host: a name or an IP address.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _attribute(base: str, key: str) -> str:
    """Return the keyword of an attribute to match, or its tag where it has none."""
    if TAG.fullmatch(key):
        entry = DicomDictionary.get(int(key, 16))
        return entry[4] if entry and entry[4] else key.upper()
    if tag_for_keyword(key) is not None:
        return key
    keywords = {entry[4] for entry in DicomDictionary.values()}
    near = difflib.get_close_matches(key, keywords, n=1) or difflib.get_close_matches(key.title(), keywords, n=1)
    hint = f"did you mean {near[0]}?" if near else "give a keyword such as StudyDate or a tag of 8 digits"
    shown = key if key.isalnum() else "a name"
    raise AddressError(f"{base}: {shown} is no attribute of DICOM to search by; {hint}")
