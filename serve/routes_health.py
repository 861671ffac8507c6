"""Liveness, readiness, and metrics in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from hive_ray.control.queries import ListWorkers
from hive_ray.errors import Unavailable
from serve import shapes
from serve.backend import Backend
from serve.caller import sees_totals
from serve.routes_runs import answer, backend_of

router = APIRouter(tags=["operation"])
TEXT = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/healthz", summary="This replica answers")
async def healthz() -> Response:
    return answer({"ok": True})


@router.get("/readyz", summary="Runs can be accepted now")
async def readyz(request: Request) -> Response:
    """503 with the reason while the controller recovers or cannot commit."""
    said = await _standing(request)
    return answer({"ready": said["ready"], "reason": said["standing"]}, 200 if said["ready"] else 503)


@router.get("/v1/status", summary="The installation at a glance")
async def status(request: Request) -> Response:
    """Workers, queues, counters and cost are of all teams: with scope ``admin``, or role ``metrics``."""
    backend = backend_of(request)
    said = await _standing(request)
    body = {
        "ready": said["ready"],
        "reason": said["standing"],
        "environment": backend.settings.environment,
        "state": backend.settings.state.url,
        "epoch": said.get("epoch", 0),
        "feature_level": said.get("feature_level", 0),
        "controller_pid": said.get("pid", 0),
    }
    # Without a controller there are no totals: then it does not matter that nobody knows who asks.
    if sees_totals() or not said.get("counters"):
        body |= await _totals(backend, said)
    return answer(body)


async def _totals(backend: Backend, said: dict[str, Any]) -> dict[str, Any]:
    """What is summed over all teams."""
    workers: list[dict[str, Any]] = []
    if said["ready"]:
        workers = await backend.read(ListWorkers(), list[dict[str, Any]])
    counters = dict(said.get("counters", {}))
    return {
        "live_runs": said.get("live_runs", 0),
        "queued": said.get("queued", {}),
        "cost_usd": shapes.usd(counters.pop("cost_nanousd", 0)),
        "counters": counters,
        "workers": workers,
    }


@router.get("/metrics", summary="Counters for Prometheus")
async def metrics(request: Request) -> Response:
    """Totals of all teams with scope ``admin``, or role ``metrics``; without, whether it is ready."""
    said = await _standing(request)
    if not sees_totals():
        said = {"ready": said["ready"], "epoch": said.get("epoch", 0)}
    lines: list[str] = []
    _sample(lines, "hive_ready", "gauge", "Runs can be accepted now.", {"": int(said["ready"])})
    _sample(lines, "hive_epoch", "gauge", "Incarnation of the controller.", {"": said.get("epoch", 0)})
    live = {"": said["live_runs"]} if "live_runs" in said else {}
    _sample(lines, "hive_live_runs", "gauge", "Runs that have not ended.", live)
    queued = {f'{{pool="{pool}"}}': count for pool, count in said.get("queued", {}).items()}
    _sample(lines, "hive_queued_steps", "gauge", "Steps that wait for their pool.", queued)
    for name, count in said.get("counters", {}).items():
        if name == "cost_nanousd":
            _sample(lines, "hive_cost_usd_total", "counter", "Spent since this epoch.", {"": count / 1e9})
        else:
            meaning = f"{name.replace('_', ' ').capitalize()} since this epoch."
            _sample(lines, f"hive_{name}_total", "counter", meaning, {"": count})
    answers = backend_of(request).requests
    by = {f'{{method="{method}",status="{status}"}}': count for (method, status), count in answers.items()}
    _sample(lines, "hive_http_requests_total", "counter", "Answers of this replica.", by)
    return Response("\n".join(lines) + "\n", media_type=TEXT)


def _sample(lines: list[str], name: str, kind: str, meaning: str, values: dict[str, Any]) -> None:
    lines.append(f"# HELP {name} {meaning}")
    lines.append(f"# TYPE {name} {kind}")
    lines.extend(f"{name}{labels} {value}" for labels, value in values.items())


async def _standing(request: Request) -> dict[str, Any]:
    try:
        return await backend_of(request).standing()
    except Unavailable as error:
        return {"ready": False, "standing": str(error)}
