"""Users who submit runs, people who answer questions, and operators who interfere."""

from __future__ import annotations

from functools import partial
from typing import Any

from hive_ray.control.queries import (
    GetAgent,
    GetRun,
    ListAgents,
    ListApprovals,
    ListRuns,
    ListWorkers,
    WatchRun,
)
from hive_ray.control.views import Answer, RunView, WaitView
from hive_ray.core.commands import Cancel, Complete, Pause, Register, Resolve, Resume, Signal, Submit
from hive_ray.core.messages import StepContent
from tests.core.story import content, values
from tests.simulation.world import World

RETRY_US = 300_000
ENDED = ("succeeded", "failed", "cancelled")
TRANSIENT = ("unavailable", "overloaded")


class User:
    """Submits one run after the other, each until it is acknowledged, and watches it to its end."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.runs = 0
        self.tries = 0
        self.run = ""
        """The run that was acknowledged; empty while there is none."""
        self.idle = True

    def go_on(self) -> None:
        """The next run, unless the history has enough."""
        world = self.world
        self.idle = world.calm or world.ledger.started >= world.plan.steps
        if self.idle:
            return
        self.runs += 1
        self.tries = 0
        self.run = ""
        chance = world.chance.random
        self.has_key = chance() < 0.5
        self.graph = world.graphs[int(chance() * len(world.graphs))]
        tight = 5 + int(chance() * 55)
        limited = world.plan.has("tight_budget") and chance() < 0.7
        self.budget_nanousd = tight if limited else -1
        self.submit()

    def submit(self) -> None:
        """With a key a repeat may come through another replica, which makes another run id."""
        self.tries += 1
        name = f"{self.number}-{self.runs}"
        run = f"u{name}.{self.tries}" if self.has_key else f"u{name}"
        key = f"key{name}" if self.has_key else ""
        given = content(list=[1, 2, 3], k=self.runs % 2 == 0)
        command = Submit(
            run, "q", "team", "agent", self.graph, given, "digest", key, budget_nanousd=self.budget_nanousd
        )
        self.world.ask(command, self._submitted, self._again)

    def _again(self) -> None:
        self.world.clock.after(int(RETRY_US * self.world.chance.random()), self.submit)

    def _submitted(self, answer: Answer) -> None:
        refused = answer.refused
        if refused is not None:
            if refused.problem == "conflict" and self.world.plan.retention_days:
                self.go_on()  # it has ended, and its day has left the history
                return
            assert refused.problem in TRANSIENT, refused
            self._again()
            return
        view = answer.value
        assert isinstance(view, RunView)
        name = f"u{self.number}-{self.runs}"
        assert view.run_id.partition(".")[0] == name, f"{name} was answered with {view.run_id}"
        known = self.world.ledger.runs
        assert view.run_id in known, f"{view.run_id} was acknowledged before it was durable"
        self.run = view.run_id
        self.world.acknowledged_runs[self.run] = None
        if self.has_key and self.world.chance.random() < 0.2:
            self.world.ask(self._repeat(), partial(self._repeated, f"key{name[1:]}", self.run), _nothing)
        self.watch()

    def _repeat(self) -> Submit:
        name = f"{self.number}-{self.runs}"
        given = content(list=[1, 2, 3], k=self.runs % 2 == 0)
        return Submit(f"u{name}.again", "q", "team", "agent", self.graph, given, "digest", f"key{name}")

    def _repeated(self, key: str, run: str, answer: Answer) -> None:
        """The same key gets the same run, however often it is asked."""
        if answer.refused is None:
            assert answer.value.run_id == run or self.world.ledger.used_keys[key][0] != run

    def watch(self, after_seq: int = 0) -> None:
        """Mostly for the end; now and then for any news."""
        until_end = self.world.chance.random() < 0.8
        self.world.ask(WatchRun(self.run, after_seq, until_end), self._seen, self._watch_again)

    def _watch_again(self) -> None:
        self.world.clock.after(200_000, self.watch)

    def _seen(self, answer: Answer) -> None:
        # One who is replaced and does not know it may not know the run: ``World.leaves`` holds who may.
        if answer.refused is None and answer.value.status in ENDED:
            assert self.run in self.world.ledger.ended, f"{self.run} was told to have ended, and has not"
            self.go_on()
        elif answer.refused is None:
            self.watch(answer.value.seq)
        else:
            self._watch_again()


class People:
    """Answer what they are asked, now and then two at once, or a second time; about unknown outcomes
    they say what is true, once it is."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.answered = 0
        self.helpful = world.plan.people
        self._look()

    def _look(self) -> None:
        ledger = self.world.ledger
        if self.helpful and len(ledger.questions) > len(ledger.answers):
            self.world.ask(ListApprovals(), self._found, _nothing)
        self.world.clock.after(60_000, self._look)

    def _found(self, answer: Answer) -> None:
        for wait in answer.value or ():
            after_us = int(self.world.chance.random() ** 2 * 100_000)
            self.world.clock.after(after_us, partial(self._answer, wait))
            if self.world.chance.random() < 0.15:
                self.world.clock.after(after_us + 1_000, partial(self._answer, wait))

    def _answer(self, wait: WaitView) -> None:
        command = self._command(wait)
        if command is not None:
            self.answered += 1
            self.world.ask(command, _nothing_to_say, _nothing)

    def _command(self, wait: WaitView) -> Any:
        choice = int(self.world.chance.random() * 64)
        given = StepContent(outputs=values(k=choice % 2 == 0, said="hm"))
        match wait.reason:
            case "pause":
                return (
                    Resume(wait.run_id)
                    if choice % 2
                    else Resolve(wait.run_id, wait.approval_id, "resume", given)
                )
            case "client":
                if choice % 8 == 0:
                    return Resolve(wait.run_id, wait.approval_id, "answer", given)
                if choice % 3:
                    return Signal(wait.run_id, given, wait.node)
                return Complete(wait.run_id, given, wait.node)
            case "outcome_unknown":
                decision = self._truth(wait)
                if not decision:
                    return None
                return Resolve(wait.run_id, wait.approval_id, decision, given)
            case _:
                decision = ("approve", "reject", "edit")[choice % 3]
                return Resolve(wait.run_id, wait.approval_id, decision, given, digest=str(choice % 2))

    def _truth(self, wait: WaitView) -> str:
        step = self.world.ledger.asked_about[wait.approval_id]
        outside = self.world.outside
        if self.world.chance.random() < 0.2:
            return "abort"
        if outside.effects.get(step):
            return "happened"
        return "" if outside.under_way.get(step) else "did_not_happen"


