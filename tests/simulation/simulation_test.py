"""Seeded histories of the whole control plane; docs/simulation.md tells how to replay one."""

from __future__ import annotations

import os

import pytest

from tests.simulation import campaign
from tests.simulation.history import History
from tests.simulation.plan import LEAST_KINDS
from tests.simulation.regressions import SEEDS

SECONDS = float(os.environ.get("SIMULATION_SECONDS", "110"))
HISTORIES = 240
"""At most, from the first seed on; `make sim` goes beyond."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_found_once_stays_mended(seed: int):
    """See ``regressions``."""
    History(seed).play()


def test_a_seed_replays_exactly():
    """The same steps, events, inputs and faults, at the same simulated times."""
    first, second = History(8), History(8)

    assert first.play() == second.play()
    assert first.world.clock.mono_us == second.world.clock.mono_us


@pytest.mark.timeout(600)
def test_random_histories_keep_what_is_promised():
    """As many as the time allows, from the same first seed; all of them long, all of them faulty."""
    totals = campaign.run(0, HISTORIES, seconds=SECONDS)

    assert not totals.failures, "\n".join(
        f"make sim SEED={failure.seed}: {failure.error}\n{failure.where}" for failure in totals.failures
    )
    print(totals.summary())
    assert totals.short <= totals.histories // 5, "histories that gave up before 100 run-steps"
    assert len(totals.faults) >= LEAST_KINDS
