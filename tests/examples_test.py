"""The examples that ship with the documentation: they are accepted, and they do what their pages say."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster import ray_session
from docs.examples.support.checks import Facts, Kill, checks
from hive_ray import config
from hive_ray.config import Settings
from hive_ray.graph.compiled import CompiledGraph, NodeKind
from hive_ray.graph.compiler import compile_graph
from hive_ray.graph.load import load_graph
from hive_ray.workers.environment import compile_environment
from hive_ray.workers.tools import Registry
from tests.cluster.installation import Installation, installed
from tests.servers.aimock import AimockServer, text
from tests.servers.effects import SmtpServer
from tests.servers.process import REPO, SCRIPTS

EXAMPLES = REPO / "docs" / "examples"
SUPPORT = EXAMPLES / "support"
LEDGER = EXAMPLES / "ledger"
GRAPHS = (SUPPORT / "agent.json", EXAMPLES / "hello" / "hello.yaml", LEDGER / "ledger.yaml")
TICKET = json.loads((SUPPORT / "ticket.json").read_text("utf-8"))
WITH_SCRIPTS = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
SEND = "send_answer"


def linted(graph: Path) -> dict[str, Any]:
    """What `hive-ray lint` finds, with the hive.yaml beside the graph if there is one."""
    env = {**os.environ, "PATH": WITH_SCRIPTS}
    argv = [str(SCRIPTS / "hive-ray"), "lint", graph.name, "--json"]
    done = subprocess.run(
        argv, cwd=graph.parent, env=env, timeout=60, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return json.loads(done.stdout)


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda path: path.stem)
def test_an_example_has_no_finding(graph: Path):
    """Models, tools and the MCP server of its hive.yaml count, where it has one."""
    assert linted(graph) == {graph.name: []}


def test_the_tutorial_s_files_have_no_finding(tmp_path: Path):
    """What a reader copies is accepted; the Python that follows at least parses."""
    page = (REPO / "docs" / "tutorial.md").read_text("utf-8")
    files = dict(re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    for name, content in files.items():
        (tmp_path / name).write_text(content, "utf-8")

    assert files.keys() == {"tools.py", "wall.yaml", "hive.yaml"}
    assert linted(tmp_path / "wall.yaml") == {"wall.yaml": []}
    for code in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        ast.parse(code)


def registry_of(folder: Path) -> Registry:
    registry = Registry()
    registry.load_modules([str(folder / "tools.py")])
    return registry


async def compiled(monkeypatch: pytest.MonkeyPatch) -> CompiledGraph:
    """The support desk's graph on the installation that its hive.yaml describes."""
    monkeypatch.setenv("PATH", WITH_SCRIPTS)
    settings = config.load(SUPPORT / "hive.yaml")
    environment = await compile_environment(settings, config.resolve, registry_of(SUPPORT))
    return compile_graph(load_graph(SUPPORT / "agent.json"), environment)


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda path: path.stem)
def test_every_function_and_tool_of_an_example_is_used(graph: Path):
    """A reader who looks a name up finds it on both sides."""
    nodes = load_graph(graph).nodes
    registry = registry_of(graph.parent)

    assert {node.function for node in nodes if node.function} == set(registry.names("function"))
    assert {node.tool for node in nodes if node.tool} - {"clock.get_current_time"} == set(
        registry.names("tool")
    )


@pytest.mark.anyio
async def test_only_the_mail_may_not_be_repeated(monkeypatch: pytest.MonkeyPatch):
    """Whatever else dies is tried again; the MCP tool is, because the node says so."""
    nodes = (await compiled(monkeypatch)).nodes
    steps = [node for node in nodes if node.kind is not NodeKind.HUMAN_INPUT]

    assert [node.id for node in steps if not node.idempotent] == [SEND]


@pytest.mark.anyio
async def test_every_route_reaches_the_mail(monkeypatch: pytest.MonkeyPatch):
    """A small model triages at random: the demo must hold whatever it says."""
    graph = await compiled(monkeypatch)
    by_id = {node.id: node for node in graph.nodes}
    desks = [graph.edges[index].target for index in by_id["triage"].out_edges]

    assert len(desks) == len(by_id["triage"].routes) == 3
    assert all(by_id[SEND].reached_from >> desk & 1 for desk in desks)


# --- one run with a scripted model ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def mailbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmtpServer]:
    """An SMTP server that the tools of this Ray session know, and a session that finds the MCP server."""
    with (
        SmtpServer(tmp_path_factory.mktemp("smtp")) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("SUPPORT_SMTP", f"127.0.0.1:{server.port}")
        patch.setenv("PATH", WITH_SCRIPTS)
        with ray_session():
            yield server


@pytest.fixture
async def desk(mailbox: SmtpServer, tmp_path: Path) -> AsyncIterator[Installation]:
    """The example's installation with a scripted model instead of the embedded one."""
    answers = [
        text('{"route": "technical", "urgency": "low"}', systemMessage="Choose one route"),
        text(json.dumps({"answer": "Good morning. " + "Please renew the consent of your bank. " * 5})),
    ]
    with AimockServer(answers, tmp_path) as model:
        settings = config.load(SUPPORT / "hive.yaml").model_dump()
        settings["models"]["local"]["base_url"] = model.openai_url
        settings["state"]["url"] = (tmp_path / "state").as_uri()
        async with installed(Settings.model_validate(settings)) as running:
            yield running


async def to_the_review(desk: Installation) -> Any:
    run = await desk.submit(json.loads((SUPPORT / "agent.json").read_text("utf-8")), TICKET)
    view = await desk.settled(run)
    assert [wait.node for wait in view.waits] == ["review"], view
    return view.waits[0]


@pytest.mark.anyio
@pytest.mark.timeout(180)
async def test_an_approved_answer_is_mailed_once(desk: Installation, mailbox: SmtpServer):
    """All of the demo's claims hold of a run that nobody disturbed, but those about what was killed."""
    before = mailbox.count
    wait = await to_the_review(desk)
    assert mailbox.count == before
    await desk.decide(wait, "approve", approved=True, feedback="fine")
    view = await desk.ended(wait.run_id)

    outcome = {
        "status": view.status,
        "outputs": await desk.outputs(view),
        "cost_usd": str(view.spent_nanousd),
    }
    events = await desk.backend.history.events(view, 0)
    standing = await desk.standing()
    status = {"epoch": standing["epoch"], "controller_pid": standing["pid"], "workers": []}
    nobody = Kill("write_answer", standing["pid"], 0, in_flight=False)
    facts = Facts(events, outcome, status, mailbox.effects()[before:])
    claims = dict(checks(facts, {"controller": nobody, "worker": nobody}, agreed=True))
    broken = {claim for claim, holds in claims.items() if not holds}
    assert broken == {
        "the controller was killed while a step was in flight",
        "the journal shows a new epoch [1]",
        "another process is the controller now",
        "a worker was killed while a step was in flight",
        "the journal shows a lost attempt of write_answer",
        "it was tried again, and that attempt succeeded",
    }


@pytest.mark.anyio
@pytest.mark.timeout(180)
async def test_a_refused_answer_is_not_mailed(desk: Installation, mailbox: SmtpServer):
    """The ticket is set aside with what the reviewer said."""
    before = mailbox.count
    wait = await to_the_review(desk)
    await desk.decide(wait, "reject", approved=False, feedback="too short")
    view = await desk.ended(wait.run_id)

    assert view.status == "succeeded"
    assert (await desk.outputs(view))["note"] == "too short"
    assert mailbox.count == before
