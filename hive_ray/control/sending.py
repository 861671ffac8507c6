"""Which notifications are sent now: those that are durable and due, a few at a time to each receiver.

What is pending stands in the fleet; here is only what one incarnation knows of sending it. A receiver that
hangs keeps its own notifications waiting, and nobody else's.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from hive_ray.core.outbox import Item

if TYPE_CHECKING:
    from hive_ray.control.shell import Shell

AT_ONCE = 16
AT_ONCE_TO_ONE = 4
"""Attempts under way, and those to one receiver."""


class Send(NamedTuple):
    """Try once to deliver a notification, then report by ``Shell.sent``."""

    notification: str
    hook: str
    """Name of the receiver, by which its secret is found; empty: the run's own."""
    url: str
    body: bytes
    at_s: int
    """Seconds since the epoch, to sign with the body."""


class Sender:
    """The notifications of one incarnation.

    Args:
        public_url: with which links begin.
    """

    def __init__(self, public_url: str = "") -> None:
        self._public_url = public_url.rstrip("/")
        self._due: list[tuple[int, str]] = []
        self._undurable: deque[tuple[int, str]] = deque()
        """(seq, notification) of those whose event is not durable yet, in order."""
        self._under_way: dict[str, str] = {}
        """Notification to receiver."""
        self._busy: dict[str, int] = {}
        self._waiting: dict[str, deque[str]] = {}
        """By receiver: those that are due while it has as many as it may have."""

    def begin(self, shell: Shell) -> None:
        """After recovery: all that is pending is durable, and nobody knows what was sent."""
        for item in shell.engine.fleet.outbox.pending.values():
            self._await(item)

    def _await(self, item: Item) -> None:
        heapq.heappush(self._due, (item.due_us, item.id))

    def queued(self, seq: int, notification: str) -> None:
        """One more was decided."""
        self._undurable.append((seq, notification))

    def advance(self, shell: Shell) -> None:
        """Send what is durable and due, as far as there is room."""
        if not self._due and not self._undurable:
            return
        pending = shell.engine.fleet.outbox.pending
        while self._undurable and self._undurable[0][0] <= shell.durable_seq:
            self._put(pending.get(self._undurable.popleft()[1]))
        while self._due and self._due[0][0] <= shell.wall_us and len(self._under_way) < AT_ONCE:
            item = pending.get(heapq.heappop(self._due)[1])
            if item is not None:
                self._begin(shell, item)

    def _put(self, item: Item | None) -> None:
        if item is not None:
            self._await(item)

    def _begin(self, shell: Shell, item: Item) -> None:
        url = item.url
        if item.hook:
            # As it stands in the plan by now: an address that was mended is used for what is pending, too.
            plan = shell.engine.force.plan.hooks.named(item.hook)
            url = plan.url if plan is not None else ""
        receiver = item.hook or urlsplit(url).netloc
        if self._busy.get(receiver, 0) >= AT_ONCE_TO_ONE:
            self._waiting.setdefault(receiver, deque()).append(item.id)
            return
        self._busy[receiver] = self._busy.get(receiver, 0) + 1
        self._under_way[item.id] = receiver
        at_s = shell.wall_us // 1_000_000
        shell.send(Send(item.id, item.hook, url, body_of(item, self._public_url), at_s))

    def ended(self, shell: Shell, notification: str) -> None:
        """An attempt is over, and what came of it is decided."""
        receiver = self._under_way.pop(notification, None)
        if receiver is None:
            return
        self._busy[receiver] -= 1
        if not self._busy[receiver]:
            del self._busy[receiver]
        item = shell.engine.fleet.outbox.pending.get(notification)
        self._put(item)
        waiting = self._waiting.get(receiver)
        if waiting:
            self._put(shell.engine.fleet.outbox.pending.get(waiting.popleft()))
        else:
            self._waiting.pop(receiver, None)


# --- what is sent --------------------------------------------------------------------------------


def body_of(item: Item, public_url: str = "") -> bytes:
    """The payload, the same at every attempt (Standard Webhooks: type, timestamp, data)."""
    data = {key: value for name, fact in item.facts.items() for key, value in _told(name, fact).items()}
    links = _links(item.facts, public_url)
    told = {
        "type": item.kind,
        "timestamp": _iso(item.at_us),
        "data": data | ({"links": links} if links else {}),
    }
    return msgspec.json.encode(told)


def _told(name: str, fact: Any) -> dict[str, Any]:
    """As everything over HTTP: times in ISO 8601, money in US dollars as text."""
    if name.endswith("_nanousd"):
        return {f"{name.removesuffix('_nanousd')}_usd": _usd(fact) if fact >= 0 else None}
    if name.endswith("_us"):
        return {f"{name.removesuffix('_us')}_at": _iso(fact)}
    return {name: fact}


def _links(facts: Mapping[str, Any], public_url: str) -> dict[str, str]:
    run = facts.get("run_id")
    if not run:
        return {}
    base = f"{public_url}/v1"
    links = {"run": f"{base}/runs/{run}"}
    if "approval_id" in facts:
        links["approval"] = f"{base}/approvals/{facts['approval_id']}"
    elif "status" in facts:
        links["result"] = f"{base}/runs/{run}/result"
    return links


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _usd(nanousd: int) -> str:
    whole, rest = divmod(nanousd, 1_000_000_000)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")
