"""Whatever an earlier release wrote, this release opens: the same runs, which go on to their end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hive_ray.control.views import RunView
from serve import shapes
from tests.golden.opened import Golden
from tests.golden.releases import releases


@pytest.fixture(params=releases())
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    return Golden(request.param, tmp_path)


def _of_old(shown: Any, told: Any) -> Any:
    """What is shown, without the fields that an earlier release did not know."""
    if isinstance(told, dict):
        return {key: _of_old(shown[key], value) for key, value in told.items()}
    if isinstance(told, list):
        return [_of_old(one, other) for one, other in zip(shown, told, strict=True)]
    return shown


def _shown(view: RunView) -> dict[str, Any]:
    return shapes.run(view)


def test_every_run_shows_what_the_release_that_wrote_it_showed(golden: Golden):
    """Status, reason, cost, steps, waits, deadlines and all else of a run's view; fields may be added."""
    for run_id, told in golden.told.items():
        shown = _shown(golden.view(run_id))

        assert _of_old(shown, told["view"]) == told["view"], run_id


def test_every_output_is_what_it_was(golden: Golden):
    """Blobs included: their names still fit their content."""
    for run_id, told in golden.told.items():
        assert golden.outputs(golden.view(run_id)) == (told["result"]["outputs"] or {}), run_id


def test_every_event_is_still_read(golden: Golden):
    """In the same order, by name."""
    for run_id, told in golden.told.items():
        assert golden.events(run_id) == told["events"], run_id


def test_a_named_agent_and_a_used_key_are_remembered(golden: Golden):
    """The agent stands for the same graph; the key still names its run."""
    fleet = golden.driver.engine.fleet
    chain = next(run for run, told in golden.told.items() if told["view"]["graph"] == "chain")

    assert fleet.agents["default/greeter"].graph == golden.view(chain).graph_version
    assert golden.driver.engine.runs[chain].idempotency_key == "golden"


def test_live_runs_go_on_to_their_end(golden: Golden):
    """Leased steps of workers that are gone are tried again or asked about; waits are answered; all end."""
    assert len(golden.live()) >= 10
    golden.live_on()
    assert not golden.live()

    ended = {run_id: golden.view(run_id).status for run_id in golden.told}
    before = {run_id: told["view"]["status"] for run_id, told in golden.told.items()}
    assert {ended[run] for run, status in before.items() if status in ("running", "waiting")} == {"succeeded"}
    assert all(ended[run] == status for run, status in before.items() if status not in ("running", "waiting"))
