"""The simulation can fail: each deliberate bug is found within the number of seeds that stands beside it."""

from __future__ import annotations

import logging

import pytest

from tests.simulation.bugs import BUGS, Switch
from tests.simulation.campaign import Failure, play


@pytest.mark.timeout(600)
@pytest.mark.parametrize("switch_on", BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_is_found(switch_on: Switch, monkeypatch: pytest.MonkeyPatch):
    """The same seeds pass without it: see ``simulation_test``, which begins with as many."""
    switch_on(monkeypatch)
    logging.disable(logging.CRITICAL)

    found = (seed for seed in range(BUGS[switch_on]) if isinstance(play(seed), Failure))
    first = next(found, None)
    logging.disable(logging.NOTSET)

    assert first is not None, f"{switch_on.__name__} was not found in {BUGS[switch_on]} seeds"
