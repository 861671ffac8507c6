"""How each event changes a run: facts applied, nothing decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from hive_ray.core import artifacts, longterm
from hive_ray.core import events as ev
from hive_ray.core.holds import Hold
from hive_ray.core.messages import ERASED, StepContent, StepKind, Turn, Usage
from hive_ray.core.run import (
    ERROR_KEY,
    ITEMS,
    Allowance,
    Change,
    Children,
    Correction,
    Edit,
    Ended,
    Loop,
    Orphan,
    Permit,
    Run,
    RunStatus,
    Step,
    StepStatus,
    Token,
    Visit,
    Wait,
    Writer,
    answer_digest,
    attempt_key,
    decode_run,
    decode_turns,
)
from hive_ray.core.values import Value, inline

# Plain names for members of enumerations: by the name of its class each costs 70 ns (CPython 3.11).
_LEASED, _RUNNING = StepStatus.LEASED, RunStatus.RUNNING
_DECIDE = StepKind.DECIDE
_STEP_KINDS = {str(kind): kind for kind in StepKind}


def change(run: Run, change: Change, at_us: int) -> None:
    """Apply what happened in a child run."""
    run.spent_nanousd += change.spent_nanousd
    run.reserved_nanousd += change.reserved_nanousd
    run.overrun_nanousd += change.overrun_nanousd
    if change.waits:
        wait_more(run, change.waits, at_us)


def begin(event: ev.RunSubmitted, content: StepContent, at_us: int) -> Run:
    """The state after ``RunSubmitted``."""
    return Run(
        id=event.run,
        request_id=event.request_id,
        team=event.team,
        agent=event.agent,
        graph=event.graph,
        graph_name=event.graph_name,
        submitted_us=at_us,
        deadline_us=event.deadline_us,
        idempotency_key=event.idempotency_key,
        digest=event.digest,
        principal=event.principal,
        traceparent=event.traceparent,
        parent=event.parent,
        parent_serial=event.parent_serial,
        item=event.item,
        depth=event.depth,
        budget_nanousd=event.budget_nanousd,
        memory=dict(content.outputs),
        facts=dict(content.facts),
        key=event.key,
        priority=event.priority,
        callback=content.message if content is not ERASED else "",
    )


def begin_fork(event: ev.RunForked, content: StepContent, at_us: int) -> Run:
    """The state after ``RunForked``.

    Raises:
        msgspec.DecodeError: its content holds no state.
    """
    # Without its content the state that it began with is gone: what comes behind no longer fits.
    run = decode_run(content.state) if content is not ERASED else Run("", "", "", "", "")
    run.id = event.run
    run.key = event.key
    run.request_id = event.request_id
    run.team = event.team
    run.agent = event.agent
    run.graph = event.graph
    run.graph_name = event.graph_name
    run.submitted_us = at_us
    run.deadline_us = event.deadline_us
    run.idempotency_key = event.idempotency_key
    run.digest = event.digest
    run.principal = event.principal
    run.traceparent = event.traceparent
    run.budget_nanousd = event.budget_nanousd
    run.priority = event.priority
    run.outside = event.outside
    for visit in run.visits.values():
        visit.since_us = at_us
    run.origin = event.origin
    if run.shelf is not None:
        run.shelf.owner = run.id
    return run


BEGIN: dict[type[ev.Event], Callable[[Any, StepContent, int], Run]] = {
    ev.RunSubmitted: begin,
    ev.RunForked: begin_fork,
}
"""The events with which a run begins."""


MISFITS = (LookupError, AssertionError, msgspec.MsgspecError)
"""What applying an event raises if it does not fit the state: journal and run are not of one history."""


def evolve(run: Run, event: ev.Event, content: StepContent, at_us: int) -> None:
    """Apply one event to a run; raises one of ``MISFITS``."""
    EVOLVE[type(event)](run, event, content, at_us)


# --- steps ---------------------------------------------------------------------------------------


def _step_started(run: Run, event: ev.StepStarted, content: StepContent, at_us: int) -> None:
    step = run.visits[event.serial].steps[event.call]
    step.status = _LEASED
    step.attempt = event.attempt
    step.worker = event.worker
    step.reserved_nanousd = event.reserved_nanousd
    step.inputs = event.inputs
    step.hold = event.hold
    step.lowered = event.lowered
    run.reserved_nanousd += event.reserved_nanousd
    run.attempts += 1
    run.status = _RUNNING


def _lease_returned(run: Run, event: ev.LeaseReturned, content: StepContent, at_us: int) -> None:
    visit = run.visits.get(event.serial)
    if visit is None:
        _forget_orphan(run, event.serial, event.call, event.attempt)
        return
    step = visit.steps[event.call]
    _release(run, step)
    step.status = StepStatus.READY
    run.attempts -= 1


def _release(run: Run, step: Step) -> None:
    run.reserved_nanousd -= step.reserved_nanousd
    step.reserved_nanousd = 0
    step.hold = None
    step.worker = ""


def _step_succeeded(run: Run, event: ev.StepSucceeded, content: StepContent, at_us: int) -> None:
    visit = run.visits[event.serial]
    step = visit.steps.pop(event.call)
    run.reserved_nanousd -= step.reserved_nanousd
    run.spent_nanousd += event.cost_nanousd
    run.overrun_nanousd += event.overrun_nanousd
    if content.artifacts and not run.parent:
        keep_artifacts(run, event, content, at_us)
    if run.unseen and not event.resolved_by:
        _see(run, attempt_key(event.serial, event.call, event.attempt))
    if step.kind is _DECIDE:
        _close(run, visit, Ended(visit, chosen=content.chosen))
    elif visit.loop is not None:
        _loop_step(visit.loop, step, content, event.usage)
    else:
        write_memory(run, visit, content.outputs, content.facts, event.dropped)
        if event.ends:
            _close(run, visit, Ended(visit, route=content.route))


def keep_artifacts(root: Run, event: ev.StepSucceeded, content: StepContent, at_us: int) -> None:
    """Let a root run keep what a step, its own or of a child run, made."""
    step = (event.run, event.serial, event.call, event.attempt)
    artifacts.keep(root.artifacts, content.artifacts, step, at_us)


def _loop_step(loop: Loop, step: Step, content: StepContent, usage: Usage | None) -> None:
    if content is ERASED:
        # Conversations of runs that ended: what was said is gone, and nobody goes on with it.
        loop.turns += step.kind is not StepKind.TOOL
        return
    if step.kind is StepKind.TOOL:
        _tool_turn(loop, step, content.outputs["result"])
        return
    loop.turns += 1
    if content.delta is not None:
        loop.conversation.append(Turn("assistant", content.delta, answers=content.answers))
    loop.outputs.update(content.outputs)
    loop.facts.update(content.facts)
    loop.calls = list(content.calls)
    loop.results = [
        Turn("tool", inline(call.error), call.call_id, call.tool, True) if call.error else None
        for call in content.calls
    ]
    loop.asks = content.question is not None
    loop.question = content.question
    loop.done = content.done
    if usage is not None:
        loop.measured_tokens = usage.input_tokens + usage.output_tokens
        loop.appended_bytes = 0
        loop.measured_turns = len(loop.conversation)
        loop.measured_inputs = step.inputs
        loop.measured_model = step.name
        if step.lowered is not None:
            loop.measured_model = step.lowered.model or step.name
            if step.lowered.dropped:
                # What was measured is not the conversation.
                loop.measured_tokens = 0


def _step_failed(run: Run, event: ev.StepFailed, content: StepContent, at_us: int) -> None:
    step = run.visits[event.serial].steps[event.call]
    hold = step.hold
    _release(run, step)
    _charge_failed(run, event, hold)
    step.status = StepStatus.BACKOFF


def _charge_failed(run: Run, event: ev.StepFailed | ev.LateOutcome, hold: Hold | None) -> None:
    run.spent_nanousd += event.cost_nanousd
    run.overrun_nanousd += event.overrun_nanousd
    key = attempt_key(event.serial, event.call, event.attempt)
    if event.unseen:
        run.unseen[key] = event.cost_nanousd
        if hold is not None:
            run.unseen_holds[key] = hold
    elif run.unseen:
        _see(run, key)


def _see(run: Run, attempt: str) -> None:
    """What became of an attempt is known after all."""
    run.unseen.pop(attempt, None)
    run.unseen_holds.pop(attempt, None)


def _tool_turn(loop: Loop, step: Step, value: Value, failed: bool = False) -> None:
    call = loop.calls[step.turn]
    permitted = step.permit.arguments if step.permit is not None else None
    edited = permitted if permitted != call.arguments else None
    loop.results[step.turn] = Turn("tool", value, call.call_id, call.tool, failed, edited=edited)
    loop.appended_bytes += value.size


def _tool_call_failed(run: Run, event: ev.ToolCallFailed, content: StepContent, at_us: int) -> None:
    visit = run.visits[event.serial]
    step = visit.steps.pop(event.call)
    assert visit.loop is not None
    if content is not ERASED:
        _tool_turn(visit.loop, step, inline(content.message), failed=True)


def _retry_scheduled(run: Run, event: ev.RetryScheduled, content: StepContent, at_us: int) -> None:
    step = run.visits[event.serial].steps[event.call]
    step.attempt = event.attempt
    step.delay_us = event.delay_us
    step.shared_losses = event.shared_losses
    step.lone_losses = event.lone_losses
    step.status = StepStatus.BACKOFF if event.delay_us else StepStatus.READY


def _fallback_taken(run: Run, event: ev.FallbackTaken, content: StepContent, at_us: int) -> None:
    visit = run.visits[event.serial]
    step = visit.steps.pop(event.call)
    run.status = _RUNNING
    if step.turn < 0:
        visit.taken = event.index + 1
    elif "result" in content.outputs:
        assert visit.loop is not None
        _tool_turn(visit.loop, step, content.outputs["result"])


def _timer_fired(run: Run, event: ev.TimerFired, content: StepContent, at_us: int) -> None:
    run.visits[event.serial].steps[event.call].status = StepStatus.READY


def _policy_decided(run: Run, event: ev.PolicyDecided, content: StepContent, at_us: int) -> None:
    run.degraded = max(run.degraded, event.level)
    if event.effect == "require_approval":
        step = run.visits[event.serial].steps[event.call]
        had = step.permit or Permit()
        step.permit = Permit(had.rules, had.arguments, event.rule)


def _permit(permit: Permit, wait: Wait, event: ev.ApprovalResolved, content: StepContent) -> Permit:
    """What was shown may run, or what it was edited to."""
    edited = event.decision == "edit" or wait.edit is not None
    return Permit(
        (*permit.rules, permit.asked), dict(content.outputs if edited else wait.shown), permit.asked
    )


def _step_routed(run: Run, event: ev.StepRouted, content: StepContent, at_us: int) -> None:
    step = run.visits[event.serial].steps[event.call]
    step.pool = event.pool
    step.routed = True


def _step_queued(run: Run, event: ev.StepQueued, content: StepContent, at_us: int) -> None:
    visit = run.visits[event.serial]
    visit.steps[event.call] = Step(event.call, event.kind, event.name, event.pool, turn=event.turn)
    visit.calls = event.call + 1
    if event.kind is StepKind.DECIDE:
        visit.deciding = True
    elif event.kind is StepKind.LLM and visit.loop is not None:
        _begin_turn(visit.loop)


def _begin_turn(loop: Loop) -> None:
    loop.conversation.extend(turn for turn in loop.results if turn is not None)
    loop.calls = []
    loop.results = []
    loop.asks = False
    loop.question = None


def _late_outcome(run: Run, event: ev.LateOutcome, content: StepContent, at_us: int) -> None:
    orphan = run.orphans.get(attempt_key(event.serial, event.call, event.attempt))
    _charge_failed(run, event, orphan.hold if orphan is not None else None)
    _forget_orphan(run, event.serial, event.call, event.attempt)


def _cost_corrected(run: Run, event: ev.CostCorrected, content: StepContent, at_us: int) -> None:
    run.spent_nanousd += event.cost_nanousd
    key = attempt_key(event.serial, event.call, event.attempt)
    run.corrections[event.correction] = Correction(event.cost_nanousd, key)
    if key in run.unseen:
        # Still unseen: a late outcome replaces the corrected charge by what it says.
        run.unseen[key] += event.cost_nanousd


def _forget_orphan(run: Run, serial: int, call: int, attempt: int) -> None:
    orphan = run.orphans.pop(attempt_key(serial, call, attempt), None)
    if orphan is not None:
        run.reserved_nanousd -= orphan.reserved_nanousd


# --- nodes ---------------------------------------------------------------------------------------


def _node_entered(run: Run, event: ev.NodeEntered, content: StepContent, at_us: int) -> None:
    edges = tuple([token.edge for token in run.tokens if token.target == event.node])
    if edges:
        run.tokens = [token for token in run.tokens if token.target != event.node]
    visit = Visit(event.serial, event.node, event.floor, event.path, edges, since_us=at_us)
    if event.floor == run.serial:
        run.strays = False
    if event.step:
        visit.steps[0] = Step(0, _STEP_KINDS[event.step], event.name, event.pool)
        visit.calls = 1
    run.visits[event.serial] = visit
    run.serial = event.serial
    run.visit_counts[event.node] = run.visit_counts.get(event.node, 0) + 1


def _loop_began(run: Run, event: ev.LoopBegan, content: StepContent, at_us: int) -> None:
    said = list(run.conversation) if event.inherits else []
    run.visits[event.serial].loop = Loop(conversation=said, inherits=event.inherits)


def _node_succeeded(run: Run, event: ev.NodeSucceeded, content: StepContent, at_us: int) -> None:
    visit = run.visits[event.serial]
    write_memory(run, visit, content.outputs, content.facts, event.dropped)
    run.completed = run.completed or event.completed
    _close(run, visit, Ended(visit, route=content.route, completed=event.completed))


def _node_failed(run: Run, event: ev.NodeFailed, content: StepContent, at_us: int) -> None:
    visit = run.visits[event.serial]
    if visit.wait is not None:
        # Another of its steps ended it: nobody need answer any more.
        wait_more(run, -1, at_us)
        visit.wait = None
    _orphan_steps(run, visit)
    run.memory[ERROR_KEY] = inline({"kind": event.kind, "node": event.node_id, "message": content.message})
    _close(run, visit, Ended(visit, failure=event.kind, message=content.message))


def _close(run: Run, visit: Visit, ended: Ended) -> None:
    if visit.loop is not None and visit.loop.inherits:
        run.conversation = visit.loop.conversation
    del run.visits[visit.serial]
    run.last_ended = visit.node
    run.ended.append(ended)


def _outputs_written(run: Run, event: ev.OutputsWritten, content: StepContent, at_us: int) -> None:
    write_memory(run, run.visits[event.serial], content.outputs, content.facts, event.dropped)


def write_memory(
    run: Run, visit: Visit, outputs: dict[str, Value], facts: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    """Put a visit's outputs into memory, but for the keys that were decided to lose."""
    if not outputs:
        return
    writer = Writer(visit.floor, visit.path)
    for key, value in outputs.items():
        if key in dropped:
            continue
        run.memory[key] = value
        if key not in run.writers:
            run.output_keys.append(key)
        run.writers[key] = writer
    for name, fact in facts.items():
        if not dropped or name.partition(".")[0] not in dropped:
            run.facts[name] = fact


