"""Receiving radiographs that an archive or a device sends by DICOM's own protocol (C-STORE)."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import UID as DicomUID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.events import Event
from pynetdicom.transport import ThreadedAssociationServer

from anatodiff.data.errors import DatasetError, Refusal
from anatodiff.data.limits import MAX_FILE_BYTES
from anatodiff.data.pacs.objects import (
    ENDING,
    GIGABYTE,
    RADIOGRAPH_CLASSES,
    bytes_in,
    check_object,
    object_file,
    private_folder,
    write_private,
)
from anatodiff.files import remove_parts
from anatodiff.locks import FileLock

logger = logging.getLogger(__name__)
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # it writes what peers send, names of patients among it

VERIFICATION = "1.2.840.10008.1.1"
SUCCESS, NOT_SUPPORTED, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0x0122, 0xA700, 0xC000
REJECTED_PERMANENTLY, BY_SERVICE_USER, UNKNOWN_CALLING_TITLE = 0x01, 0x01, 0x03
MAX_ASSOCIATIONS = 4
MAX_PDU_BYTES = 1 << 17  # asked for; the request for an association is not bound to it
MAX_READ_BYTES = 1 << 20
NEGOTIATION_SECONDS, IDLE_SECONDS = 10.0, 60.0
MAX_MESSAGE_BYTES = MAX_FILE_BYTES + (1 << 20)  # an object, and the headers of the pieces that it comes in
TITLE_LENGTH = 16
MIN_FREE_GB = 2.0
MAX_GB = 20.0
LOCK_FILE = ".receive.lock"


@dataclass(frozen=True)
class Peer:
    """Who may send: a title alone is no proof, so the host counts, too.

    Attributes:
        title: its AE title.
        addresses: numbers of its host.
    """

    title: str
    addresses: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Take AETITLE=host apart.

        Args:
            text: such as ORTHANC=10.1.2.3; a name is looked up once, now.

        Raises:
            ValueError: it is not of this form, or the host is not known.
        """
        title, _, host = (part.strip() for part in text.partition("="))
        if not host or not is_title(title):
            raise ValueError(f"peer {text!r} is not AETITLE=host, such as ORTHANC=10.1.2.3")
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ValueError(f"peer {text!r}: the host is not known; give its IP address") from error
        return cls(title, frozenset(str(entry[4][0]) for entry in found))


def is_title(text: str) -> bool:
    """Tell an AE title: 1 to 16 printable characters of ASCII without a backslash.

    Args:
        text: a name.
    """
    return 1 <= len(text) <= TITLE_LENGTH and text.isascii() and text.isprintable() and "\\" not in text


