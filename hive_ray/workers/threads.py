"""Synchronous steps on threads: as few as keep up, more when steps block.

Handing each step to a thread of its own costs more than a short step. So one thread works through what
is there, and others join only while something has waited longer than ``STALL_S``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from hive_ray.core.failures import FailureKind
from hive_ray.core.fleet import AttemptRef
from hive_ray.core.messages import Lease, Outcome, StepContent, encode

log = logging.getLogger(__name__)

STALL_S = 0.005


class Running(msgspec.Struct):
    """A step on a thread."""

    lease: Lease
    until_s: float
    """Monotonic time at which it is given up."""
    abandoned: bool = False


def broken(lease: Lease, error: BaseException) -> Outcome:
    """The outcome of a step that broke the worker's own code: nobody knows how far it came."""
    log.error("step %s broke its worker", lease.key, exc_info=error)
    content = encode(StepContent(message=f"the worker broke on it: {type(error).__name__}"))
    return Outcome(*lease.key, FailureKind.OUTCOME_UNKNOWN, content, name=lease.name)


class ThreadRunner:
    """Runs leases by ``run`` on up to ``threads`` threads and hands outcomes to ``done`` on the loop.

    Args:
        timed_out: makes the outcome of a step that was given up; its thread is lost until it returns.
        late: takes the outcome of such a step when its thread returns after all.
    """

    def __init__(
        self,
        run: Callable[[Lease], Outcome],
        timed_out: Callable[[Lease], Outcome],
        done: Callable[[list[Outcome]], None],
        late: Callable[[Outcome], None],
        threads: int,
    ) -> None:
        self._run = run
        self._timed_out = timed_out
        self._done = done
        self._late = late
        self._most = threads
        self._queue: deque[Lease] = deque()
        self._finished: deque[tuple[Running, Outcome]] = deque()
        self._running: dict[int, Running] = {}
        self._wake = threading.Semaphore(0)
        self._idle = 0
        self._counting = threading.Lock()
        self._threads = 0
        self._lost = 0
        self._signalled = False
        self._watching = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, leases: list[Lease]) -> None:
        """Queue leases; called on the event loop."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._queue.extend(leases)
        # In this order: a thread that still runs will look at the queue once more.
        if not self._running:
            self._add_workers(1)
        if not self._watching:
            self._watching = True
            self._loop.call_later(STALL_S, self._watch)

    def withdraw(self, attempts: set[AttemptRef]) -> list[Lease]:
        """Take back leases that no thread has begun."""
        taken = [lease for lease in list(self._queue) if lease.key in attempts]
        withdrawn: list[Lease] = []
        for lease in taken:
            try:
                self._queue.remove(lease)
            except ValueError:
                continue  # a thread was faster
            withdrawn.append(lease)
        return withdrawn

    def _add_workers(self, count: int) -> None:
        for _ in range(count):
            with self._counting:
                waiting = self._idle > 0
                self._idle -= waiting
            if not waiting:
                if self._threads - self._lost >= self._most:
                    return
                self._threads += 1
                threading.Thread(target=self._work, name=f"step-{self._threads}", daemon=True).start()
            self._wake.release()

    def _work(self) -> None:
        ident = threading.get_ident()
        while True:
            self._wake.acquire()
            while True:
                try:
                    lease = self._queue.popleft()
                except IndexError:
                    break
                running = Running(lease, time.monotonic() + lease.timeout_us / 1e6)
                self._running[ident] = running
                try:
                    outcome = self._run(lease)
                except BaseException as error:  # noqa: BLE001 - the thread serves other steps
                    outcome = broken(lease, error)
                self._running.pop(ident, None)
                self._finished.append((running, outcome))
                self._signal()
            with self._counting:
                self._idle += 1

    def _signal(self) -> None:
        if not self._signalled and self._loop is not None:
            self._signalled = True
            self._loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        self._signalled = False
        outcomes: list[Outcome] = []
        while self._finished:
            running, outcome = self._finished.popleft()
            if running.abandoned:
                self._lost -= 1
                self._late(outcome)
            else:
                outcomes.append(outcome)
        if outcomes:
            self._done(outcomes)

    def _watch(self) -> None:
        """While anything is queued or runs: add threads to a queue that stalls, give up the overdue."""
        assert self._loop is not None
        if not self._queue and not self._running:
            self._watching = False
            return
        if self._queue:
            self._add_workers(max(1, len(self._running)))
        overdue = self._give_up(time.monotonic())
        if overdue:
            self._done(overdue)
        self._loop.call_later(STALL_S if self._queue else 10 * STALL_S, self._watch)

    def _give_up(self, now_s: float) -> list[Outcome]:
        overdue = [r for r in list(self._running.values()) if r.until_s <= now_s and not r.abandoned]
        for running in overdue:
            running.abandoned = True
            self._lost += 1
        return [self._timed_out(running.lease) for running in overdue]
