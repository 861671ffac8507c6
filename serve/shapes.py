"""Views and events as JSON: money in US dollars as decimal text, times in ISO 8601, small values inline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from hive_ray.control.replaying import Verdict
from hive_ray.control.views import AgentView, RunLine, RunView, StepView, WaitView
from hive_ray.core import events as ev
from hive_ray.core.events import Origin
from hive_ray.core.messages import ERASED, StepContent, Usage
from hive_ray.core.plan import CLASSES
from hive_ray.core.values import Value, decode
from hive_ray.graph.asking import Final
from hive_ray.observe.redaction import redact_text
from hive_ray.state.records import Recorded

Json = Any
TERMINAL = ("succeeded", "failed", "cancelled")
ENDS = ("RunSucceeded", "RunFailed", "RunCancelled")


def usd(nanousd: int) -> str:
    """``1500000`` is ``"0.0015"``."""
    text = format(Decimal(nanousd).scaleb(-9), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def iso(at_us: int) -> str | None:
    if not at_us:
        return None
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def day(at_us: int) -> str | None:
    """The day of UTC: ``2026-11-30``."""
    told = iso(at_us)
    return told[:10] if told is not None else None


def value(item: Value) -> Json:
    """A value if it is inline, else its size: the result's own page has all of it."""
    return {"$blob": True, "size_bytes": item.size} if item.blob else decode(item)


def values(items: Mapping[str, Value]) -> dict[str, Json]:
    return {key: value(item) for key, item in items.items()}


def links(run_id: str) -> dict[str, str]:
    base = f"/v1/runs/{run_id}"
    return {"self": base, "events": f"{base}/events", "result": f"{base}/result"}


def run(view: RunView) -> dict[str, Json]:
    """A whole run."""
    return {
        "run_id": view.run_id,
        "request_id": view.request_id,
        "status": view.status,
        "reason": redact_text(view.reason),
        "team": view.team,
        "submitted_by": view.principal or None,
        "agent": view.agent,
        "graph": view.graph,
        "graph_version": view.graph_version,
        "submitted_at": iso(view.submitted_us),
        "finished_at": iso(view.finished_us),
        "deadline_at": iso(view.deadline_us),
        "priority": CLASSES[view.priority],
        "budget_usd": usd(view.budget_nanousd) if view.budget_nanousd >= 0 else None,
        "cost_usd": usd(view.spent_nanousd),
        "reserved_usd": usd(view.reserved_nanousd),
        "overrun_usd": usd(view.overrun_nanousd),
        "attempts": view.attempts,
        "visits": view.visits,
        "paused": view.paused,
        "failure": failure(view),
        "parent": view.parent or None,
        "forked_from": origin(view.origin) if view.origin is not None else None,
        "resumed_as": view.resumed_as or None,
        "forgotten": view.forgotten,
        "seq": view.seq,
        "steps": [step(item) for item in view.steps],
        "waits": [wait(item) for item in view.waits],
        "links": links(view.run_id),
    }


def origin(found: Origin) -> dict[str, Json]:
    """Where a run was forked from; a resumed one names no node."""
    return {
        "run_id": found.run,
        "seq": found.seq,
        "node": found.node or None,
        "visit": found.visit or None,
        "resumes": found.resumes,
        "begins_again": list(found.again),
        "may_repeat": list(found.repeats),
    }


def verdict(found: Verdict) -> dict[str, Json]:
    """What came of a replay."""
    return {
        "run_id": found.run,
        "ok": found.ok,
        "events": found.events,
        "seq": found.seq,
        "compared": list(found.compared),
        "erased": found.erased,
        "misfit": found.misfit or None,
        "difference": found.difference or None,
    }


def failure(view: RunView) -> dict[str, Json] | None:
    if not view.failure:
        return None
    place = view.failed_at
    return {
        "kind": view.failure,
        "place": place,
        "message": redact_text(view.message),
        "dead_lettered": view.dead_lettered,
    }


def step(view: StepView) -> dict[str, Json]:
    return msgspec.to_builtins(view)


def wait(view: WaitView) -> dict[str, Json]:
    """What a run needs of a person."""
    return {
        "approval_id": view.approval_id,
        "run_id": view.run_id,
        "agent": view.agent,
        "node": view.node,
        "reason": view.reason,
        "need": redact_text(view.need),
        "since": iso(view.since_us),
        "deadline_at": iso(view.deadline_us),
        "owner": view.owner,
        "asked": list(view.asked),
        "chain": [{"owner": asked.owner, "for_s": asked.us / 1e6} for asked in view.chain],
        "finally": str(view.final),
        "four_eyes": view.four_eyes,
        "edit": _edit(view),
        "answers": list(view.answers),
        "form": msgspec.json.decode(view.form) if view.form else None,
        "shown": dict(_shown(key, item) for key, item in view.shown.items()),
    }


def _shown(key: str, item: Value) -> tuple[str, Json]:
    """A value that is shown for a decision; amounts in US dollars like everywhere else."""
    known = value(item)
    if key.endswith("_nanousd") and isinstance(known, int):
        return f"{key.removesuffix('_nanousd')}_usd", usd(known)
    return key, known