class StorageReceiver:
    """Keeps the radiographs that known peers send, as they are sent, each in a file named by its SOP Instance UID.

    Args:
        folder: where to; readable by this user alone.
        ae_title: who we are; a sender that calls somebody else is refused.
        peers: who may send, each AETITLE=host.
        port: to listen on; 0: any free one, see `address`.
        host: own address to listen on.
        max_gb: most bytes of the folder, in 10^9.
        min_free_gb: what is to be left free on the disk.

    Raises:
        ValueError: a title or a peer cannot be used.
        DatasetError: another process writes to the folder.
        OSError: the port cannot be listened on.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        ae_title: str,
        peers: list[str],
        port: int = 11112,
        host: str = "127.0.0.1",
        max_gb: float = MAX_GB,
        min_free_gb: float = MIN_FREE_GB,
    ) -> None:
        if not is_title(ae_title):
            raise ValueError(f"AE title {ae_title!r}: give 1 to {TITLE_LENGTH} letters, digits or underscores")
        if not peers:
            raise ValueError("nobody may send; name each sender by --peer AETITLE=host")
        self.peers = [Peer.parse(text) for text in peers]
        self.folder = private_folder(Path(folder))
        self.file_lock = FileLock(self.folder / LOCK_FILE)
        if not self.file_lock.take():
            raise DatasetError(f"{folder}: process {self.file_lock.holder()} writes to it; give another folder")
        remove_parts(self.folder)
        self.max_bytes, self.min_free_bytes = max_gb * GIGABYTE, min_free_gb * GIGABYTE
        self.bytes = bytes_in(self.folder.glob(f"*{ENDING}"))
        self.lock = threading.Lock()
        self.received: dict[int, int] = {}  # bytes of the running message, by association
        self.ae = _application(ae_title, [peer.title for peer in self.peers])
        try:
            self.address = self._listen(host, port)
        except OSError as error:
            self.file_lock.release()
            raise OSError(f"{host}:{port}: cannot listen there ({error.strerror}); give another --port") from error
        logger.info("listening host=%s port=%d title=%s peers=%d", *self.address, ae_title, len(self.peers))

    def _listen(self, host: str, port: int) -> tuple[str, int]:
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_DATA_RECV, self._data),
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_REJECTED, self._rejected),
        ]
        server = self.ae.start_server((host, port), block=False, evt_handlers=handlers)
        assert isinstance(server, ThreadedAssociationServer)
        server.verify_request = self._is_known  # type: ignore[method-assign, assignment]
        return server.server_address[0], server.server_address[1]

    def stop(self) -> None:
        """End: running transfers are broken off, and nothing of them is kept."""
        self.ae.shutdown()
        self.file_lock.release()
        logger.info("stopped")

    def _is_known(self, request: socket.socket, address: tuple[str, int]) -> bool:
        """Close connections from anywhere else before a byte is read; and wait for nobody for ever."""
        request.settimeout(IDLE_SECONDS)
        known = any(address[0] in peer.addresses for peer in self.peers)
        if not known:
            logger.warning("refused host=%s reason=unknown-host", address[0])
        return known

    def _opened(self, event: Event) -> None:
        """Bound what pynetdicom reads at once: it takes any length of up to 4 GB that a peer announces."""
        link = event.assoc.dul.socket
        if link is None:
            return
        read = link.recv

        def bounded(nr_bytes: int) -> bytearray:
            if nr_bytes > MAX_READ_BYTES:
                logger.warning("aborted host=%s reason=announces-%d-bytes", _host(event), nr_bytes)
                raise OSError("more than is read at once")
            return read(nr_bytes)

        link.recv = bounded  # type: ignore[method-assign]

    def _requested(self, event: Event) -> None:
        primitive, host = event.assoc.requestor.primitive, _host(event)
        title = "" if primitive is None else str(primitive.calling_ae_title).strip()
        if not any(peer.title == title and host in peer.addresses for peer in self.peers):
            logger.warning("refused host=%s reason=unknown-peer", host)
            event.assoc.acse.send_reject(REJECTED_PERMANENTLY, BY_SERVICE_USER, UNKNOWN_CALLING_TITLE)
            event.assoc.kill()

    def _rejected(self, event: Event) -> None:
        logger.warning("refused host=%s reason=called-title-or-limit", _host(event))

    def _data(self, event: Event) -> None:
        """Count what comes; pynetdicom gathers a message in memory, however long it becomes."""
        key = id(event.assoc)
        with self.lock:
            self.received[key] = total = self.received.get(key, 0) + len(event.data)
        if total > MAX_MESSAGE_BYTES:
            logger.warning("aborted host=%s reason=more-than-%d-MB", _host(event), MAX_MESSAGE_BYTES >> 20)
            event.assoc.abort()

    def _closed(self, event: Event) -> None:
        with self.lock:
            self.received.pop(id(event.assoc), None)

    def _echo(self, event: Event) -> int:
        self._closed(event)
        logger.info("echo peer=%s", self._peer(event))
        return SUCCESS

    def _store(self, event: Event) -> int:
        self._closed(event)  # the next message is counted anew
        try:
            status, words = self._keep(event)
        except Refusal as refusal:
            status, words = CANNOT_UNDERSTAND, f"reason={refusal.reason!r}"
        except OSError as error:
            status, words = OUT_OF_RESOURCES, f"reason={error.strerror or type(error).__name__!r}"
        except Exception as error:  # whatever a broken message makes pynetdicom raise; never its text
            status, words = CANNOT_UNDERSTAND, f"reason={type(error).__name__}"
        level = logging.INFO if status == SUCCESS else logging.WARNING
        logger.log(level, "store status=0x%04X peer=%s %s", status, self._peer(event), words)
        return status

    def _keep(self, event: Event) -> tuple[int, str]:
        sop_class = str(getattr(event.request, "AffectedSOPClassUID", ""))
        if sop_class not in RADIOGRAPH_CLASSES or event.context.abstract_syntax != sop_class:
            name = DicomUID(sop_class).name
            return NOT_SUPPORTED, f"reason=no-radiograph kind={'another' if name == sop_class else name!r}"
        uid = str(getattr(event.request, "AffectedSOPInstanceUID", ""))
        file = object_file(self.folder, uid)
        data = event.encoded_dataset()
        check_object(data, uid)
        with self.lock:  # one at a time: two senders may bring the same object
            if file.exists():
                return SUCCESS, f"instance={uid} kept=the-one-that-was-here"
            if self.bytes + len(data) > self.max_bytes:
                return OUT_OF_RESOURCES, f"reason=folder-holds-{self.max_bytes / GIGABYTE:g}-GB"
            if shutil.disk_usage(self.folder).free - len(data) < self.min_free_bytes:
                return OUT_OF_RESOURCES, f"reason=less-than-{self.min_free_bytes / GIGABYTE:g}-GB-free"
            write_private(file, data)
            self.bytes += len(data)
        return SUCCESS, f"instance={uid} bytes={len(data)}"

    def _peer(self, event: Event) -> str:
        return str(event.assoc.requestor.ae_title).strip()


def _application(ae_title: str, callers: list[str]) -> AE:
    application = AE(ae_title=ae_title)
    application.require_called_aet = True
    application.require_calling_aet = callers
    application.maximum_associations = MAX_ASSOCIATIONS
    application.maximum_pdu_size = MAX_PDU_BYTES
    application.acse_timeout = NEGOTIATION_SECONDS
    application.dimse_timeout = application.network_timeout = IDLE_SECONDS
    application.add_supported_context(VERIFICATION)
    for context in AllStoragePresentationContexts:
        # Also what is no radiograph: it is refused one by one, with a status and a line that say why.
        application.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
    return application


def _host(event: Event) -> str:
    return str(event.assoc.requestor.address)
