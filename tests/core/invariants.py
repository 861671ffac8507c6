"""What holds after every command, whatever happened; used by stories and by the random histories."""

from __future__ import annotations

import msgspec

from hive_ray.core import fleet
from hive_ray.core.accounts import names_of
from hive_ray.core.engine import Engine
from hive_ray.core.run import TERMINAL, Run, StepStatus, decode_run, encode_run
from hive_ray.core.settling import holds_of


def check(engine: Engine) -> None:
    """Hold the whole state against every invariant."""
    members = families(engine)
    for run in engine.runs.values():
        _money(members[run.id], run)
        _people(members[run.id], run)
        _something_is_outstanding(engine, run)
        assert decode_run(encode_run(run)) == run, "a snapshot of the run gives the run back"
    assert not engine.runs.keys() & engine.parked.keys(), "a run is in memory or parked"
    _leases(engine)
    _accounts(engine)
    _queues(engine)
    assert engine.moving.idle


def families(engine: Engine) -> dict[str, list[Run]]:
    """Each run with all that descend from it."""
    found = {run.id: [run] for run in engine.runs.values()}
    for run in engine.runs.values():
        ancestor = run.parent
        while ancestor:
            found[ancestor].append(run)
            ancestor = engine.runs[ancestor].parent
    return found


def _money(family: list[Run], run: Run) -> None:
    held = sum(_reserved(member) for member in family)
    assert run.reserved_nanousd == held >= 0, f"{run.id}: {run.reserved_nanousd} reserved, {held} held"
    if run.budget_nanousd >= 0:
        most = run.budget_nanousd + run.overrun_nanousd + sum(corrected(member) for member in family)
        assert run.spent_nanousd + run.reserved_nanousd <= most, f"{run.id} is over its budget"


def corrected(run: Run) -> int:
    """What was added to a run's charges afterwards, whatever its budget says."""
    return sum(max(correction.nanousd, 0) for correction in run.corrections.values())


def _reserved(run: Run) -> int:
    steps = [step for visit in run.visits.values() for step in visit.steps.values()]
    assert all(step.reserved_nanousd == 0 for step in steps if step.status is not StepStatus.LEASED)
    return sum(s.reserved_nanousd for s in steps) + sum(o.reserved_nanousd for o in run.orphans.values())


def _people(family: list[Run], run: Run) -> None:
    waits = [visit for member in family for visit in member.visits.values() if visit.wait]
    assert run.waits == len(waits), f"{run.id} counts {run.waits} waits, {len(waits)} are open"


def _something_is_outstanding(engine: Engine, run: Run) -> None:
    if run.terminal:
        assert run.status in TERMINAL and not run.visits and not run.tokens and not run.ended
        return
    if run.id in engine.entrance:
        assert not run.begun, f"{run.id} waits at the entrance and has begun"
        assert run.outside or not run.visits, f"{run.id} waits at the entrance and is at a node"
        return
    assert run.visits and not run.ended, f"{run.id} is live and nothing in it is outstanding"
    for visit in run.visits.values():
        live = visit.children is not None and visit.children.live
        assert visit.steps or visit.wait or live, f"{run.id} hangs at visit {visit.serial}"


def _leases(engine: Engine) -> None:
    held: dict[str, list[fleet.AttemptRef]] = {}
    for run in engine.runs.values():
        for worker, attempt in fleet.leased_steps(run):
            held.setdefault(worker, []).append(attempt)
    for worker in engine.fleet.workers.values():
        assert len(worker.leases) <= worker.slots, f"{worker.name} holds more than its slots"
        limits = _suspects(engine, worker)
        assert engine.fleet.suspects.get(worker.name, {}) == limits, f"suspects on {worker.name}"
        assert len(worker.leases) <= min(limits.values(), default=worker.slots), f"company on {worker.name}"
        assert sorted(worker.leases) == sorted(held.pop(worker.name, [])), f"leases of {worker.name}"
    assert not held, f"leased to workers that are gone: {held}"


def _accounts(engine: Engine) -> None:
    """What is held on each account is what the attempts under way hold."""
    held: dict[str, int] = {}
    for run in engine.runs.values():
        for hold in holds_of(run):
            for name in names_of(engine.payer(run), hold.pool, hold.subject):
                held[name] = held.get(name, 0) + hold.nanousd
    for name, account in engine.fleet.accounts.by_name.items():
        kept = sum(ledger.held_nanousd for ledger in (account.present, *account.past.values()))
        assert kept == held.get(name, 0), f"{name}: {kept} held, {held.get(name, 0)} by attempts"


def _suspects(engine: Engine, worker: fleet.Worker) -> dict[fleet.AttemptRef, int]:
    """Suspect attempts of a worker, each with the company that it may have."""
    found: dict[fleet.AttemptRef, int] = {}
    for ref in worker.leases:
        visit = engine.runs[ref[0]].visits.get(ref[1])
        step = visit.steps.get(ref[2]) if visit is not None else None
        if step is not None and step.shared_losses:
            found[ref] = fleet.company(worker, step)
    return found


def _queues(engine: Engine) -> None:
    """What is ready stands in its pool's queue exactly once; entries that are stale may stand there too."""
    rebuilt = fleet.Fleet(workers=msgspec.msgpack.decode(_WORKERS, type=dict[str, fleet.Worker]))
    fleet.rebuild(rebuilt, engine.runs.values(), engine.parked)
    for pool, ready in rebuilt.queues.items():
        queue = list(engine.fleet.queues.get(pool, ()))
        for step in ready:
            assert queue.count(step) == 1, f"{step} stands {queue.count(step)} times in the queue {pool}"


_WORKERS = msgspec.msgpack.encode({})