def _edges_taken(run: Run, event: ev.EdgesTaken, content: StepContent, at_us: int) -> None:
    visit = _take_ended(run, event.serial)
    if not event.edges:
        run.strays = True
        run.terminal_reached = run.terminal_reached or event.terminal
    for index, edge in enumerate(event.edges):
        run.tokens.append(Token(edge, event.targets[index], visit.floor, event.paths[index]))


def _take_ended(run: Run, serial: int) -> Visit:
    for position, ended in enumerate(run.ended):
        if ended.visit.serial == serial:
            del run.ended[position]
            return ended.visit
    raise KeyError(serial)


def _map_progressed(run: Run, event: ev.MapProgressed, content: StepContent, at_us: int) -> None:
    visit = run.visits[event.serial]
    if visit.children is None:
        visit.children = Children(event.total, items=content.outputs.get(ITEMS))
        run.status = RunStatus.RUNNING
    children = visit.children
    if event.item >= 0:
        children.live.pop(event.item, None)
        if event.failure:
            children.failures[event.item] = event.failure
        children.results[event.item] = dict(content.outputs)
    for number, child in zip(range(children.started, event.started), event.children, strict=True):
        children.live[number] = child
    children.started = event.started


# --- people --------------------------------------------------------------------------------------


def _approval_requested(run: Run, event: ev.ApprovalRequested, content: StepContent, at_us: int) -> None:
    visit = run.visits[event.serial]
    run.status = RunStatus.RUNNING
    if event.reason in ASKED_OF_STEPS:
        visit.steps[event.call].status = ASKED_OF_STEPS[event.reason]
    wait_more(run, 1, at_us)
    visit.wait = Wait(
        event.approval,
        event.reason,
        event.deadline_us,
        at_us,
        event.owner,
        event.call,
        content.message,
        content.form,
        dict(content.outputs),
        event.chain,
        0,
        event.final,
        event.four_eyes,
    )
    run.approvals += 1


