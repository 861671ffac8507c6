"""What is shared by runs: queues, workers and their leases, submissions' keys, named agents.

The queues and the leases of a worker are an index of what the runs say; ``rebuild`` makes the same
index from the runs alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from hive_ray.core import api_keys, outbox
from hive_ray.core import events as ev
from hive_ray.core.accounts import Accounts
from hive_ray.core.breakers import Breaker, Mode
from hive_ray.core.ladder import Level
from hive_ray.core.messages import StepContent
from hive_ray.core.outbox import Outbox
from hive_ray.core.parked import Parked
from hive_ray.core.plan import Change, Changes, ControlPlan, decode_plan
from hive_ray.core.queues import Queue, StepRef
from hive_ray.core.run import Run, Step, StepStatus

WAKE_MOST = 64
"""Steps that try again when something is released."""
AttemptRef = tuple[str, int, int, int]


class Worker(msgspec.Struct):
    """A worker process that has attached to this or an earlier incarnation."""

    name: str
    pool: str
    slots: int
    host: str
    boot_id: str
    pid: int
    process_start: int
    node: str = ""
    leases: dict[AttemptRef, None] = {}
    """Attempts that it holds (a dict keeps their order)."""

    @property
    def room(self) -> int:
        return self.slots - len(self.leases)


class Submission(msgspec.Struct, frozen=True, array_like=True):
    """An idempotency key that was used."""

    run: str
    digest: str
    at_us: int


class Agent(msgspec.Struct, frozen=True, array_like=True):
    name: str
    graph: str
    at_us: int


class Fleet(msgspec.Struct):
    workers: dict[str, Worker] = {}
    queues: dict[str, Queue] = {}
    """Ready steps by pool. An entry may be stale: check when taking it. Made again by ``rebuild``."""
    teams: dict[str, None] = {}
    """Those that have runs here. Made again by ``rebuild``."""
    weights: dict[str, int] = {}
    """Shares of teams in a pool, of those that do not have 1."""
    submissions: dict[str, Submission] = {}
    """``team/key`` to the run that it made."""
    agents: dict[str, Agent] = {}
    """``team/name`` to the graph that it stands for."""
    epoch: int = 0
    """Of the incarnation at work; stamped on leases."""
    suspects: dict[str, dict[AttemptRef, int]] = {}
    """By worker: its attempts that may be what killed an earlier worker, and how many leases it may hold
    beside and including each. An index, made again by ``rebuild``."""
    seq: int = 0
    feature_level: int = 1
    """See ``core.features``."""
    accounts: Accounts = msgspec.field(default_factory=Accounts)
    plan: ControlPlan = ControlPlan()
    plan_digest: str = ""
    plan_change: Change = Change("", 0)
    """Who applied the plan, and when."""
    changes: Changes = msgspec.field(default_factory=Changes)
    """What people changed since the plan was applied."""
    stopped: dict[str, str] = {}
    """Scopes whose spending is stopped, and by whom."""
    maintenance: str = ""
    """Who has set it up to admit nothing new; empty: nobody."""
    breakers: dict[str, Breaker] = {}
    """Those that are not closed."""
    ladders: dict[str, Level] = {}
    """Models that are on a rung of their ladder, or were."""
    api_keys: dict[str, api_keys.ApiKey] = {}
    """By id; those that have ended too."""
    outbox: Outbox = msgspec.field(default_factory=Outbox)


def evolve(fleet: Fleet, event: ev.Event, content: StepContent, at_us: int) -> None:
    """Apply one event of the fleet's own; events of runs do not come here."""
    match event:
        case ev.WorkerAttached():
            known = fleet.workers.get(event.worker)
            fleet.workers[event.worker] = Worker(
                event.worker,
                event.pool,
                event.slots,
                event.host,
                event.boot_id,
                event.pid,
                event.process_start,
                event.node,
                known.leases if known else {},
            )
        case ev.WorkerLost():
            fleet.workers.pop(event.worker, None)
            fleet.suspects.pop(event.worker, None)
        case ev.FeatureLevelRaised():
            fleet.feature_level = event.level
        case ev.AgentRegistered():
            fleet.agents[f"{event.team}/{event.name}"] = Agent(event.name, event.graph, at_us)
        case ev.ApiKeyCreated() | ev.ApiKeyRolled() | ev.ApiKeyRevoked() | ev.ApiKeyUsed():
            api_keys.evolve(fleet.api_keys, event, at_us)
        case _ if isinstance(event, outbox.Told):
            outbox.evolve(fleet.outbox, event, content, at_us)
        case _:
            _evolve_control(fleet, event, content, at_us)


