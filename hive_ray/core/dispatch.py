"""Taking ready steps and leasing them: what a worker that has room is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from hive_ray.core import (
    admission,
    bounds,
    children,
    fallbacks,
    features,
    fleet,
    held,
    policing,
    remembering,
    retries,
    routing,
)
from hive_ray.core import events as ev
from hive_ray.core.accounts import names_of
from hive_ray.core.commands import Moment
from hive_ray.core.events import Draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.holds import Hold
from hive_ray.core.lowering import Asked
from hive_ray.core.messages import Lease, MemoryGiven, StepKind
from hive_ray.core.queues import Queue, Taken
from hive_ray.core.run import Run, Step, StepStatus, Visit
from hive_ray.core.standing_in import tool_of
from hive_ray.core.terms import Terms, terms_of
from hive_ray.core.turns import Turns
from hive_ray.graph.compiled import CompiledGraph, NodePlan

if TYPE_CHECKING:
    from hive_ray.core.engine import Engine

MOST_SPARE = 8
"""No more than one slot of so many is kept for other teams."""
SCAN_LIMIT = 64
"""Steps that cannot start, looked at before an exchange gives up for this time."""


class Dispatch:
    """The part of the engine that hands out work."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._took_back = False
        """A step that may never start ended its node, and maybe leases of the same answer with it."""
        self._quiet = False
        """No breaker, no ladder and no kill switch is in anybody's way during this answer."""
        self._due: dict[str, int] = {}
        """When, by the monotonic clock, what steps wait for may be there."""

    def prune(self, pool: str) -> None:
        """Take the entries of runs that ended out of a queue."""
        queue = self._engine.fleet.queues.get(pool)
        if queue is not None:
            queue.prune(lambda ref: self._ready(ref) is not None)

    def admit(self, worker: fleet.Worker, now: Moment, most: int) -> list[Lease]:
        """Lease ready steps of a worker's pool to it, as far as it has room, at most ``most``."""
        index = self._engine.fleet
        queue = index.queues.get(worker.pool)
        leases: list[Lease] = []
        if queue is None:
            return leases
        returned: list[Taken] = []
        looked = 0
        self._took_back, self._quiet = False, self._nobody_objects()
        turns = self._turns(worker.pool, queue)
        while len(leases) < most and looked < SCAN_LIMIT and fleet.has_place(index, worker):
            taken = turns.take()
            if taken is None:
                break
            found = self._ready(taken[0])
            if found is None:
                continue
            if found[2].shared_losses and len(worker.leases) >= fleet.company(worker, found[2]):
                returned.append(taken)
                looked += 1
                if fleet.is_emptiest(index, worker):
                    break
                continue
            answer = self._grant(*found, worker, now)
            if isinstance(answer, Lease):
                leases.append(answer)
                turns.note(taken[2].team)
            elif answer is not None:
                self._set_aside(queue, taken, answer)
                looked += 1
        for taken in reversed(returned):
            queue.put_back(taken)
        return self._still_wanted(leases, now) if self._took_back else leases

    def _nobody_objects(self) -> bool:
        """Whether no breaker, no ladder and no kill switch can be in a step's way."""
        engine = self._engine
        return not (engine.force.has_ladders or engine.breaking.minds or engine.fleet.stopped)

    def _turns(self, pool: str, queue: Queue) -> Turns:
        """Whose turn it is: everybody's, unless other teams need the last slots of a pool."""
        fleet_now = self._engine.fleet
        spare = self._engine.force.plan.spare_slots.get(pool, 0) if len(fleet_now.teams) > 1 else 0
        if not spare:
            return Turns(queue)
        workers = [worker for worker in fleet_now.workers.values() if worker.pool == pool]
        counts: dict[str, int] = {}
        for worker in workers:
            for attempt in worker.leases:
                run = self._engine.runs.get(attempt[0])
                if run is not None:
                    counts[run.team] = counts.get(run.team, 0) + 1
        slots = sum(worker.slots for worker in workers)
        return Turns(queue, counts, slots, min(spare, slots // MOST_SPARE))

    def _set_aside(self, queue: Queue, taken: Taken, wait: admission.Wait) -> None:
        queue.set_aside(wait.resource, taken)
        if wait.due_us:
            self._due[wait.resource] = wait.due_us

    def freed(self, root: Run, hold: Hold | None) -> None:
        """An attempt has ended: whoever waits for what it held tries again."""
        if not fleet.anything_aside(self._engine.fleet):
            return
        fleet.wake(self._engine.fleet, f"run/{root.id}")
        if hold is not None:
            for name in names_of(root, hold.pool, hold.subject):
                fleet.wake(self._engine.fleet, name)

    def fire(self, mono_us: int) -> None:
        """Let those try again whose time has come."""
        if self._due:
            for resource in [name for name, due_us in self._due.items() if due_us <= mono_us]:
                del self._due[resource]
                fleet.wake(self._engine.fleet, resource)

    def reconsider(self) -> None:
        """Limits have changed: nothing is known of when anything may start."""
        self._due = {}
        self.sweep()

    def sweep(self) -> None:
        """Let some of all that wait try again: what they wait for may be there without a release."""
        for queue in self._engine.fleet.queues.values():
            for resource in queue.awaited():
                if resource not in self._due:
                    queue.wake(resource, fleet.WAKE_MOST)

    def _still_wanted(self, leases: list[Lease], now: Moment) -> list[Lease]:
        """Take back what was leased just before its node failed for want of money; it has not left yet."""
        wanted: list[Lease] = []
        for lease in leases:
            if self._engine.is_orphan(lease.key):
                self._engine.return_lease(lease.key, now)
            else:
                wanted.append(lease)
        return wanted

    def _ready(self, ref: fleet.StepRef) -> tuple[Run, Visit, Step] | None:
        run = self._engine.runs.get(ref[0])
        if run is None or run.paused:
            return None
        visit = run.visits.get(ref[1])
        step = visit.steps.get(ref[2]) if visit is not None else None
        if visit is None or step is None or step.status is not _READY:
            return None
        return run, visit, step

    def _grant(
        self, run: Run, visit: Visit, step: Step, worker: fleet.Worker, now: Moment
    ) -> Lease | admission.Wait | None:
        """Lease a step, or say what it waits for; None: its run went on otherwise."""
        engine = self._engine
        graph = engine.graphs[run.graph]
        node = graph.nodes[visit.node]
        root = engine.payer(run) if run.parent else run
        if engine.force.has_ladders:
            terms = self._terms(run, root, node, visit, step, 0, now)
        else:
            terms = terms_of(node, visit, step)
        inputs = self._inputs(run, graph, visit, step)
        memory = None
        if node.memory or step.turn >= 0:
            memory = engine.keeping.given(root, node, step, inputs)
            if isinstance(memory, remembering.Denied):
                message = f"node {node.id}: {memory.message}"
                return self._refuse(run, node, visit, step, admission.Refusal(memory.kind, message), now)
            if memory is not None and step.kind in _SHOWN_MEMORY:
                inputs = _shown(memory, terms) | inputs
        asked = policing.Situation(run, root, graph, node, visit, step, inputs, terms)
        decided = self._decide(asked, now)
        answer, told, terms = decided.answer, decided.told, decided.terms
        if isinstance(answer, admission.Wait):
            return answer
        if not isinstance(answer, admission.Granted):
            return self._hold_back(run, node, visit, step, answer, told, now)
        if not self._quiet:
            self._begins(asked, terms, told, now)
        event = ev.StepStarted(
            run.id,
            visit.serial,
            step.call,
            step.attempt,
            worker.name,
            engine.fleet.epoch,
            answer.reserved_nanousd,
            bounds.checksum(inputs) if visit.loop is not None and step.kind is _LLM else 0,
            answer.hold,
            terms.lowered,
        )
        told.append(Draft(event))
        engine.record(told, now)
        return self._lease(asked, terms, memory, now)

    def _terms(
        self, run: Run, root: Run, node: NodePlan, visit: Visit, step: Step, least: int, now: Moment
    ) -> Terms:
        return self._engine.lowering.terms(Asked(run, root, node, visit, step), least, now)

    def _begins(self, asked: policing.Situation, terms: Terms, told: list[Draft], now: Moment) -> None:
        """A step is about to be leased: it may be a probe or a trial, or show that its run is degraded."""
        engine, step = self._engine, asked.step
        if engine.fleet.breakers:
            attempt = (asked.run.id, asked.visit.serial, step.call, step.attempt)
            engine.breaking.begins(terms.subject, attempt, now)
        if engine.force.has_ladders and terms.model is not None:
            told += engine.lowering.told(asked.root, step, now)
            engine.lowering.begins(step.name, terms, now)

    def _decide(self, asked: policing.Situation, now: Moment) -> Decided:
        """Whether a step may start, and what policies have said of it."""
        if self._quiet and not asked.node.deadline_us and self._is_ruled_by_nobody(asked):
            return Decided(self._admit(asked, now), [], asked.terms)
        verdict = self._forbids(asked, now)
        if verdict is not None:
            return Decided(verdict, [], asked.terms)
        ruled, ruling = self._ruled(asked, now)
        told = [] if ruling is None else [ruling.told]
        if ruling is not None and ruling.routed is not None:
            return Decided(None, [ruling.told, ruling.routed], asked.terms)
        if ruling is not None and ruling.verdict is not None:
            return Decided(ruling.verdict, told, asked.terms)
        verdict = self._forbids(ruled, now) if ruled is not asked else None
        answer = verdict or self._admit(ruled, now)
        # A step that cannot start yet is looked at again: that it may is told when it does.
        return Decided(answer, told if isinstance(answer, admission.Granted) else [], ruled.terms)

    def _ruled(
        self, asked: policing.Situation, now: Moment
    ) -> tuple[policing.Situation, policing.Ruling | None]:
        """What policies say of a step, on the terms on which it may start.

        A ladder leads to no model about which they have something to say: it is left out instead.
        """
        ruling = self._rule(asked)
        node, visit, step, terms = asked.node, asked.visit, asked.step, asked.terms
        if ruling is not None and ruling.verdict is not None and terms.name != step.name:
            asked = replace(asked, terms=terms_of(node, visit, step))
            return asked, self._rule(asked)
        if ruling is None or not ruling.level or ruling.routed is not None:
            return asked, ruling
        terms_below = self._terms(asked.run, asked.root, node, visit, step, ruling.level, now)
        lower = replace(asked, terms=terms_below)
        if lower.terms.name != terms.name:
            again = self._rule(lower)
            if again is not None and again.verdict is not None:
                return asked, ruling
        return lower, ruling

    def _is_ruled_by_nobody(self, asked: policing.Situation) -> bool:
        engine = self._engine
        if engine.fleet.feature_level < features.CONTROLLED:
            return True
        return policing.concern_nobody(engine.force.policies, asked)

    def _rule(self, asked: policing.Situation) -> policing.Ruling | None:
        if self._is_ruled_by_nobody(asked):
            return None
        return policing.rule(self._engine.force.policies, self._engine.evaluator, asked)

    def _admit(self, asked: policing.Situation, now: Moment) -> admission.Granted | admission.Verdict:
        """All that a step needs, or what keeps it."""
        engine = self._engine
        root, step, terms = asked.root, asked.step, asked.terms
        worst = admission.worst_case(asked.run, asked.node, asked.visit, step, asked.inputs, terms)
        if worst.nanousd and root.budget_nanousd >= 0:
            verdict = admission.admit_to_run(root, worst.nanousd)
            if verdict is not None:
                return verdict
        hold = None
        if engine.fleet.feature_level >= features.CONTROLLED and (worst.nanousd or worst.tokens):
            hold = self._hold(worst, step.pool, terms.subject, now)
            if engine.force.limits_accounts:
                verdict = admission.admit_to_accounts(engine.fleet.accounts, root, hold)
                if verdict is not None:
                    return verdict
        if engine.force.limits_rates:
            names = (f"pool/{step.pool}", terms.subject)
            tokens = hold.likely_tokens if hold else 0
            late = engine.rates.take(engine.force, names, tokens, now.mono_us)
            if late is not None:
                return admission.Wait(late.resource, late.due_us)
        return admission.Granted(worst.nanousd, hold)

    def _forbids(self, asked: policing.Situation, now: Moment) -> admission.Verdict | None:
        """What keeps a step whatever it costs."""
        engine, node, subject = self._engine, asked.node, asked.terms.subject
        if node.deadline_us and retries.node_time_left_us(node, asked.visit, now.wall_us) <= 0:
            return admission.Refusal(FailureKind.TIMEOUT, f"the time of node {node.id} (deadline_s) is over")
        if engine.breaking.minds:
            refusal = engine.breaking.refusal(subject, now)
            if refusal is not None:
                return refusal
        if engine.fleet.stopped:
            names = list(names_of(asked.root, asked.step.pool, subject))
            return admission.stopped(engine.fleet.stopped, names)
        return None

    def _hold(self, worst: admission.Worst, pool: str, subject: str, now: Moment) -> Hold:
        accounts = self._engine.fleet.accounts
        nanousd, tokens = worst.nanousd, worst.tokens
        at_us = max(now.wall_us, accounts.wall_us)
        known = accounts.experiences.get(subject)
        if known is None:
            return Hold(nanousd, tokens, nanousd, tokens, at_us, pool, subject)
        return Hold(nanousd, tokens, known.expect(nanousd), known.expect(tokens), at_us, pool, subject)

    def _hold_back(
        self,
        run: Run,
        node: NodePlan,
        visit: Visit,
        step: Step,
        verdict: admission.Refusal | admission.Ask | None,
        told: list[Draft],
        now: Moment,
    ) -> admission.Wait | None:
        """A step does not start here and now; one question of a visit is asked at a time."""
        if isinstance(verdict, admission.Refusal):
            return self._refuse(run, node, visit, step, verdict, now, told)
        if verdict is None:
            self._engine.record(told, now)
            return None
        if visit.wait is not None:
            return admission.Wait(f"approval/{run.id}.{visit.serial}")
        self._engine.record([*told, held.ask(run, visit, step, verdict, now)], now)
        self._engine.moving.note_place(run, now)
        return None

    def _refuse(
        self,
        run: Run,
        node: NodePlan,
        visit: Visit,
        step: Step,
        refusal: admission.Refusal,
        now: Moment,
        told: Sequence[Draft] = (),
    ) -> None:
        """A step may never start: its node fails, which may end leases of the same answer."""
        graph = self._engine.graphs[run.graph]
        instead = fallbacks.take(run, graph, visit, step, refusal.kind, refusal.message, now)
        failed = instead or held.refuse(run, node, visit, step, refusal.kind, refusal.message)
        self._engine.record([*told, *failed], now)
        self._engine.moving.advance(run, now)
        self._took_back = True

    def _inputs(self, run: Run, graph: CompiledGraph, visit: Visit, step: Step) -> dict[str, Any]:
        if step.permit is not None and step.permit.arguments is not None:
            return step.permit.arguments
        if step.turn >= 0 and visit.loop is not None:
            return visit.loop.calls[step.turn].arguments
        if step.kind is _COLLECT:
            return children.collect_inputs(visit)
        return routing.inputs_of(run, graph, visit)

    def _lease(
        self, asked: policing.Situation, terms: Terms, memory: MemoryGiven | None, now: Moment
    ) -> Lease:
        run, node, visit, step = asked.run, asked.node, asked.visit, asked.step
        loop, model = visit.loop, terms.model
        outputs = loop.outputs if loop is not None and step.kind is _LLM else {}
        if step.kind is _DECIDE:
            outputs = {key: run.memory[key] for key in node.output_keys if key in run.memory}
        return Lease(
            run.id,
            visit.serial,
            step.call,
            step.attempt,
            self._engine.fleet.epoch,
            run.graph,
            visit.node,
            step.kind,
            _timeout_us(node, visit, step, now),
            asked.inputs,
            terms.name,
            tuple(terms.said),
            outputs,
            model.max_tokens if model is not None else 0,
            run.request_id,
            run.team,
            run.agent,
            run.traceparent,
            _prompt_limit(asked, terms) if model is not None and asked.root.budget_nanousd >= 0 else 0,
            memory,
            self._engine.fleet.feature_level,
            run.key,
            terms.dropped,
        )


class Decided(msgspec.Struct, frozen=True, gc=False):
    """What was found about a step."""

    answer: admission.Granted | admission.Verdict | None
    """None: it starts in another pool."""
    told: list[Draft]
    terms: Terms
    """On which it starts if it was granted."""


def _prompt_limit(asked: policing.Situation, terms: Terms) -> int:
    """So many bytes may go to an LLM on a budget; 0 where the reservation rests on measured tokens."""
    visit, step = asked.visit, asked.step
    if bounds.rests_on_tokens(visit, step, terms):
        return 0
    return bounds.prompt_bytes(asked.run, asked.node, visit, step, asked.inputs, terms)


def _shown(memory: MemoryGiven, terms: Terms) -> dict[str, Any]:
    """What an LLM finds of long-term memory among its inputs: with little room, what its prompts name."""
    found = remembering.as_inputs(memory)
    if not terms.scoped or terms.model is None or terms.model.mentions is None:
        return found
    return {key: value for key, value in found.items() if key in terms.model.mentions}


def _timeout_us(node: NodePlan, visit: Visit, step: Step, now: Moment) -> int:
    """An attempt's time; no longer than what is left to its node."""
    tool = tool_of(node, step)
    timeout_us = tool.timeout_us if tool else node.timeout_us
    if not node.deadline_us:
        return timeout_us
    return min(timeout_us, max(1, retries.node_time_left_us(node, visit, now.wall_us)))


# Plain names for members of enumerations: by the name of its class each costs 70 ns (CPython 3.11).
_READY = StepStatus.READY
_LLM, _DECIDE, _COLLECT = StepKind.LLM, StepKind.DECIDE, StepKind.COLLECT

_SHOWN_MEMORY = (_LLM, _DECIDE)
"""Steps that find what they read of long-term memory among their inputs."""
