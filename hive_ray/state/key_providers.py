"""Who holds the key-encryption key: the environment, a key file, or Vault's transit engine (``vault``).

A key from the environment or a file is 256 bits, as 64 hexadecimal digits or as base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import tempfile
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hive_ray.config import SecretRef, resolve
from hive_ray.errors import ConfigError, Fault, KeysRefused
from hive_ray.state.key_pages import KEY_BYTES, NONCE_BYTES

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_RIGHT = "write 64 hexadecimal digits, as `openssl rand -hex 32` prints them"


class LocalKey:
    """A key-encryption key in this process's memory.

    Args:
        source: where it came from, for messages.
    """

    def __init__(self, key: bytes, source: str) -> None:
        self._cipher = AESGCM(key)
        self._source = source
        self._id = f"local:{hmac.digest(key, b'hive_ray key id', hashlib.sha256)[:6].hex()}"

    @property
    def id(self) -> str:
        """``local:`` and a digest from which the key cannot be told."""
        return self._id

    def wrap(self, key: bytes, aad: bytes) -> bytes:
        """Encrypt a key."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Decrypt what this key wrapped; raises ``KeysRefused``."""
        try:
            return self._cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], aad)
        except (InvalidTag, ValueError) as error:
            raise KeysRefused(
                f"{self._source}: key {self.id} does not open what it wrapped: the object was changed. "
                "Restore keys/intermediate from a backup"
            ) from error


def local_key(ref: SecretRef, place: str) -> LocalKey:
    """The key behind a reference.

    Args:
        place: the configuration's key, for messages.

    Raises:
        ConfigError: it is not there, or not 256 bits; the message does not repeat it.
    """
    return LocalKey(parse_key(resolve(ref), place), f"{place} ({ref})")


def parse_key(text: str, place: str) -> bytes:
    """256 bits out of their text form; raises ``ConfigError``."""
    text = text.strip()
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError("configuration", [Fault(place, "is not a key of 256 bits", _RIGHT)])
    return key


def key_in_file(file: Path, create: bool) -> LocalKey:
    """The key file that an installation made for itself.

    Args:
        create: make it if it is missing, readable by this user only.

    Raises:
        KeysRefused: it is missing, and content is sealed with it.
        ConfigError: it does not hold a key.
    """
    if create and not file.exists():
        _write_key(file)
    try:
        text = file.read_text("ascii")
    except FileNotFoundError as error:
        raise KeysRefused(
            f"the key file {file} is missing, and this state's content is sealed with it; put it back from a "
            "backup, or configure keys.key. Nothing was written"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "configuration", [Fault("keys.key", f"{file} cannot be read: {error}", "make it readable")]
        ) from error
    return LocalKey(parse_key(text, f"keys.key ({file})"), str(file))


def _write_key(file: Path) -> None:
    """Whole or not at all: whoever looks sees no half key."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    out, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        os.write(out, os.urandom(KEY_BYTES).hex().encode() + b"\n")
        os.fsync(out)
    finally:
        os.close(out)
    try:
        os.link(draft, file)
    except FileExistsError:
        # Another process was first: its key counts.
        pass
    finally:
        os.unlink(draft)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
