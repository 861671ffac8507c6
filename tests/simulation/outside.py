"""The world that steps touch: effects as they really took place, and bills as they were really written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from random import Random
from typing import NamedTuple, TypeVar

import msgspec

from hive_ray.core.artifacts import Artifact
from hive_ray.core.failures import FailureKind
from hive_ray.core.fleet import AttemptRef, StepRef
from hive_ray.core.keys import NO_KEY, conversation_key
from hive_ray.core.messages import Lease, Outcome, StepContent, StepKind, Usage, encode
from hive_ray.core.steps import UNSEEN_END
from hive_ray.core.values import Value, decode, stored
from hive_ray.graph.compiled import CompiledGraph, NodePlan
from hive_ray.state.blobs import BlobRef
from hive_ray.testing import Performance, ScriptedWorker
from tests.core.random_graphs import TOOLS, produced, writes
from tests.simulation.ledger import Ledger

T = TypeVar("T")
FAILURES = tuple(FailureKind)
IDEMPOTENT_TOOLS = {tool.name: tool.idempotent for tool in TOOLS}
UNSEEN = frozenset(str(kind) for kind in UNSEEN_END)


class Chooser:
    """Seeded chance, in the words of ``random_graphs.Choices``."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance

    def flag(self) -> bool:
        return self.chance.random() < 0.5

    def number(self, low: int, high: int) -> int:
        return low + int(self.chance.random() * (high - low + 1))

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.chance.random() * len(options))]


Keep = Callable[[str, bytes, bytes], BlobRef | None]
"""Takes a run, bytes and the key that they are sealed with; None: the key is erased."""


def _keep_nothing(run: str, data: bytes, key: bytes) -> BlobRef | None:
    return None


class Bill(NamedTuple):
    """What an attempt really cost, and whether its worker saw the end of it."""

    cost_nanousd: int
    seen: bool


