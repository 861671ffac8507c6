"""What goes into the shell with an input, and what comes out of it to be done: plain data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from hive_ray.control.io import Io
from hive_ray.control.sending import Send
from hive_ray.core.commands import Refused
from hive_ray.core.engine import Engine
from hive_ray.errors import Fenced
from hive_ray.state.journal import PendingWrite


class Limits(msgspec.Struct, frozen=True):
    """Times and bounds of the shell, from configuration."""

    poll_us: int = 10_000_000
    attach_grace_us: int = 20_000_000
    idempotency_us: int = 24 * 3600 * 1_000_000
    term_us: int = 30_000_000
    queue_limits: dict[str, int] = {}
    """Steps that may wait, by pool."""
    live_runs: int = 50_000
    heartbeat_us: int = 5_000_000
    erase_us: int = 60_000_000
    """A conversation's key is erased at latest so long after the end of its run."""
    public_url: str = ""
    """With which links in notifications begin."""

    @property
    def wait_us(self) -> int:
        """How long a call may wait for news: an answer that takes as long as the grace gives no leases."""
        return min(self.poll_us, self.attach_grace_us // 2)


class Clock(NamedTuple):
    """The time that an input brings with it."""

    wall_us: int
    mono_us: int
    chance: float = 0.5


class Reply(NamedTuple):
    """Answer a call."""

    call: int
    payload: Any


class Write(NamedTuple):
    """Write a segment, then report by ``written``."""

    pending: PendingWrite
    again: bool = False


class End(NamedTuple):
    """This incarnation is fenced: leave at once."""

    reason: Fenced


Action = Reply | Write | Io | Send | End


Let = Callable[[Engine], Refused | None]
"""Says whether a caller may do what it asks."""


def anybody(_engine: Engine) -> None:
    """Whoever drives the shell by hand."""


class Held(NamedTuple):
    """A reply that may leave once ``seq`` is durable."""

    seq: int
    reply: Reply
