"""What a replica must know to seal: whether the state may hold sealed content, keys for new runs, and the
secret with which it proves itself to the controller."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from hive_ray.config import Settings
from hive_ray.control.envelope import Seal, seal_of
from hive_ray.core import features
from hive_ray.core.keys import NO_KEY, STATE_KEY
from hive_ray.errors import HiveError, Unavailable
from hive_ray.state.key_supply import KeySupply
from hive_ray.state.keyring import Keyring

log = logging.getLogger(__name__)

PATIENCE_S = 30.0
_POLL_S = 0.1
_ASK_AGAIN_S = 1.0
"""A state whose level may still be raised is asked about again after this long."""


class Digests(NamedTuple):
    """By which a repeated request is told from a different one."""

    digest: str
    plain: str
    """As a state of feature level 1 keeps it."""


NO_DIGESTS = Digests("", "")


class Sealing:
    """Keys and secrets of one replica.

    Args:
        standing: what the controller says of itself; raises ``Unavailable``.
    """

    def __init__(self, keyring: Keyring, standing: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._keyring = keyring
        self._standing = standing
        self._supply = KeySupply(keyring)
        self._level = 0
        self._asked_at = 0.0
        self._refill: asyncio.Task[None] | None = None

    async def is_on(self) -> bool:
        """Whether the state may hold sealed content.

        Raises:
            Unavailable: no controller tells: content is never written plain for want of an answer.
        """
        if self._level >= features.SEALED:
            return True
        if not self._level or time.monotonic() - self._asked_at > _ASK_AGAIN_S:
            self._level = await self._ask()
            self._asked_at = time.monotonic()
        return self._level >= features.SEALED

    async def _ask(self) -> int:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                said = await self._standing()
                if level := int(said.get("feature_level", 0)):
                    return level
                why = str(said["standing"])
            except Unavailable as error:
                why = str(error)
            if time.monotonic() > until:
                raise Unavailable(f"whether content is to be sealed cannot be learned: {why}")
            await asyncio.sleep(_POLL_S)

    async def run_key(self) -> bytes:
        """Reference to a key for a new run; none while the state may not hold sealed content.

        Raises:
            StoreError, KeysUnavailable, KeysRefused: no page of keys can be made.
        """
        if not await self.is_on():
            return NO_KEY
        key = self._supply.take()
        while key is None:
            await asyncio.to_thread(self._supply.refill)
            key = self._supply.take()
        if self._supply.is_low and self._refill is None:
            self._refill = asyncio.ensure_future(self._refill_ahead())
        return key

    async def _refill_ahead(self) -> None:
        try:
            await asyncio.to_thread(self._supply.refill)
        except HiveError as error:
            # Whoever needs a key when none is left meets the same error.
            log.warning("no page of keys made ahead: %s", error)
        finally:
            self._refill = None

    async def state_key(self) -> bytes:
        """Reference to the key of what belongs to no run."""
        return STATE_KEY if await self.is_on() else NO_KEY

    async def digests(self, body: Any) -> Digests:
        """Digests of a request: keyed, so that a guess at what was said cannot be held against them."""
        data = msgspec.json.encode(body, order="sorted")
        plain = plain_digest(data)
        if not await self.is_on():
            return Digests(plain, "")
        secret = await asyncio.to_thread(self._keyring.digest_key)
        return Digests(hmac.digest(secret, b"request\0" + data, hashlib.sha256).hex(), plain)


class Closing:
    """Puts the installation's envelope around what a replica sends; its secret is read at first use.

    ``await closing(body)`` raises ``KeysRefused``, ``KeysUnavailable``, ``StoreError`` and ``ConfigError``.
    """

    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self._settings = settings
        self._keyring = keyring
        self._seal: Seal | None = None

    async def __call__(self, body: bytes) -> bytes:
        if self._seal is None:
            self._seal = await asyncio.to_thread(seal_of, self._settings, self._keyring)
        return self._seal.close(body, time.time_ns() // 1000)


def plain_digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
