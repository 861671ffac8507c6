"""Seeded histories at the edge of a budget; ``python -m tests.simulation --edge --seeds N`` plays more."""

from __future__ import annotations

import pytest

from tests.simulation import campaign
from tests.simulation.edge import Edge


@pytest.mark.timeout(300)
def test_no_team_spends_a_nano_dollar_beyond_its_limit():
    """Whatever dies between the hold of a step and its settlement."""
    totals = campaign.run(0, 40, of=Edge)

    assert not totals.failures, totals.failures[0]
    assert totals.histories == 40
