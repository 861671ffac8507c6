"""A worker process without asyncio: the protocol of ``workers.worker``, with steps that a script performs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from hive_ray.core.fleet import AttemptRef
from hive_ray.core.messages import (
    AttachReply,
    AttachRequest,
    ExchangeReply,
    ExchangeRequest,
    Lease,
    Outcome,
    WorkerInfo,
)
from hive_ray.testing.clock import SimulatedClock
from hive_ray.testing.network import Call
from hive_ray.testing.process import SimulatedProcess

RETRY_FIRST_US = 50_000
RETRY_MOST_US = 1_000_000


class Performance(NamedTuple):
    """What one attempt does and when, counted from the arrival of its lease.

    Attributes:
        effect_us: when its effect takes place; below 0: it has none.
        end_us: when ``outcomes[0]`` is known.
        late_us: when ``outcomes[1]`` is known, if there is one (the end of a step that was given up).
    """

    effect_us: int
    end_us: int
    outcomes: tuple[Outcome, ...]
    late_us: int = 0


class Execution:
    """An attempt under way in a worker."""

    __slots__ = ("begun", "lease", "performance", "withdrawn")

    def __init__(self, lease: Lease, performance: Performance) -> None:
        self.lease = lease
        self.performance = performance
        self.begun = False
        """Its effect took place."""
        self.withdrawn = False


class Script(Protocol):
    """The world of a worker's steps."""

    def perform(self, worker: ScriptedWorker, lease: Lease) -> Performance:
        """Decide what an attempt will do."""
        ...

    def take_effect(self, worker: ScriptedWorker, lease: Lease) -> None:
        """The attempt's effect takes place."""
        ...

    def over(self, worker: ScriptedWorker, lease: Lease) -> None:
        """Nothing of the attempt goes on here any more."""
        ...

    def withdrawn(self, lease: Lease) -> Outcome:
        """The outcome of an attempt that was stopped before it began."""
        ...

    def acknowledged(self, outcome: Outcome) -> None:
        """The controller took an outcome over."""
        ...


Send = Callable[[AttachRequest | ExchangeRequest, Callable[..., None], Callable[[], None]], Call | None]
"""Takes a request, what to do with its answer, and what to do when none comes."""


