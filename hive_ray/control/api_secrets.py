"""What an API key looks like, and the keyed hash under which it is kept.

    hrk_ | id: 12 characters of base32 | _ | 256 random bits: 43 of base62 | CRC-32 of what stands before: 6

The prefix lets scanners and our own redaction know a key that has gone astray; the checksum tells a slip of
the pen from a wrong key without asking anybody.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from typing import NamedTuple

from hive_ray.state.keyring import Keyring

PREFIX = "hrk_"
ID_CHARS = 12
_SECRET_CHARS, _CHECK_CHARS = 43, 6
_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY = re.compile(rf"hrk_([a-z2-7]{{{ID_CHARS}}})_([0-9A-Za-z]{{{_SECRET_CHARS + _CHECK_CHARS}}})")


class Minted(NamedTuple):
    """A new secret; it is shown once and kept nowhere."""

    id: str
    secret: str


def mint(key_id: str = "") -> Minted:
    """A new key, or with an id a new secret of that key."""
    key_id = key_id or "".join(secrets.choice(_ID_ALPHABET) for _ in range(ID_CHARS))
    body = f"{PREFIX}{key_id}_{_base62(secrets.randbits(256), _SECRET_CHARS)}"
    return Minted(key_id, body + _checksum(body))


def id_of(secret: str) -> str | None:
    """The id in a key; None of what is no key, or was copied wrongly."""
    found = _KEY.fullmatch(secret)
    if found is None or _checksum(secret[:-_CHECK_CHARS]) != secret[-_CHECK_CHARS:]:
        return None
    return found[1]


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECK_CHARS)


def _base62(number: int, chars: int) -> str:
    digits = ""
    for _ in range(chars):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits


def pepper_of(keyring: Keyring) -> bytes:
    """The secret that keys the hashes; without the key-encryption key nobody can try guesses.

    Raises:
        KeysRefused, KeysUnavailable, StoreError: the state's keys cannot be read.
    """
    return hmac.digest(keyring.digest_key(), b"hive-ray/api-keys/1", hashlib.sha256)


def digest(pepper: bytes, secret: str) -> bytes:
    """The hash under which a key is kept (HMAC-SHA256, 32 bytes)."""
    return hmac.digest(pepper, secret.encode(), hashlib.sha256)
