"""Everything around the controllers: store, network, workers, users, people, faults; and time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count, pairwise
from random import Random
from typing import Any, TypeVar

from hive_ray.control import snapshotting
from hive_ray.control.actions import Limits
from hive_ray.control.queries import WatchRun
from hive_ray.control.views import Answer, RunView
from hive_ray.core.engine import Engine
from hive_ray.core.keys import NO_KEY, STATE_KEY
from hive_ray.core.messages import AttachRequest, ExchangeReply, ExchangeRequest, WorkerInfo
from hive_ray.errors import Corrupt
from hive_ray.graph.compiled import CompiledGraph, FallbackKind, FallbackPlan, NodeKind, encode_graph
from hive_ray.graph.fallback_plans import AWAY
from hive_ray.state import history_reading
from hive_ray.state.segments import decode_segment
from hive_ray.testing import (
    Call,
    Network,
    ScriptedWorker,
    SimulatedClock,
    SimulatedProcess,
    Weather,
)
from tests.core.graphs import edge, graph, llm, node, tool
from tests.core.random_graphs import MODEL, RETRY, random_graph
from tests.simulation.budgets import CHEAPER
from tests.simulation.controller import Controller
from tests.simulation.ledger import Ledger
from tests.simulation.outside import Chooser, Outside
from tests.simulation.plan import Plan
from tests.simulation.purses import Purses
from tests.simulation.receivers import Receivers
from tests.simulation.storage import Storage

T = TypeVar("T")
MOST_NODES = 10
WHOLE_BYTES, SMALL_FILE = history_reading._WHOLE_BYTES, 8_192
"""Bytes up to which a file of the history is read whole: elsewhere, and where its parts are read."""
PATIENCE_US = 3_600_000_000
"""After so long a request is given up: retention may have dropped what it began."""
POOLS = ("function", "llm")
_NAMES = count()
DISK = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"
"""Where a file store costs no waiting for a disk."""


class World:
    """One history's surroundings; ``history.py`` tells what happens in it."""

    def __init__(self, seed: int, plan: Plan, chance: Random) -> None:
        self.seed = seed
        self.plan = plan
        self.chance = chance
        self.clock = SimulatedClock()
        self.network = _network(self.clock, chance)
        self.weather = Weather(chance)
        self.receivers = Receivers()
        self.ledger = Ledger(Purses(plan.control), self.receivers)
        self.outside = Outside(chance, self.ledger)
        self.limits = Limits()
        self.controllers: list[Controller] = []
        self.alive: list[Controller] = []
        """Those whose process lives, stopped or not, oldest first."""
        self.workers: list[ScriptedWorker] = []
        self.faults: dict[str, int] = {}
        self.moves: dict[str, int] = {}
        """What was done that is no fault, by name."""
        self.inputs = self.newest_epoch = self._depth = 0
        self.acknowledged_runs: dict[str, None] = {}
        self.calm = False
        self.branching = 0
        """Forks that were asked for and not answered."""
        self._numbers = count(1)
        self.storage = Storage(plan, chance)
        self.outside.keep = self.storage.keep
        self.graphs = self._make_graphs()

    def shorten_snapshots(self) -> None:
        """Small histories get snapshots too, and in some of them files of history count as large."""
        snapshotting.EVERY_SEGMENTS = 2 * self.plan.snapshot_segments
        history_reading._WHOLE_BYTES = SMALL_FILE if self.seed % 4 == 2 else WHOLE_BYTES

    def pick(self, options: Sequence[T]) -> T:
        """One of them."""
        return options[int(self.chance.random() * len(options))]

    def number(self) -> int:
        """One that was never given."""
        return next(self._numbers)

    def mint(self, name: str, tries: int) -> str:
        """A run id as the ingress makes them: ordered by time, so that few lie between two older ones."""
        return f"{self.clock.wall_us // 1000:012x}-{name}.{tries}"

    def token_hex(self, size: int) -> str:
        """A nonce, from the seed."""
        return f"{self.chance.getrandbits(8 * size):0{2 * size}x}"

    def count(self, fault: str) -> None:
        self.faults[fault] = self.faults.get(fault, 0) + 1

    def all_faults(self) -> dict[str, int]:
        return {k: n for k, n in (self.faults | self.network.faults | self.weather.faults).items() if n}

    # --- the store

    def write_us(self) -> int:
        """How long the store takes; 0: no time at all."""
        return 0 if self.plan.inline else 2_000 + int(self.chance.random() ** 4 * 50_000)

    def let_others_run(self) -> None:
        """Within blocking work of one process, others go on."""
        if self._depth < 2 and not self.calm and self.chance.random() < 0.1:
            self._depth += 1
            try:
                self.clock.pass_time(int(self.chance.random() ** 2 * 20_000))
            finally:
                self._depth -= 1

    def claimed(self, name: str) -> None:
        """An epoch record is durable."""
        self.newest_epoch = decode_segment(name, self.storage.raw.get(name)).header.epoch

    # --- graphs

    def _make_graphs(self) -> list[str]:
        choose = Chooser(self.chance)
        versions: list[str] = []
        for number in range(choose.number(1, 3)):
            graph = _with_steps(choose, f"g{number}.", choose.pick((8, 20, 20)))
            self.outside.add_graph(graph)
            self._store_graph(graph)
            versions.append(graph.version)
        if self.plan.long_runs:
            self.outside.add_graph(ROUNDS)
            self._store_graph(ROUNDS)
            versions += [ROUNDS.version] * (3 * len(versions))
        return versions

    def _store_graph(self, graph: CompiledGraph) -> None:
        """With its bodies, as the face does: a child run may be forked alone."""
        for body in graph.subgraphs:
            self._store_graph(body)
        key = STATE_KEY if self.storage.keyring else NO_KEY
        self.storage.blobs.put_graph(graph.version, encode_graph(graph), key)

    # --- controllers

    def start_controller(self, cluster: str = "cluster-1", take_over: bool = False) -> Controller:
        controller = Controller(self, next(self._numbers), cluster, take_over)
        self.controllers.append(controller)
        self.alive.append(controller)
        controller.start()
        return controller

    def controller_died(self, controller: Controller) -> None:
        """Whoever watches over it starts another, unless one is there."""
        self.alive.remove(controller)
        self.clock.after(int(self.chance.random() * 600_000), self.start_if_none)

    def start_if_none(self) -> None:
        if all(controller.process.stopped for controller in self.alive):
            self.start_controller()

    def ready(self) -> Controller | None:
        """The newest controller that answers."""
        for controller in reversed(self.alive):
            if not controller.process.stopped and controller.shell is not None:
                return controller
        return None

    def has_heard(self) -> bool:
        """Whether whoever is asked now knows all that is durable by now."""
        return len(self.alive) == 1 and self.alive[0].epoch == self.newest_epoch

    def some_deadline_us(self) -> int:
        """Wall time of a deadline, if a controller waits for nothing else; else 0.

        The next one half of the time; else one behind many, so that these are due together and much happens.
        """
        controller = self.ready()
        if controller is None or controller.shell is None:
            return 0
        fleet = controller.shell.engine.fleet
        if any(worker.leases for worker in fleet.workers.values()) or any(fleet.queues.values()):
            return 0
        deadlines = controller.shell._timers._deadlines
        if not deadlines:
            return 0
        alone = self.chance.random() < 0.5
        return deadlines[0].due_us if alone else self.pick(deadlines).due_us

    def lookup(self) -> Controller | None:
        """Whom a name service knows: the newest, and now and then an older one."""
        alive = self.alive
        if not alive:
            return None
        if len(alive) > 1 and not self.calm and self.chance.random() < 0.1:
            return alive[int(self.chance.random() * len(alive))]
        return alive[-1]

    def ask(self, request: object, answered: Callable[[Any], None], lost: Callable[[], None]) -> Call | None:
        """Send a call to the controller."""
        controller = self.lookup()
        if controller is None:
            self.clock.after(self.network.hop_us, lost)
            return None
        sent_us = self.clock.mono_us

        def deliver(call: Call) -> None:
            if self.clock.mono_us - sent_us > PATIENCE_US:
                call.fail()  # no connection lasts so long
            else:
                controller.receive(call, request)

        return self.network.call(deliver, answered, lost)

    def found_corrupt(self, controller: Controller, error: Corrupt) -> None:
        """Recovery stops by name at a damaged object: somebody restores it, and starts again."""
        assert error.name in self.storage.damaged, f"{error} - but nobody damaged it"
        self.count("stopped_at_damage")
        self.storage.mend()
        controller.process.kill()

    def recovered(self, controller: Controller, engine: Engine) -> None:
        """A controller begins: it knows all that was acknowledged, and nothing that was not durable."""
        if engine.fleet.epoch < self.newest_epoch:
            return  # fenced already; it will find out
        assert not self.storage.damaged, f"recovered over damaged objects: {list(self.storage.damaged)}"
        ledger = self.ledger
        assert engine.seq == ledger.seq, f"recovered to {engine.seq}, durable is {ledger.seq}"
        for run_id in ledger.runs:
            self._check_known(engine, run_id)
        ledger.purses.compare(engine)
        self.receivers.compare(engine)
        held = {key for worker in engine.fleet.workers.values() for key in worker.leases}
        open_now = {key for key, attempt in ledger.attempts.items() if attempt.open}
        assert held == open_now, f"leases after recovery: {held ^ open_now}"

    def _check_known(self, engine: Engine, run_id: str) -> None:
        """In memory or parked, as live as it was; ended ones may be in the history alone."""
        ended = run_id in self.ledger.ended
        run, row = engine.runs.get(run_id), engine.parked.get(run_id)
        if run is not None:
            assert run.terminal == ended, f"{run_id} is {run.status} after recovery"
        elif row is not None:
            assert row.ended == ended, f"{run_id} is parked as {row.kind.status}"
        else:
            assert ended and self.plan.parks, f"{run_id} is gone after recovery"

    def may_be_gone(self, run: str) -> bool:
        """Nobody knows it, or it has ended and the history of its day was dropped."""
        return run not in self.ledger.runs or (bool(self.plan.retention_days) and run in self.ledger.ended)

    def leaves(self, controller: Controller, request: object, payload: object) -> None:
        """An answer leaves a controller: what it says must be durable."""
        if isinstance(payload, ExchangeReply):
            for lease in payload.leases:
                given = (*lease.key, lease.epoch)
                assert given in self.ledger.given, f"{given} left before it was durable"
            for key in payload.acknowledged:
                attempt = self.ledger.attempts.get(key)
                assert attempt is None or not attempt.open or attempt.epoch > payload.epoch, (
                    f"the outcome of {key} was acknowledged before it was durable"
                )
        elif isinstance(payload, Answer) and isinstance(payload.value, RunView):
            # An old controller that has not found out yet may show what was; never what will not be.
            seq = payload.value.seq
            assert seq <= controller.durable_seq, f"shown as of {seq}, durable is {controller.durable_seq}"
        elif isinstance(payload, Answer) and payload.refused is not None and isinstance(request, WatchRun):
            old = controller.epoch < self.newest_epoch
            transient = payload.refused.problem in ("unavailable", "overloaded")
            assert old or transient or self.may_be_gone(request.run), f"{request.run}: {payload.refused}"

    # --- workers

    def start_worker(self, pool: str) -> ScriptedWorker:
        number = next(self._numbers)
        info = WorkerInfo(
            f"{pool}-{number}",
            pool,
            1 + int(self.chance.random() * self.plan.slots),
            "host",
            "boot",
            number,
            1,
        )
        process = SimulatedProcess(info.worker)
        worker = ScriptedWorker(info, process, self.clock, self.outside, self._send)
        process._on_death = partial(self._worker_died, worker)
        self.workers.append(worker)
        self.clock.after(100, partial(process.run, worker.attach))
        return worker

    def _send(
        self,
        request: AttachRequest | ExchangeRequest,
        answered: Callable[..., None],
        lost: Callable[[], None],
    ) -> Call | None:
        for outcome in request.outcomes:
            self.outside.reported(outcome)
        return self.ask(request, answered, lost)

    def _worker_died(self, worker: ScriptedWorker) -> None:
        """Ray tells the controller, which starts another one; who is away finds out for himself."""
        self.outside.worker_died(worker)
        self.clock.after(int(self.chance.random() * 2_000_000), partial(self._tell_death, worker))
        self.clock.after(200_000, partial(self._replace, worker))

    def _replace(self, worker: ScriptedWorker) -> None:
        self.start_worker(worker.info.pool)

    def _tell_death(self, worker: ScriptedWorker) -> None:
        for controller in list(self.alive):
            controller.lose_worker(worker.info.worker, "killed")

    def live_workers(self) -> list[ScriptedWorker]:
        return [worker for worker in self.workers if worker.process.alive]


