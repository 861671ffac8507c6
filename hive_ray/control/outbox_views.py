"""What the outside sees of notifications: those that are pending, and the newest of those that are over."""

from __future__ import annotations

import heapq
from itertools import chain

import msgspec

from hive_ray.control.views import Answer
from hive_ray.core.engine import Engine
from hive_ray.core.outbox import Item

PAGE = 100


class NotificationView(msgspec.Struct, frozen=True):
    """One notification to one receiver. Times in microseconds since the epoch."""

    id: str
    kind: str
    hook: str
    """Name of the receiver; empty: the callback of the run."""
    run_id: str
    team: str
    state: str
    attempts: int
    error: str
    """What came of the last attempt."""
    queued_us: int
    due_us: int
    """Of the next attempt; 0: as soon as there is room."""
    ended_us: int


class ListOutbox(msgspec.Struct, frozen=True, tag=True):
    """Notifications, newest first. ``before`` is the last id of the page before; ids are in order of time."""

    team: str = ""
    """Empty: of all teams, and of what belongs to none."""
    state: str = ""
    run: str = ""
    before: str = ""
    limit: int = PAGE

    def look(self, engine: Engine) -> Answer:
        outbox = engine.fleet.outbox
        found = (item for item in chain(outbox.pending.values(), outbox.ended.values()) if self._wants(item))
        newest = heapq.nlargest(self.limit, found, key=lambda item: item.id)
        return Answer([_view(item) for item in newest])

    def _wants(self, item: Item) -> bool:
        if (self.team and item.team != self.team) or (self.run and item.run != self.run):
            return False
        return (not self.state or item.state == self.state) and (not self.before or item.id < self.before)


def _view(item: Item) -> NotificationView:
    return NotificationView(
        item.id,
        item.kind,
        item.hook,
        item.run,
        item.team,
        item.state,
        item.attempts,
        item.error,
        item.at_us,
        item.due_us if item.state == "pending" else 0,
        item.ended_us,
    )
