"""The workers' side of the shell: sessions, numbered exchanges, and replies that can be repeated."""

from __future__ import annotations

import msgspec

from hive_ray.core.fleet import AttemptRef
from hive_ray.core.messages import ExchangeReply, Lease


class Waiting(msgspec.Struct):
    """An exchange that has no reply yet."""

    call: int
    n: int
    since_us: int
    acknowledges: list[AttemptRef]
    """Attempts whose outcomes came with it."""


class Session(msgspec.Struct):
    """One worker attached to this incarnation."""

    id: str
    worker: str
    seen_us: int
    """Monotonic time of its last call."""
    waiting: Waiting | None = None
    newest: int = 0
    """Highest n that came in; an older one that was delayed on its way gets no work."""
    replies: dict[int, ExchangeReply] = {}
    """Replies that the worker has not confirmed, by n."""
    missing: list[AttemptRef] = []
    """Leases that the worker did not name when it attached; see ``Reception.attach``."""
    cancel: list[AttemptRef] = []
    """Attempts to stop; told with the next reply."""

    def confirm(self, seen: int) -> None:
        """The worker has every reply up to ``seen``."""
        for n in [n for n in self.replies if n <= seen]:
            del self.replies[n]

    def reply(self, epoch: int, leases: list[Lease]) -> tuple[int, ExchangeReply]:
        """Answer the waiting exchange; returns its call and the reply, which is kept for repeats."""
        waiting = self.waiting
        assert waiting is not None
        reply = ExchangeReply(
            waiting.n, epoch, tuple(leases), tuple(waiting.acknowledges), tuple(self.cancel)
        )
        self.replies[waiting.n] = reply
        self.waiting = None
        self.cancel = []
        return waiting.call, reply
