"""Whose image it is: a key to keep patients apart while a program runs, and a pseudonym for what is written."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path

logger = logging.getLogger(__name__)

SALT_VARIABLE = "ANATODIFF_SALT"  # names the file, so that the salt itself is in no list of processes
SALT_BYTES = 32
KEY_BYTES = 8


class SaltError(ValueError):
    """The salt cannot be used; the message names its file and the cure."""


def patient_key(identifier: str) -> str:
    """Turn a patient's identifier into a key, so that the identifier itself goes no further.

    The key is for grouping and splitting, in memory: the same everywhere, so that a split is, too. Whoever knows an
    identifier can compute it, so it is not for writing: see `Pseudonyms`.

    Args:
        identifier: patient ID or another name that all files of one patient share.

    Returns:
        16 hexadecimal digits.
    """
    return blake2b(identifier.strip().encode("utf-8", "surrogateescape"), digest_size=KEY_BYTES).hexdigest()


@dataclass(frozen=True)
class Pseudonyms:
    """Keys of patients as they may be written: keyed hashes, which nobody can guess without the salt.

    Args:
        salt: 32 bytes that stay with the user.
    """

    salt: bytes

    @property
    def salt_id(self) -> str:
        """Tell salts apart without telling them: pseudonyms of two salts cannot be compared."""
        return hmac.digest(self.salt, b"name of this salt", "sha256")[:KEY_BYTES].hex()

    def of(self, key: str) -> str:
        """Return the pseudonym of a `patient_key`, 16 hexadecimal digits."""
        return hmac.digest(self.salt, b"patient " + key.encode(), "sha256")[:KEY_BYTES].hex()


def salt_path() -> Path:
    """Return where the salt lies: the file that ANATODIFF_SALT names, else one in the user's configuration."""
    named = os.environ.get(SALT_VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "anatodiff" / "salt"


def pseudonyms() -> Pseudonyms:
    """Return the user's pseudonyms; the salt is made at the first use, readable by the user alone.

    Where it cannot be kept, a salt for this process is taken, and a warning says what that means.

    Raises:
        SaltError: the file is there and holds no salt.
    """
    path = salt_path()
    try:
        _make(path)
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if path.is_file():
            raise SaltError(
                f"{path}: cannot be read ({error}); correct that, or name another by {SALT_VARIABLE}"
            ) from error
        _warn_once(str(path), str(error))
        return Pseudonyms(_salt_of_process())
    try:
        salt = bytes.fromhex(text)
    except ValueError:
        salt = b""
    if len(salt) != SALT_BYTES:
        raise SaltError(
            f"{path}: holds no salt of {SALT_BYTES} bytes in hexadecimal; name another file by {SALT_VARIABLE}, "
            "or delete it to have one made"
        )
    return Pseudonyms(salt)


def _make(path: Path) -> None:
    """Make the salt, whole or not at all: of two programs that start at once both use the first one's."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(KEY_BYTES)}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(SALT_BYTES) + "\n")
    try:
        os.link(temporary, path)
        logger.info("made a salt for the pseudonyms of patients: %s; keep it, and keep it to yourself", path)
    except FileExistsError:
        pass  # the other program was faster
    finally:
        temporary.unlink()


@cache
def _salt_of_process() -> bytes:
    return secrets.token_bytes(SALT_BYTES)


@cache
def _warn_once(path: str, reason: str) -> None:
    logger.warning(
        "the salt for the pseudonyms of patients cannot be kept in %s (%s): those of this run cannot be compared with "
        "those of another; name a file by %s",
        path,
        reason,
        SALT_VARIABLE,
    )
