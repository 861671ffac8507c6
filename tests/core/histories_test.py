"""Whatever happens to whatever graph, the invariants hold after every step and every run ends.

2,000 examples with ``HYPOTHESIS_PROFILE=ci``, and by default 200.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hive_ray.core.transitions import MACHINES
from hive_ray.graph.compiled import CompiledGraph
from tests.core.histories import History, Move, graphs, moves
from tests.core.observer import Seen, deciding_changes_nothing

settings.register_profile(
    "ci", max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
settings.register_profile("dev", settings.get_profile("ci"), max_examples=200)
PROFILE = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

SEEN: dict[Seen, int] = {}


@settings(PROFILE)
@given(graphs(), st.integers(5, 60), moves)
def test_random_histories_keep_every_invariant(
    graph: CompiledGraph, budget_nanousd: int, moves: list[Move]
) -> None:
    """Money, slots, leases, waits and the index fit after every move; deciding changes nothing; at the end
    every run has ended, and journal and snapshots give the same state again."""
    history = History(graph, budget_nanousd)
    with deciding_changes_nothing():
        for move in moves:
            history.play(move)
        history.check_replay()
        history.finish()
    history.check_replay()
    history.check_nothing_ran_twice()
    assert history.observer is not None
    for seen, count in history.observer.seen.items():
        SEEN[seen] = SEEN.get(seen, 0) + count


def test_every_declared_transition_happens() -> None:
    """The table names nothing that histories do not do; this needs the examples of the test above."""
    declared = {
        (machine.name, known.state, known.event, to)
        for machine in MACHINES
        for known in machine.transitions
        for to in known.to
    }
    missing = declared - set(SEEN)
    assert not missing, sorted(f"{m}: {a} --{e.__name__}--> {b}" for m, a, e, b in missing)