def _approval_escalated(run: Run, event: ev.ApprovalEscalated, content: StepContent, at_us: int) -> None:
    wait = run.visits[event.serial].wait
    assert wait is not None
    wait.level = event.level
    wait.owner = event.owner
    wait.deadline_us = event.deadline_us


def _approval_edited(run: Run, event: ev.ApprovalEdited, content: StepContent, at_us: int) -> None:
    wait = run.visits[event.serial].wait
    assert wait is not None
    wait.edit = Edit(event.edition, event.principal, event.digest, content)


def _answer_refused(run: Run, event: ev.AnswerRefused, content: StepContent, at_us: int) -> None:
    """Told for the audit alone."""


def _approval_resolved(run: Run, event: ev.ApprovalResolved, content: StepContent, at_us: int) -> None:
    visit = run.visits[event.serial]
    wait = visit.wait
    assert wait is not None
    run.answers[wait.approval] = answer_digest(event.decision, event.digest)
    visit.wait = None
    wait_more(run, -1, at_us)
    if wait.reason == "client" and event.decision == "answer" and visit.loop is not None:
        _begin_turn(visit.loop)
        visit.loop.turns = 0
        if content is not ERASED:
            said = content.outputs["said"]
            visit.loop.conversation.append(Turn("user", said))
            visit.loop.appended_bytes += said.size
    if wait.reason in HOLDING and event.decision in ("approve", "edit"):
        step = visit.steps[wait.call]
        step.status = StepStatus.READY
        step.cleared = wait.approval
        if wait.reason == "policy" and step.permit is not None:
            step.permit = _permit(step.permit, wait, event, content)
    if wait.reason == "fallback" and event.decision == "retry":
        visit.taken = 0
    if wait.reason == "outcome_unknown":
        step = visit.steps[wait.call]
        run.resolved_unknown[attempt_key(visit.serial, step.call, step.attempt)] = event.decision


