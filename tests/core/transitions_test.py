"""The table of transitions is what happens, no more and no less; ``docs/states.md`` is made from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from docs.generate_states import PAGE, page
from hive_ray.core import events as ev
from hive_ray.core.breakers import BreakerPlan
from hive_ray.core.commands import ForceBreaker, Pause, RaiseLevel, Resume
from hive_ray.core.events import NOTHING
from hive_ray.core.failures import FailureKind
from hive_ray.core.plan import AccountPlan, Action
from hive_ray.core.transitions import MACHINES
from hive_ray.graph.asking import Asked, AskPlan
from hive_ray.graph.compiled import CompiledGraph, FallbackKind, FallbackPlan, NodeKind, NodePlan, RetryPlan
from hive_ray.graph.policies import Effect, RulePlan
from tests.core.graphs import HOUR_US, agent, chain, edge, graph, human, mail, mapping, nested, node, tool
from tests.core.observer import Seen
from tests.core.story import Story

BODY = chain(node("x"), id="body")


def beside_a_human(*others: NodePlan, then: str = "") -> CompiledGraph:
    """``a`` divides into a person's branch ``h`` and the others'; ``then`` follows the first of these."""
    nodes = [node("a"), human("h", "y"), *others, *([node(then)] if then else [])]
    edges = [edge("a", other.id) for other in nodes[1 : 2 + len(others)]]
    edges += [edge(others[0].id, then)] if then else []
    return graph(nodes, edges, subgraphs=(BODY,))


def divided(*others: NodePlan, then: str = "") -> Story:
    story = Story(beside_a_human(*others, then=then))
    story.submit(input={"list": [1, 2]})
    story.run_to_end("a")
    return story


def plain() -> Story:
    story = Story(chain(node("a"), human("h", "y"), node("z")))
    story.submit()
    story.engine.return_lease(story.lease("a").key, story.now)
    story.run_to_end("a")
    story.resolve("approve")
    story.run_to_end("z")
    return story


def step_beside_a_human() -> Story:
    story = divided(node("b"), then="z")
    story.run_to_end("b", "z")
    story.pass_time(72 * HOUR_US)
    return story


def failure_beside_a_human() -> Story:
    """A branch that fails into an edge leaves the run waiting, until its next node starts."""
    nodes = [node("a"), human("h", "y"), node("b"), node("z")]
    story = Story(graph(nodes, [edge("a", "h"), edge("a", "b"), edge("b", "z", "on_failure")]))
    story.submit()
    story.run_to_end("a")
    story.fail(story.lease("b"))
    story.tell_cancel()
    return story


def map_beside_a_human() -> Story:
    story = divided(mapping("m", "list", BODY, window=1))
    story.run_to_end("0:x", "1:x", "m")
    return story


def subgraph_beside_a_human() -> Story:
    story = divided(nested("s", BODY), then="z")
    story.run_to_end("0:x")
    return story


def tool_beside_a_human() -> Story:
    story = divided(agent("b", tool("send", idempotent=False)))
    story.turn(story.lease("b"), "send")
    story.fail(story.lease("b/send"), FailureKind.TOOL_ERROR)
    return story


def mails(decision: str) -> Callable[[], Story]:
    def tell() -> Story:
        story = divided(mail("b"), mail("c"))
        leases = story.leases()
        for lease in leases.values():
            story.fail(lease, FailureKind.TIMEOUT)
        if decision == "late":
            story.fail(leases["b"], FailureKind.TOOL_ERROR)
        elif decision:
            story.resolve(decision, approval="r.2")
        story.tell_cancel()
        return story

    return tell


def orphans() -> Story:
    """A late outcome ends one orphan; the other's lease had never arrived."""
    story = Story(graph([node("a"), node("b"), node("c"), node("d")], [edge("a", x) for x in "bcd"]))
    run = story.submit()
    story.run_to_end("a")
    leases = story.leases()
    story.fail(leases["d"])
    story.succeed(leases["b"])
    story.engine.return_lease(leases["c"].key, story.now)
    assert not run.orphans
    return story


def ends(cancel: bool) -> Callable[[], Story]:
    """A run ends while steps are ready, under way and in backoff."""

    def tell() -> Story:
        nodes = [node("a"), node("b", retry=RetryPlan(1, 1_000)), node("c"), node("d")]
        story = Story(graph(nodes, [edge("a", x) for x in "bcd"]), slots=2)
        story.submit()
        story.run_to_end("a")
        story.fail(story.leases()["b"], FailureKind.TOOL_ERROR)
        if cancel:
            story.tell_cancel()
        else:
            story.now_us += 24 * HOUR_US
            story.engine.fire_deadlines("r", story.now)
        return story

    return tell


