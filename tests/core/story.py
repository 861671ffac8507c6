"""A controller's core with workers and a clock, told what happens line by line."""

from __future__ import annotations

from typing import Any

import msgspec

from hive_ray.control import buckets
from hive_ray.core import features, forking
from hive_ray.core.commands import (
    ApplyPlan,
    Cancel,
    Command,
    Fork,
    Moment,
    RaiseLevel,
    Refused,
    Resolve,
    Signal,
    Submit,
)
from hive_ray.core.engine import Engine
from hive_ray.core.events import EVENTS, Draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import (
    Lease,
    Outcome,
    StepContent,
    ToolCall,
    Usage,
    WorkerInfo,
    decode_outcome_content,
    encode,
)
from hive_ray.core.plan import ControlPlan, encode_plan
from hive_ray.core.run import Run, Wait, encode_run
from hive_ray.core.values import Value, decode, inline
from hive_ray.graph.compiled import CompiledGraph
from tests.core import invariants
from tests.core.graphs import Facts
from tests.core.observer import Observer

POOLS = ("function", "llm")
START_US = 1_000_000_000


def values(**outputs: Any) -> dict[str, Value]:
    return {key: inline(value) for key, value in outputs.items()}


def content(**outputs: Any) -> StepContent:
    """Outputs, with a fact for each."""
    return StepContent(outputs=values(**outputs), facts=outputs)


class Record(msgspec.Struct):
    """One event as it stands in the journal."""

    seq: int
    at_us: int
    kind: str
    body: bytes
    content: bytes


