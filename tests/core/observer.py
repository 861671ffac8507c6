"""Watches what states runs, steps and approvals go through, and that deciding changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from hive_ray.core import agent_loop, children, lifecycle, people, routing, steps, transitions
from hive_ray.core import events as ev
from hive_ray.core.engine import Engine
from hive_ray.core.run import Run, StepStatus, Wait, encode_run, status_of

Seen = tuple[str, str, type[ev.Event], str]


class Observer:
    """Compares the states before and after each event with the table of transitions."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._states: dict[tuple[str, str], dict[str, str]] = {}
        self.seen: dict[Seen, int] = {}

    def note(self, event: ev.Event) -> None:
        """An event was applied."""
        run = self._engine.runs.get(event.run)
        if run is not None:
            self._compare("run", run, {"": status_of(run).value}, event)
            self._compare("step", run, steps_of(run), event)
            self._compare("approval", run, approvals_of(run), event)

    def _compare(self, machine: str, run: Run, now: dict[str, str], event: ev.Event) -> None:
        before = self._states.get((machine, run.id), {})
        if now == before:
            return
        gone = "withdrawn" if machine == "approval" else transitions.ENDED
        for name in before | now:
            was, became = before.get(name, transitions.NEW), now.get(name, gone)
            if was != became and was != gone:
                self._allow(machine, was, event, became)
        self._states[(machine, run.id)] = {**now}

    def _allow(self, machine: str, was: str, event: ev.Event, became: str) -> None:
        known = next(m for m in transitions.MACHINES if m.name == machine)
        kind = type(event)
        assert known.allows(was, kind, became), (
            f"{machine}: {was} --{kind.__name__}--> {became} is not declared"
        )
        seen = (machine, was, kind, became)
        self.seen[seen] = self.seen.get(seen, 0) + 1


def steps_of(run: Run) -> dict[str, str]:
    found = {
        f"{visit.serial}.{step.call}": StepStatus(step.status).name.lower()
        for visit in run.visits.values()
        for step in visit.steps.values()
    }
    for key in run.orphans:
        found[key.rpartition(".")[0]] = "orphan"
    return found


def approvals_of(run: Run) -> dict[str, str]:
    waits = [visit.wait for visit in run.visits.values() if visit.wait is not None]
    found = {wait.approval: _stage(wait) for wait in waits}
    return found | dict.fromkeys(run.answers, "resolved")


def _stage(wait: Wait) -> str:
    if wait.edit is not None:
        return "edited"
    return "escalated" if wait.level else "open"


DECIDERS: dict[ModuleType, tuple[str, ...]] = {
    steps: ("report",),
    routing: ("enter_first", "leave", "enter", "finish"),
    agent_loop: ("begin", "proceed"),
    people: ("ask", "resolve", "pass_on", "client_wait"),
    children: ("begin", "child_ended", "move_window"),
    lifecycle: ("cancel", "pause", "resume", "fail_stuck", "out_of_time"),
}
"""Every function of the core that decides about a run; each takes the run first."""


@contextmanager
def deciding_changes_nothing() -> Generator[None]:
    """While this holds, a decider that changes the state that it was shown fails at once."""
    originals = [
        (module, name, getattr(module, name)) for module, names in DECIDERS.items() for name in names
    ]
    for module, name, decide in originals:
        setattr(module, name, _watched(name, decide))
    try:
        yield
    finally:
        for module, name, decide in originals:
            setattr(module, name, decide)


def _watched(name: str, decide: Callable[..., Any]) -> Callable[..., Any]:
    def watched(run: Run, *rest: Any, **named: Any) -> Any:
        before = encode_run(run)
        answer = decide(run, *rest, **named)
        assert encode_run(run) == before, f"{name} changed the run that it decided about"
        return answer

    return watched
