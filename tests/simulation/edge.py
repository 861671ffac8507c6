"""Fifty runs at once at the edge of a team's budget that pays for twenty and a half; faults all the while.

Controllers are killed between hold and settlement, messages are lost and come twice, workers die. The
observer (``purses``) holds the account against its limit at every durable event, and against the state at
each recovery.
"""

from __future__ import annotations

from random import Random

from hive_ray.core.plan import AccountPlan, ControlPlan
from tests.core.graphs import graph, node
from tests.simulation import monkey
from tests.simulation.history import History
from tests.simulation.moves import Pace, Player
from tests.simulation.people import People, User
from tests.simulation.plan import LEAST_KINDS, Plan

RUNS = 50
COST = 1_000_000_007
LIMIT = 20 * COST + COST // 2
TEAM = "team/team"
PAID = graph([node("pay", cost_nanousd=COST, idempotent=True)], [], id="edge")
KINDS = (
    "crash", "fuse", "zombie", "rival", "lost", "late", "doubled", "worker_death", "worker_stop", "slow_step",
    "store_error", "lost_ack", "step_failure",
)  # fmt: skip
TURNS = 6_000


def edge_plan(chance: Random) -> Plan:
    """Everything but what would turn the month."""
    kinds = chance.sample(KINDS, chance.randint(LEAST_KINDS, len(KINDS)))
    return Plan(
        kinds=tuple(sorted({*kinds, "crash", "fuse"})),
        steps=RUNS,
        users=RUNS,
        workers=2,
        slots=chance.choice((8, 20, 40)),
        most_faults=chance.randint(3, 12),
        every_us=int(5_000 + chance.random() * 60_000),
        every_steps=4,
        rate=0.002 + chance.random() ** 3 * 0.05,
        inline=chance.random() < 0.8,
        people=False,
        snapshot_segments=chance.choice((4, 10, 40)),
        parks=chance.random() < 0.5,
        park_after_us=0,
        sealed=False,
        retention_days=0,
        on_disk=False,
        control=ControlPlan(accounts={TEAM: AccountPlan(LIMIT)}),
    )


class Once(User):
    """Submits one run, and watches it to its end."""

    def go_on(self) -> None:
        if self.runs:
            self.idle = True
        else:
            super().go_on()


class Edge(History):
    """Plays one seed at the edge."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, drawn=edge_plan(Random(seed)))
        self.world.outside.add_graph(PAID)
        self.world._store_graph(PAID)
        self.world.graphs = [PAID.version]

    def _begin(self) -> None:
        world, plan = self.world, self.plan
        world.start_controller()
        for _ in range(plan.workers):
            world.start_worker("function")
        self.users = [Once(world, number) for number in range(RUNS)]
        for user in self.users:
            world.clock.after(int(world.chance.random() * 20_000), user.go_on)
        self.people = People(world)
        monkey.set_rates(world)
        Player(world, monkey.MOVES, Pace(plan.every_us, plan.every_steps, plan.most_faults))

    def _live(self) -> None:
        """Until every run has ended, or much has happened."""
        for _ in range(TURNS):
            self.world.clock.turn()
            if len(self.world.ledger.ended) == RUNS:
                return

    def _reckon(self) -> None:
        super()._reckon()
        ledger = self.world.ledger
        spent = sum(cost for (name, _), cost in ledger.purses.spent.items() if name == TEAM)
        assert 0 <= spent <= LIMIT, f"{spent} was spent of {LIMIT}"
        assert spent == sum(attempt.charged for attempt in ledger.attempts.values())