class Story:
    """One engine; after every command the invariants are checked."""

    def __init__(self, *graphs: CompiledGraph, slots: int = 16) -> None:
        self.engine = Engine(Facts(), buckets.take)
        self.engine.sink = self._record
        self.observer = Observer(self.engine)
        self.graphs = graphs
        for graph in graphs:
            self.engine.add_graph(graph)
        self.journal: list[Record] = []
        self.now_us = START_US
        self.chance = 0.5
        for pool in POOLS:
            self.attach(f"{pool}-1", pool, slots)

    def _record(self, seq: int, drafted: Draft) -> None:
        event = drafted.event
        self.journal.append(
            Record(
                seq, self.now_us, type(event).__name__, msgspec.msgpack.encode(event), encode(drafted.decoded)
            )
        )
        self.observer.note(event)

    @property
    def now(self) -> Moment:
        return Moment(self.now_us, self.chance, self.now_us, self.engine.force.plan.approvals.asks)

    def attach(self, name: str, pool: str = "function", slots: int = 16) -> None:
        self.engine.attach(WorkerInfo(name, pool, slots, "host", "boot", hash(name) % 1000, 1), self.now)
        self.check()

    def check(self) -> None:
        invariants.check(self.engine)

    # --- commands

    def plan(self, **parts: Any) -> None:
        """What the configuration says about control from here on."""
        self.engine.command(RaiseLevel(features.LATEST), self.now)
        data = encode_plan(ControlPlan(**parts))
        answer = self.engine.command(ApplyPlan(data, str(hash(data))), self.now)
        assert not isinstance(answer, Refused), answer
        self.check()

    def steer(self, command: Command) -> Refused | None:
        """A command about no run; what it was refused for, if it was."""
        answer = self.engine.command(command, self.now)
        self.check()
        return answer if isinstance(answer, Refused) else None

    def submit(
        self,
        graph: CompiledGraph | None = None,
        run: str = "r",
        team: str = "team",
        agent: str = "agent",
        **fields: Any,
    ) -> Run:
        given = content(**fields.pop("input", {}))
        command = Submit(run, "q", team, agent, (graph or self.graphs[0]).version, given, **fields)
        answer = self.engine.submit(command, self.now)
        self.check()
        assert isinstance(answer, Run), answer
        return answer

    def tell(self, command: Command) -> Run | Refused:
        answer = self.engine.command(command, self.now)
        self.check()
        assert isinstance(answer, Run | Refused)
        return answer

    def wait(self, run: str = "r") -> tuple[str, Wait]:
        """The only open question of a run, with its node's id."""
        found = self.engine.runs[run]
        graph = self.engine.graphs[found.graph]
        ((node, wait),) = [(graph.nodes[v.node].id, v.wait) for v in found.visits.values() if v.wait]
        return node, wait

    def resolve(self, decision: str, run: str = "r", approval: str = "", **answer: Any) -> Run | Refused:
        message = answer.pop("message", "")
        digest = answer.pop("digest", "")
        given = StepContent(outputs=values(**answer), message=message)
        name = approval or self.wait(run)[1].approval
        return self.tell(Resolve(run, name, decision, given, digest=digest))

    def resolve_as(self, principal: str, decision: str, *roles: str, **fields: Any) -> Run | Refused:
        """The answer of somebody who is no admin."""
        given = StepContent(outputs=values(**fields.pop("answer", {})))
        run, approval = fields.pop("run", "r"), fields.pop("approval", "") or self.wait()[1].approval
        asked = Resolve(run, approval, decision, given, principal, roles=roles, as_admin=False, **fields)
        return self.tell(asked)

    def told(self, run: str = "r") -> list[forking.Told]:
        """A run's own events, as its journal has them."""
        return [told for told in self.events() if told[2].run == run]

    def fork(
        self, node: str, run: str = "r", new: str = "f", visit: int = 0, given: Any = None, **fields: Any
    ) -> Run | Refused:
        """Fork a run before a node, with some values given anew."""
        graph = self.engine.graphs[self.engine.runs[run].graph]
        return self._fork(forking.before_node(self.told(run), graph, node, visit), run, new, given, fields)

    def resume_ended(self, run: str = "r", new: str = "f", **fields: Any) -> Run | Refused:
        """Begin a run in the place of one that failed or was cancelled."""
        graph = self.engine.graphs[self.engine.runs[run].graph]
        cut = forking.before_end(self.told(run), graph)
        return self._fork(cut, run, new, None, {"resumes": True, **fields})

    def _fork(
        self, cut: forking.Cut | Refused, parent: str, new: str, given: Any, fields: dict[str, Any]
    ) -> Run | Refused:
        if isinstance(cut, Refused):
            return cut
        if fields.pop("upgraded", True):
            self.engine.command(RaiseLevel(features.LATEST), self.now)
        changed = content(**(given or {}))
        forking.change(cut.state, changed.outputs, changed.facts)
        origin = cut.origin(parent, fields.pop("resumes", False))
        carried = msgspec.structs.replace(changed, state=encode_run(cut.state))
        command = Fork(new, "q", "team", "agent", cut.state.graph, carried, origin, **fields)
        return self.tell(command)

    def signal(self, said: str, run: str = "r") -> Run | Refused:
        return self.tell(Signal(run, content(said=said)))

    def tell_cancel(self, run: str = "r") -> Run | Refused:
        return self.tell(Cancel(run, "no longer needed"))

    # --- workers

    def leases(self, worker: str = "", most: int = 1000) -> dict[str, Lease]:
        """Give out work; leases by ``node`` (``node/tool`` in agent loops, ``run/node`` in child runs)."""
        found: dict[str, Lease] = {}
        for name in [worker] if worker else list(self.engine.fleet.workers):
            for lease in self.engine.dispatch.admit(self.engine.fleet.workers[name], self.now, most):
                found[self._label(lease)] = lease
        self.check()
        return found

    def given(self, most: int = 1000) -> list[Lease]:
        """Give out work, of whatever run: all that can start now."""
        workers = list(self.engine.fleet.workers.values())
        found = [lease for one in workers for lease in self.engine.dispatch.admit(one, self.now, most)]
        self.check()
        return found

    def _label(self, lease: Lease) -> str:
        run = self.engine.runs[lease.run]
        label = self.engine.graphs[lease.graph].nodes[lease.node].id
        if run.visits[lease.serial].steps[lease.call].turn >= 0:
            label += f"/{lease.name}"
        return f"{run.item}:{label}" if run.parent else label

    def lease(self, label: str) -> Lease:
        """Give out work, of which there is exactly this."""
        leases = self.leases()
        assert list(leases) == [label], f"expected {label}, got {list(leases)}"
        return leases[label]

    def report(self, lease: Lease, given: StepContent, failure: str = "", **fields: Any) -> None:
        outcome = Outcome(*lease.key, failure, encode(given), name=lease.name, **fields)
        self.engine.report(outcome, self.now)
        self.check()

    def succeed(self, lease: Lease, cost_nanousd: int = 0, **outputs: Any) -> None:
        graph = self.engine.graphs[lease.graph]
        if not outputs:
            outputs = {key: f"{key}!" for key in graph.nodes[lease.node].output_keys}
        self.report(lease, content(**outputs), cost_nanousd=cost_nanousd)

    def fail(self, lease: Lease, kind: FailureKind = FailureKind.BAD_INPUT, **fields: Any) -> None:
        self.report(lease, StepContent(message="it broke"), kind, **fields)

    def run_to_end(self, *labels: str) -> None:
        """Succeed one step after the other, each of them the only one that is ready."""
        for label in labels:
            self.succeed(self.lease(label))

    def turn(self, lease: Lease, *calls: str, question: str = "", tokens: int = 0, **outputs: Any) -> None:
        """An agent's LLM call ended: tool calls, a question to the client, outputs set."""
        asked = tuple(ToolCall(f"c{n}", name, values(n=n)) for n, name in enumerate(calls))
        given = StepContent(
            outputs=values(**outputs),
            facts=outputs,
            delta=inline({"text": "", "calls": []}),
            calls=asked,
            question=inline(question) if question else None,
            answers=len(calls),
        )
        self.report(lease, given, usage=Usage(tokens, 0) if tokens else None)

    def lose(self, worker: str) -> None:
        self.engine.lose_worker(worker, "killed", self.now)
        self.check()

    # --- time

    def pass_time(self, us: int) -> None:
        """Time passes: backoffs end and deadlines fire."""
        self.now_us += us
        for run in list(self.engine.runs.values()):
            for visit in list(run.visits.values()):
                for step in list(visit.steps.values()):
                    self.engine.fire_backoff(run.id, visit.serial, step.call, self.now)
            self.engine.fire_deadlines(run.id, self.now)
            self.check()

    # --- looking

    def kinds(self, run: str = "r") -> list[str]:
        """Names of the run's events, in order."""
        return [type(event).__name__ for _, _, event, _ in self.events() if event.run == run]

    def events(self) -> list[tuple[int, int, Any, StepContent]]:
        return [
            (
                r.seq,
                r.at_us,
                msgspec.msgpack.decode(r.body, type=EVENTS[r.kind]),
                decode_outcome_content(r.content),
            )
            for r in self.journal
        ]

    def memory(self, run: str = "r") -> dict[str, Any]:
        return {key: decode(value) for key, value in self.engine.runs[run].memory.items()}

    def replayed(self) -> Engine:
        """A new engine that has read the whole journal."""
        engine = Engine(Facts(), buckets.take)
        for graph in self.graphs:
            engine.add_graph(graph)
        for event in self.events():
            engine.replay(*event)
        engine.restored()
        return engine
