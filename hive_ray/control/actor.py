"""The controller actor: asyncio and Ray around the shell, without decisions of its own."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import random
import secrets
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
import ray
from tenacity import AsyncRetrying, retry_if_exception, wait_exponential

from hive_ray.config import LimitsSettings, Settings, resolve
from hive_ray.control import queries
from hive_ray.control.actions import Clock, End, Reply, Write
from hive_ray.control.assembly import StateParts, limits_of, shell_of, upkeep_of
from hive_ray.control.door import Door, Entered, Refusals
from hive_ray.control.envelope import Asked, Unsealed, decode_asked, seal_of
from hive_ray.control.historian import Historian
from hive_ray.control.io import Broke, Done, Io, attempt
from hive_ray.control.planning import apply_plan, plan_of
from hive_ray.control.pools import Pools
from hive_ray.control.recovery import Recovered, load_graph, may_take, recover
from hive_ray.control.sending import AT_ONCE, Send
from hive_ray.control.shell import Shell
from hive_ray.control.views import Answer
from hive_ray.control.webhooks import Webhooks
from hive_ray.core import features
from hive_ray.core.artifacts import ArtifactBounds
from hive_ray.core.commands import Command, Fork, Refused, Register, Submit
from hive_ray.core.engine import Engine
from hive_ray.core.keys import STATE_KEY, is_run_key
from hive_ray.core.longterm import Bounds
from hive_ray.core.messages import decode_attach, decode_exchange, encode
from hive_ray.core.outbox import Sent
from hive_ray.errors import ConfigError, Corrupt, Fenced, KeysRefused, StateRefused, StoreError, Unavailable
from hive_ray.graph.expressions import Evaluator
from hive_ray.observe.logging import configure
from hive_ray.state.access import content_codec, open_blobs, open_keyring, open_state
from hive_ray.state.journal import Journal, Outcome, PendingWrite, write_pending
from hive_ray.state.key_supply import KeySupply
from hive_ray.state.lineage import open_for_work
from hive_ray.state.owner import this_process
from hive_ray.state.store import Store

log = logging.getLogger(__name__)

INLINE_BYTES = 1024 * 1024
TICK_S = 0.02
SWITCH_S = 0.0005
"""How long the event loop waits for the interpreter while a thread has it; CPython's own 5 ms add up."""
RETRY_WRITE_S = 0.2
RESTART_PAUSE_S = 2.0