class Operators:
    """Cancel, pause and resume runs, whatever these are doing."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._act()

    def _act(self) -> None:
        world = self.world
        if world.calm:
            return
        runs = [run for run in world.ledger.runs if run not in world.ledger.ended]
        if runs:
            run = runs[int(world.chance.random() * len(runs))]
            kind = int(world.chance.random() * 8)
            command = (
                Cancel(run, "no longer needed") if kind == 0 else Pause(run) if kind < 4 else Resume(run)
            )
            world.count("commands")
            world.ask(command, _nothing_to_say, _nothing)
        world.clock.after(int(world.plan.every_us * world.chance.random()), self._act)


class Onlooker:
    """A console that asks for everything, all the time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._look()

    def _look(self) -> None:
        world = self.world
        if world.calm:
            return
        chance = int(world.chance.random() * 64)
        known = list(world.ledger.runs)
        run = known[chance % len(known)] if known else "none"
        query = (
            GetRun(run),
            WatchRun(run),
            ListRuns(limit=1 + chance % 7, status=("", "waiting", "succeeded,failed")[chance % 3]),
            ListRuns("team", before=run, limit=2, children=True),
            ListApprovals("team", run),
            ListWorkers(),
            ListAgents("team"),
            GetAgent("team", "a0"),
            Register("a0", "team", world.graphs[0]),
        )[chance % 9]
        world.ask(query, _nothing_to_say, _nothing)
        world.clock.after(50_000 + chance * 20_000, self._look)


def _nothing() -> None:
    """Nobody minds that no answer came."""


def _nothing_to_say(answer: Answer) -> None:
    """Nobody minds what the answer is: others may have been faster."""