class Outside:
    """Performs steps, and remembers what happened whether or not anybody was told."""

    def __init__(self, chance: Random, ledger: Ledger) -> None:
        self.chance = chance
        self.ledger = ledger
        self.graphs: dict[str, CompiledGraph] = {}
        self.failure_rate = 0.1
        self.slow_rate = 0.02
        self.effects: dict[StepRef, list[AttemptRef]] = {}
        """Calls to the attempts whose effect took place."""
        self.under_way: dict[StepRef, dict[tuple[str, int], None]] = {}
        """Calls to (worker, attempt) that may still take effect."""
        self.bills: dict[AttemptRef, Bill] = {}
        """By the last outcome that a worker knew of."""
        self.acknowledged_outcomes: dict[AttemptRef, bool] = {}
        """Attempts whose outcome was taken over; whether its end was seen."""
        self.performed = 0
        self.keep: Keep = _keep_nothing
        """Writes a blob of a run."""

    def add_graph(self, graph: CompiledGraph) -> None:
        self.graphs[graph.version] = graph
        for body in graph.subgraphs:
            self.add_graph(body)

    # --- what a scripted worker asks

    def perform(self, worker: ScriptedWorker, lease: Lease) -> Performance:
        """Decide how an attempt goes: how long it takes, whether it fails, what it costs."""
        self.performed += 1
        self.under_way.setdefault(lease.key[:3], {})[(worker.info.worker, lease.attempt)] = None
        chance = self.chance.random()
        took_us = 300 + int(chance * 5_000)
        if chance < self.slow_rate:
            took_us = int(self.chance.random() * 90_000_000)
        if self.chance.random() < self.failure_rate:
            return self._failing(lease, took_us)
        return Performance(took_us // 2, took_us, (self._success(lease),))

    def _success(self, lease: Lease) -> Outcome:
        b = int(self.chance.random() * 64)
        given = self._enlarged(lease, produced(self.graphs[lease.graph], lease, b), b)
        usage = Usage(2, 1) if lease.kind is StepKind.LLM else None
        outcome = self._outcome(lease, "", given, usage)
        if b % 8 == 1:
            brought = writes(lease, int(self.chance.random() * 64))
            outcome = msgspec.structs.replace(outcome, memory=brought)
        return outcome

    def _enlarged(self, lease: Lease, given: StepContent, b: int) -> StepContent:
        """Now and then a step makes a file, or what it hands back is too large to lie in a segment."""
        match b % 16:
            case 3:
                made = self._artifact(lease, b)
                return msgspec.structs.replace(given, artifacts=(made,) if made is not None else ())
            case 5 | 9 if "list" in given.outputs:
                large = self._as_blob(lease, given.outputs["list"], lease.content_key)
                return msgspec.structs.replace(given, outputs=given.outputs | {"list": large})
            case 7 if given.delta is not None:
                key = conversation_key(lease.content_key) if lease.content_key else NO_KEY
                return msgspec.structs.replace(given, delta=self._as_blob(lease, given.delta, key))
            case _:
                return given

    def _artifact(self, lease: Lease, b: int) -> Artifact | None:
        data = b"file %d of %s" % (b, lease.run.encode())
        ref = self.keep(lease.run, data, lease.content_key)
        if ref is None:
            return None
        node = self.graphs[lease.graph].nodes[lease.node].id
        return Artifact(f"a{b % 2}", "text/plain", len(data), sha256(data).hexdigest(), ref.name, node)

    def _as_blob(self, lease: Lease, value: Value, key: bytes) -> Value:
        ref = self.keep(lease.run, value.data, key)
        return stored(decode(value), ref.name, ref.size) if ref is not None else value

    def _outcome(
        self, lease: Lease, failure: str, given: StepContent, usage: Usage | None = None, started: bool = True
    ) -> Outcome:
        reserved = self.ledger.reserved(lease.key)
        cost = int(self.chance.random() * (reserved + 1)) if started and reserved else 0
        key = lease.key
        return Outcome(*key, failure, encode(given), 10, lease.name, usage, cost, 0, started)

    def _failing(self, lease: Lease, took_us: int) -> Performance:
        """A step that fails: before its effect, after it, or by going on behind its timeout."""
        kind = FAILURES[int(self.chance.random() * len(FAILURES))]
        way = self.chance.random()
        message = StepContent(message="it broke")
        if kind is FailureKind.TIMEOUT:
            timed_out = self._outcome(lease, kind, message)
            late_us = took_us + 1 + int(self.chance.random() * 30_000_000)
            effect_us = int(self.chance.random() * late_us)
            return Performance(effect_us, took_us, (timed_out, self._success(lease)), late_us)
        if way < 0.3:
            refused = self._outcome(lease, kind, message, started=False)
            return Performance(-1, took_us, (refused,))
        return Performance(took_us // 2, took_us, (self._outcome(lease, kind, message),))

    def take_effect(self, worker: ScriptedWorker, lease: Lease) -> None:
        """Something happens in the world; work that must not be repeated happens once."""
        step = lease.key[:3]
        done = self.effects.setdefault(step, [])
        assert not done or self.is_idempotent(lease), f"{lease.name} of {step} took effect twice: {done}"
        done.append(lease.key)

    def is_idempotent(self, lease: Lease) -> bool:
        """As declared in the graph; read here without the core."""
        node = self.graphs[lease.graph].nodes[lease.node]
        if lease.kind in (StepKind.LLM, StepKind.DECIDE, StepKind.COLLECT):
            return True
        return IDEMPOTENT_TOOLS[lease.name] if _is_tool_of_loop(node, lease) else node.idempotent

    def over(self, worker: ScriptedWorker, lease: Lease) -> None:
        """Nothing of an attempt goes on any more."""
        self.under_way[lease.key[:3]].pop((worker.info.worker, lease.attempt), None)

    def worker_died(self, worker: ScriptedWorker) -> None:
        for going_on in self.under_way.values():
            for key in [key for key in going_on if key[0] == worker.info.worker]:
                del going_on[key]

    def withdrawn(self, lease: Lease) -> Outcome:
        return self._outcome(lease, FailureKind.CANCELLED, StepContent(message="stopped"), started=False)

    def reported(self, outcome: Outcome) -> None:
        """A worker knows how an attempt ended: this is what it really cost."""
        seen = not (outcome.started and outcome.failure in UNSEEN)
        if seen or outcome.key not in self.bills:
            self.bills[outcome.key] = Bill(outcome.cost_nanousd, seen)

    def acknowledged(self, outcome: Outcome) -> None:
        seen = not (outcome.started and outcome.failure in UNSEEN)
        self.acknowledged_outcomes[outcome.key] = seen or self.acknowledged_outcomes.get(outcome.key, False)


def _is_tool_of_loop(node: NodePlan, lease: Lease) -> bool:
    return bool(node.model) and lease.name in IDEMPOTENT_TOOLS and lease.kind is StepKind.TOOL
