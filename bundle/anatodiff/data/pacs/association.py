"""Sending objects by DICOM's own protocol (C-STORE), over associations that may break."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association

from anatodiff.data.pacs.session import ServerError

logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # it writes what is sent

ATTEMPTS = 4
FIRST_WAIT = 0.5  # seconds, doubled each time
NETWORK_SECONDS = 60.0
MAX_CONTEXTS = 128  # of one association (PS3.8 9.3.2.2)
WARNINGS = range(0xB000, 0xC000)  # stored, but changed
TRANSIENT = 0x02
UNKNOWN_CALLING, UNKNOWN_CALLED = 3, 7


@dataclass(frozen=True)
class Archive:
    """Where objects go.

    Attributes:
        host: of the archive.
        port: of the archive.
        called: its AE title.
        calling: our AE title.
    """

    host: str
    port: int
    called: str
    calling: str

    @property
    def place(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"

    def refusal(self, diagnostic: int | None) -> str:
        """Say why it refuses us.

        Args:
            diagnostic: its number for that (PS3.8 9.3.4).
        """
        if diagnostic == UNKNOWN_CALLED:
            return f"it is not called {self.called}"
        return f"it does not know our AE title {self.calling}" if diagnostic == UNKNOWN_CALLING else "it says no"


@dataclass(frozen=True)
class Outgoing:
    """An object to be sent.

    Attributes:
        file: its file.
        uid: SOP Instance UID.
        sop_class: SOP Class UID.
        syntax: UID of its transfer syntax.
        size: bytes.
    """

    file: Path
    uid: str
    sop_class: str
    syntax: str
    size: int


def store_all(
    objects: list[Outgoing], kinds: list[tuple[str, str]], archive: Archive
) -> Iterator[tuple[Outgoing, str]]:
    """Send objects; an association that breaks is opened again for the object at which it broke.

    Args:
        objects: to be sent.
        kinds: their SOP classes and transfer syntaxes, at most `MAX_CONTEXTS`.
        archive: where to.

    Yields:
        each object with what the archive said of it; nothing where all went well.

    Raises:
        ServerError: it cannot be reached, refuses us, or breaks off again and again.
    """
    association, waiting, losses = None, list(objects), 0
    try:
        while waiting:
            if association is None or not association.is_established:
                association = _associate(kinds, archive)
            item = waiting[0]
            try:
                status = association.send_c_store(item.file)
            except ValueError:  # no presentation context
                yield waiting.pop(0), "it does not take this kind of object"
                continue
            except RuntimeError:  # the association has ended
                status = Dataset()
            if "Status" not in status:
                losses += 1
                if losses == ATTEMPTS:
                    raise ServerError(
                        f"{archive.place}: breaks off each transfer ({losses} attempts); look into its log, then start "
                        "the same command again: it goes on"
                    )
                association.abort()
                time.sleep(FIRST_WAIT * 2 ** (losses - 1))
                continue
            losses = 0
            yield waiting.pop(0), _status_word(int(status.Status))
    finally:
        if association is not None and association.is_established:
            association.release()


def _status_word(status: int) -> str:
    if status == 0:
        return ""
    return f"{'warning' if status in WARNINGS else 'failure'} 0x{status:04X}"


def _associate(kinds: list[tuple[str, str]], archive: Archive) -> Association:
    application = AE(ae_title=archive.calling)
    application.acse_timeout = application.dimse_timeout = application.network_timeout = NETWORK_SECONDS
    application.connection_timeout = NETWORK_SECONDS
    for sop_class, syntax in kinds:
        application.add_requested_context(sop_class, syntax)
    for attempt in range(1, ATTEMPTS + 1):
        association = application.associate(archive.host, archive.port, ae_title=archive.called)
        if association.is_established:
            return association
        answer = association.acceptor.primitive
        if association.is_rejected and answer is not None and answer.result != TRANSIENT:
            reason = archive.refusal(answer.diagnostic)
            raise ServerError(f"{archive.place}: refuses the association: {reason}; ask who runs it for both AE titles")
        if attempt < ATTEMPTS:
            time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
    raise ServerError(
        f"{archive.place}: does not answer as a DICOM archive ({ATTEMPTS} attempts); check host and port and that it "
        "runs, then start the same command again: it goes on"
    )
