"""How events about steps and their attempts change a run: facts applied, nothing decided."""

from __future__ import annotations

from hive_ray.core import artifacts
from hive_ray.core import events as ev
from hive_ray.core.evolving_nodes import Evolve, close, write_memory
from hive_ray.core.holds import Hold
from hive_ray.core.messages import ERASED, StepContent, StepKind, Turn, Usage
from hive_ray.core.run import (
    Correction,
    Ended,
    Loop,
    Permit,
    Run,
    RunStatus,
    Step,
    StepStatus,
    attempt_key,
)
from hive_ray.core.values import Value, inline

# Plain names for members of enumerations: by the name of its class each costs 70 ns (CPython 3.11).
_LEASED, _RUNNING = StepStatus.LEASED, RunStatus.RUNNING
_DECIDE = StepKind.DECIDE


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
        close(run, visit, Ended(visit, chosen=content.chosen))
    elif visit.loop is not None:
        _loop_step(visit.loop, step, content, event.usage)
    else:
        write_memory(run, visit, content.outputs, content.facts, event.dropped)
        if event.ends:
            close(run, visit, Ended(visit, route=content.route))


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
        begin_turn(visit.loop)


def begin_turn(loop: Loop) -> None:
    """What the last turn came to is said, and the LLM speaks next."""
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


STEPS: dict[type[ev.Event], Evolve] = {
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
}