def broke_before_its_first_step() -> Story:
    """The first step cannot be paid; what follows anyway is a question, and a step that is ready."""
    nodes = [node("a", cost_nanousd=100), human("h", "y"), node("b")]
    story = Story(graph(nodes, [edge("a", "h", "always"), edge("a", "b", "always")]))
    story.submit(budget_nanousd=10)
    assert sorted(story.leases()) == ["b"]
    return story


def failing_agent() -> Story:
    """An agent's node fails for want of money while one tool call runs and one waits for its retry."""
    tools = (tool("read", cost_nanousd=10), tool("look"), tool("dear", cost_nanousd=900))
    story = Story(chain(agent("a", *tools, retry=RetryPlan(1, 1_000))), slots=2)
    story.submit(budget_nanousd=100)
    story.turn(story.lease("a"), "read", "look", "dear")
    leases = story.leases()
    assert sorted(leases) == ["a/look", "a/read"]
    story.fail(leases["a/look"], FailureKind.TOOL_ERROR)
    assert story.leases() == {}
    return story


def out_of_tools() -> Story:
    story = Story(chain(agent("a", tool("read"), retry=RetryPlan(0))))
    story.submit()
    story.turn(story.lease("a"), "read")
    story.fail(story.lease("a/read"), FailureKind.TOOL_ERROR)
    return story


def retried() -> Story:
    story = Story(chain(node("a", retry=RetryPlan(1, 1_000))))
    story.submit()
    story.fail(story.lease("a"), FailureKind.TOOL_ERROR)
    story.pass_time(1_000)
    story.fail(story.lease("a"), FailureKind.TOOL_ERROR)
    return story


def paused() -> Story:
    story = Story(chain(node("a"), node("b")))
    for run in ("r", "s", "t"):
        story.submit(run=run)
    story.tell(Pause("r"))
    story.tell(Resume("r"))
    story.tell_cancel("r")
    leases = story.leases()
    assert len(leases) == 1
    for run in ("s", "t"):
        story.tell(Pause(run))
    story.tell(Resume("s"))
    story.tell_cancel("s")
    story.tell_cancel("t")
    return story


def expired_unstarted() -> Story:
    story = Story(chain(node("a")))
    story.submit()
    story.now_us += 24 * HOUR_US
    story.engine.fire_deadlines("r", story.now)
    story.submit(run="s")
    story.tell(Pause("s"))
    story.now_us += 24 * HOUR_US
    story.engine.fire_deadlines("s", story.now)
    return story


def succeeded_while_paused() -> Story:
    story = Story(chain(node("a")))
    story.submit()
    lease = story.lease("a")
    story.tell(Pause("r"))
    story.succeed(lease)
    return story


def asked_at_once() -> Story:
    story = Story(chain(human("h", "y")))
    story.submit()
    story.resolve("approve")
    return story


def mapped_at_once() -> Story:
    story = Story(graph([mapping("m", "list", BODY)], subgraphs=(BODY,)))
    story.submit(input={"list": [1]})
    return story


def forked() -> Story:
    """While a branch beside the cut is ready: the fork has that step from its first event on."""
    story = divided(node("b"), node("c"))
    story.fork("c")
    return story


def held(then: str) -> Callable[[], Story]:
    """A step that costs more than its team may spend waits for a person, beside another one."""

    def tell() -> Story:
        story = Story(graph([node("begin"), node("dear", cost_nanousd=9), node("other")],
                            [edge("begin", "dear"), edge("begin", "other")]))  # fmt: skip
        story.plan(accounts={"team/team": AccountPlan(5, action=Action.PAUSE)})
        story.submit()
        story.succeed(story.lease("begin"))
        other = story.lease("other")
        match then:
            case "cancel":
                story.tell_cancel()
            case "fail":
                story.fail(other)
            case _:
                story.resolve(then)
        return story

    return tell


def end_visit_that_waits(story: Story, run: str) -> None:
    """As when another step of the visit may never start."""
    found = story.engine.runs[run]
    serial = next(visit.serial for visit in found.visits.values() if visit.wait)
    failed = ev.NodeFailed(run, serial, FailureKind.BUDGET_EXCEEDED, "h")
    story.engine.record([ev.Draft(failed)], story.now)
    story.engine.moving.advance(found, story.now)
    assert not found.waits