HOLDING = ("policy", "budget")
"""Questions about a step that may not start before they are answered."""
ASKED_OF_STEPS = dict.fromkeys(HOLDING, StepStatus.HELD) | {"outcome_unknown": StepStatus.UNKNOWN}
"""What a question makes of the step that it is about."""


def _run_degraded(run: Run, event: ev.RunDegraded, content: StepContent, at_us: int) -> None:
    run.lowered[event.model] = event.level


def _allowance_granted(run: Run, event: ev.AllowanceGranted, content: StepContent, at_us: int) -> None:
    had = run.allowances.get(event.account, Allowance())
    run.allowances[event.account] = Allowance(had.nanousd + event.nanousd, had.tokens + event.tokens)


def wait_more(run: Run, change: int, at_us: int) -> None:
    """Count waits for people, here or in a child; while there is one, the run's deadline stands still."""
    if not run.waits:
        run.waiting_since_us = at_us
    run.waits += change
    if not run.waits:
        run.deadline_us += max(0, at_us - run.waiting_since_us)
        run.waiting_since_us = 0


def _memory_changed(
    run: Run, event: ev.MemoryWritten | ev.MemoryDeleted, content: StepContent, at_us: int
) -> None:
    if run.shelf is None:
        run.shelf = longterm.Shelf(event.scope, event.owner)
    longterm.apply(run.shelf, event, content, at_us, 0)