def _rounds() -> CompiledGraph:
    """Functions, tools and an LLM, one after the other whatever comes of them; after a round half go on."""
    nothing = FallbackPlan(FallbackKind.VALUE, AWAY, value=b'{"list": []}')
    other = FallbackPlan(FallbackKind.MODEL, AWAY, model=CHEAPER)
    another = FallbackPlan(FallbackKind.TOOL, AWAY, tool=tool("backup", idempotent=False, cost_nanousd=1))
    nodes = [
        node("first", output_keys=("l",)),
        node("read", NodeKind.TOOL, output_keys=("list",), cost_nanousd=3, retry=RETRY, fallbacks=(nothing,)),
        llm("say", output_keys=("l",), model=MODEL, retry=RETRY, fallbacks=(other,)),
        node(
            "send", NodeKind.TOOL, output_keys=("k",), idempotent=False, cost_nanousd=2, fallbacks=(another,)
        ),
    ]
    edges = [edge(one.id, two.id, "always") for one, two in pairwise(nodes)]
    return graph(nodes, [*edges, edge("send", "first", "conditional", "not k")], "rounds", max_steps=64)


ROUNDS = _rounds()


def _network(clock: SimulatedClock, chance: Random) -> Network:
    network = Network(clock, chance)
    network.timeout_us, network.late_us = 2_000_000, 3_000_000
    return network


def _with_steps(choose: Chooser, name: str, max_steps: int) -> CompiledGraph:
    """A random graph that gives work: it, and each of its bodies, has steps of its own."""
    while True:
        graph = random_graph(choose, name=name, max_steps=max_steps, most_nodes=MOST_NODES)
        if _gives_work(graph):
            return graph


def _gives_work(graph: CompiledGraph) -> bool:
    busy = sum(node.kind not in _WITHOUT_STEPS for node in graph.nodes)
    begins = graph.nodes[graph.entry].kind is not NodeKind.HUMAN_INPUT
    return begins and 2 * busy >= len(graph.nodes) and all(map(_gives_work, graph.subgraphs))


_WITHOUT_STEPS = (NodeKind.HUMAN_INPUT, NodeKind.MAP, NodeKind.SUBGRAPH)