def clock() -> Clock:
    return Clock(time.time_ns() // 1000, time.monotonic_ns() // 1000, random.random())


class ControllerImpl:
    """One partition's controller. The constructor only assigns; ``start`` begins recovery."""

    def __init__(self, partition: int, settings: bytes, cluster: str, take_over: bool = False) -> None:
        self._partition = partition
        self._settings_json = settings
        self._cluster = cluster
        self._take_over = take_over
        self._shell: Shell | None = None
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._flush_due = False
        self._tasks: list[asyncio.Task[None]] = []
        self._standing = "starting"
        self._refusals = Refusals()

    def __repr__(self) -> str:
        return f"Controller({self._partition}, {self._standing})"

    # --- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin recovery in the background; returns at once."""
        if not self._tasks:
            self._loop = asyncio.get_running_loop()
            self._settings = Settings.model_validate_json(self._settings_json)
            configure(self._settings, "controller")
            self._nonce = secrets.token_hex(16)
            self._store = open_state(self._settings)
            # Whoever erases keys is the only one who may trust its memory of them.
            self._keyring = open_keyring(self._settings, self._store, trust_s=0.0)
            self._supply = KeySupply(self._keyring)
            self._codec = content_codec(self._settings, self._keyring)
            self._blobs = open_blobs(self._settings, self._store, self._keyring)
            self._door = Door(self._settings)
            self._webhooks = Webhooks(self._settings.hooks, resolve)
            self._senders = ThreadPoolExecutor(AT_ONCE, "webhooks")
            self._spawn(self._recover())

    async def _recover(self) -> None:
        """Retries for ever, except where an object cannot be trusted: that needs a person."""
        retries = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_exponential(multiplier=0.1, max=2.0),
            before_sleep=lambda state: self._note_failure(state.outcome),
        )
        try:
            recovered = await retries(asyncio.to_thread, self._recover_once)
        except (Corrupt, StateRefused, KeysRefused, ConfigError) as error:
            # It stays so until a person mends it: no restart would help.
            self._standing = f"stopped: {error}"
            log.error("recovery stopped: %s", error)
            return
        self._begin(recovered)

    def _note_failure(self, outcome: Any) -> None:
        self._standing = f"waiting: {outcome.exception()}"
        log.warning("recovery does not succeed yet: %s", outcome.exception())

    def _recover_once(self) -> Recovered:
        plan_of(self._settings)  # a fault in it stops here, by name
        self._store.probe()
        open_for_work(self._store, self._settings.environment, time.time_ns() // 1000)
        node = ray.get_runtime_context().get_node_id()
        now_us = time.time_ns() // 1000
        owner = this_process(node, self._cluster, now_us)
        # Ray repeats the arguments at a restart; a living owner may be fenced by the operator's call only.
        again = ray.get_runtime_context().was_current_actor_reconstructed
        journal = Journal(self._store, self._partition)
        may_take(journal, owner, now_us, self._settings.lease.stale_s, self._take_over and not again)
        # Before the epoch is claimed: with a wrong key, nothing is written.
        self._keyring.open(create=True)
        self._seal = seal_of(self._settings, self._keyring)
        # Nothing of what recovery makes is garbage, and looking for it costs as much as making it.
        gc.collect()
        gc.disable()
        recovered = recover(
            self._store,
            self._blobs,
            self._codec,
            Evaluator(),
            self._partition,
            owner,
            now_us,
            self._nonce,
            parks=True,
        )
        live = (run.key for run in recovered.engine.runs.values() if run.key and not run.terminal)
        self._keyring.load_all([STATE_KEY, *live])
        return recovered

    def _begin(self, recovered: Recovered) -> None:
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        gc.enable()
        sys.setswitchinterval(SWITCH_S)
        apart = (
            None if self._store.url.startswith("memory:") else Historian(self._settings_json, self._partition)
        )
        state = StateParts(self._store, self._blobs, self._codec, self._partition, self._keyring, apart)
        limits, upkeep = limits_of(self._settings), upkeep_of(self._settings)
        _bound(recovered.engine, self._settings.limits)
        self._shell = shell_of(recovered, state, limits, upkeep)
        self._shell.reception.session_tail = _unguessable
        # A restarted actor has the settings of its first start: what was applied since goes before them.
        again = ray.get_runtime_context().was_current_actor_reconstructed
        stale = again and bool(recovered.engine.fleet.plan_digest)
        self._shell.begin(clock(), None if stale else apply_plan(self._settings, "configuration"))
        self._pools = Pools(self._settings, self._seal, self._on_worker_death)
        for work in (self._tick(), self._watch_absent(), self._pools.keep()):
            self._spawn(work)
        self._standing = f"epoch {recovered.engine.fleet.epoch}"
        log.info(
            "recovered epoch %s at seq %s, %s events behind the snapshot, %s runs and %s parked",
            recovered.engine.fleet.epoch,
            recovered.engine.seq,
            recovered.replayed,
            len(recovered.engine.runs),
            len(recovered.engine.parked),
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A controller whose timers or pools have stopped looks alive and is not: recovery is the way out."""
        if task.cancelled() or task.exception() is None:
            return
        self._standing = f"stopped: {task.exception()!r}"
        log.critical("a background task broke; this process ends", exc_info=task.exception())
        self._shell = None
        self._loop.call_later(RESTART_PAUSE_S, os._exit, 1)

    def _ready(self) -> Shell:
        if self._shell is None:
            raise Unavailable(f"the controller is not ready: {self._standing}")
        return self._shell

    # --- driving the shell -----------------------------------------------------------------------

    async def _call(self, give: Callable[[Shell, int], None]) -> Any:
        """Hand an input to the shell and wait for its reply.

        A restarted actor begins its recovery with the first call.
        """
        await self.start()
        shell = self._ready()
        call = next(self._numbers)
        future = self._loop.create_future()
        self._calls[call] = future
        try:
            give(shell, call)
            self._flush_soon()
            return await future
        finally:
            self._calls.pop(call, None)

    def _flush_soon(self) -> None:
        """Whatever arrives in this turn of the loop goes into one segment."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._shell is not None:
            self._shell.flush(clock())
            self._perform(self._shell)

    def _perform(self, shell: Shell) -> None:
        while actions := shell.take_actions():
            for action in actions:
                match action:
                    case Reply(call, payload):
                        future = self._calls.get(call)
                        if future is not None and not future.done():
                            future.set_result(payload)
                    case Write():
                        self._write(shell, action)
                    case Io():
                        self._do_apart(shell, action)
                    case Send():
                        self._send_apart(shell, action)
                    case End(reason):
                        self._end(reason)

    def _write(self, shell: Shell, action: Write) -> None:
        if action.again:
            self._loop.call_later(RETRY_WRITE_S, lambda: self._write_apart(shell, action))
        elif self._store.inline and len(action.pending.data) <= INLINE_BYTES:
            self._written(shell, _try_write(self._store, action.pending))
        else:
            self._write_apart(shell, action)

    def _written(self, shell: Shell, outcome: Outcome | Corrupt) -> None:
        if isinstance(outcome, Corrupt):
            self._end(Fenced(f"what stands under the next number is not ours and not readable: {outcome}"))
        elif self._shell is shell:
            shell.written(outcome, clock())
            self._flush_soon()

    def _write_apart(self, shell: Shell, action: Write) -> None:
        future = self._loop.run_in_executor(None, _try_write, self._store, action.pending)

        def written(done: asyncio.Future[Outcome | Corrupt]) -> None:
            self._written(shell, done.result())
            self._perform(shell)

        future.add_done_callback(written)

    def _do_apart(self, shell: Shell, io: Io) -> None:
        future = self._loop.run_in_executor(None, attempt, io)

        def ended(done: asyncio.Future[Done | Broke]) -> None:
            if self._shell is shell:
                shell.io_ended(io, done.result(), clock())
                self._flush_soon()

        future.add_done_callback(ended)

    def _send_apart(self, shell: Shell, send: Send) -> None:
        """On threads of their own: a receiver that hangs must not hold the store up."""
        future = self._loop.run_in_executor(self._senders, self._webhooks.post, send)

        def ended(done: asyncio.Future[Sent]) -> None:
            if self._shell is shell and not done.cancelled():
                shell.sent(send.notification, done.result(), clock())
                self._flush_soon()

        future.add_done_callback(ended)

    def _end(self, reason: Fenced) -> None:
        """A newer controller owns the journal: nothing leaves any more, and this actor ends for good."""
        self._standing = f"fenced: {reason}"
        log.error("fenced: %s", reason)
        self._shell = None
        for task in self._tasks:
            task.cancel()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(Unavailable(self._standing))
        # Not exit_actor(): it waits for calls that are under way, and this one would stay for ever.
        me = ray.get_runtime_context().current_actor
        self._loop.run_in_executor(None, partial(ray.kill, me, no_restart=True))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            shell = self._ready()
            shell.tick(clock())
            self._flush_soon()

    async def _watch_absent(self) -> None:
        """Find out about workers of old that have not come back."""
        while True:
            for worker in self._ready().reception.unattached():
                if await asyncio.to_thread(queries.worker_is_gone, worker):
                    self._on_worker_death(worker.name, "its process is gone")
            await asyncio.sleep(self._settings.lease.heartbeat_s)

    def _on_worker_death(self, worker: str, reason: str) -> None:
        log.warning("worker %s is gone: %s", worker, reason)
        if self._shell is not None:
            self._shell.lose_worker(worker, reason, clock())
            self._flush_soon()

    # --- the wire --------------------------------------------------------------------------------

    async def attach(self, data: bytes) -> bytes:
        await self.start()
        request = decode_attach(data)
        self._ready()
        if not self._seal.is_ticket(request.ticket, request.info.worker, request.info.pool):
            self._refusals.note(Unsealed(f"{request.info.worker} attaches without its ticket"))
            raise Unavailable(f"{request.info.worker} has no ticket of this installation")
        return encode(await self._call(lambda shell, call: shell.attach(call, request, clock())))

    async def exchange(self, data: bytes) -> bytes:
        request = decode_exchange(data)
        return encode(await self._call(lambda shell, call: shell.exchange(call, request, clock())))

    async def ask(self, data: bytes) -> bytes:
        """A sealed batch of commands and queries; one answer each in order, or one refusal of all."""
        await self.start()
        try:
            batch = self._opened(data)
        except Unavailable as error:
            return encode([Answer(refused=Refused("unavailable", str(error), 1.0))])
        except Unsealed as error:
            self._refusals.note(error)
            return encode([Answer(refused=Refused("unauthenticated", f"this call is refused: {error}"))])
        answers = await asyncio.gather(*(self._answer(asked) for asked in batch))
        return encode([_encoded(answer) for answer in answers])

    def _opened(self, data: bytes) -> list[Asked]:
        self._ready()
        body = self._seal.open(data, time.time_ns() // 1000)
        try:
            return decode_asked(body)
        except msgspec.MsgspecError as error:
            raise Unsealed(f"it cannot be read: {error}") from error

    async def _answer(self, asked: Asked) -> Answer:
        try:
            shell = self._ready()
            entered = self._door.enter(asked, shell.engine.fleet.api_keys, time.time_ns() // 1000)
            if isinstance(entered, Refused):
                return Answer(refused=entered)
            if asked.caller.key:
                shell.key_used(asked.caller.key, clock())
                self._flush_soon()
            return await self._entered(entered)
        except (Unavailable, StoreError, KeysRefused) as error:
            return Answer(refused=Refused("unavailable", str(error), 1.0))

    async def _entered(self, entered: Entered) -> Answer:
        """The answer to a request whose caller is known."""
        request = entered.request

        def let(engine: Engine) -> Refused | None:
            return self._door.let(entered, engine, time.time_ns() // 1000)

        match request:
            case queries.WhoAmI():
                return Answer(entered.principal)
            case queries.WatchRun():
                return await self._call(lambda shell, call: shell.watch(call, request, clock(), let))
            case queries.ListRuns():
                return await self._call(lambda shell, call: shell.list_runs(call, request, clock()))
            case _ if isinstance(request, queries.QUERIES):
                return await self._call(
                    lambda shell, call: shell.query(
                        call, request.look, clock(), queries.runs_of(request, shell.engine), let
                    )
                )
            case _:
                command = await self._provided(request)
                return await self._call(lambda shell, call: shell.command(call, command, clock(), let))

    async def _provided(self, command: Command) -> Command:
        """The same command when the graph that it names is here, and the key that it needs."""
        if isinstance(command, (Submit, Fork, Register)):
            await self._know_graph(command.graph)
        return await self._keyed(command) if isinstance(command, (Submit, Fork)) else command

    async def _keyed(self, request: Submit | Fork) -> Submit | Fork:
        """The same with a key of its own, whose page is here before the shell seals with it."""
        if self._ready().engine.fleet.feature_level < features.SEALED:
            return request
        if request.key:
            if is_run_key(request.key) and not self._keyring.knows(request.key):
                await asyncio.to_thread(self._keyring.load, request.key)
            return request
        key = self._supply.take()
        while key is None:
            await asyncio.to_thread(self._supply.refill)
            key = self._supply.take()
        return msgspec.structs.replace(request, key=key)

    async def _know_graph(self, version: str) -> None:
        await self.start()
        shell = self._ready()
        if version not in shell.engine.graphs:
            shell.engine.add_graph(await asyncio.to_thread(load_graph, self._blobs, version))

    @ray.method(concurrency_group="health")
    async def standing(self) -> bytes:
        """Readiness and counters; never waits for the rest."""
        shell = self._shell
        ready = shell is not None and not shell.blocked_since_us
        counters = msgspec.to_builtins(shell.counters) if shell else {}
        counters["calls_refused"] = self._refusals.count
        live = shell.live_runs if shell else 0
        parked = len(shell.engine.parked) if shell else 0
        epoch = shell.engine.fleet.epoch if shell else 0
        queued = {n: len(q) for n, q in list(shell.engine.fleet.queues.items())} if shell else {}
        return encode(
            {
                "ready": ready,
                "standing": self._standing,
                "counters": counters,
                "live_runs": live,
                "parked_runs": parked,
                "epoch": epoch,
                "feature_level": shell.engine.fleet.feature_level if shell else 0,
                "queued": queued,
                "pid": os.getpid(),
                "cpu_s": time.process_time(),
            }
        )


def _bound(engine: Engine, limits: LimitsSettings) -> None:
    """What runs and their steps may leave behind."""
    engine.keeping.artifacts = ArtifactBounds(limits.run_artifacts, limits.run_artifact_bytes)
    engine.keeping.memory = Bounds(limits.memory_keys, limits.memory_value_bytes, limits.memory_read_bytes)


def _unguessable() -> str:
    return f".{secrets.token_urlsafe(16)}"


def _encoded(answer: Answer) -> msgspec.Raw:
    """One answer that cannot be sent must not keep the others of its batch."""
    try:
        return msgspec.Raw(encode(answer))
    except (ValueError, OverflowError, TypeError) as error:
        log.exception("an answer cannot be sent")
        refused = Refused("internal", f"the controller's answer cannot be sent: {error}")
        return msgspec.Raw(encode(Answer(refused=refused)))


def _try_write(store: Store, pending: PendingWrite) -> Outcome | Corrupt:
    """Write once. ``Corrupt``: somebody's unreadable object has the number; nothing may be written here."""
    try:
        return write_pending(store, pending)
    except Corrupt as error:
        return error


def _may_pass(error: BaseException) -> bool:
    """The store may come back, and an owner may become stale; what is damaged or not ours stays so."""
    return isinstance(error, (StoreError, Unavailable)) and not isinstance(error, (Corrupt, StateRefused))


ControllerActor = ray.remote(concurrency_groups={"health": 4})(ControllerImpl)  # pyright: ignore[reportCallIssue]