class ScriptedWorker:
    """One worker process. At most one exchange with outcomes and one without are under way."""

    def __init__(
        self, info: WorkerInfo, process: SimulatedProcess, clock: SimulatedClock, script: Script, send: Send
    ) -> None:
        self.info = info
        self.process = process
        self.running: dict[AttemptRef, Execution] = {}
        self.session = ""
        self._clock = clock
        self._script = script
        self._send = send
        self._finished: list[Outcome] = []
        self._unacknowledged: dict[AttemptRef, Outcome] = {}
        self._calls: dict[str, Call | None] = {}
        """Calls under way: ``attach``, ``report`` or ``poll``."""
        self._epoch = self._n = self._seen = 0
        self._sent_us: dict[int, int] = {}
        self._patience_us = 0
        self._pause_us = RETRY_FIRST_US

    # --- its dealings with the controller

    def attach(self) -> None:
        """Present itself with all that it holds."""
        self._calls = {}
        self.session = ""
        for outcome in self._finished:
            self._unacknowledged[outcome.key] = outcome
        self._finished = []
        request = AttachRequest(self.info, tuple(self.running), tuple(self._unacknowledged.values()))
        self._call("attach", request, self._attached)

    def _call(
        self, what: str, request: AttachRequest | ExchangeRequest, answered: Callable[..., None]
    ) -> None:
        self._calls[what] = None

        def answer(reply: object) -> None:
            self.process.run(lambda: self._answered(what, call, answered, reply))

        call = self._send(request, answer, lambda: self.process.run(lambda: self._lost(what, call)))
        self._calls[what] = call

    def _answered(self, what: str, call: Call | None, take: Callable[..., None], reply: object) -> None:
        """An answer to a call that was given up is never seen."""
        if self._calls.get(what, self) is call:
            del self._calls[what]
            take(reply)

    def _lost(self, what: str, call: Call | None) -> None:
        if self._calls.get(what, self) is call:
            self._attach_later()

    def _attach_later(self) -> None:
        self._calls = {}
        self._clock.after(self._pause_us, lambda: self.process.run(self._attach_unless_busy))
        self._pause_us = min(2 * self._pause_us, RETRY_MOST_US)

    def _attach_unless_busy(self) -> None:
        if not self._calls:
            self.attach()

    def _attached(self, reply: AttachReply) -> None:
        if reply.epoch < self._epoch:
            self._attach_later()
            return
        self._epoch = reply.epoch
        self.session, self._n, self._seen = reply.session, 0, 0
        self._sent_us, self._patience_us = {}, int(reply.patience_s * 1e6)
        self._pause_us = RETRY_FIRST_US
        self._forget(reply.acknowledged)
        for key in reply.drop:
            self.running.pop(key, None)
        self._go_on()

    def _go_on(self) -> None:
        """Report what has finished; with nothing to report, wait for work."""
        if not self.session or "report" in self._calls or "attach" in self._calls:
            return
        if self._finished:
            outcomes, self._finished = tuple(self._finished), []
            for outcome in outcomes:
                self._unacknowledged[outcome.key] = outcome
            self._exchange("report", outcomes)
        elif "poll" not in self._calls:
            self._exchange("poll", ())

    def _exchange(self, what: str, outcomes: tuple[Outcome, ...]) -> None:
        self._n += 1
        self._sent_us[self._n] = self._clock.mono_us
        self._call(what, ExchangeRequest(self.session, self._n, self._seen, outcomes), self._exchanged)

    def _exchanged(self, reply: ExchangeReply) -> None:
        if reply.reattach:
            self.session = ""
            self._attach_later()
            return
        self._seen = max(self._seen, reply.n)
        self._epoch = max(self._epoch, reply.epoch)
        self._forget(reply.acknowledged)
        self._stop(reply.cancel)
        took_us = self._clock.mono_us - self._sent_us.pop(reply.n, 0)
        if reply.leases and self._patience_us and took_us > self._patience_us:
            self.session = ""
            self._attach_later()
            return
        for lease in reply.leases:
            if lease.epoch >= self._epoch and lease.key not in self.running:
                self._begin(lease)
        self._go_on()

    def _forget(self, keys: Iterable[AttemptRef]) -> None:
        for key in keys:
            outcome = self._unacknowledged.pop(key, None)
            if outcome is not None:
                self._script.acknowledged(outcome)

    # --- its steps

    def _begin(self, lease: Lease) -> None:
        execution = Execution(lease, self._script.perform(self, lease))
        self.running[lease.key] = execution
        played = execution.performance
        if played.effect_us >= 0:
            self._later(played.effect_us, lambda: self._take_effect(execution))
        self._later(played.end_us, lambda: self._finish(execution))
        if len(played.outcomes) > 1:
            self._later(played.late_us, lambda: self._finish_late(execution))

    def _later(self, us: int, happens: Callable[[], None]) -> None:
        self._clock.after(us, lambda: self.process.run(happens))

    def _take_effect(self, execution: Execution) -> None:
        if not execution.withdrawn:
            execution.begun = True
            self._script.take_effect(self, execution.lease)

    def _finish(self, execution: Execution) -> None:
        """It ended, or was given up; in that case it goes on."""
        if len(execution.performance.outcomes) == 1:
            self._script.over(self, execution.lease)
        key = execution.lease.key
        if self.running.get(key) is execution:
            del self.running[key]
            self._finished.append(execution.performance.outcomes[0])
            self._go_on()

    def _finish_late(self, execution: Execution) -> None:
        self._script.over(self, execution.lease)
        if not execution.withdrawn:
            self._finished.append(execution.performance.outcomes[1])
            self._go_on()

    def _stop(self, keys: Iterable[AttemptRef]) -> None:
        """What has not begun is withdrawn; what has cannot be stopped."""
        for key in keys:
            execution = self.running.get(key)
            if execution is not None and not execution.begun:
                execution.withdrawn = True
                del self.running[key]
                self._finished.append(self._script.withdrawn(execution.lease))
