"""The core put together: commands in, events out, the state kept.

A command is decided in phases (the step, its node's edges, the joins, the run's end, its parent). Each
phase is a pure function of the state; its events are applied before the next phase looks. All events of
one command belong in one journal segment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hive_ray.core import (
    admission,
    agent_loop,
    bounds,
    children,
    corrections,
    evolution,
    features,
    fleet,
    forking,
    indexing,
    keeping,
    lifecycle,
    longterm,
    people,
    remembering,
    routing,
    sealing,
    steps,
)
from hive_ray.core import events as ev
from hive_ray.core import run as runs
from hive_ray.core.commands import (
    Cancel,
    Command,
    Complete,
    CorrectCost,
    DeleteMemory,
    Forget,
    Fork,
    Moment,
    Pause,
    PutMemory,
    RaiseLevel,
    Refused,
    Register,
    Resolve,
    Resume,
    Signal,
    Submit,
)
from hive_ray.core.events import NOTHING, Draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import (
    Lease,
    MemoryGiven,
    Outcome,
    StepContent,
    StepKind,
    WorkerInfo,
    decode_outcome_content,
)
from hive_ray.core.parked import Parked, ParkedRuns
from hive_ray.core.run import Run, Step, StepStatus, Visit
from hive_ray.graph.compiled import CompiledGraph, NodeKind, NodePlan

Stands = Run | fleet.Agent | fleet.Fleet | longterm.Entry | longterm.Shelf
"""What a command is about, as it stands afterwards."""

SCAN_LIMIT = 64
"""Stale or waiting queue entries looked at before an exchange gives up for this time."""


class Engine:
    """Runs, fleet and graphs of one partition, and the only code that changes them.

    Args:
        evaluator: evaluates the graphs' conditions.
    """

    def __init__(self, evaluator: routing.Evaluator) -> None:
        self.seq = 0
        self.runs: dict[str, Run] = {}
        self.parked = ParkedRuns()
        """Runs that are known and not in memory: whoever needs one has it loaded first."""
        self.children: dict[str, dict[str, None]] = {}
        """Live child runs by parent."""
        self.in_memory: dict[str, int] = {}
        """Child runs in memory, ended ones too, by parent: what moves them moves it, so it stays."""
        self.compacted = 0
        """Number of the newest segment whose events the history holds; see ``Run.segments``."""
        self.charged: dict[str, None] = {}
        """Runs that changed only by what their children cost; whoever takes snapshots empties it."""
        self.successors: dict[str, str] = {}
        """Ended runs to the run that was resumed in their place."""
        self._unborn: deque[Run] = deque()
        """Child runs that were submitted and have not begun."""
        self._untold: deque[Run] = deque()
        """Child runs that ended and whose parent has not been told."""
        self._settling = False
        self.fleet = fleet.Fleet()
        self.keeping = keeping.Keeping()
        self.graphs: dict[str, CompiledGraph] = {}
        self._evaluator = evaluator
        self.sink: Callable[[int, Draft], None] = _nowhere
        """Receives each event with its sequence number, in order, right after it was applied."""

    # --- applying events -------------------------------------------------------------------------

    def _record(self, drafts: list[Draft], now: Moment) -> None:
        """Apply what was decided, in order, and hand it to the sink."""
        at_us = now.wall_us
        for drafted in drafts:
            self.seq = seq = self.seq + 1
            event = drafted.event
            if event.run:
                self._evolve_indexed(event, drafted.decoded, at_us, seq)
            else:
                self._evolve_shared(event, drafted.decoded, at_us, seq)
            self.sink(seq, drafted)

    def _evolve_shared(self, event: ev.Event, content: StepContent, at_us: int, seq: int) -> None:
        """Apply an event of no run, unless a snapshot already shows it."""
        if isinstance(event, ev.MemoryWritten | ev.MemoryDeleted):
            self.keeping.shelves.apply(event, content, at_us, seq)
        elif seq > self.fleet.seq:
            fleet.evolve(self.fleet, event, at_us)
            self.fleet.seq = seq

    def _evolve_indexed(self, event: ev.Event, content: StepContent, at_us: int, seq: int) -> None:
        """Apply an event of a run, and keep queues, leases and live children in step with it."""
        kind = event.__class__
        run = self.runs.get(event.run)
        before = indexing.BEFORE.get(kind)
        if before is not None and run is not None:
            before(self.fleet, run, event)
        if run is None or run.parent:
            run = self._evolve(event, content, at_us, seq)
        else:
            # The common case of ``_evolve``, without its calls: this is the hot path.
            evolution.EVOLVE[kind](run, event, content, at_us)
            run.seq = run.told = seq
        after = indexing.AFTER.get(kind)
        if after is not None:
            after(self.fleet, run, event)
        if run.parent:
            self._note_child(run, event)

    def _evolve(self, event: ev.Event, content: StepContent, at_us: int, seq: int) -> Run:
        """Apply an event to its run and, where it moves money or waits for people, to the run's ancestors."""
        begin = evolution.BEGIN.get(type(event))
        if begin is not None:
            run = begin(event, content, at_us)
            self._take_in(run)
            run.seq = run.told = seq
            return run
        run = self.runs[event.run]
        if not run.parent:
            evolution.evolve(run, event, content, at_us)
            run.seq = run.told = seq
            return run
        before = runs.standing(run)
        evolution.evolve(run, event, content, at_us)
        run.seq = run.told = seq
        change = runs.since(run, before)
        made = event if content.artifacts and isinstance(event, ev.StepSucceeded) else None
        if change != runs.NO_CHANGE or made is not None:
            self._change_ancestors(run, change, at_us, seq, made, content)
        return run

    def _change_ancestors(
        self,
        run: Run,
        change: runs.Change,
        at_us: int,
        seq: int,
        made: ev.StepSucceeded | None,
        content: StepContent,
    ) -> None:
        """A child's money and waits are its ancestors' too, and its artifacts its root's.

        An ancestor that was restored at a later seq has counted them.
        """
        while run.parent:
            run = self.runs[run.parent]
            if run.seq < seq:
                evolution.change(run, change, at_us)
                if made is not None and not run.parent:
                    evolution.keep_artifacts(run, made, content, at_us)
                run.seq = seq
                self.charged[run.id] = None

    def _note_child(self, run: Run, event: ev.Event) -> None:
        if isinstance(event, ev.RunSubmitted):
            self.children.setdefault(run.parent, {})[run.id] = None
        elif run.terminal and run.parent in self.children:
            siblings = self.children[run.parent]
            siblings.pop(run.id, None)
            if not siblings:
                del self.children[run.parent]

    def replay(self, seq: int, at_us: int, event: ev.Event, content: StepContent) -> None:
        """Apply an event read from the journal, unless a snapshot already shows it.

        The index is left alone: what is restored may be newer in one place than in another.
        """
        self.seq = max(self.seq, seq)
        # The snapshot that was read does not show it; the empty name is the fleet.
        self.charged[event.run] = None
        if not event.run:
            self._evolve_shared(event, content, at_us, seq)
            return
        run = self.runs.get(event.run)
        if run is None or seq > run.seq:
            self._evolve(event, content, at_us, seq)

    def restored(self) -> None:
        """After snapshot and replay: make the index from the runs alone."""
        fleet.rebuild(self.fleet, self.runs.values(), self.parked)
        self.successors = {row.origin: run_id for run_id, row in self.parked.items() if row.resumes}
        for run in self.runs.values():
            self._note_successor(run)
        self.children = {}
        self.in_memory = {}
        for run in self.runs.values():
            self._count_child(run, 1)
            if run.parent and not run.terminal:
                self.children.setdefault(run.parent, {})[run.id] = None

    def _note_successor(self, run: Run) -> None:
        if run.origin is not None and run.origin.resumes:
            self.successors[run.origin.run] = run.id

    # --- parking ---------------------------------------------------------------------------------

    def park(self, run_id: str, row: Parked) -> None:
        """Keep of a run its row only; a snapshot shows all of it."""
        self._count_child(self.runs.pop(run_id), -1)
        self.parked[run_id] = row

    def unpark(self, run: Run) -> None:
        """A run is loaded again, or comes back out of the history."""
        self.parked.pop(run.id, None)
        self._take_in(run)

    def leave(self, run_id: str) -> None:
        """The history has an ended run: nothing of it stays here."""
        self.parked.pop(run_id, None)
        run = self.runs.pop(run_id, None)
        if run is not None:
            self._count_child(run, -1)

    def _take_in(self, run: Run) -> None:
        if run.id not in self.runs:
            self._count_child(run, 1)
        self.runs[run.id] = run

    def _count_child(self, run: Run, change: int) -> None:
        if not run.parent:
            return
        count = self.in_memory.get(run.parent, 0) + change
        if count:
            self.in_memory[run.parent] = count
        else:
            del self.in_memory[run.parent]

    def family_order(self, names: Iterable[str]) -> list[str]:
        """Runs with all their ancestors, children first; the fleet (the empty name) stays.

        A snapshot taken run by run in this order never shows a child's cost that its parent lacks.
        """
        found: dict[str, int] = {}
        for name in names:
            while name not in found:
                run = self.runs.get(name)
                found[name] = run.depth if run is not None else 0
                if run is None or not run.parent:
                    break
                name = run.parent
        return sorted(found, key=lambda name: -found[name])

    # --- runs ------------------------------------------------------------------------------------

    def add_graph(self, graph: CompiledGraph) -> None:
        """Make a graph and its subgraphs known by hash."""
        self.graphs[graph.version] = graph
        for body in graph.subgraphs:
            self.add_graph(body)

    def accepted(self, command: Submit | Fork) -> bool:
        """Whether this very submission (its run id or its key) was accepted before."""
        if isinstance(command, Fork) and command.origin.resumes and command.origin.run in self.successors:
            return True
        key = f"{command.team}/{command.idempotency_key}"
        known = command.run in self.runs or command.run in self.parked
        return known or (bool(command.idempotency_key) and key in self.fleet.submissions)

    def submit(self, command: Submit, now: Moment) -> Run | Refused:
        """Begin a run, or answer with the run that the same idempotency key began."""
        known = self._known(command)
        if known is not None:
            return known
        key = sealing.key_for(command, self.fleet.feature_level)
        if isinstance(key, Refused):
            return key
        self._record([lifecycle.submit(command, self.graphs[command.graph], key, now)], now)
        run = self.runs[command.run]
        self._begin(run, now)
        return run

    def _known(self, command: Submit | Fork) -> Run | Refused | None:
        """The run that the same command, or another one under the same key, has begun."""
        if command.idempotency_key:
            known = self.fleet.submissions.get(f"{command.team}/{command.idempotency_key}")
            digests = (command.digest, command.plain_digest or command.digest)
            if known is not None and known.digest not in digests:
                return Refused(
                    "mismatch",
                    f"Idempotency-Key {command.idempotency_key} belongs to run {known.run}, another body",
                )
            if known is not None:
                return self.runs.get(known.run) or _no_longer_known(command.idempotency_key, known.run)
        return self.runs.get(command.run)

    def _begin(self, run: Run, now: Moment) -> None:
        """Enter the first node, or go on from where a fork was cut."""
        graph = self.graphs[run.graph]
        if not run.serial:
            self._enter(run, graph, routing.enter_first(run, graph), now)
        else:
            for visit in list(run.visits.values()):
                if not visit.deciding:
                    self._open_visit(run, graph, visit, now)
        self._advance(run, now)

    def fork(self, command: Fork, now: Moment) -> Run | Refused:
        """Begin a run with the state of another; one that is resumed has one successor."""
        refused = features.needs(forking.FEATURE_LEVEL, self.fleet.feature_level, "forking a run")
        if refused is not None:
            return refused
        known = self._known(command)
        if known is not None:
            return known
        successor = self.successors.get(command.origin.run) if command.origin.resumes else None
        if successor is not None:
            return self.runs[successor]
        key = sealing.key_for(command, self.fleet.feature_level)
        if isinstance(key, Refused):
            return key
        decided = forking.fork(command, self.graphs[command.graph], key, now)
        if isinstance(decided, Refused):
            return decided
        self._record(decided, now)
        run = self.runs[command.run]
        self._note_successor(run)
        self._begin(run, now)
        return run

    def cancel(self, command: Cancel, now: Moment) -> Run | Refused:
        level = self.fleet.feature_level
        return self._on_run(command.run, lambda run: lifecycle.cancel(run, command, level), now)

    def pause(self, command: Pause, now: Moment) -> Run | Refused:
        level = self.fleet.feature_level
        answer = self._on_run(command.run, lambda run: lifecycle.pause(run, command, level), now)
        for child in self._live_children(command.run):
            self.pause(Pause(child, command.reason, command.principal), now)
        return answer

    def forget(self, command: Forget, now: Moment) -> Run | Refused:
        """Give up a run's content; its keys are erased once a snapshot shows it."""
        run = self.runs.get(command.run)
        if run is None:
            return _no_run(command.run)
        family = [one for one in self.runs.values() if one.parent and self._payer(one) is run]
        names = {run.id, *(one.id for one in family)}
        forks = [one for one in self.runs.values() if one.origin is not None and one.origin.run in names]
        decided = lifecycle.forget(run, family, forks, command)
        if isinstance(decided, Refused):
            return decided
        self._record(decided, now)
        return run

    def resume(self, command: Resume, now: Moment) -> Run | Refused:
        """End an operator's pause and every wait at a pause node."""
        answer = self._on_run(command.run, lambda run: lifecycle.resume(run, command), now)
        for child in self._live_children(command.run):
            self.resume(Resume(child, command.principal), now)
        if isinstance(answer, Run):
            for visit in list(answer.visits.values()):
                if visit.wait is not None and visit.wait.reason == "pause":
                    approval = visit.wait.approval
                    self.resolve(Resolve(answer.id, approval, "resume", NOTHING, command.principal), now)
        return answer

    def _live_children(self, run_id: str) -> list[str]:
        return list(self.children.get(run_id, ()))

    def resolve(self, command: Resolve, now: Moment) -> Run | Refused:
        """A person's answer to an approval; the same answer again gets the first result."""
        run = self.runs.get(command.run)
        if run is None:
            return _no_run(command.run)
        earlier = run.answers.get(command.approval)
        if earlier is not None:
            if earlier in runs.answer_digests(command.decision, command.digest, command.plain_digest):
                return run
            return Refused(
                "conflict", f"approval {command.approval} is already resolved: {earlier.split(':')[0]}"
            )
        graph = self.graphs[run.graph]
        found = people.find_wait(run, command.approval)
        decided = people.resolve(run, graph, command, now)
        if isinstance(decided, Refused):
            return decided
        self._record(decided, now)
        if found is not None and found[1].reason == "pause":
            self._open_children(run, graph, found[0], now)
        self._advance(run, now)
        return run

    def signal(self, command: Signal, now: Moment) -> Run | Refused:
        return self._by_client(command, "answer", now)

    def complete(self, command: Complete, now: Moment) -> Run | Refused:
        return self._by_client(command, "complete", now)

    def _by_client(self, command: Signal | Complete, decision: str, now: Moment) -> Run | Refused:
        run = self.runs.get(command.run)
        if run is None:
            return _no_run(command.run)
        approval = people.client_wait(run, self.graphs[run.graph], command.node)
        if isinstance(approval, Refused):
            return approval
        return self.resolve(Resolve(run.id, approval, decision, command.content, command.principal), now)

    def correct_cost(self, command: CorrectCost, now: Moment) -> Run | Refused:
        """Of a run that has ended too: nothing follows from it but the sum."""
        run = self.runs.get(command.run)
        if run is None:
            return _no_run(command.run)
        decided = corrections.correct(run, command, self._ancestors(run))
        if isinstance(decided, Refused):
            return decided
        self._record(decided, now)
        return run

    def _ancestors(self, run: Run) -> Iterator[Run]:
        while run.parent:
            run = self.runs[run.parent]
            yield run

    def _on_run(
        self, run_id: str, decide: Callable[[Run], list[Draft] | Refused], now: Moment
    ) -> Run | Refused:
        run = self.runs.get(run_id)
        if run is None:
            return _no_run(run_id)
        decided = decide(run)
        if isinstance(decided, Refused):
            return decided
        self._record(decided, now)
        self._advance(run, now)
        return run

    def register(self, command: Register, now: Moment) -> fleet.Agent:
        event = ev.AgentRegistered("", command.name, command.team, command.graph, command.principal)
        self._record([Draft(event)], now)
        return self.fleet.agents[f"{command.team}/{command.name}"]

    def raise_level(self, command: RaiseLevel, now: Moment) -> fleet.Fleet | Refused:
        """Raising to the level that is there already changes nothing."""
        present = self.fleet.feature_level
        if not present <= command.level <= features.LATEST:
            wanted = f"a level from {present} to {features.LATEST} would be right"
            return Refused(
                "invalid", f"the state's feature level is {present}, not {command.level}: {wanted}"
            )
        if command.level != present:
            self._record([Draft(ev.FeatureLevelRaised("", command.level, command.principal))], now)
        return self.fleet

    # --- long-term memory ------------------------------------------------------------------------

    def find_shelf(self, scope: str, owner: str) -> longterm.Shelf | Refused | None:
        """The shelf of an owner, if anything was ever on it; an unknown run is refused."""
        root = self.runs.get(owner) if scope == "run" else None
        if scope == "run" and (root is None or root.parent):
            return _no_run(owner)
        return self.keeping.find(scope, owner, root)

    def put_memory(self, command: PutMemory, now: Moment) -> longterm.Entry | Refused:
        """Write a value; the same request again gets the first result."""
        refused = self._change_memory(command, remembering.put, now)
        if refused is not None:
            return refused
        written = self.find_shelf(command.scope, command.owner)
        assert isinstance(written, longterm.Shelf)
        return written.entries[command.key]

    def delete_memory(self, command: DeleteMemory, now: Moment) -> longterm.Shelf | Refused:
        """Delete a key; one that is absent is no fault."""
        refused = self._change_memory(command, remembering.delete, now)
        if refused is not None:
            return refused
        shelf = self.find_shelf(command.scope, command.owner)
        return shelf if isinstance(shelf, longterm.Shelf) else longterm.Shelf(command.scope, command.owner)

    def _change_memory(
        self, command: PutMemory | DeleteMemory, decide: remembering.Decide, now: Moment
    ) -> Refused | None:
        shelf = self.find_shelf(command.scope, command.owner)
        root = self.runs.get(command.owner) if command.scope == "run" else None
        refused = keeping.unwritable(root, self.fleet.feature_level)
        if isinstance(shelf, Refused) or refused is not None:
            return shelf if isinstance(shelf, Refused) else refused
        decided = decide(command, shelf, self.keeping.memory)
        if isinstance(decided, Refused):
            return decided
        self._record(decided, now)
        return None

    def command(self, command: Command, now: Moment) -> Stands | Refused:
        """Decide any command."""
        return _HANDLERS[type(command)](self, command, now)

    # --- timers ----------------------------------------------------------------------------------

    def fire_backoff(self, run_id: str, serial: int, call: int, now: Moment) -> None:
        run = self.runs.get(run_id)
        visit = run.visits.get(serial) if run is not None else None
        step = visit.steps.get(call) if visit is not None else None
        if run is not None and step is not None and step.status is StepStatus.BACKOFF:
            self._record([Draft(ev.TimerFired(run_id, serial, call))], now)

    def fire_deadlines(self, run_id: str, now: Moment) -> None:
        """End what is overdue in a run: its waits, then the run itself."""
        run = self.runs.get(run_id)
        if run is None or run.terminal:
            return
        graph = self.graphs[run.graph]
        for visit in list(run.visits.values()):
            wait = visit.wait
            if wait is not None and wait.deadline_us <= now.wall_us and not run.terminal:
                self._record(people.expire(run, graph, visit, wait), now)
                self._advance(run, now)
        if not run.terminal and not run.waits and run.deadline_us <= now.wall_us and not run.parent:
            self._record(lifecycle.out_of_time(run, graph), now)
            self._advance(run, now)

    # --- workers ---------------------------------------------------------------------------------

    def attach(self, info: WorkerInfo, now: Moment) -> None:
        known = self.fleet.workers.get(info.worker)
        if known is not None and known.pid == info.pid and known.slots == info.slots:
            return
        event = ev.WorkerAttached(
            "",
            info.worker,
            info.pool,
            info.slots,
            info.host,
            info.boot_id,
            info.pid,
            info.process_start,
            info.node,
        )
        self._record([Draft(event)], now)

    def lose_worker(self, name: str, reason: str, now: Moment) -> None:
        """A worker's process is certainly gone: each of its attempts is retried or asked about."""
        worker = self.fleet.workers.get(name)
        if worker is None:
            return
        held = list(worker.leases)
        self._record([sealing.reasoned(ev.WorkerLost("", name, reason), self.fleet.feature_level)], now)
        for run_id, serial, call, attempt in held:
            message = f"the worker {name} that ran this attempt is gone ({reason})"
            failure = FailureKind.WORKER_LOST
            content = StepContent(message=message)
            shared = len(held) > 1
            self.report(Outcome(run_id, serial, call, attempt, failure, b"", shared=shared), now, content)

    def return_lease(self, attempt: fleet.AttemptRef, now: Moment) -> None:
        """A lease that never reached its worker: the attempt did not begin."""
        run_id, serial, call, number = attempt
        self._record([Draft(ev.LeaseReturned(run_id, serial, call, number))], now)

    def is_orphan(self, attempt: fleet.AttemptRef) -> bool:
        """Whether an attempt is under way though its node or run has ended."""
        run_id, serial, call, number = attempt
        run = self.runs.get(run_id)
        return run is not None and runs.attempt_key(serial, call, number) in run.orphans

    def is_unknown(self, attempt: fleet.AttemptRef) -> bool:
        """Whether a person is being asked what became of an attempt."""
        run_id, serial, call, number = attempt
        run = self.runs.get(run_id)
        visit = run.visits.get(serial) if run is not None else None
        step = visit.steps.get(call) if visit is not None else None
        return step is not None and step.attempt == number and step.status is StepStatus.UNKNOWN

    def entry_pool(self, command: Submit) -> str:
        """The pool in which a new run would first wait; empty if it begins otherwise."""
        graph = self.graphs[command.graph]
        return routing.first_step(graph.nodes[graph.entry])[2]

    def prune(self, pool: str) -> None:
        """Take the entries of runs that ended out of a queue."""
        queue = self.fleet.queues.get(pool)
        if queue is not None:
            self.fleet.queues[pool] = type(queue)(ref for ref in queue if self._ready(ref) is not None)

    def report(self, outcome: Outcome, now: Moment, content: StepContent | None = None) -> None:
        """The end of an attempt, and everything that follows from it."""
        run = self.runs.get(outcome.run)
        if run is None:
            return
        if content is None:
            content = decode_outcome_content(outcome.content)
        if (outcome.memory or content.artifacts) and steps.is_open(run, outcome):
            root = self._payer(run)
            outcome, content = self.keeping.bounded(root, outcome, content, self.fleet.feature_level)
        drafts = steps.report(run, self.graphs[run.graph], outcome, content, now)
        if outcome.memory:
            drafts = self.keeping.remembered(self._payer(run), outcome, drafts)
        self._record(drafts, now)
        self._advance(run, now)

    def admit(self, worker: fleet.Worker, now: Moment, most: int) -> list[Lease]:
        """Lease ready steps of a worker's pool to it, as far as it has room, at most ``most``."""
        queue = self.fleet.queues.get(worker.pool)
        leases: list[Lease] = []
        if not queue:
            return leases
        waiting: list[fleet.StepRef] = []
        exhausted = False
        while (
            queue and len(leases) < most and len(waiting) < SCAN_LIMIT and fleet.has_place(self.fleet, worker)
        ):
            ref = queue.popleft()
            found = self._ready(ref)
            if found is None:
                continue
            if found[2].shared_losses and len(worker.leases) >= fleet.company(worker, found[2]):
                waiting.append(ref)
                if fleet.is_emptiest(self.fleet, worker):
                    break
                continue
            lease = self._grant(*found, worker, now)
            if isinstance(lease, Lease):
                leases.append(lease)
            elif lease is not None:
                waiting.append(ref)
            else:
                exhausted = True
        queue.extendleft(reversed(waiting))
        return self._still_wanted(leases, now) if exhausted else leases

    def _still_wanted(self, leases: list[Lease], now: Moment) -> list[Lease]:
        """Take back what was leased just before its node failed for want of money; it has not left yet."""
        wanted: list[Lease] = []
        for lease in leases:
            if self.is_orphan(lease.key):
                self.return_lease(lease.key, now)
            else:
                wanted.append(lease)
        return wanted

    def _ready(self, ref: fleet.StepRef) -> tuple[Run, Visit, Step] | None:
        run = self.runs.get(ref[0])
        if run is None or run.paused:
            return None
        visit = run.visits.get(ref[1])
        step = visit.steps.get(ref[2]) if visit is not None else None
        if visit is None or step is None or step.status is not StepStatus.READY:
            return None
        return run, visit, step

    def _grant(
        self, run: Run, visit: Visit, step: Step, worker: fleet.Worker, now: Moment
    ) -> Lease | admission.Wait | None:
        graph = self.graphs[run.graph]
        node = graph.nodes[visit.node]
        inputs = self._inputs(run, graph, visit, step)
        memory = self.keeping.given(self._payer(run), node, step, inputs)
        if isinstance(memory, remembering.Denied):
            failure = steps.fail_node(run, node, visit, memory.kind, f"node {node.id}: {memory.message}")
            self._record([failure], now)
            self._advance(run, now)
            return None
        if memory is not None and step.kind in _SHOWN_MEMORY:
            inputs = remembering.as_inputs(memory) | inputs
        payer = self._payer(run)
        answer = admission.admit(payer, admission.worst_case_nanousd(run, node, visit, step, inputs))
        if isinstance(answer, admission.Wait):
            return answer
        if isinstance(answer, admission.Exhausted):
            failure = steps.fail_node(run, node, visit, FailureKind.BUDGET_EXCEEDED, answer.message)
            self._record([failure], now)
            self._advance(run, now)
            return None
        event = ev.StepStarted(
            run.id,
            visit.serial,
            step.call,
            step.attempt,
            worker.name,
            self.fleet.epoch,
            answer.reserved_nanousd,
            bounds.checksum(inputs) if visit.loop is not None and step.kind is StepKind.LLM else 0,
        )
        self._record([Draft(event)], now)
        return self._lease(run, graph, visit, step, inputs, memory)

    def _payer(self, run: Run) -> Run:
        """The run whose budget pays: a child's costs are its root's."""
        while run.parent:
            run = self.runs[run.parent]
        return run

    def _inputs(self, run: Run, graph: CompiledGraph, visit: Visit, step: Step) -> dict[str, Any]:
        if step.turn >= 0 and visit.loop is not None:
            return visit.loop.calls[step.turn].arguments
        if step.kind is StepKind.COLLECT:
            return children.collect_inputs(visit)
        return routing.inputs_of(run, graph, visit)

    def _lease(
        self,
        run: Run,
        graph: CompiledGraph,
        visit: Visit,
        step: Step,
        inputs: dict[str, Any],
        memory: MemoryGiven | None,
    ) -> Lease:
        node = graph.nodes[visit.node]
        loop = visit.loop
        is_llm = step.kind is StepKind.LLM
        outputs = loop.outputs if loop is not None and is_llm else {}
        if step.kind is StepKind.DECIDE:
            outputs = {key: run.memory[key] for key in node.output_keys if key in run.memory}
        timeout_us = node.timeout_us
        if step.turn >= 0:
            tool = agent_loop.tool_plan(node, step.name)
            timeout_us = tool.timeout_us if tool else node.timeout_us
        return Lease(
            run.id,
            visit.serial,
            step.call,
            step.attempt,
            self.fleet.epoch,
            run.graph,
            visit.node,
            step.kind,
            timeout_us,
            inputs,
            step.name,
            tuple(loop.conversation) if loop is not None and is_llm else (),
            outputs,
            node.model.max_tokens if node.model else 0,
            run.request_id,
            run.team,
            run.agent,
            run.traceparent,
            self._prompt_limit(run, node, visit, step, inputs),
            memory,
            self.fleet.feature_level,
            run.key,
        )

    def _prompt_limit(
        self, run: Run, node: NodePlan, visit: Visit, step: Step, inputs: dict[str, Any]
    ) -> int:
        """So many bytes may go to an LLM on a budget; 0 where the reservation rests on measured tokens."""
        asks = step.kind is StepKind.LLM or step.kind is StepKind.DECIDE
        if not asks or self._payer(run).budget_nanousd < 0 or bounds.rests_on_tokens(visit, step):
            return 0
        return bounds.prompt_bytes(run, node, visit, step, inputs)

    # --- moving on -------------------------------------------------------------------------------

    def _advance(self, run: Run, now: Moment) -> None:
        """Take a run as far as it goes without another outcome, and its family with it."""
        self._walk(run, now)
        if self._unborn or self._untold:
            self._settle(now)

    def _walk(self, run: Run, now: Moment) -> None:
        graph = self.graphs[run.graph]
        while not run.terminal:
            if run.ended:
                self._record(routing.leave(run, graph, run.ended[0], self._evaluator), now)
                continue
            if run.tokens:
                entered = routing.enter(run, graph)
                if entered:
                    self._enter(run, graph, entered, now)
                    continue
            if not self._proceed_visits(run, graph, now):
                break
        if not run.terminal:
            self._record(routing.finish(run, graph), now)
        if run.id in self.children:
            self._cancel_orphaned_children(run, now)
        if run.terminal and run.parent:
            self._untold.append(run)

    def _settle(self, now: Moment) -> None:
        """Begin new children and tell the parents of ended ones.

        One after the other rather than nested: a map may have thousands of items that end at once.
        """
        if self._settling:
            return
        self._settling = True
        try:
            while self._unborn or self._untold:
                if self._untold:
                    self._tell_parent(self._untold.popleft(), now)
                else:
                    self._begin_child(self._unborn.popleft(), now)
        finally:
            self._settling = False

    def _begin_child(self, child: Run, now: Moment) -> None:
        """Unless its parent failed in the meantime; a child of a paused run is born paused."""
        if child.terminal:
            return
        parent = self.runs[child.parent]
        if parent.paused:
            paused = ev.RunPaused(child.id, parent.reason)
            self._record([sealing.reasoned(paused, self.fleet.feature_level)], now)
        self._begin(child, now)

    def _cancel_orphaned_children(self, run: Run, now: Moment) -> None:
        for child_id in self._live_children(run.id):
            child = self.runs[child_id]
            if run.terminal or child.parent_serial not in run.visits:
                self.cancel(Cancel(child_id, f"its parent {run.id} went on without it"), now)

    def _proceed_visits(self, run: Run, graph: CompiledGraph, now: Moment) -> bool:
        """Move agent loops on, and end what nothing can move; whether anything happened."""
        moved = False
        for visit in list(run.visits.values()):
            drafts = agent_loop.proceed(run, graph, visit, now) if visit.loop is not None else []
            if not drafts and not visit.steps and visit.wait is None:
                drafts = lifecycle.fail_stuck(run, graph, visit)
            if drafts:
                self._record(drafts, now)
                moved = True
        return moved

    def _enter(self, run: Run, graph: CompiledGraph, entered: list[Draft], now: Moment) -> None:
        self._record(entered, now)
        for drafted in entered:
            event = drafted.event
            if run.terminal or not isinstance(event, ev.NodeEntered):
                continue
            self._open_visit(run, graph, run.visits[event.serial], now)

    def _open_visit(self, run: Run, graph: CompiledGraph, visit: Visit, now: Moment) -> None:
        """What a visit begins with besides a step."""
        node = graph.nodes[visit.node]
        if node.kind in _PLAIN and not node.pause:
            return
        if node.kind in routing.LOOPS:
            self._record([agent_loop.begin(run, graph, visit)], now)
        self._record(people.ask(run, graph, visit, now), now)
        self._open_children(run, graph, visit, now)

    def _open_children(self, run: Run, graph: CompiledGraph, visit: Visit, now: Moment) -> None:
        """Begin a map or a subgraph that waits for nobody."""
        if graph.nodes[visit.node].kind in _WITH_CHILDREN and visit.wait is None:
            self._open(children.begin(run, graph, visit, self.graphs), now)

    def _open(self, opened: children.Opened, now: Moment) -> None:
        self._record(opened.parent, now)
        self._record(opened.children, now)
        self._unborn.extend(self.runs[born.event.run] for born in opened.children)

    def _tell_parent(self, child: Run, now: Moment) -> None:
        parent = self.runs[child.parent]
        visit = parent.visits.get(child.parent_serial)
        if visit is None or visit.children is None or child.item not in visit.children.live:
            return
        graph = self.graphs[parent.graph]
        self._record(children.child_ended(parent, graph, visit, child), now)
        if visit.serial in parent.visits:
            self._open(children.move_window(parent, graph, visit, self.graphs), now)
        self._walk(parent, now)