def _conversation_carried(run: Run, event: ev.ConversationCarried, content: StepContent, at_us: int) -> None:
    if not content.state:
        return  # erased, with the end of the run
    turns = decode_turns(content.state)
    run.conversation = turns.run
    for serial, said in turns.loops.items():
        loop = run.visits[serial].loop
        assert loop is not None
        loop.conversation = said


# --- the run itself ------------------------------------------------------------------------------


def _run_let_in(run: Run, event: ev.RunLetIn, content: StepContent, at_us: int) -> None:
    run.outside = False
    for visit in run.visits.values():
        visit.since_us = at_us


def _run_paused(run: Run, event: ev.RunPaused, content: StepContent, at_us: int) -> None:
    run.paused = True
    run.reason = event.reason or content.message


def _run_resumed(run: Run, event: ev.RunResumed, content: StepContent, at_us: int) -> None:
    run.paused = False
    run.reason = ""


def _orphan_steps(run: Run, visit: Visit) -> None:
    for step in visit.steps.values():
        if step.status is StepStatus.LEASED:
            key = attempt_key(visit.serial, step.call, step.attempt)
            run.orphans[key] = Orphan(step.worker, step.reserved_nanousd, step.hold)
    visit.steps = {}


def _finish(run: Run, status: RunStatus, at_us: int) -> None:
    # Waits of children stay counted until these end, which follows.
    waits = sum(visit.wait is not None for visit in run.visits.values())
    if waits:
        wait_more(run, -waits, at_us)
    for visit in run.visits.values():
        _orphan_steps(run, visit)
    run.visits = {}
    run.tokens = []
    run.ended = []
    run.conversation = []
    run.status = status
    run.paused = False
    run.finished_us = at_us


