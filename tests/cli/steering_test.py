"""Forking, resuming and cancelling at the command line, against a running installation."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from tests.http.installation import Installation, asking, chain, mended
from tests.servers.process import wait_until

pytestmark = pytest.mark.timeout(180)
SUCCEEDED, FAILED, BAD_INPUT = range(3)


def test_fork_begins_another_run_and_says_where_it_comes_from(installation: Installation):
    """With a value given anew; ``show`` of the fork names its parent."""
    graph = installation.write("chain.yaml", chain())
    parent = json.loads(installation.cli("run", graph, "-i", '{"name": "Ada"}', "--json").stdout)["run_id"]

    done = installation.cli("fork", parent, "--from", "shout", "--input", '{"greeting": "good day"}')
    fork = done.stdout.split()[1]
    result = installation.cli("result", fork)
    shown = installation.cli("show", fork)

    assert done.returncode == SUCCEEDED, done.stderr
    assert f"forked from run {parent}" in done.stdout
    assert json.loads(result.stdout)["shouted"] == "GOOD DAY"
    assert f"forked from run {parent}" in shown.stdout
    assert f"forked from run {parent} before shout (visit 1)" in shown.stdout


def test_fork_from_a_place_that_is_not_there_exits_two(installation: Installation):
    """The nodes that were visited are named."""
    graph = installation.write("chain.yaml", chain())
    parent = json.loads(installation.cli("run", graph, "-i", '{"name": "Ada"}', "--json").stdout)["run_id"]

    refused = installation.cli("fork", parent, "--from", "nope")

    assert refused.returncode == BAD_INPUT
    assert "the run has visited: greet, shout" in refused.stderr


def test_resume_takes_the_place_of_a_failed_run(installation: Installation, tmp_path: Path):
    """The new run's id is printed, and ``show`` of the failed one names it."""
    graph = installation.write("mended.yaml", mended())
    file = tmp_path / "here"
    given = json.dumps({"name": "Ada", "file": str(file)})
    failed = json.loads(installation.cli("run", graph, "-i", given, "--json").stdout)["run_id"]
    file.touch()

    done = installation.cli("resume", failed)
    resumed = done.stdout.split()[1]

    assert done.returncode == SUCCEEDED, done.stderr
    assert resumed != failed
    assert f"in the place of run {failed}" in done.stdout
    assert json.loads(installation.cli("result", resumed).stdout)["shouted"] == "HELLO ADA"
    assert f"resumed   as run {resumed}" in installation.cli("show", failed).stdout


def test_all_runs_of_an_agent_are_cancelled(installation: Installation):
    """One line for each, and the counts; a second time there is nothing left."""
    agent = f"a{uuid.uuid4().hex[:8]}"
    with installation.client() as client:
        runs = [client.submit(asking(), agent=agent, input={"name": str(n)}) for n in range(3)]
        wait_until(lambda: len(list(client.runs(agent=agent, status="waiting"))) == 3, 60)

        done = installation.cli("cancel", "--all", "--agent", agent, "--older-than", "0s")
        again = installation.cli("cancel", "--all", "--agent", agent)

        assert done.returncode == SUCCEEDED, done.stderr
        assert all(f"run {run.id} is cancelled" in done.stdout for run in runs)
        assert "cancel: 3 of 3 runs, 0 refused" in done.stdout
        assert "cancel: 0 of 0 runs, 0 refused" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cancel",), "give either RUN, or --all"),
        (("cancel", "x", "--all"), "give either RUN, or --all"),
        (("cancel", "x", "--agent", "y"), "--agent needs --all"),
        (("cancel", "--all", "--older-than", "soon"), "such as 2h"),
        (("resume", "--all", "--agent", "y"), "say which"),
        (("resume", "--all", "--status", "failed", "--budget-usd", "1"), "for one run"),
    ],
)
def test_a_selection_that_says_nothing_is_refused(
    installation: Installation, arguments: tuple[str, ...], said: str
):
    """Exit 2; nothing is done."""
    refused = installation.cli(*arguments)

    assert refused.returncode == BAD_INPUT
    assert said in " ".join(refused.stderr.split())


def test_dead_letters_are_listed_and_resumed(installation: Installation, tmp_path: Path):
    """``ls --dead-lettered`` shows those that nobody has resumed."""
    graph = installation.write("deadly.yaml", mended("deadly"))
    file = tmp_path / "here"
    given = json.dumps({"name": "Ada", "file": str(file)})
    dead = json.loads(installation.cli("run", graph, "-i", given, "--json").stdout)["run_id"]
    listed = installation.cli("ls", "--dead-lettered")
    file.touch()

    done = installation.cli("resume", "--all", "--dead-lettered")

    assert dead in listed.stdout
    assert done.returncode == SUCCEEDED, done.stderr
    assert f"in the place of {dead}" in done.stdout
    assert dead not in installation.cli("ls", "--dead-lettered").stdout


def test_a_run_is_replayed(installation: Installation):
    """Exit 0 with numbers; a run that is not there exits 2."""
    graph = installation.write("chain.yaml", chain())
    run_id = json.loads(installation.cli("run", graph, "-i", '{"name": "Ada"}', "--json").stdout)["run_id"]

    done = installation.cli("replay", run_id)
    missing = installation.cli("replay", "nope")

    assert done.returncode == SUCCEEDED, done.stderr
    assert f"run {run_id}: ok" in done.stdout
    assert "compared with controller at event" in done.stdout
    assert missing.returncode == BAD_INPUT
