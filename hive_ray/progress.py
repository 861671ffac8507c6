"""Events and runs as lines for a terminal. Text in, text out; knows neither HTTP nor colours."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Event = Mapping[str, Any]
VALUE_WIDTH = 100
"""Characters of a value that a line shows."""


def lines(events: Iterable[Event]) -> Iterator[str]:
    """One line for each transition; bookkeeping is left out."""
    for event in events:
        text = line(event)
        if text:
            yield text


def line(event: Event) -> str:
    """``10:04:11.120  greet  succeeded in 0.01 s``, or nothing for an event that tells a person nothing."""
    told = _TOLD.get(event["kind"])
    text = told(event) if told else ""
    if not text:
        return ""
    clock = str(event["time"])[11:23]
    place = event["node"] or "run"
    erased = " [content erased]" if event.get("erased") else ""
    return f"{clock}  {place:<18} {text}{erased}"


def _submitted(event: Event) -> str:
    budget = f", budget ${event['budget_usd']}" if "budget_usd" in event else ""
    return f"submitted: graph {event.get('graph_name', '')}{budget}"


def _forked(event: Event) -> str:
    came = event["forked_from"]
    place = f" before {came['node']} (visit {came['visit']})" if came["node"] else ""
    what = "takes the place of" if came["resumes"] else "forked from"
    again = f"; begins again: {', '.join(came['begins_again'])}" if came["begins_again"] else ""
    return f"{what} run {came['run_id']}{place}{again}{_outputs(event)}"


def _queued(event: Event) -> str:
    return f"queued {event['step']} {event.get('name', '')}".rstrip() if event.get("step") else ""


def _step_queued(event: Event) -> str:
    return f"queued {event['step_kind']} {event.get('name', '')}".rstrip()


def _started(event: Event) -> str:
    again = f", attempt {event['attempt']}" if event["attempt"] > 1 else ""
    worker = str(event.get("worker", "")).removeprefix("hive/worker/").partition("-")[0]
    return f"started on {worker}{again}"


def _succeeded(event: Event) -> str:
    name = f" {event['name']}" if event.get("name") and event["name"] != event["node"] else ""
    human = " (a human says so)" if event.get("resolved_by") else ""
    files = "".join(f", file {made['name']}" for made in event.get("artifacts", ()))
    took = f"{event.get('duration_s', 0):.2f} s"
    return f"succeeded{name} in {took}{_cost(event)}{files}{human}{_outputs(event)}"


def _remembered(event: Event) -> str:
    return f"remembers version {event['version']}{_outputs(event)}"


def _forgot(event: Event) -> str:
    return f"forgets {', '.join(event.get('outputs', ()))}, version {event['version']}"


def _failed(event: Event) -> str:
    name = f" {event['name']}" if event.get("name") and event["name"] != event["node"] else ""
    return f"attempt {event['attempt']}{name} failed: {event['failure_kind']}{_cost(event)}{_message(event)}"


def _decided(event: Event) -> str:
    """What the rules said; a question, and a denial, are told by what follows."""
    broken = f"; without an answer: {', '.join(event['errors'])}" if event.get("errors") else ""
    allows = f"allowed by policy {event['rule']}" if event.get("effect") == "allow" else ""
    down = f"policies put it on rung {event['level']}" if event.get("level") else ""
    said = ", ".join(text for text in (allows, down) if text)
    return f"{said or 'policies were asked'}{broken}" if said or broken else ""


def _routed(event: Event) -> str:
    return f"is sent to pool {event['pool']} by a policy"


def _retry(event: Event) -> str:
    return f"retries in {event.get('delay_s', 0):.1f} s as attempt {event['attempt']}"


def _asked(event: Event) -> str:
    return f"waits ({event['reason']}) as {event['approval']}{_message(event)}"


def _answered(event: Event) -> str:
    by = " by its deadline" if event.get("principal") == "deadline" else ""
    return f"{event['approval']} was answered{by}: {event['decision']}{_outputs(event)}"


def _escalated(event: Event) -> str:
    return f"{event['approval']} is now asked of {event['owner'] or 'anyone'} until {event['deadline_at']}"


def _edited(event: Event) -> str:
    return f"{event['approval']} was edited (edition {event['edition']}){_outputs(event)}"


def _no_answer(event: Event) -> str:
    return f"{event['approval']}: {event['decision']} did not count ({event['reason']})"


def _node_failed(event: Event) -> str:
    return f"node failed: {event['failure_kind']}{_message(event)}"


def _node_succeeded(event: Event) -> str:
    return f"node succeeded{_outputs(event)}"


def _tool_failed(event: Event) -> str:
    return f"tool call failed: {event['failure_kind']}{_message(event)}"


def _late(event: Event) -> str:
    alert = " and contradicts what a human decided" if event.get("contradicts") else ""
    return f"attempt {event['attempt']} reported late{alert}: ignored{_cost(event)}"


def _corrected(event: Event) -> str:
    what = f"attempt {event['attempt']}" if event.get("attempt") else "run"
    return f"{what} corrected by ${event['cost_usd']}{_message(event)}"


def _paused(event: Event) -> str:
    return f"paused: {event.get('reason', '')}"


def _resumed(event: Event) -> str:
    return "resumed"


def _run_succeeded(event: Event) -> str:
    return f"succeeded ({event.get('reason', '')})"


def _run_failed(event: Event) -> str:
    place = f" at {event['place']}" if event.get("place") else ""
    return f"failed: {event['failure_kind']}{place}{_message(event)}"


def _run_cancelled(event: Event) -> str:
    return f"cancelled: {event.get('reason', '')}"


def _forgotten(event: Event) -> str:
    return "forgotten: its content is gone for good"


def _returned(event: Event) -> str:
    return f"attempt {event['attempt']} never reached its worker: queued again"


_TOLD = {
    "RunSubmitted": _submitted,
    "RunForked": _forked,
    "NodeEntered": _queued,
    "StepQueued": _step_queued,
    "StepStarted": _started,
    "LeaseReturned": _returned,
    "StepSucceeded": _succeeded,
    "StepFailed": _failed,
    "ToolCallFailed": _tool_failed,
    "RetryScheduled": _retry,
    "PolicyDecided": _decided,
    "StepRouted": _routed,
    "LateOutcome": _late,
    "CostCorrected": _corrected,
    "MemoryWritten": _remembered,
    "MemoryDeleted": _forgot,
    "NodeSucceeded": _node_succeeded,
    "NodeFailed": _node_failed,
    "ApprovalRequested": _asked,
    "ApprovalResolved": _answered,
    "ApprovalEscalated": _escalated,
    "ApprovalEdited": _edited,
    "AnswerRefused": _no_answer,
    "RunPaused": _paused,
    "RunResumed": _resumed,
    "RunSucceeded": _run_succeeded,
    "RunFailed": _run_failed,
    "RunCancelled": _run_cancelled,
    "RunForgotten": _forgotten,
}


def _cost(event: Event) -> str:
    cost = event.get("cost_usd", "0")
    tokens = event.get("tokens")
    used = f", {tokens['input']}+{tokens['output']} tokens" if tokens else ""
    return (f", ${cost}" if cost != "0" else "") + used


def _message(event: Event) -> str:
    return f": {_short(event['message'])}" if event.get("message") else ""


def _outputs(event: Event) -> str:
    outputs = event.get("outputs")
    return f"  {_short(json.dumps(outputs, ensure_ascii=False))}" if outputs else ""


def _short(text: str) -> str:
    flat = " ".join(str(text).split())
    return flat if len(flat) <= VALUE_WIDTH else flat[: VALUE_WIDTH - 1] + "…"


# --- a run -------------------------------------------------------------------------------------------


def head(view: Mapping[str, Any]) -> Iterator[str]:
    """What a run is and how it stands."""
    yield f"run       {view['run_id']}"
    yield f"graph     {view['graph']} ({view['graph_version'][:12]}), agent {view['agent']}"
    reason = f" ({_short(view['reason'])})" if view["reason"] else ""
    yield f"status    {view['status']}{reason}"
    budget = f" of ${view['budget_usd']}" if view["budget_usd"] is not None else ""
    held = f", ${view['reserved_usd']} reserved" if view["reserved_usd"] != "0" else ""
    yield f"cost      ${view['cost_usd']}{budget}{held}"
    yield f"attempts  {view['attempts']} in {view['visits']} node visits"
    yield f"submitted {view['submitted_at']}, finished {view['finished_at'] or '-'}"
    yield f"deadline  {view['deadline_at']}"
    if view["forked_from"]:
        came = view["forked_from"]
        what = "in the place of" if came["resumes"] else "forked from"
        yield f"begun     {what} run {came['run_id']} (event {came['seq']})"
    if view["resumed_as"]:
        yield f"resumed   as run {view['resumed_as']}"
    if view["forgotten"]:
        yield "forgotten its content is gone for good"
    if view["failure"]:
        failure = view["failure"]
        yield f"failure   {failure['kind']} at {failure['place']}: {failure['message']}"


def needs(view: Mapping[str, Any]) -> Iterator[str]:
    """Why a run waits, and the commands that answer it."""
    if view["paused"]:
        yield f"paused: {view['reason']}; go on with: hive-ray resume {view['run_id']}"
    for step in view.get("steps", ()):
        if step.get("waiting_for"):
            yield f"step {step['node']} is ready and waits for {step['waiting_for']}"
    for wait in view["waits"]:
        yield f"waits at {wait['node']} since {wait['since']} ({wait['reason']}): {wait['need']}"
        for key, value in wait["shown"].items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"  {key}: {_short(text)}"
        yield from _edit(wait)
        yield f"  asked of {wait['owner'] or 'anyone'} until {wait['deadline_at']}; then {_then(wait)}"
        if wait["four_eyes"]:
            yield "  needs four eyes: who approves neither submitted the run nor edited the answer"
        yield "  answer with:"
        for command in _commands(wait):
            yield f"    {command}"


def _edit(wait: Mapping[str, Any]) -> Iterator[str]:
    if wait["edit"]:
        answer = _short(json.dumps(wait["edit"]["answer"], ensure_ascii=False))
        yield f"  edited by {wait['edit']['by']} (edition {wait['edit']['edition']}): {answer}"


def _then(wait: Mapping[str, Any]) -> str:
    """Who is asked next, and what holds if nobody answers."""
    later = wait["chain"][len(wait["asked"]) :]
    steps = [f"{one['owner'] or 'anyone'} for {_span(one['for_s'])}" for one in later]
    ends = {"approve": "it is approved", "reject": "it is rejected", "answer": "its default answer holds"}
    return ", then ".join([*steps, ends.get(wait["finally"], "it fails")])


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size and not seconds % size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _commands(wait: Mapping[str, Any]) -> list[str]:
    approval, run_id = wait["approval_id"], wait["run_id"]
    match wait["reason"]:
        case "client":
            return [f"hive-ray signal {run_id} 'TEXT'", f"hive-ray complete {run_id}"]
        case "pause":
            return [f"hive-ray resume {run_id}"]
        case "budget":
            return [f"hive-ray approve {approval} --usd AMOUNT", f"hive-ray reject {approval} --comment WHY"]
        case "approval" | "policy":
            edition = f" --edition {wait['edit']['edition']}" if wait["edit"] else ""
            edit = [f"hive-ray edit {approval} --answer JSON"] if "edit" in wait["answers"] else []
            reject = f"hive-ray reject {approval} --comment WHY"
            return [f"hive-ray approve {approval}{edition}", *edit, reject]
        case "fallback":
            return [
                f"hive-ray approve {approval} --answer JSON",
                f"hive-ray resolve {approval} retry",
                f"hive-ray reject {approval} --comment WHY",
            ]
        case _:
            return [f"hive-ray resolve {approval} {answer}" for answer in wait["answers"]]