def _evolve_control(fleet: Fleet, event: ev.Event, content: StepContent, at_us: int) -> None:
    match event:
        case ev.PlanApplied():
            _apply_plan(fleet, decode_plan(content.state), event.digest)
            fleet.plan_change = Change(event.principal, at_us)
        case ev.BudgetChanged():
            who = Change(event.principal, at_us)
            _change(fleet.changes, "accounts", event.account, event.plan, who)
        case ev.RateChanged():
            _change(fleet.changes, "rates", event.name, event.plan, Change(event.principal, at_us))
        case ev.RunsLimitChanged():
            runs = event.runs if event.runs >= 0 else None
            _change(fleet.changes, "runs", event.name, runs, Change(event.principal, at_us))
        case ev.BudgetWarned():
            fleet.accounts.get(event.account).warned = True
        case ev.SpendingStopped():
            fleet.stopped[event.scope] = event.principal or "operator"
        case ev.SpendingAllowed():
            fleet.stopped.pop(event.scope, None)
        case ev.MaintenanceBegan():
            fleet.maintenance = event.principal or "operator"
        case ev.MaintenanceEnded():
            fleet.maintenance = ""
        case _:
            _evolve_breakers(fleet, event, at_us)


def _move_on_ladder(fleet: Fleet, event: ev.ModelDegraded | ev.ModelRestored, at_us: int) -> None:
    known = fleet.ladders.get(event.name) or Level()
    restored_us = known.restored_us if isinstance(event, ev.ModelDegraded) else at_us
    fleet.ladders[event.name] = Level(event.level, at_us, event.reason, restored_us)


def _evolve_breakers(fleet: Fleet, event: ev.Event, at_us: int) -> None:
    match event:
        case ev.BreakerOpened():
            fleet.breakers[event.name] = Breaker(Mode.OPEN, at_us, event.reason, event.open_us)
        case ev.BreakerHalfOpened():
            breaker = fleet.breakers[event.name]
            breaker.mode, breaker.probe = Mode.HALF_OPEN, event.probe
        case ev.BreakerClosed():
            fleet.breakers.pop(event.name, None)
        case ev.ModelDegraded() | ev.ModelRestored():
            _move_on_ladder(fleet, event, at_us)
        case ev.BreakerForced():
            fleet.breakers.pop(event.name, None)
            if event.mode != Mode.AUTO:
                by = event.principal or "operator"
                fleet.breakers[event.name] = Breaker(
                    event.mode, at_us, "an operator decided so", forced=True, principal=by
                )
        case _:
            raise KeyError(f"{type(event).__name__} is not an event of the fleet")


def _change(changes: Changes, field: str, name: str, plan: object | None, who: Change) -> None:
    made: dict[str, object] = getattr(changes, field)
    if plan is None:
        _undo(changes, field, name)
    else:
        made[name] = plan
        changes.by[f"{field}:{name}"] = who


def _undo(changes: Changes, field: str, name: str) -> None:
    getattr(changes, field).pop(name, None)
    changes.by.pop(f"{field}:{name}", None)


def _apply_plan(fleet: Fleet, plan: ControlPlan, digest: str) -> None:
    """What people changed stays, but for what the new plan says otherwise than the old one did."""
    for field in ("accounts", "rates", "runs"):
        for name in _differing(getattr(fleet.plan, field), getattr(plan, field)):
            _undo(fleet.changes, field, name)
    fleet.plan, fleet.plan_digest = plan, digest
    take_weights(fleet)