def _edit(view: WaitView) -> dict[str, Json] | None:
    """What somebody changed, which somebody else must approve by its edition."""
    if not view.edition:
        return None
    return {"edition": view.edition, "by": view.edited_by, "answer": values(view.edited)}


def line(view: RunLine) -> dict[str, Json]:
    return {
        "run_id": view.run_id,
        "status": view.status,
        "reason": redact_text(view.reason),
        "team": view.team,
        "agent": view.agent,
        "graph": view.graph,
        "submitted_at": iso(view.submitted_us),
        "finished_at": iso(view.finished_us),
        "cost_usd": usd(view.spent_nanousd),
        "parent": view.parent or None,
        "forked_from": view.origin or None,
        "dead_lettered": view.dead_lettered,
        "resumed_as": view.resumed_as or None,
    }


def agent(view: AgentView) -> dict[str, Json]:
    registered_at = iso(view.registered_us)
    return {"name": view.name, "graph_version": view.graph_version, "registered_at": registered_at}


# --- events ------------------------------------------------------------------------------------------

_INSIDE = (
    *("floor", "ancestors", "edge", "edges", "targets", "dropped", "inputs", "origin"),
    *("run", "node", "request_id", "team", "principal", "digest", "idempotency_key", "traceparent", "key"),
)
"""Fields of the run as a whole, and positions that mean something to the core only."""


def event(recorded: Recorded, node_ids: Mapping[int, str]) -> dict[str, Json]:
    """One event of a run.

    Args:
        node_ids: node of each visit's serial number; grows with what the event tells.
    """
    fact = recorded.event
    told: dict[str, Json] = msgspec.to_builtins(msgspec.structs.asdict(fact))
    body: dict[str, Json] = {
        "seq": recorded.seq,
        "time": iso(recorded.time_us),
        "kind": type(fact).__name__,
        "run_id": fact.run,
        "node": told.pop("node_id", "") or node_ids.get(told.get("serial", -1), ""),
    }
    for key, item in told.items():
        inside = key in _INSIDE and not (key == "principal" and isinstance(fact, _ANSWERS))
        if inside or item in (None, "", (), []):
            continue
        shaped = _SHAPED.get(key)
        body.update(shaped(item) if shaped is not None else _named(key, item, fact))
    if isinstance(fact, ev.RunForked):
        body["forked_from"] = origin(fact.origin)
    if recorded.content is ERASED:
        return body | {"erased": True}
    return body | _content(recorded.content, isinstance(fact, _WITH_REASON))


_ANSWERS = (ev.ApprovalResolved, ev.ApprovalEdited, ev.AnswerRefused)
"""Events that show who answered: it need not be who submitted the run."""


def _chain(owners: Json) -> dict[str, Json]:
    return {"chain": [{"owner": owner, "for_s": us / 1e6} for owner, us in owners]}


_SHAPED: dict[str, Callable[[Json], dict[str, Json]]] = {
    "deadline_us": lambda at_us: {"deadline_at": iso(at_us)},
    "chain": _chain,
    "final": lambda final: {} if final == Final.FAIL else {"finally": final},
}


def _named(key: str, item: Json, fact: ev.Event) -> dict[str, Json]:
    if key == "kind":
        return {"step_kind" if isinstance(fact, ev.StepQueued) else "failure_kind": item}
    if key in ("priority", "edge_ids"):
        return {key: CLASSES[item]} if key == "priority" else {"edges": item}
    if key.endswith("_nanousd"):
        # A budget below 0 is none; a correction below 0 gives back.
        none = key == "budget_nanousd" and item < 0
        return {} if none else {f"{key.removesuffix('_nanousd')}_usd": usd(item)}
    if key.endswith("_us"):
        return {f"{key.removesuffix('_us')}_s": item / 1e6}
    if key == "usage" and isinstance(usage := getattr(fact, "usage", None), Usage):
        tokens = {"input": usage.input_tokens, "output": usage.output_tokens, "cached": usage.cached_tokens}
        flagged = {"disbelieved": True} if usage.disbelieved else {}
        return {"tokens": tokens | {"reasoning": usage.reasoning_tokens} | flagged}
    return {key: item}


_WITH_REASON = (ev.RunPaused, ev.RunCancelled)
"""Events whose message is their reason."""


def _content(content: StepContent, is_reason: bool) -> dict[str, Json]:
    found: dict[str, Json] = {}
    if content.outputs:
        found["outputs"] = values(content.outputs)
    if content.question is not None:
        found["question"] = value(content.question)
    if content.calls:
        found["calls"] = [
            {"tool": call.tool, "arguments": values(call.arguments)}
            | ({"error": call.error} if call.error else {})
            for call in content.calls
        ]
    if content.message:
        found["reason" if is_reason else "message"] = redact_text(content.message)
    if content.route:
        found["route"] = content.route
    if content.chosen:
        found["chosen"] = list(content.chosen)
    if content.form:
        found["form"] = msgspec.json.decode(content.form)
    if content.artifacts:
        found["artifacts"] = [
            {"name": made.name, "media_type": made.media_type, "size_bytes": made.size, "sha256": made.digest}
            for made in content.artifacts
        ]
    return found
