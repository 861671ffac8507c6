"""The command line against a running installation: output, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.http.installation import Installation, asking, chain, single

pytestmark = pytest.mark.timeout(180)
SUCCEEDED, FAILED, BAD_INPUT, WAITING, CANCELLED = range(5)


def test_run_shows_each_transition_and_the_outputs(installation: Installation):
    """Exit 0; it joins what runs here."""
    done = installation.cli("run", installation.write("chain.yaml", chain()), "--input", '{"name": "Ada"}')

    assert done.returncode == SUCCEEDED, done.stderr
    assert "greet              succeeded" in done.stdout
    assert '"shouted": "HELLO ADA"' in done.stdout
    assert "starting a cluster" not in done.stderr


def test_run_reads_its_input_from_stdin_or_a_file(installation: Installation):
    """``-`` is stdin; a path is a file; both as JSON."""
    graph = installation.write("chain.yaml", chain())
    file = installation.folder / "input.json"
    file.write_text('{"name": "file"}')

    piped = installation.cli("run", graph, "--input", "-", "--json", given='{"name": "pipe"}')
    read = installation.cli("run", graph, "--input", file, "--json")

    assert json.loads(piped.stdout)["outputs"]["greeting"] == "hello pipe"
    assert json.loads(read.stdout)["outputs"]["greeting"] == "hello file"


def test_a_failed_run_exits_one(installation: Installation):
    """The kind, the place and the message are shown."""
    graph = installation.write("boom.yaml", single("boom", ["name"], ["x"]))

    done = installation.cli("run", graph, "--input", '{"name": "bread"}')

    assert done.returncode == FAILED
    assert "failed: TOOL_ERROR at boom" in done.stdout
    assert "no bread today" in done.stdout


def test_a_run_that_waits_exits_three_and_says_what_it_needs(installation: Installation):
    """The shown command answers it; ``show`` tells the whole story afterwards."""
    graph = installation.write("asking.yaml", asking())
    waits = installation.cli("run", graph, "--input", '{"name": "Ada"}')
    (line,) = [text for text in waits.stdout.splitlines() if "hive-ray approve" in text]
    approval = line.split()[-1]

    approved = installation.cli("approve", approval, "--answer", '{"feedback": "fine"}')
    run_id = approval.rpartition(".")[0]
    result = installation.cli("result", run_id)
    shown = installation.cli("show", run_id)

    assert waits.returncode == WAITING
    assert "Is this polite?" in waits.stdout
    assert approved.returncode == SUCCEEDED, approved.stderr
    assert json.loads(result.stdout)["feedback"] == "fine"
    assert "status    succeeded" in shown.stdout
    assert f"{approval} was answered: approve" in shown.stdout


def test_a_cancelled_run_exits_four(installation: Installation):
    """``result`` exits like ``run``."""
    graph = installation.write("asking.yaml", asking())
    run_id = installation.cli("submit", graph, "--input", '{"name": "Bo"}').stdout.strip()

    cancelled = installation.cli("cancel", run_id, "--reason", "enough")
    result = installation.cli("result", run_id)

    assert cancelled.stdout.strip() == f"run {run_id} is cancelled (enough)"
    assert result.returncode == CANCELLED


def test_lists_and_events_are_json_on_demand(installation: Installation):
    """``--json`` gives what the HTTP face gives."""
    graph = installation.write("chain.yaml", chain())
    run_id = installation.cli("submit", graph, "--input", '{"name": "Cy"}', "--json").stdout
    run_id = json.loads(run_id)["run_id"]
    installation.cli("result", run_id)

    listed = json.loads(installation.cli("ls", "--json").stdout)
    events = installation.cli("events", run_id, "--json").stdout.splitlines()
    status = json.loads(installation.cli("status", "--json").stdout)

    assert run_id in [run["run_id"] for run in listed]
    assert [json.loads(event)["kind"] for event in events][-1] == "RunSucceeded"
    assert status["ready"] is True
    assert {worker["pool"] for worker in status["workers"]} == {"function", "tool", "llm"}


def test_a_ray_job_runs_on_the_cluster_that_it_is_submitted_to(installation: Installation):
    """``ray job submit -- hive-ray run …`` finds the installation through its cluster."""
    graph = installation.write("chain.yaml", chain())
    scripts = Path(sys.executable).parent
    entry = [str(scripts / "hive-ray"), "run", str(graph), "--input", '{"name":"job"}']
    address = installation.record.dashboard_url
    argv = [str(scripts / "ray"), "job", "submit", "--address", address, "--", *entry]

    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=dict(os.environ))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "HELLO JOB" in done.stdout


def test_a_second_up_is_refused_and_names_the_first(installation: Installation):
    """Exit 2, process and address named; the first goes on."""
    pid = installation.record.pid

    second = installation.cli("up")

    assert second.returncode == BAD_INPUT
    assert f"process {pid}" in second.stderr
    assert installation.url in second.stderr
    assert "hive-ray down" in second.stderr
    assert installation.cli("status").returncode == SUCCEEDED


def test_a_model_that_is_down_fails_the_run_by_name(installation: Installation):
    """Kind, node and address are in the failure."""
    node = {
        "id": "write",
        "node_type": "llm_generate",
        "output_keys": ["text"],
        "prompt": "Say hello.",
        "max_retries": 0,
    }
    graph = installation.write("llm.yaml", {"id": "llm", "nodes": [node], "edges": []})

    done = installation.cli("run", graph)

    assert done.returncode == FAILED, done.stderr
    assert "LLM_UNAVAILABLE at write" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_help_is_fast_and_needs_no_ray():
    """Importing the command line imports neither Ray nor the SDK."""
    script = "import sys, hive_ray.cli; print([m for m in ('ray', 'httpx2', 'pydantic') if m in sys.modules])"

    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)

    assert shown.stdout.strip() == "[]"
