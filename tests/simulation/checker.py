"""Invariants of the state, after every input, of everything that the input touched."""

from __future__ import annotations

from collections.abc import Iterable

from hive_ray.core import fleet
from hive_ray.core.engine import Engine
from hive_ray.core.run import TERMINAL, Run, StepStatus
from tests.core import invariants

WHOLE_EVERY = 2_000
"""Inputs after which the whole state is looked at, not only what was touched."""


class Checker:
    """Holds one engine against the invariants; what was not touched is known from before."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._members: dict[str, dict[str, None]] = {}
        """Runs by the root of their family."""
        self._held: dict[str, int] = {}
        """What each run's own attempts have reserved."""
        self._waits: dict[str, int] = {}
        self._leased: dict[str, int] = {}
        self._leases = 0
        self._turns = 0
        self.check(list(engine.runs))
        invariants.check(engine)

    def check(self, touched: Iterable[str]) -> None:
        """Raises ``AssertionError`` that names what does not fit."""
        engine = self._engine
        roots: dict[str, None] = {}
        for run_id in touched:
            run = engine.runs.get(run_id)
            if run is not None:
                self._look_at(run)
                root = _root(engine, run)
                if root is not None:
                    roots[root.id] = None
                    self._members.setdefault(root.id, {})[run_id] = None
        for root_id in roots:
            self._sum_up(root_id)
        self._check_leases()
        assert engine.moving.idle
        self._turns += 1
        if self._turns % WHOLE_EVERY == 0:
            invariants.check(engine)

    def _look_at(self, run: Run) -> None:
        held = waits = leased = 0
        fleet_now = self._engine.fleet
        workers = fleet_now.workers
        for visit in run.visits.values():
            if visit.wait is not None:
                waits += 1
            live = run.outside or (visit.children is not None and visit.children.live)
            assert visit.steps or visit.wait is not None or live, f"{run.id} hangs at visit {visit.serial}"
            for step in visit.steps.values():
                if step.status is StepStatus.LEASED:
                    held += step.reserved_nanousd
                    leased += 1
                    key = (run.id, visit.serial, step.call, step.attempt)
                    assert key in workers[step.worker].leases, f"{key} is not with {step.worker}"
                else:
                    assert not step.reserved_nanousd, f"{run.id} holds money for a step that does not run"
                    if step.status is StepStatus.READY and not run.paused and not run.outside:
                        ref = (run.id, visit.serial, step.call)
                        places = fleet_now.queues[step.pool].count(ref)
                        assert places == 1, f"{ref} stands {places} times in the queue {step.pool}"
        for orphan in run.orphans.values():
            held += orphan.reserved_nanousd
            leased += 1
        self._held[run.id] = held
        self._waits[run.id] = waits
        self._leases += leased - self._leased.get(run.id, 0)
        self._leased[run.id] = leased
        if run.status in TERMINAL:
            assert not run.visits and not run.tokens, f"{run.id} has ended and goes on"
        else:
            waits_outside = run.id in self._engine.entrance
            assert run.visits or waits_outside, f"{run.id} is live and nothing in it is outstanding"
        assert not run.ended or run.outside

    def _sum_up(self, root_id: str) -> None:
        """Money and waits of a family add up in its root, and its budget holds."""
        root = self._engine.runs[root_id]
        members = self._members[root_id]
        if root_id not in self._held:
            self._look_at(root)  # it was loaded for the sake of a child, and nothing has touched it
        if len(members) == 1:
            held, waits = self._held[root_id], self._waits[root_id]
        else:
            held = sum(self._held[member] for member in members)
            waits = sum(self._waits[member] for member in members if member in self._engine.runs)
        assert root.reserved_nanousd == held, f"{root_id}: {root.reserved_nanousd} reserved, {held} held"
        assert root.waits == waits, f"{root_id} counts {root.waits} waits, {waits} are open"
        if root.budget_nanousd >= 0:
            runs = self._engine.runs
            corrected = sum(invariants.corrected(runs[member]) for member in members if member in runs)
            most = root.budget_nanousd + root.overrun_nanousd + corrected
            assert root.spent_nanousd + held <= most, f"{root_id} is over its budget"

    def _check_leases(self) -> None:
        given = 0
        for worker in self._engine.fleet.workers.values():
            count = len(worker.leases)
            assert count <= worker.slots, f"{worker.name} holds {count} leases in {worker.slots} slots"
            given += count
        assert given == self._leases, f"{given} leases are with workers, {self._leases} in runs"


def _root(engine: Engine, run: Run) -> Run | None:
    """None if it is parked: then its family has ended."""
    found: Run | None = run
    while found is not None and found.parent:
        found = engine.runs.get(found.parent)
    return found


__all__ = ["WHOLE_EVERY", "Checker", "fleet"]
