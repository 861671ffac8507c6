"""Agents over HTTP: names that stand for graphs; and lint."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from hive_ray.control.queries import GetAgent, ListAgents
from hive_ray.control.views import AgentView
from hive_ray.core.commands import Register
from hive_ray.errors import GraphError
from hive_ray.graph.findings import Finding, Severity
from serve import shapes
from serve.bodies import AgentGraph, LintRequest
from serve.caller import team
from serve.problems import invalid
from serve.routes_runs import answer, backend_of, listed

router = APIRouter(tags=["agents"])
AgentName = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=128)]


@router.get("/v1/agents", summary="All agents")
async def list_agents(request: Request) -> Response:
    return await listed(request, "agents", ListAgents(team()), list[AgentView], shapes.agent)


@router.get("/v1/agents/{name}", summary="Show an agent")
async def get_agent(request: Request, name: AgentName) -> Response:
    return answer(shapes.agent(await backend_of(request).read(GetAgent(team(), name), AgentView)))


@router.put("/v1/agents/{name}", summary="Let a name stand for a graph")
async def put_agent(request: Request, name: AgentName, body: AgentGraph) -> Response:
    """Runs under way stay on the graph that they began with."""
    backend = backend_of(request)
    if (body.graph is None) == (body.graph_version is None):
        raise invalid("body", "needs exactly one of graph and graph_version", "keep one of them")
    if body.graph is not None:
        graph = await backend.acceptance.accept(body.graph)
    else:
        graph = await backend.acceptance.known(body.graph_version or "")
    agent = await backend.read(Register(name, team(), graph.version), AgentView)
    return answer(shapes.agent(agent))


@router.post("/v1/lint", summary="Check a graph against this installation")
async def lint(request: Request, body: LintRequest) -> Response:
    """Always 200; ``ok`` says whether it would be accepted."""
    try:
        findings = await backend_of(request).acceptance.lint(body.graph)
    except GraphError as error:
        findings = [Finding(Severity.ERROR, fault) for fault in error.faults]
    ok = all(finding.severity is not Severity.ERROR for finding in findings)
    return answer({"ok": ok, "findings": [_finding(finding) for finding in findings]})


def _finding(finding: Finding) -> dict[str, str]:
    fault = finding.fault
    return {
        "severity": finding.severity,
        "place": fault.place,
        "problem": fault.problem,
        "remedy": fault.remedy,
    }
