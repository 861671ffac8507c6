"""The envelope around a batch of requests: who sealed it holds the installation's door secret, and when.

    version (1 byte) | at_us (8, big-endian) | HMAC-SHA256 (32) | body: msgpack of ``Asked``, one each

Replicas of the HTTP face, the supervisor and the controller hold the secret. A worker does not: with the
controller's handle alone it can ask for nothing.
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec

from hive_ray.config import Settings, resolve
from hive_ray.control.queries import Request
from hive_ray.core.principals import Principal
from hive_ray.state.keyring import Keyring

VERSION = 2
"""The first that is sealed; before it a batch was bare."""
FRESH_US = 300_000_000
"""How far the clocks of two hosts may be apart, and how long an envelope that was overheard is good."""
_MAC_AT = 9
_BODY_AT = _MAC_AT + 32


class Caller(msgspec.Struct, frozen=True, array_like=True):
    """The credential of whoever asks, as a replica presents it; the controller looks it up each time.

    ``kind``: ``none`` (no credential came), ``key`` (an API key), ``user`` (a token, verified by the replica)
    or ``operator`` (the installation itself).
    """

    kind: str = "none"
    key: str = ""
    """Id of an API key."""
    digest: bytes = b""
    """Keyed hash of its secret."""
    user: Principal | None = None
    until_us: int = 0
    """Wall time at which the user's token expires."""
    team: str = ""
    """The team that an admin acts for; empty: its own."""


NOBODY = Caller()
INSTALLATION = Caller("operator")


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """One request, and whose it is."""

    caller: Caller
    request: Request


class Unsealed(Exception):
    """What came is no envelope that this installation sealed a moment ago; says why."""


_encode = msgspec.msgpack.Encoder().encode
decode_asked = msgspec.msgpack.Decoder(list[Asked]).decode


class Seal:
    """The door secret, for making envelopes and for opening them."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def close(self, body: bytes, now_us: int) -> bytes:
        """The envelope of a body."""
        head = bytes((VERSION,)) + now_us.to_bytes(8, "big")
        return head + self._mac(head, body) + body

    def open(self, data: bytes, now_us: int) -> bytes:
        """The body of an envelope.

        Raises:
            Unsealed: it was not sealed with this secret, or too long ago.
        """
        if len(data) < _BODY_AT or data[0] != VERSION:
            raise Unsealed("it carries no credential of this installation")
        head, body = data[:_MAC_AT], data[_BODY_AT:]
        if not hmac.compare_digest(self._mac(head, body), data[_MAC_AT:_BODY_AT]):
            raise Unsealed("it was not sealed with the door secret of this installation")
        if abs(now_us - int.from_bytes(head[1:], "big")) > FRESH_US:
            raise Unsealed("it was sealed too long ago, or the clocks of two hosts are minutes apart")
        return body

    def ticket(self, actor: str, pool: str) -> str:
        """What a worker of that name and pool attaches with; it opens nothing else."""
        told = f"worker\0{actor}\0{pool}".encode()
        return hmac.digest(self._secret, told, hashlib.sha256).hex()

    def is_ticket(self, given: str, worker: str, pool: str) -> bool:
        """Whether a ticket is that of the actor of which ``worker`` is one life (``actor-xxxxxxxx``)."""
        actor = worker.rpartition("-")[0]
        return hmac.compare_digest(given.encode(), self.ticket(actor, pool).encode())

    def _mac(self, head: bytes, body: bytes) -> bytes:
        return hmac.digest(self._secret, head + body, hashlib.sha256)


def seal_of(settings: Settings, keyring: Keyring) -> Seal:
    """The seal of an installation: its configured secret, or one that follows from the state's keys.

    Raises:
        ConfigError: the secret cannot be read.
        KeysRefused, KeysUnavailable, StoreError: the keys cannot.
    """
    configured = settings.auth.door_secret
    given = resolve(configured).encode() if configured is not None else keyring.digest_key()
    return Seal(hmac.digest(given, b"hive-ray/door/1", hashlib.sha256))


def closed(seal: Seal, caller: Caller, requests: list[Request], now_us: int) -> bytes:
    """The envelope of some requests of one caller."""
    return seal.close(_encode([Asked(caller, request) for request in requests]), now_us)
