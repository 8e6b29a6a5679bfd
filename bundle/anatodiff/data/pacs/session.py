"""Talking to a DICOMweb server: who one is, how long one waits, how much one takes, and when one tries again."""

from __future__ import annotations

import io
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_netrc_auth

from anatodiff.data.limits import MAX_FILE_BYTES
from anatodiff.data.pacs.address import DicomwebAddress

logger = logging.getLogger(__name__)

USER, PASSWORD, TOKEN = (f"ANATODIFF_DICOMWEB_{name}" for name in ("USER", "PASSWORD", "TOKEN"))
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces of an answer
MAX_SECONDS = 600.0  # for one whole answer: a piece now and then would keep a thread for ever
MAX_ANSWER_BYTES = MAX_FILE_BYTES + (1 << 20)  # one object and what is around it
BLOCK_BYTES = 1 << 16
ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds; doubled each time, and what a server may ask for
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
DENIED = frozenset({401, 403})
ENDED = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)
Answer = TypeVar("Answer")


class ServerError(OSError):
    """The server does not do what it is asked; the message says which, what is wrong and what to do.

    Attributes:
        status: HTTP status of its answer, 0 where there was none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class TooLargeError(ValueError):
    """An answer has more bytes than it may have."""


class CutError(requests.ConnectionError):
    """An answer ended before its end."""


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


class _BoundedAdapter(HTTPAdapter):
    """Reads each answer whole, but no more of it than is allowed; dicomweb-client knows no such limits."""

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        response = super().send(request, True, timeout or TIMEOUT, verify, cert, proxies)
        deadline, total, blocks = time.monotonic() + MAX_SECONDS, 0, []
        try:
            for block in response.raw.stream(BLOCK_BYTES, decode_content=True):
                total += len(block)
                if total > MAX_ANSWER_BYTES:
                    raise TooLargeError(f"more than {MAX_ANSWER_BYTES >> 20} MB")
                if time.monotonic() > deadline:
                    raise requests.Timeout("the answer does not end")
                blocks.append(block)
        finally:
            response.close()
        declared = response.headers.get("Content-Length", "")
        plain = request.method != "HEAD" and "Content-Encoding" not in response.headers
        if plain and declared.isdigit() and total < int(declared):
            raise CutError("the answer was cut off")
        response.raw = io.BytesIO(b"".join(blocks))
        return response


class PacsSession(requests.Session):
    """Requests to one DICOMweb server: its credentials go to its own host alone.

    Args:
        address: the server.

    Raises:
        ServerError: credentials are given in two ways, or in part.
    """

    def __init__(self, address: DicomwebAddress) -> None:
        super().__init__()
        self.address = address
        self.auth = _credentials(address.base)
        self.headers["User-Agent"] = "AnatoDiff"
        self.headers["Accept-Encoding"] = "identity"  # what is unpacked here would pass the limit in one step
        for scheme in ("http://", "https://"):
            self.mount(scheme, _BoundedAdapter())

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """Prepare as always, but without the Host that dicomweb-client sets: it lacks the port.

        Args:
            request: what to prepare.
        """
        request.headers = {key: value for key, value in request.headers.items() if key != "Host"}
        return super().prepare_request(request)

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Take the credentials away from a request that is sent on elsewhere; netrc is not asked for others.

        Args:
            prepared_request: the request to where the server sends us.
            response: its answer that does so.
        """
        if self.should_strip_auth(response.request.url or "", prepared_request.url or ""):
            prepared_request.headers.pop("Authorization", None)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Say where to look instead; what is sent, as by STOW, is not sent on to anybody else.

        Args:
            resp: an answer.
        """
        return super().get_redirect_target(resp) if resp.request.method in ("GET", "HEAD") else None

    def warn_if_readable(self) -> None:
        """Warn where everybody on the way can read the credentials."""
        if self.auth is not None and not self.address.is_encrypted:
            logger.warning("%s: credentials go over the network unencrypted; use https", self.address.base)


class Sessions(threading.local):
    """A session for each thread: requests does not promise that threads can share one.

    Args:
        address: the server.
    """

    def __init__(self, address: DicomwebAddress) -> None:
        self.session = PacsSession(address)


def _credentials(base: str) -> AuthBase | None:
    token, user, password = (os.environ.get(name, "") for name in (TOKEN, USER, PASSWORD))
    if token and (user or password):
        raise ServerError(f"both {TOKEN} and {USER} or {PASSWORD} are set; keep one way")
    if bool(user) != bool(password):
        raise ServerError(f"one of {USER} and {PASSWORD} is set alone; set both or none")
    if not (token + user).isprintable():
        raise ServerError(f"{TOKEN if token else USER} holds a line end or another control character; take it out")
    if token:
        return _Bearer(token)
    if user:
        return HTTPBasicAuth(user.encode(), password.encode())
    found = get_netrc_auth(base)
    return None if found is None else HTTPBasicAuth(*found)


def with_retries(ask: Callable[[], Answer], base: str) -> Answer:
    """Ask again, later and later, where the connection fails or the server is busy.

    Args:
        ask: raises what requests raises.
        base: the server, for messages.

    Returns:
        what `ask` returns.

    Raises:
        ServerError: it failed each time, or in a way that another attempt does not change.
        TooLargeError: the answer is too large.
    """
    for attempt in range(1, ATTEMPTS + 1):
        asked_for = 0.0
        # The errors of requests hold the whole address, and so maybe a patient: they are not shown, also not as causes.
        try:
            return ask()
        except requests.exceptions.SSLError:
            raise ServerError(
                f"{base}: its certificate cannot be checked; name the file of your own authority by REQUESTS_CA_BUNDLE"
            ) from None
        except requests.HTTPError as error:
            status, headers = (
                (0, {}) if error.response is None else (error.response.status_code, error.response.headers)
            )
            if status not in BUSY or attempt == ATTEMPTS:
                raise ServerError(_refused(base, status), status) from None
            asked_for = _seconds(headers.get("Retry-After", ""))
        except ENDED as error:
            if attempt == ATTEMPTS:
                raise ServerError(
                    f"{base}: the DICOMweb server does not answer ({type(error).__name__}, {ATTEMPTS} attempts); "
                    "check that it runs and can be reached, then start the same command again: it goes on"
                ) from None
        except requests.exceptions.InvalidJSONError:
            raise
        except requests.RequestException as error:
            raise ServerError(
                f"{base}: the DICOMweb server's answer makes no sense ({type(error).__name__}); check the address"
            ) from None
        wait = max(FIRST_WAIT * 2 ** (attempt - 1) * (1 + random.random()), asked_for)
        time.sleep(min(wait, LONGEST_WAIT))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _refused(base: str, status: int) -> str:
    try:
        words = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        words = str(status)
    if status in DENIED:
        return (
            f"{base}: the DICOMweb server answers {words}; put the user and the password into ~/.netrc, or into "
            f"{USER} and {PASSWORD}, or a token into {TOKEN}"
        )
    if status in BUSY:
        return f"{base}: the DICOMweb server answers {words} again and again; wait, then start the same command again"
    return f"{base}: the DICOMweb server answers {words}; check the address up to the question mark, and its search"


def _seconds(text: str) -> float:
    return float(text) if text.isdigit() else 0.0
