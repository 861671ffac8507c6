"""One history from its seed: faults, then calm, then the reckoning."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import NamedTuple

import msgspec

from hive_ray.control import buckets
from hive_ray.control.recovery import load_graph
from hive_ray.core.engine import Engine
from hive_ray.core.parked import Parked
from hive_ray.core.run import Run
from hive_ray.state.records import read_row
from hive_ray.state.run_events import every_row
from tests.core import invariants
from tests.core.graphs import Facts
from tests.simulation import afterwards, keyholders, limits, monkey, onlooker, operators, strangers
from tests.simulation.monkey import HOUR_US
from tests.simulation.moves import Pace, Player
from tests.simulation.people import People, User
from tests.simulation.plan import LEAST_KINDS, Plan, plan
from tests.simulation.world import POOLS, World

LEAST_TURNS, TURNS_A_STEP = 3_000, 30
"""Happenings after which a history that makes no progress is brought to its end."""
IDLE_TURNS = 200
"""Happenings without an event after which time is let pass."""
CHUNK_US = 500_000


class Told(NamedTuple):
    """What a history came to."""

    seed: int
    steps: int
    """Run-steps: attempts whose end is durable."""
    events: int
    """Durable events, each checked."""
    inputs: int
    faults: dict[str, int]
    moves: dict[str, int]
    """What was done that is no fault."""


class History:
    """Plays one seed."""

    def __init__(self, seed: int, steps: int = 0, drawn: Plan | None = None) -> None:
        chance = Random(seed)
        self.plan = drawn or plan(chance, steps)
        self.world = World(seed, self.plan, chance)
        self._quiet = 0
        """Times in a row that time was let pass, and nothing came of it."""

    def play(self) -> Told:
        """Raises ``AssertionError`` where an invariant is broken."""
        self.world.shorten_snapshots()
        try:
            self._begin()
            self._live()
            self._calm_down()
            self._end()
            self._reckon()
        finally:
            self.world.storage.clear()
        ledger = self.world.ledger
        return Told(
            self.world.seed,
            len(ledger.seen),
            ledger.events,
            self.world.inputs,
            self.world.all_faults(),
            self.world.moves,
        )

    def _begin(self) -> None:
        world = self.world
        world.start_controller()
        for number in range(self.plan.workers):
            world.start_worker(POOLS[number] if number < len(POOLS) else world.pick(POOLS))
        self.users = [User(world, number) for number in range(self.plan.users)]
        for user in self.users:
            world.clock.after(int(world.chance.random() * 50_000), user.go_on)
        self.people = People(world)
        plan = self.plan
        monkey.set_rates(world)
        Player(world, monkey.MOVES, Pace(plan.every_us, plan.every_steps, plan.most_faults))
        Player(world, operators.MOVES, Pace(plan.every_us, 8))
        Player(world, limits.MOVES, Pace(plan.every_us, 12))
        if plan.has("limits"):
            limits.Treasurer(world)
        Player(world, strangers.MOVES, Pace(100_000, 24))
        Player(world, keyholders.MOVES, Pace(100_000, 24))
        Player(world, onlooker.MOVES, Pace(200_000, 16))

    def _live(self) -> None:
        """Until enough steps were given out, or too much time went by."""
        turn, ledger, steps = self.world.clock.turn, self.world.ledger, self.plan.steps
        events = idle = 0
        for _ in range(LEAST_TURNS + TURNS_A_STEP * steps):
            turn()
            if ledger.started >= steps and self._was_faulty():
                return
            if events != ledger.moves:
                events, idle, self._quiet = ledger.moves, 0, 0
            idle += 1
            if idle > IDLE_TURNS:
                self._let_time_pass()
                idle = 0

    def _was_faulty(self) -> bool:
        return len(self.world.all_faults()) >= LEAST_KINDS

    def _let_time_pass(self) -> None:
        """Nothing moves: only time can end what is left, be it seconds or three days.

        Mostly as much as until a deadline, or nearly: hours in which everybody waits show nothing.
        """
        world = self.world
        self._quiet += 1
        longest_us = min(1_000_000 * 8**self._quiet, 30 * HOUR_US)
        us = int(world.chance.random() * longest_us)
        deadline_us = world.some_deadline_us() - world.clock.wall_us
        if deadline_us > us and world.chance.random() < 0.8:
            us = deadline_us + int((world.chance.random() - 0.5) * 200_000)
        world.clock.stall(max(us, 0))

    def _calm_down(self) -> None:
        """No more faults; what is stopped goes on, and one controller stands."""
        world = self.world
        world.calm = True
        network, weather, outside = world.network, world.weather, world.outside
        network.lost = network.late = network.doubled = 0.0
        weather.error = weather.lost = 0.0
        weather.full = weather.down = False
        outside.failure_rate = outside.slow_rate = 0.0
        limits.lift(world)
        world.storage.mend()
        for controller in world.controllers:
            controller.process.fuse = 0
            controller.process.go_on()
        for worker in world.workers:
            worker.process.go_on()
        world.start_if_none()

    def _end(self) -> None:
        """Let everything come to its end: people answer, or the deadlines do."""
        world = self.world
        for _ in range(400):
            before = world.ledger.moves
            world.clock.pass_time(CHUNK_US)
            if self._is_over():
                return
            if world.ledger.moves == before:
                self._let_time_pass()
            else:
                self._quiet = 0
        raise AssertionError(f"does not end: {self._left()}")

    def _left(self) -> list[str]:
        return list(self.world.ledger.live)

    def _is_over(self) -> bool:
        world = self.world
        if self._left() or world.branching or not all(user.idle for user in self.users):
            return False
        controller = world.ready()
        if controller is None or controller.shell is None or controller.decided:
            return False
        if any(worker.leases for worker in controller.shell.engine.fleet.workers.values()):
            return False
        return all(not worker.running and not worker._unacknowledged for worker in world.live_workers())

    # --- the reckoning ---------------------------------------------------------------------------

    def _reckon(self) -> None:
        controller = self.world.ready()
        assert controller is not None and controller.shell is not None
        engine = controller.shell.engine
        invariants.check(engine)
        self.world.ledger.purses.compare(engine)
        self.world.receivers.compare(engine)
        self._check_questions()
        self._check_effects()
        if self._says_all():
            derived = self._replayed()
            self._check_replay(derived, engine)
            self._check_runs(derived)
            self._check_money(derived.runs)
        self._check_money(engine.runs)
        self._check_money(engine.parked)
        self._look_back(engine)
        self._check_recovery(engine)

    def _says_all(self) -> bool:
        """Whether nothing was erased."""
        return not self.plan.retention_days and not (self.plan.sealed and self.plan.parks)

    def _look_back(self, engine: Engine) -> None:
        """Now and then, as operators do: it reads everything again."""
        way = self.world.seed % (12 if self.world.ledger.events < afterwards.MANY_EVENTS else 60)
        world = self.world
        if way == 0:
            afterwards.check_store(world.storage, world.storage.raw)
        elif way == 1:
            afterwards.check_copy(world, engine)
        elif way in (2, 8) and not self.plan.retention_days:
            afterwards.check_replays(world, self._replayed() if self._says_all() else None)
        elif way == 3 and not self.plan.retention_days:
            afterwards.check_bills(world)
        elif way == 4:
            afterwards.check_damage(world)

    def _check_runs(self, engine: Engine) -> None:
        for run_id in self.world.acknowledged_runs:
            run = engine.runs[run_id]
            assert run.terminal, f"{run_id} was acknowledged and is {run.status}"
        for run in engine.runs.values():
            assert not run.orphans and not run.reserved_nanousd, f"{run.id} still holds something"

    def _check_money(self, runs: Mapping[str, Run | Parked]) -> None:
        """Each run's ledger is the sum of its attempts, as counted outside, and of corrections."""
        ledger, bills = self.world.ledger, self.world.outside.bills
        spent = dict.fromkeys(ledger.runs, 0)
        for key, attempt in ledger.attempts.items():
            bill = bills.get(key)
            if ledger.seen[key]:
                assert bill is not None and bill.seen, f"{key} ended in the journal, and nobody reported it"
                cost = bill.cost_nanousd
            else:
                reported = bill.cost_nanousd if bill is not None and not bill.seen else 0
                cost = max(attempt.reserved, reported)
            assert attempt.charged == cost, f"{key} was charged {attempt.charged}, it cost {cost}"
            self._charge(spent, key[0], cost)
        for run_id, amount in ledger.corrected.items():
            self._charge(spent, run_id, amount)
        for run_id, run in runs.items():
            found, total = run.spent_nanousd, spent[run_id]
            assert found == total, f"{run_id} spent {found}, its attempts cost {total}"

    def _charge(self, spent: dict[str, int], run_id: str, nanousd: int) -> None:
        """A run and its ancestors."""
        while run_id:
            spent[run_id] += nanousd
            run_id = self.world.ledger.runs[run_id]

    def _check_effects(self) -> None:
        """Whatever took effect stands in the journal: as a success, a failure, or as unknown."""
        ledger, outside = self.world.ledger, self.world.outside
        for step, attempts in outside.effects.items():
            for key in attempts:
                assert key in ledger.seen, f"{key} took effect, and the journal does not know its end"
                told = ledger.seen[key] or step in ledger.unknown or key[0] in ledger.ended
                assert told, f"{key} took effect, and nobody was told"
        for key, seen in outside.acknowledged_outcomes.items():
            assert not seen or ledger.seen[key], f"the outcome of {key} was acknowledged and not counted"

    def _check_questions(self) -> None:
        """Each question was answered exactly once, or its run ended before (the ledger counts doubles)."""
        ledger = self.world.ledger
        for approval in ledger.questions:
            if approval not in ledger.answers:
                run = approval.rpartition(".")[0]
                assert run in ledger.ended, f"{approval} has no answer"

    def _check_replay(self, derived: Engine, live: Engine) -> None:
        """History and journal alone give the state that is in memory."""
        assert derived.seq == live.seq, f"the journal ends at {derived.seq}, the state at {live.seq}"
        assert len(derived.runs) == len(self.world.ledger.runs)
        for run in live.runs.values():
            assert _bare(derived.runs[run.id]) == _bare(run), f"{run.id} differs from its journal"
        for run_id, row in live.parked.items():
            run = derived.runs[run_id]
            assert (run.spent_nanousd, run.status) == (row.spent_nanousd, row.kind.status), run_id

    def _check_recovery(self, live: Engine) -> None:
        """A new controller recovers the same state from snapshot, journal and history."""
        world = self.world
        rival = world.start_controller(take_over=True)
        world.clock.pass_time(20_000)
        assert rival.shell is not None
        found = rival.shell.engine
        for run in live.runs.values():
            there = found.runs.get(run.id)
            assert there is None or _bare(there) == _bare(run), f"{run.id} differs after recovery"
            assert there is not None or run.id in found.parked or run.terminal, run.id
        for run_id, row in live.parked.items():
            there = found.runs.get(run_id)
            assert there is None or there.status == row.kind.status

    def _replayed(self) -> Engine:
        """Every event that was ever durable, applied to an empty state."""
        world = self.world
        engine = Engine(Facts(), buckets.take)
        for version in world.graphs:
            engine.add_graph(load_graph(world.storage.blobs, version))
        for row in every_row(world.storage.raw, 0):
            found = read_row(f"row {row.seq}", row, world.storage.codec)
            if found is not None:
                engine.replay(found.seq, found.time_us, found.event, found.content)
        engine.restored()
        return engine


def _bare(run: Run) -> Run:
    """Without the numbers of its segments, which compaction takes away."""
    return msgspec.structs.replace(run, segments=[])
