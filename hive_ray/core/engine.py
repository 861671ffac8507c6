"""The core put together: commands in, events out, the state kept.

A command is decided in phases (the step, its node's edges, the joins, the run's end, its parent). Each
phase is a pure function of the state; its events are applied before the next phase looks. All events of
one command belong in one journal segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args

from hive_ray.core import (
    api_keys,
    asking,
    budgets,
    corrections,
    evolution,
    fallbacks,
    features,
    fleet,
    forking,
    indexing,
    keeping,
    lifecycle,
    longterm,
    outbox,
    people,
    remembering,
    retries,
    routing,
    sealing,
    steering,
    steps,
)
from hive_ray.core import events as ev
from hive_ray.core import run as runs
from hive_ray.core.accounts import Purse, tokens_of
from hive_ray.core.breaking import Breaking
from hive_ray.core.commands import (
    Cancel,
    Command,
    Complete,
    CorrectCost,
    CreateKey,
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
    RevokeKey,
    RollKey,
    Signal,
    Submit,
)
from hive_ray.core.dispatch import Dispatch
from hive_ray.core.entrance import Entrance
from hive_ray.core.events import NOTHING, Draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.holds import Hold
from hive_ray.core.lowering import Lowering
from hive_ray.core.messages import (
    Outcome,
    StepContent,
    WorkerInfo,
    decode_outcome_content,
)
from hive_ray.core.moving import Moving
from hive_ray.core.parked import Parked, ParkedRuns
from hive_ray.core.plan import Changes, ControlPlan, InForce
from hive_ray.core.rates import Bucket, Rates
from hive_ray.core.run import Run, StepStatus
from hive_ray.core.settling import SETTLE, holds_of
from hive_ray.graph.compiled import CompiledGraph

Stands = Run | fleet.Agent | fleet.Fleet | longterm.Entry | longterm.Shelf | api_keys.ApiKey
"""What a command is about, as it stands afterwards."""


class Engine:
    """Runs, fleet and graphs of one partition, and the only code that changes them.

    Args:
        evaluator: evaluates the graphs' conditions.
        bucket: one step of a token bucket.
    """

    def __init__(self, evaluator: routing.Evaluator, bucket: Bucket) -> None:
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
        self.fleet = fleet.Fleet()
        self.force = InForce(ControlPlan(), Changes())
        self.rates = Rates(bucket)
        self.entrance = Entrance()
        self._freed: Hold | None = None
        """What the last attempt that ended had held."""
        self._spent: list[Purse] = []
        """Accounts of which a warning is due."""
        self.keeping = keeping.Keeping()
        self.graphs: dict[str, CompiledGraph] = {}
        self.evaluator = evaluator
        self.moving = Moving(self)
        self.dispatch = Dispatch(self)
        self.breaking, self.lowering = Breaking(self), Lowering(self)
        self.sink: Callable[[int, Draft], None] = _nowhere
        """Receives each event with its sequence number, in order, right after it was applied."""

    # --- applying events -------------------------------------------------------------------------

    def record(self, drafts: list[Draft], now: Moment) -> None:
        """Apply what was decided, in order, and hand it to the sink."""
        at_us = now.wall_us
        for drafted in drafts:
            self.seq = seq = self.seq + 1
            event = drafted.event
            if event.run:
                told = self._evolve_indexed(event, drafted.decoded, at_us, seq)
            else:
                self._evolve_shared(event, drafted.decoded, at_us, seq)
                told = event.__class__ in outbox.TOLD
            self.sink(seq, drafted)
            if told:
                self._tell(event, now)

    def _tell(self, event: ev.Event, now: Moment) -> None:
        """Somebody outside may want to hear of an event: that is decided right behind it."""
        run = self.runs.get(event.run)
        hooks = self.force.plan.hooks
        if not hooks.to and (run is None or not run.callback):
            return
        about = outbox.About(run, self.graphs.get(run.graph) if run is not None else None)
        there = len(self.fleet.outbox.pending)
        self.record(outbox.notifications(event, self.seq, about, hooks, there, now), now)

    def _evolve_shared(self, event: ev.Event, content: StepContent, at_us: int, seq: int) -> None:
        """Apply an event of no run, unless a snapshot already shows it."""
        if isinstance(event, ev.MemoryWritten | ev.MemoryDeleted):
            self.keeping.shelves.apply(event, content, at_us, seq)
        elif seq > self.fleet.seq:
            fleet.evolve(self.fleet, event, content, at_us)
            self.fleet.seq = seq
            if isinstance(event, CHANGES_LIMITS):
                # While a journal is replayed there is no index of leases: ``restored`` holds for all of them.
                leases = (lease for worker in self.fleet.workers.values() for lease in worker.leases)
                self._replan(self.runs[run] for run in dict.fromkeys(lease[0] for lease in leases))

    def _replan(self, under_way: Iterable[Run]) -> None:
        """Other limits are in force; what the attempts of the runs under way hold counts against them."""
        self.force = InForce(self.fleet.plan, self.fleet.changes)
        self.fleet.accounts.replan(self.force)
        self.fleet.accounts.rehold((self.payer(run), hold) for run in under_way for hold in holds_of(run))

    def _evolve_indexed(self, event: ev.Event, content: StepContent, at_us: int, seq: int) -> bool:
        """Apply an event of a run, and keep queues, leases and live children in step with it.

        Whether somebody outside may want to hear of it.
        """
        kind = event.__class__
        run = self.runs.get(event.run)
        settle, before, apply, after, told = _AROUND[kind]
        fleet_now = self.fleet
        root = freed = None
        if settle is not None and run is not None:
            root = self.payer(run) if run.parent else run
            freed = settle(fleet_now.accounts, root, run, event, at_us)
            fleet_now.seq = seq
        if before is not None and run is not None:
            before(fleet_now, run, event)
        if run is None or run.parent:
            run = self._evolve(event, content, at_us, seq)
        else:
            # The common case of ``_evolve``, without its calls: this is the hot path.
            apply(run, event, content, at_us)
            run.seq = run.told = seq
        if after is not None:
            after(fleet_now, run, event)
        if root is not None and kind is not _STARTED:
            self.dispatch.freed(root, freed)
            self._freed = freed
            if freed is not None and self.force.limits_accounts:
                self._spent.extend(fleet_now.accounts.due_for_warning(root, freed))
        if run.parent:
            self._note_child(run, event)
        return told

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
        settle = SETTLE.get(type(event))
        if settle is not None and run is not None and seq > self.fleet.seq:
            # The fleet's item is the last of a snapshot: what it does not show, no run's item shows.
            settle(self.fleet.accounts, self.payer(run), run, event, at_us)
            self.fleet.seq = seq
        if run is None or seq > run.seq:
            self._evolve(event, content, at_us, seq)

    def restored(self) -> None:
        """After snapshot and replay: make the index from the runs alone."""
        fleet.rebuild(self.fleet, self.runs.values(), self.parked)
        self._replan(self.runs.values())
        self.successors = {row.origin: run_id for run_id, row in self.parked.items() if row.resumes}
        for run in self.runs.values():
            self._note_successor(run)
        self.entrance.rebuild(self.runs)
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
        row = self.parked.pop(run_id, None)
        if row is not None and row.resumes and self.successors.get(row.origin) == run_id:
            del self.successors[row.origin]
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
        known = self._known(command) or self._closed()
        if known is not None:
            return known
        graph, level = self.graphs[command.graph], self.fleet.feature_level
        refused = asking.too_early(graph, level) or fallbacks.too_early(graph, level)
        key = refused or sealing.key_for(command, self.fleet.feature_level)
        if isinstance(key, Refused):
            return key
        graph = self.graphs[command.graph]
        self.record([lifecycle.submit(command, graph, key, self._priority(command), now)], now)
        return self._let_in(self.runs[command.run], now)

    def _priority(self, command: Submit | Fork) -> int:
        return self.force.priority(command.priority, command.team, command.agent)

    def _let_in(self, run: Run, now: Moment) -> Run:
        """Begin a run, or have it wait while others of its team or agent are under way."""
        if self._is_full(run.team, run.agent):
            self.entrance.wait(run)
        else:
            self.moving.begin(run, now)
        return run

    def _is_full(self, team: str, agent: str) -> bool:
        return self.force.limits_runs and bool(self.entrance.keeping(self.force, team, agent))

    def let_in_waiting(self, now: Moment) -> None:
        """Begin those that wait at the entrance and may begin by now."""
        while run_id := self.entrance.let_in(self.force):
            self.moving.begin(self.runs[run_id], now)

    def _closed(self) -> Refused | None:
        """Whether nothing new is admitted."""
        if not self.fleet.maintenance:
            return None
        why = f"nothing new is admitted: {self.fleet.maintenance} has begun maintenance"
        return Refused("maintenance", why, MAINTENANCE_RETRY_S)

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

    def fork(self, command: Fork, now: Moment) -> Run | Refused:
        """Begin a run with the state of another; one that is resumed has one successor."""
        refused = features.needs(forking.FEATURE_LEVEL, self.fleet.feature_level, "forking a run")
        if refused is not None:
            return refused
        known = self._known(command) or self._closed()
        if known is not None:
            return known
        successor = self.successors.get(command.origin.run) if command.origin.resumes else None
        if successor is not None:
            return self.runs[successor]
        key = sealing.key_for(command, self.fleet.feature_level)
        if isinstance(key, Refused):
            return key
        graph = self.graphs[command.graph]
        outside = self._is_full(command.team, command.agent)
        decided = forking.fork(command, graph, key, self._priority(command), outside, now)
        if isinstance(decided, Refused):
            return decided
        self.record(decided, now)
        run = self.runs[command.run]
        self._note_successor(run)
        return self._let_in(run, now)

    def cancel(self, command: Cancel, now: Moment) -> Run | Refused:
        level = self.fleet.feature_level
        return self._on_run(command.run, lambda run: lifecycle.cancel(run, command, level), now)

    def pause(self, command: Pause, now: Moment) -> Run | Refused:
        level = self.fleet.feature_level
        answer = self._on_run(command.run, lambda run: lifecycle.pause(run, command, level), now)
        for child in self.live_children(command.run):
            self.pause(Pause(child, command.reason, command.principal), now)
        return answer

    def forget(self, command: Forget, now: Moment) -> Run | Refused:
        """Give up a run's content; its keys are erased once a snapshot shows it."""
        run = self.runs.get(command.run)
        if run is None:
            return _no_run(command.run)
        family = [one for one in self.runs.values() if one.parent and self.payer(one) is run]
        names = {run.id, *(one.id for one in family)}
        forks = [one for one in self.runs.values() if one.origin is not None and one.origin.run in names]
        decided = lifecycle.forget(run, family, forks, command)
        if isinstance(decided, Refused):
            return decided
        self.record(decided, now)
        return run

    def resume(self, command: Resume, now: Moment) -> Run | Refused:
        """End an operator's pause and every wait at a pause node."""
        answer = self._on_run(command.run, lambda run: lifecycle.resume(run, command), now)
        for child in self.live_children(command.run):
            self.resume(Resume(child, command.principal), now)
        if isinstance(answer, Run):
            for visit in list(answer.visits.values()):
                if visit.wait is not None and visit.wait.reason == "pause":
                    approval = visit.wait.approval
                    self.resolve(Resolve(answer.id, approval, "resume", NOTHING, command.principal), now)
        return answer

    def live_children(self, run_id: str) -> list[str]:
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
            why = f"approval {command.approval} is already resolved: {earlier.split(':')[0]}"
            return self._refuse_answer(run, command, Refused("conflict", why), now)
        graph = self.graphs[run.graph]
        found = people.find_wait(run, command.approval)
        submitter = None if self.force.plan.approvals.single_user else self.payer(run).principal
        decided = people.resolve(run, graph, command, submitter, now)
        if isinstance(decided, Refused):
            return self._refuse_answer(run, command, decided, now)
        self.record(decided, now)
        if found is not None and found[1].reason == "pause":
            self.moving.open_children(run, graph, found[0], now)
        self.moving.advance(run, now)
        return run

    def _refuse_answer(self, run: Run, command: Resolve, refused: Refused, now: Moment) -> Refused:
        """The audit shows answers that did not count, if the state can hold that."""
        if self.fleet.feature_level >= features.CONTROLLED:
            self.record(asking.refusal(run, command, refused), now)
        return refused

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
        self.record(decided, now)
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
        self.record(decided, now)
        self.moving.advance(run, now)
        return run

    def register(self, command: Register, now: Moment) -> fleet.Agent:
        event = ev.AgentRegistered("", command.name, command.team, command.graph, command.principal)
        self.record([Draft(event)], now)
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
            self.record([Draft(ev.FeatureLevelRaised("", command.level, command.principal))], now)
        return self.fleet

    def steer(self, command: steering.Steering, now: Moment) -> fleet.Fleet | Refused:
        """Change what holds for all runs."""
        decided = steering.steer(self.fleet, command)
        if isinstance(decided, Refused):
            return decided
        self.record(decided, now)
        self.dispatch.reconsider()
        if self.entrance:
            self.let_in_waiting(now)
        return self.fleet

    def change_key(self, command: CreateKey | RollKey | RevokeKey, now: Moment) -> api_keys.ApiKey | Refused:
        """Make, roll or revoke an API key."""
        keys = self.fleet.api_keys
        match command:
            case CreateKey():
                decided = api_keys.create(keys, command, now)
            case RollKey():
                decided = api_keys.roll(keys, command, now)
            case RevokeKey():
                decided = api_keys.revoke(keys, command)
        if isinstance(decided, Refused):
            return decided
        self.record(decided, now)
        return keys[command.key]

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
        self.record(decided, now)
        return None

    def command(self, command: Command, now: Moment) -> Stands | Refused:
        """Decide any command."""
        return _HANDLERS[type(command)](self, command, now)

    # --- what is told outside --------------------------------------------------------------------

    def sent(self, notification: str, result: outbox.Sent, now: Moment) -> None:
        """An attempt to deliver a notification is over."""
        item = self.fleet.outbox.pending.get(notification)
        if item is not None:
            self.record([outbox.sent(item, result, self.force.plan.hooks, now)], now)

    # --- timers ----------------------------------------------------------------------------------

    def fire_backoff(self, run_id: str, serial: int, call: int, now: Moment) -> None:
        run = self.runs.get(run_id)
        visit = run.visits.get(serial) if run is not None else None
        step = visit.steps.get(call) if visit is not None else None
        if run is not None and step is not None and step.status is StepStatus.BACKOFF:
            self.record([Draft(ev.TimerFired(run_id, serial, call))], now)

    def fire_deadlines(self, run_id: str, now: Moment) -> None:
        """End what is overdue in a run: its waits, then the run itself."""
        run = self.runs.get(run_id)
        if run is None or run.terminal:
            return
        graph = self.graphs[run.graph]
        for visit in list(run.visits.values()):
            wait = visit.wait
            if wait is not None and wait.deadline_us <= now.wall_us and not run.terminal:
                self.record(people.pass_on(run, graph, visit, wait, now), now)
                self.moving.advance(run, now)
        if not run.terminal and not run.waits and run.deadline_us <= now.wall_us and not run.parent:
            self.record(lifecycle.out_of_time(run, graph), now)
            self.moving.advance(run, now)

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
        self.record([Draft(event)], now)

    def lose_worker(self, name: str, reason: str, now: Moment) -> None:
        """A worker's process is certainly gone: each of its attempts is retried or asked about."""
        worker = self.fleet.workers.get(name)
        if worker is None:
            return
        held = list(worker.leases)
        self.record([sealing.reasoned(ev.WorkerLost("", name, reason), self.fleet.feature_level)], now)
        for run_id, serial, call, attempt in held:
            message = f"the worker {name} that ran this attempt is gone ({reason})"
            failure = FailureKind.WORKER_LOST
            content = StepContent(message=message)
            shared = len(held) > 1
            self.report(Outcome(run_id, serial, call, attempt, failure, b"", shared=shared), now, content)

    def return_lease(self, attempt: fleet.AttemptRef, now: Moment) -> None:
        """A lease that never reached its worker: the attempt did not begin."""
        run_id, serial, call, number = attempt
        self.record([Draft(ev.LeaseReturned(run_id, serial, call, number))], now)

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

    def holder(self, attempt: fleet.AttemptRef) -> str:
        """The worker that an attempt was leased to, while it is under way or a person is asked about it."""
        run_id, serial, call, number = attempt
        run = self.runs.get(run_id)
        if run is None:
            return ""
        visit = run.visits.get(serial)
        step = visit.steps.get(call) if visit is not None else None
        if step is not None and step.attempt == number:
            return step.worker if step.status in (StepStatus.LEASED, StepStatus.UNKNOWN) else ""
        orphan = run.orphans.get(runs.attempt_key(serial, call, number))
        return orphan.worker if orphan is not None else ""

    def payer(self, run: Run) -> Run:
        """The run whose budget pays: a child's costs are its root's."""
        while run.parent:
            run = self.runs[run.parent]
        return run

    def report(self, outcome: Outcome, now: Moment, content: StepContent | None = None) -> None:
        """The end of an attempt, and everything that follows from it."""
        run = self.runs.get(outcome.run)
        if run is None:
            return
        if content is None:
            content = decode_outcome_content(outcome.content)
        if (outcome.memory or content.artifacts) and steps.is_open(run, outcome):
            root = self.payer(run)
            outcome, content = self.keeping.bounded(root, outcome, content, self.fleet.feature_level)
        root = self.payer(run) if run.parent else run
        force = self.force
        bounds = retries.Bounds(now, root, force.plan.longest_wait_us)
        drafts = steps.report(run, self.graphs[run.graph], outcome, content, bounds)
        if outcome.memory:
            drafts = self.keeping.remembered(root, outcome, drafts)
        attempt = self.lowering.attempt(run, outcome) if force.has_ladders else None
        minds = self.breaking.minds
        subject = steps.subject_under_way(run, outcome) if minds else ""
        self.record(drafts, now)
        freed = self._freed
        if freed is not None:
            self._freed = None
            if freed.likely_tokens and force.limits_rates:
                self._give_back(freed, outcome, now)
        if minds:
            self.breaking.ended(subject, outcome, now)
        if attempt is not None:
            self.lowering.ended(attempt, outcome, now)
        self.moving.advance(run, now)
        if self._spent:
            self._warn(now)

    def _give_back(self, freed: Hold, outcome: Outcome, now: Moment) -> None:
        """Tokens that a call was expected to use, and did not, are there for others in the same minute."""
        unused = freed.likely_tokens - tokens_of(outcome.usage)
        if unused > 0:
            names = (f"pool/{freed.pool}", freed.subject)
            self.rates.give_back(self.force, names, unused, now.mono_us)

    def _warn(self, now: Moment) -> None:
        """Tell once in a window of each account that has spent most of its limit."""
        spent, self._spent = self._spent, []
        self.record(budgets.warnings(spent), now)


_AROUND = {
    kind: (
        SETTLE.get(kind),
        indexing.BEFORE.get(kind),
        evolution.EVOLVE.get(kind, evolution.evolve),
        indexing.AFTER.get(kind),
        kind in outbox.TOLD,
    )
    for kind in ev.EVENTS.values()
}
"""What is done with an event of a run: one look-up in place of five."""
# A plain name, as it is looked at with every event.
_STARTED = ev.StepStarted
MAINTENANCE_RETRY_S = 30.0
CHANGES_LIMITS = (ev.PlanApplied, ev.BudgetChanged, ev.RateChanged, ev.RunsLimitChanged)


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
    CreateKey: Engine.change_key,
    RollKey: Engine.change_key,
    RevokeKey: Engine.change_key,
    **dict.fromkeys(get_args(steering.Steering), Engine.steer),
}