def handed_on() -> Story:
    """Questions with two owners and four eyes, in every state that one can have, ended in every way."""
    asks = AskPlan((Asked("role:a", HOUR_US), Asked("", HOUR_US)), four_eyes=True)
    nodes = [node("a"), human("h", "y", asks=asks), node("b")]
    story = Story(graph(nodes, [edge("a", "h"), edge("a", "b")]), slots=100)
    story.engine.command(RaiseLevel(2), story.now)
    states: dict[str, tuple[str, ...]] = {
        "o": (), "e": ("pass",), "d": ("edit",), "ed": ("pass", "edit"),
    }  # fmt: skip
    for state, moves in states.items():
        for end in ("reject", "cancel", "fail", "node"):
            run = f"{state}-{end}"
            story.submit(run=run, principal="key:s")
            story.run_to_end("a")
            beside = story.lease("b")
            for move in moves:
                if move == "edit":
                    approval = story.wait(run)[1].approval
                    story.resolve_as("key:x", "edit", "a", run=run, approval=approval)
                else:
                    story.now_us += HOUR_US
                    story.engine.fire_deadlines(run, story.now)
            if end == "reject":
                story.resolve("reject", run=run)
                story.succeed(beside)
            elif end == "cancel":
                story.tell_cancel(run)
                story.succeed(beside)
            elif end == "node":
                end_visit_that_waits(story, run)
                story.succeed(beside)
            else:
                story.fail(beside)
    return story


def fallbacks_of_steps() -> Story:
    """One of a step that a breaker keeps from starting; one of a step that failed beside a person."""
    value = FallbackPlan(FallbackKind.VALUE, ("TOOL_UNAVAILABLE",), value=b'{"a": 1, "b": 1}')
    plan: dict[str, Any] = {"fallbacks": (value,), "retry": RetryPlan(max_retries=0), "function": "crm"}
    story = Story(beside_a_human(node("b", NodeKind.TOOL, **plan), then="z"))
    story.engine.command(RaiseLevel(2), story.now)
    story.submit()
    story.run_to_end("a")
    story.fail(story.lease("b"), FailureKind.TOOL_UNAVAILABLE)
    story.plan(breakers={"tool/*": BreakerPlan()})
    story.steer(ForceBreaker("tool/crm", "open", NOTHING))
    kept = chain(node("a", NodeKind.TOOL, **plan), id="kept")
    story.engine.add_graph(kept)
    story.submit(kept, run="k")
    story.leases()
    return story


def stopped_by_a_breaker() -> Story:
    """A tool call of an agent that a breaker keeps from starting."""
    story = Story(chain(agent("t", tool("crm"))))
    story.plan(breakers={"tool/*": BreakerPlan()})
    story.steer(ForceBreaker("tool/crm", "open", NOTHING))
    story.submit()
    story.turn(story.lease("t"), "crm")
    story.lease("t")
    return story


def rejected_call() -> Story:
    """A tool call of an agent that a policy asks about, and that a person does not allow."""
    story = Story(chain(agent("t", tool("crm"))))
    story.plan(policies=(RulePlan("ask", Effect.REQUIRE_APPROVAL, tools=("crm",)),))
    story.submit()
    story.turn(story.lease("t"), "crm")
    story.leases()
    story.resolve("reject")
    return story


STORIES = (
    rejected_call,
    handed_on, stopped_by_a_breaker, fallbacks_of_steps,
    held("approve"), held("reject"), held("cancel"), held("fail"),
    asked_at_once, mapped_at_once, plain, step_beside_a_human, failure_beside_a_human, map_beside_a_human,
    subgraph_beside_a_human,
    tool_beside_a_human, mails("late"), mails("happened"), mails("did_not_happen"), mails("abort"), mails(""),
    orphans, ends(cancel=True), ends(cancel=False), failing_agent, broke_before_its_first_step,
    out_of_tools, retried, paused,
    expired_unstarted, succeeded_while_paused, forked,
)  # fmt: skip


def test_every_declared_transition_happens():
    """The table names nothing that cannot be; that nothing else happens, every story checks."""
    seen: set[Seen] = {seen for tell in STORIES for seen in tell().observer.seen}
    declared = {
        (machine.name, known.state, known.event, to)
        for machine in MACHINES
        for known in machine.transitions
        for to in known.to
    }

    missing = sorted(f"{m}: {a} --{e.__name__}--> {b}" for m, a, e, b in declared - seen)
    assert not missing, "\n" + "\n".join(missing)


def test_terminal_states_have_no_way_out():
    """Resuming or forking a run that has ended makes a new run."""
    (run,) = [machine for machine in MACHINES if machine.name == "run"]

    assert not [t for t in run.transitions if t.state in ("succeeded", "failed", "cancelled")]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_every_state_has_a_meaning(machine: object):
    """And every meaning a state."""
    (known,) = [m for m in MACHINES if m is machine]
    states = {state for t in known.transitions for state in (t.state, *t.to)} - {"new", "ended"}

    assert states == set(known.glossary)


def test_the_page_is_the_one_that_the_table_makes():
    """A changed table changes the page: run ``python -m docs.generate_states``."""
    assert PAGE.read_text("utf-8") == page()