def _run_succeeded(run: Run, event: ev.RunSucceeded, content: StepContent, at_us: int) -> None:
    _finish(run, RunStatus.SUCCEEDED, at_us)
    run.reason = event.reason


def _run_failed(run: Run, event: ev.RunFailed, content: StepContent, at_us: int) -> None:
    _finish(run, RunStatus.FAILED, at_us)
    run.failure = event.kind
    run.failed_at = event.place
    run.message = content.message
    run.dead_lettered = event.dead_lettered


def _run_cancelled(run: Run, event: ev.RunCancelled, content: StepContent, at_us: int) -> None:
    _finish(run, RunStatus.CANCELLED, at_us)
    run.reason = event.reason or content.message


def _run_forgotten(run: Run, event: ev.RunForgotten, content: StepContent, at_us: int) -> None:
    """What remains is what may be read anyway: kinds, times, costs, names."""
    run.forgotten = True
    run.memory = {}
    run.facts = {}
    run.writers = {}
    run.output_keys = []
    run.artifacts = []
    run.shelf = None
    run.message = ""
    run.callback = ""
    if run.status is RunStatus.CANCELLED:
        run.reason = ""


EVOLVE: dict[type[ev.Event], Callable[[Run, Any, StepContent, int], None]] = {
    ev.StepStarted: _step_started,
    ev.LeaseReturned: _lease_returned,
    ev.StepSucceeded: _step_succeeded,
    ev.StepFailed: _step_failed,
    ev.ToolCallFailed: _tool_call_failed,
    ev.RetryScheduled: _retry_scheduled,
    ev.FallbackTaken: _fallback_taken,
    ev.TimerFired: _timer_fired,
    ev.StepQueued: _step_queued,
    ev.PolicyDecided: _policy_decided,
    ev.StepRouted: _step_routed,
    ev.LateOutcome: _late_outcome,
    ev.CostCorrected: _cost_corrected,
    ev.NodeEntered: _node_entered,
    ev.LoopBegan: _loop_began,
    ev.ConversationCarried: _conversation_carried,
    ev.OutputsWritten: _outputs_written,
    ev.NodeSucceeded: _node_succeeded,
    ev.NodeFailed: _node_failed,
    ev.EdgesTaken: _edges_taken,
    ev.MapProgressed: _map_progressed,
    ev.ApprovalRequested: _approval_requested,
    ev.ApprovalResolved: _approval_resolved,
    ev.ApprovalEscalated: _approval_escalated,
    ev.ApprovalEdited: _approval_edited,
    ev.AnswerRefused: _answer_refused,
    ev.RunLetIn: _run_let_in,
    ev.RunPaused: _run_paused,
    ev.RunResumed: _run_resumed,
    ev.RunSucceeded: _run_succeeded,
    ev.RunFailed: _run_failed,
    ev.RunCancelled: _run_cancelled,
    ev.MemoryWritten: _memory_changed,
    ev.MemoryDeleted: _memory_changed,
    ev.RunForgotten: _run_forgotten,
    ev.AllowanceGranted: _allowance_granted,
    ev.RunDegraded: _run_degraded,
}