def _differing(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def take_weights(fleet: Fleet) -> None:
    """The queues share by the plan's weights; they hold the same mapping."""
    fleet.weights.clear()
    fleet.weights.update(fleet.plan.weights)


def note_submission(fleet: Fleet, run: Run) -> None:
    fleet.teams[run.team] = None
    if run.idempotency_key:
        key = f"{run.team}/{run.idempotency_key}"
        fleet.submissions[key] = Submission(run.id, run.digest, run.submitted_us)


def forget_old_submissions(fleet: Fleet, before_us: int) -> None:
    """Keys are kept for a time; they are in order of use, so the old ones stand first."""
    old: list[str] = []
    for key, submission in fleet.submissions.items():
        if submission.at_us >= before_us:
            break
        old.append(key)
    for key in old:
        del fleet.submissions[key]


def enqueue(fleet: Fleet, run: Run, pool: str, step: StepRef) -> None:
    queue = fleet.queues.get(pool)
    if queue is None:
        queue = fleet.queues[pool] = Queue(fleet.weights)
    queue.put(step, run.team, run.priority)


def anything_aside(fleet: Fleet) -> bool:
    """Whether any step waits for something that others hold."""
    for queue in fleet.queues.values():  # noqa: SIM110 - asked with every outcome; a generator costs as much again
        if queue.aside:
            return True
    return False


def wake(fleet: Fleet, resource: str, most: int = WAKE_MOST) -> None:
    """Something was released: the first of those that wait for it try again."""
    for queue in fleet.queues.values():
        if queue.aside:
            queue.wake(resource, most)


def dequeue(fleet: Fleet, run: Run) -> None:
    """Take out a run's ready steps: a run that is paused and resumed must not stand in line twice."""
    for pool, step in ready_steps(run):
        fleet.queues[pool].remove(step, run.team, run.priority)


def grant(fleet: Fleet, worker: str, attempt: AttemptRef, step: Step | None = None) -> None:
    """``step``: if it is a suspect, the worker takes no more others than it may have beside it."""
    holder = fleet.workers[worker]
    holder.leases[attempt] = None
    if step is not None and step.shared_losses:
        fleet.suspects.setdefault(worker, {})[attempt] = company(holder, step)


def release(fleet: Fleet, worker: str, attempt: AttemptRef) -> None:
    holder = fleet.workers.get(worker)
    if holder is not None:
        holder.leases.pop(attempt, None)
    if worker in fleet.suspects:
        fleet.suspects[worker].pop(attempt, None)
        if not fleet.suspects[worker]:
            del fleet.suspects[worker]


def company(worker: Worker, step: Step) -> int:
    """How many attempts a worker may run while it runs this step, itself included.

    A worker that dies leaves as many suspects as it ran. Each death in company halves the next company, so
    a poison step soon kills workers that run it alone, and its neighbours are done in the other halves.
    """
    return max(1, worker.slots >> step.shared_losses)


def has_place(fleet: Fleet, worker: Worker) -> bool:
    """Whether a worker may take one more attempt, for all that is known of those that it runs."""
    held = fleet.suspects.get(worker.name)
    return worker.room > 0 and (held is None or len(worker.leases) < min(held.values()))


def is_emptiest(fleet: Fleet, worker: Worker) -> bool:
    """The one worker of a pool that drains for a suspect; the others go on."""
    same = (other for other in fleet.workers.values() if other.pool == worker.pool)
    return worker is min(same, key=lambda other: (len(other.leases), other.name))


def ready_steps(run: Run) -> list[tuple[str, StepRef]]:
    """(pool, step) of the steps of a run that wait for admission, in order."""
    if run.paused or run.outside:
        return []
    return [
        (step.pool, (run.id, visit.serial, step.call))
        for visit in run.visits.values()
        for step in visit.steps.values()
        if step.status is StepStatus.READY
    ]


def leased_steps(run: Run) -> list[tuple[str, AttemptRef]]:
    """(worker, attempt) of the attempts of a run that are under way, orphans included."""
    held = [
        (step.worker, (run.id, visit.serial, step.call, step.attempt))
        for visit in run.visits.values()
        for step in visit.steps.values()
        if step.status is StepStatus.LEASED
    ]
    for key, orphan in run.orphans.items():
        serial, call, attempt = (int(part) for part in key.split("."))
        held.append((orphan.worker, (run.id, serial, call, attempt)))
    return held


def rebuild(fleet: Fleet, runs: Iterable[Run], parked: Mapping[str, Parked]) -> None:
    """Make queues and leases from the runs: after recovery, and in tests against the kept index."""
    ordered = sorted(runs, key=lambda run: run.submitted_us)
    fleet.queues = {}
    fleet.teams = dict.fromkeys(run.team for run in (*ordered, *parked.values()))
    take_weights(fleet)
    fleet.suspects = {}
    for worker in fleet.workers.values():
        worker.leases = {}
    fleet.submissions = _submissions(ordered, parked)
    for run in ordered:
        for pool, step in ready_steps(run):
            enqueue(fleet, run, pool, step)
        for worker, attempt in leased_steps(run):
            if worker in fleet.workers:
                visit = run.visits.get(attempt[1])
                grant(fleet, worker, attempt, visit.steps.get(attempt[2]) if visit else None)


def _submissions(runs: Iterable[Run], parked: Mapping[str, Parked]) -> dict[str, Submission]:
    """In order of use: see ``forget_old_submissions``."""
    made: list[tuple[int, str, Submission]] = []
    for holder in (*((run.id, run) for run in runs), *parked.items()):
        run_id, run = holder
        if run.idempotency_key:
            key = f"{run.team}/{run.idempotency_key}"
            made.append((run.submitted_us, key, Submission(run_id, run.digest, run.submitted_us)))
    return {key: submission for _, key, submission in sorted(made, key=lambda one: one[0])}


def encode_fleet(fleet: Fleet) -> bytes:
    """What only the fleet's own events tell; all else is made again by ``rebuild``."""
    workers = {name: msgspec.structs.replace(worker, leases={}) for name, worker in fleet.workers.items()}
    return _encode(
        Fleet(
            workers,
            agents=fleet.agents,
            epoch=fleet.epoch,
            seq=fleet.seq,
            feature_level=fleet.feature_level,
            accounts=fleet.accounts.facts(),
            plan=fleet.plan,
            plan_digest=fleet.plan_digest,
            plan_change=fleet.plan_change,
            changes=fleet.changes,
            stopped=fleet.stopped,
            maintenance=fleet.maintenance,
            breakers=fleet.breakers,
            ladders=fleet.ladders,
            api_keys=fleet.api_keys,
            outbox=fleet.outbox,
        )
    )


_encode = msgspec.msgpack.Encoder().encode
decode_fleet = msgspec.msgpack.Decoder(Fleet).decode