_SHOWN_MEMORY = (StepKind.LLM, StepKind.DECIDE)
"""Steps that find what they read of long-term memory among their inputs."""
_WITH_CHILDREN = (NodeKind.MAP, NodeKind.SUBGRAPH)
_PLAIN = (NodeKind.FUNCTION, NodeKind.TOOL, NodeKind.ROUTER, NodeKind.LLM_GENERATE)


def _nowhere(seq: int, drafted: Draft) -> None:
    """The sink of an engine that only replays."""


def _no_longer_known(key: str, run_id: str) -> Refused:
    """Neither begun again nor shown: the key outlives a history that is kept for less than its time."""
    why = f"Idempotency-Key {key} began run {run_id}, which has ended and whose history was dropped since"
    return Refused("conflict", why)


def _no_run(run_id: str) -> Refused:
    return Refused("not_found", f"no run {run_id}")


_HANDLERS: dict[type[Any], Callable[[Engine, Any, Moment], Stands | Refused]] = {
    Submit: Engine.submit,
    Fork: Engine.fork,
    Cancel: Engine.cancel,
    Forget: Engine.forget,
    Pause: Engine.pause,
    Resume: Engine.resume,
    Resolve: Engine.resolve,
    Signal: Engine.signal,
    Complete: Engine.complete,
    CorrectCost: Engine.correct_cost,
    Register: Engine.register,
    RaiseLevel: Engine.raise_level,
    PutMemory: Engine.put_memory,
    DeleteMemory: Engine.delete_memory,
}
