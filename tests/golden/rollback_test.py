"""Up to the next release and back: until the feature level is raised, the release before opens the state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hive_ray.core import features
from hive_ray.core.commands import CorrectCost, Fork, RaiseLevel, Refused, Register
from hive_ray.core.events import Origin
from hive_ray.core.messages import StepContent
from hive_ray.core.run import status_of
from hive_ray.errors import TooNew
from hive_ray.state.journal import Journal
from hive_ray.state.lineage import open_for_work
from hive_ray.state.snapshots import kept_manifests
from tests.control.driver import Driver
from tests.golden.opened import Golden
from tests.golden.releases import install

OLD = "0.1.0"
"""The release that wrote feature level 1."""

OPEN = """
import json, sys, time
from hive_ray.config import Settings
from hive_ray.control.recovery import may_take, recover
from hive_ray.core.run import status_of
from hive_ray.graph.expressions import Evaluator
from hive_ray.state.access import content_codec, open_blobs, open_state
from hive_ray.state.journal import Journal
from hive_ray.state.owner import this_process

settings = Settings.model_validate({"state": {"url": sys.argv[1]}})
store, now_us = open_state(settings), time.time_ns() // 1000
owner = this_process("node", "cluster", now_us)
may_take(Journal(store, 0), owner, now_us, 20.0, True)
codec, blobs = content_codec(settings), open_blobs(settings, store)
engine = recover(store, blobs, codec, Evaluator(), 0, owner, now_us).engine
runs = engine.runs.values()
print(json.dumps({run.id: [status_of(run), run.spent_nanousd, run.attempts, run.seq] for run in runs}))
"""
"""What a controller of the old release does before it is ready."""


@pytest.fixture(scope="module")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(OLD, tmp_path_factory.mktemp("old"))


@pytest.fixture
def golden(tmp_path: Path) -> Golden:
    return Golden(OLD, tmp_path)


def _opened_by(code: Path, url: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(code)}
    argv = [sys.executable, "-P", "-c", OPEN, url]
    return subprocess.run(argv, cwd=code, env=env, capture_output=True, text=True, timeout=120)


def _runs_of(code: Path, url: str) -> Any:
    done = _opened_by(code, url)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _runs(golden: Golden) -> dict[str, list[Any]]:
    runs = golden.driver.engine.runs.values()
    return {run.id: [str(status_of(run)), run.spent_nanousd, run.attempts, run.seq] for run in runs}


def _names(code: Path, module: str, expression: str) -> set[str]:
    """A set of names, as the old release has it."""
    script = f"import json, {module} as m; print(json.dumps(sorted({expression})))"
    env = {**os.environ, "PYTHONPATH": str(code)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=code, env=env, capture_output=True, text=True, timeout=60
    )
    return set(json.loads(done.stdout))


def test_what_this_release_does_with_an_old_state_the_old_release_opens(golden: Golden, old_code: Path):
    """A broad history at level 1: every run goes on to its end here, a snapshot is taken, and the old
    release recovers all of it, to the same statuses, sums and seqs."""
    golden.live_on()
    golden.snapshot()

    assert golden.driver.engine.fleet.feature_level == features.FIRST
    assert _runs_of(old_code, golden.store.url) == _runs(golden)


def test_nothing_new_is_written_below_level_2(golden: Golden, old_code: Path):
    """No event kind, no kind of snapshot item, no sealed content, no form that the old release lacks."""
    before = set(golden.store.list(""))
    golden.live_on()
    golden.snapshot()
    kinds = _names(old_code, "hive_ray.core.events", "m.EVENTS") | {"EpochClaimed"}

    segments = list(Journal(golden.store, 0).read_segments())
    rows = [row for segment in segments for row in segment.columns.rows()]
    manifest = kept_manifests(golden.store, 0)[-1]

    assert {segment.header.format for segment in segments} == {features.FIRST}
    assert {row.kind for row in rows} <= kinds
    assert {row.content[:1] for row in rows} <= {b"", b"\x00"}
    assert manifest.header.format == features.FIRST
    assert {key.partition("/")[0] for key in manifest.places} == {"run", "fleet"}
    folders = {name.partition("/")[0] for name in set(golden.store.list("")) - before}
    assert folders <= {"journal", "snapshots", "blobs", "graphs"}


def test_nothing_is_compacted_below_level_2(golden: Golden, old_code: Path):
    """The old release reads a run's events from its segments, and knows no other place for them."""
    golden.live_on()
    graph = golden.view(next(iter(golden.told))).graph_version
    for number in range(2):
        golden.snapshot()
        golden.ask(Register(f"agent{number}", "default", graph))
    segments = len(golden.store.list("journal/0000/"))
    runs = _runs(golden)

    keeping = Driver(golden.store, [], park_after_us=0, clock=golden.driver.clock)
    for _ in range(20):
        keeping.pass_time(1_000_000)

    assert golden.store.list("history/") == golden.store.list("manifests/") == []
    assert len(golden.store.list("journal/0000/")) >= segments
    assert _runs_of(old_code, golden.store.url) == runs


