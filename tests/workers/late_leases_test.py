"""Leases that took too long to arrive are not begun: their attempts may be others' by then."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from hive_ray.core.messages import (
    AttachReply,
    ExchangeReply,
    Lease,
    Outcome,
    StepKind,
    WorkerInfo,
    decode_exchange,
    encode,
)
from hive_ray.workers.worker import LinkLost, Worker


class Slow:
    """A controller that answers an exchange with a lease, and took ``took_s`` of the worker's time for it."""

    def __init__(self, took_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attached = 0
        self._took_s = took_s
        self._patch = monkeypatch

    async def attach(self, request: bytes) -> bytes:
        self.attached += 1
        return encode(AttachReply("s", 1, patience_s=20.0))

    async def exchange(self, request: bytes) -> bytes:
        n = decode_exchange(request).n
        later_s = time.monotonic() + self._took_s
        self._patch.setattr("hive_ray.workers.worker.time", SimpleNamespace(monotonic=lambda: later_s))
        lease = Lease("r", 1, 0, 1, 1, "g", 0, StepKind.FUNCTION, 1_000_000, {}, "mail")
        return encode(ExchangeReply(n, 1, (lease,)))


class Steps:
    """Remembers what it was given to run."""

    def __init__(self) -> None:
        self.begun: list[Lease] = []

    def is_sync(self, lease: Lease) -> bool:
        self.begun.append(lease)
        return False

    async def run(self, lease: Lease) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    def __getattr__(self, name: str) -> Any:
        return None


async def first_exchange(link: Slow, steps: Any) -> None:
    async def connect() -> Slow:
        return link

    worker = Worker(WorkerInfo("w", "function", 1, "host", "boot", 1, 1), steps, connect)
    await worker._attach(link)
    await worker._take(await worker._send(link, ()))


def test_a_lease_that_comes_in_time_is_begun(monkeypatch: pytest.MonkeyPatch):
    """Within the time that a worker has to attach to another controller."""
    steps = Steps()

    asyncio.run(first_exchange(Slow(19.0, monkeypatch), steps))

    assert [lease.name for lease in steps.begun] == ["mail"]


def test_a_lease_that_comes_too_late_is_not_begun(monkeypatch: pytest.MonkeyPatch):
    """A controller that was stopped in between may have been replaced by one that has given this worker up,
    and a person may have said that the mail was not sent."""
    steps = Steps()

    with pytest.raises(LinkLost):
        asyncio.run(first_exchange(Slow(21.0, monkeypatch), steps))

    assert steps.begun == []
