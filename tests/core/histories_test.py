"""Whatever happens to whatever graph, the invariants hold after every step and every run ends.

2,000 examples, the same every time, where ``CI`` is set or with ``HYPOTHESIS_PROFILE=ci``; 200 others at
each run elsewhere; ``HYPOTHESIS_PROFILE=explore`` looks at 20,000 new ones.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hive_ray.graph.compiled import CompiledGraph
from tests.core.histories import History, Move, graphs, moves
from tests.core.observer import deciding_changes_nothing

settings.register_profile(
    "explore", max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
settings.register_profile("dev", settings.get_profile("explore"), max_examples=200)
settings.register_profile("ci", settings.get_profile("explore"), max_examples=2_000, derandomize=True)
PROFILE = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))


@pytest.mark.timeout(600)
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
    history.check_memory()
    history.check_artifacts()