def test_a_lineage_does_not_keep_the_old_release_out(golden: Golden, old_code: Path):
    """It is an object that the old release does not look at."""
    open_for_work(golden.store, "local", 1)

    assert _runs_of(old_code, golden.store.url) == _runs(golden)


def test_after_the_upgrade_the_old_release_refuses_and_touches_nothing(golden: Golden, old_code: Path):
    """Already at its first look: it claims nothing, and says that a newer release wrote the state."""
    golden.ask(RaiseLevel(features.LATEST))
    before = {name: golden.store.get(name) for name in golden.store.list("")}

    refused = _opened_by(old_code, golden.store.url)

    assert refused.returncode != 0
    assert "written by a newer release (format 2, this one reads 1)" in refused.stderr
    assert {name: golden.store.get(name) for name in golden.store.list("")} == before


def test_after_the_upgrade_every_run_is_there_and_goes_on(golden: Golden):
    """Raising the level changes no run; segments and snapshots carry it from there on."""
    runs = _runs(golden)
    golden.ask(RaiseLevel(features.LATEST))
    golden.live_on()
    golden.snapshot()

    segments = list(Journal(golden.store, 0).read_segments())

    assert set(runs) <= set(_runs(golden))
    assert not golden.live()
    assert [s.header.format for s in segments] == sorted(s.header.format for s in segments)
    assert segments[-1].header.format == features.LATEST
    assert kept_manifests(golden.store, 0)[-1].header.format == features.LATEST
    assert Driver(golden.store, []).engine.fleet.feature_level == features.LATEST


def _told(golden: Golden, command: Any) -> Any:
    return golden.driver.replies[golden.driver.command(command)].refused


def test_what_needs_the_level_is_refused_below_it(golden: Golden):
    """With the command that raises it; nothing is written."""
    run = next(iter(golden.told))
    number = golden.driver.shell.journal.number
    origin = Origin(run, 1)
    fork = Fork("f", "q", "default", "a", golden.view(run).graph_version, StepContent(), origin)

    for command in (CorrectCost(run, "c", 5, StepContent()), fork):
        refused = _told(golden, command)
        assert isinstance(refused, Refused)
        assert refused.problem == "conflict"
        assert "needs state feature level 2, and this state is at 1: run `hive-ray state upgrade`" in (
            refused.message
        )
    assert golden.driver.shell.journal.number == number


@pytest.mark.parametrize("level", [0, features.LATEST + 1])
def test_levels_that_this_release_does_not_know_are_refused(golden: Golden, level: int):
    """Neither back, nor beyond what this release can read itself."""
    refused = _told(golden, RaiseLevel(level))

    assert isinstance(refused, Refused) and refused.problem == "invalid"
    assert "from 1 to 2 would be right" in refused.message


def test_a_state_from_the_future_is_refused_and_not_touched(tmp_path: Path):
    """By the form of its newest segment, as the release before this one refuses its states."""
    golden = Golden(OLD, tmp_path)
    golden.ask(RaiseLevel(features.LATEST))
    golden.driver.shell.journal.format = features.LATEST + 1
    golden.driver.engine.fleet.feature_level = features.LATEST + 1
    golden.attach("function")
    before = {name: golden.store.get(name) for name in golden.store.list("")}

    with pytest.raises(TooNew, match=r"newer release \(format 3, this one reads 2\); start the release"):
        Driver(golden.store, [])
    assert {name: golden.store.get(name) for name in golden.store.list("")} == before


def test_an_unknown_kind_of_event_is_named(golden: Golden):
    """A segment in a form that is known, with a fact that is not: it is not skipped."""
    engine = golden.driver.engine
    raised = msgspec.defstruct("Unheard", [("run", str)], array_like=True)
    engine.sink(engine.seq + 1, msgspec.structs.replace(_draft(), event=raised("")))
    engine.seq += 1
    golden.driver.perform()

    with pytest.raises(TooNew, match="holds an event of kind Unheard, which this release does not know"):
        Driver(golden.store, [])


def _draft() -> Any:
    from hive_ray.core.events import Draft, FeatureLevelRaised

    return Draft(FeatureLevelRaised("", 2))
