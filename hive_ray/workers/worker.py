"""A worker without Ray: it attaches to the controller, exchanges outcomes for leases, and runs steps.

At most one exchange that carries outcomes is under way; what finishes meanwhile goes with the next one.
While there is nothing to report, one empty exchange waits at the controller for work. Outcomes are kept
until they are acknowledged. Whatever goes wrong on the way, the worker attaches again with all it holds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from hive_ray.core.failures import FailureKind
from hive_ray.core.fleet import AttemptRef
from hive_ray.core.messages import (
    AttachRequest,
    ExchangeReply,
    ExchangeRequest,
    Lease,
    Outcome,
    StepContent,
    WorkerInfo,
    decode_attach_reply,
    decode_exchange_reply,
    encode,
)
from hive_ray.workers.threads import ThreadRunner, broken

log = logging.getLogger(__name__)

UNSENDABLE = (ValueError, OverflowError, TypeError)
"""What msgpack raises for numbers beyond 64 bits, and for text that is not text."""
POLL_AFTER_S = 0.002
"""After work came in, how long to wait for its end before asking for more."""
RETRY_FIRST_S = 0.05
RETRY_MOST_S = 1.0


class LinkLost(Exception):
    """The controller did not answer; whether it got the call is unknown."""


class Link(Protocol):
    """The way to one incarnation of the controller. Both calls raise ``LinkLost``."""

    async def attach(self, request: bytes) -> bytes: ...

    async def exchange(self, request: bytes) -> bytes: ...


class Steps(Protocol):
    """What runs steps; ``workers.execution.Executor`` is the real one."""

    def is_sync(self, lease: Lease) -> bool: ...

    def run_sync(self, lease: Lease) -> Outcome: ...

    def timed_out(self, lease: Lease) -> Outcome: ...

    def cancelled(self, lease: Lease, begun: int = 0) -> Outcome: ...

    async def run(self, lease: Lease) -> Outcome: ...


class Worker:
    """One worker process's dealings with the controller.

    Args:
        ticket: proves to it that it made this worker.
    """

    def __init__(
        self, info: WorkerInfo, steps: Steps, connect: Callable[[], Awaitable[Link]], ticket: str = ""
    ) -> None:
        self.info = info
        self._ticket = ticket
        self._steps = steps
        self._connect = connect
        self._threads = ThreadRunner(steps.run_sync, steps.timed_out, self._finish, self._late, info.slots)
        self._running: dict[AttemptRef, asyncio.Task[None] | None] = {}
        """Attempts under way here; those on threads have no task."""
        self._finished: list[Outcome] = []
        self._unacknowledged: dict[AttemptRef, Outcome] = {}
        self._news = asyncio.Event()
        self._epoch = 0
        self._session = ""
        self._n = 0
        self._seen = 0
        self._sent: dict[int, float] = {}
        """When the exchanges under way were sent, by n."""
        self._patience_s = 0.0

    async def serve(self) -> None:
        """Work for ever; ends by cancellation only."""
        pause_s = RETRY_FIRST_S
        while True:
            try:
                link = await self._connect()
                await self._attach(link)
                pause_s = RETRY_FIRST_S
                await self._exchange_forever(link)
            except LinkLost as lost:
                log.info("controller does not answer: %s", lost)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MOST_S)

    async def _attach(self, link: Link) -> None:
        for outcome in self._finished:
            self._unacknowledged[outcome.key] = outcome
        self._finished = []
        outcomes = tuple(self._sendable(outcome) for outcome in self._unacknowledged.values())
        request = AttachRequest(self.info, tuple(self._running), outcomes, ticket=self._ticket)
        reply = decode_attach_reply(await link.attach(encode(request)))
        if reply.epoch < self._epoch:
            raise LinkLost(f"epoch {reply.epoch} is older than {self._epoch}")
        self._epoch = reply.epoch
        self._session, self._n, self._seen = reply.session, 0, 0
        self._sent, self._patience_s = {}, reply.patience_s
        for key in reply.acknowledged:
            self._unacknowledged.pop(key, None)
        self._stop(reply.drop, report=False)

    async def _exchange_forever(self, link: Link) -> None:
        report: asyncio.Task[bytes] | None = None
        poll: asyncio.Task[bytes] | None = None
        try:
            while True:
                if report is None and self._finished:
                    report = self._send(link, self._take_finished())
                elif report is None and poll is None:
                    poll = self._send(link, ())
                await self._wait(report, poll)
                if report is not None and report.done():
                    done, report = report, None
                    await self._take(done.result())
                if poll is not None and poll.done():
                    done, poll = poll, None
                    await self._take(done.result())
        finally:
            for task in (report, poll):
                if task is not None:
                    task.cancel()

    def _take_finished(self) -> tuple[Outcome, ...]:
        outcomes = tuple(self._finished)
        self._finished = []
        for outcome in outcomes:
            self._unacknowledged[outcome.key] = outcome
        return outcomes

    def _send(self, link: Link, outcomes: tuple[Outcome, ...]) -> asyncio.Task[bytes]:
        self._n += 1
        self._sent[self._n] = time.monotonic()
        try:
            data = encode(ExchangeRequest(self._session, self._n, self._seen, outcomes))
        except UNSENDABLE:
            outcomes = tuple(self._sendable(outcome) for outcome in outcomes)
            data = encode(ExchangeRequest(self._session, self._n, self._seen, outcomes))
        return asyncio.ensure_future(link.exchange(data))

    def _sendable(self, outcome: Outcome) -> Outcome:
        """The outcome, or what stands for one that no message can carry."""
        try:
            encode(outcome)
        except UNSENDABLE as error:
            log.error("outcome of %s cannot be sent: %s", outcome.key, error)
            content = encode(StepContent(message=f"the worker made an outcome that cannot be sent: {error}"))
            outcome = Outcome(*outcome.key, FailureKind.OUTCOME_UNKNOWN, content)
            self._unacknowledged[outcome.key] = outcome
        return outcome

    async def _wait(self, report: asyncio.Task[bytes] | None, poll: asyncio.Task[bytes] | None) -> None:
        """Until a call is answered, or something finished that may be reported."""
        waits: set[asyncio.Future[object]] = {task for task in (report, poll) if task is not None}  # type: ignore[misc]
        news: asyncio.Task[bool] | None = None
        if report is None:
            self._news.clear()
            if self._finished:
                return
            news = asyncio.ensure_future(self._news.wait())
            waits.add(news)  # type: ignore[arg-type]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if news is not None:
            news.cancel()

    async def _take(self, data: bytes) -> None:
        reply = decode_exchange_reply(data)
        if reply.reattach:
            raise LinkLost("the controller does not know this session")
        self._seen = max(self._seen, reply.n)
        self._epoch = max(self._epoch, reply.epoch)
        for key in reply.acknowledged:
            self._unacknowledged.pop(key, None)
        self._stop(reply.cancel, report=True)
        took_s = time.monotonic() - self._sent.pop(reply.n, 0.0)
        if reply.leases:
            if self._patience_s and took_s > self._patience_s:
                # Whoever answered may have been replaced, and its successor may have given this worker up.
                raise LinkLost(f"leases came after {took_s:.0f} s, which is too late to begin")
            self._begin(reply)
            await self._linger()

    async def _linger(self) -> None:
        """Short steps end before another empty exchange would be worth its cost."""
        self._news.clear()
        if self._finished:
            return
        try:
            async with asyncio.timeout(POLL_AFTER_S):
                await self._news.wait()
        except TimeoutError:
            pass

    def _begin(self, reply: ExchangeReply) -> None:
        threaded: list[Lease] = []
        for lease in reply.leases:
            key = lease.key
            if lease.epoch < self._epoch or key in self._running:
                continue
            if self._steps.is_sync(lease):
                self._running[key] = None
                threaded.append(lease)
            else:
                self._running[key] = asyncio.ensure_future(self._run(lease))
        if threaded:
            self._threads.start(threaded)

    async def _run(self, lease: Lease) -> None:
        self._finish([await self._outcome(lease)])

    async def _outcome(self, lease: Lease) -> Outcome:
        try:
            return await self._steps.run(lease)
        except Exception as error:  # noqa: BLE001 - a lease without an outcome would never end
            return broken(lease, error)

    def _finish(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            key = outcome.key
            if key in self._running:
                del self._running[key]
                self._finished.append(outcome)
        self._news.set()

    def _late(self, outcome: Outcome) -> None:
        """A step that was given up has ended after all: it may answer what a person is being asked."""
        self._finished.append(self._sendable(outcome))
        self._news.set()

    def _stop(self, attempts: tuple[AttemptRef, ...], report: bool) -> None:
        """Stop what can be stopped: tasks, and leases that no thread has begun."""
        withdrawn = self._threads.withdraw(set(attempts)) if attempts else []
        if report:
            self._finish([self._steps.cancelled(lease) for lease in withdrawn])
        for key in attempts:
            task = self._running.get(key)
            if task is not None:
                task.cancel()
            if not report:
                self._running.pop(key, None)
