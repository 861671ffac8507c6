"""Users who submit runs, and people who answer questions."""

from __future__ import annotations

from functools import partial
from typing import Any

from hive_ray.control.queries import ListApprovals, WatchRun
from hive_ray.control.views import Answer, RunView, WaitView
from hive_ray.core.commands import Complete, Resolve, Resume, Signal, Submit
from hive_ray.core.messages import StepContent
from tests.core.story import content, values
from tests.simulation.world import PATIENCE_US, World

RETRY_US = 300_000
MOST_PATIENCE = 32
"""Retries come so many times later at most, when nobody answers again and again."""
LOOK_US, MOST_LOOK_US = 60_000, 2_000_000
"""Between two looks at what is asked; longer while there is nothing to answer."""
ENDED = ("succeeded", "failed", "cancelled")
AWAY = ("BUDGET_EXCEEDED", "TOOL_UNAVAILABLE", "LLM_UNAVAILABLE")
TRANSIENT = ("unavailable", "overloaded", "maintenance")


class User:
    """Submits one run after the other, each until it is acknowledged, and watches it to its end."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.runs = 0
        self.tries = 0
        self._patience = 1
        self._broke = 0
        """Runs in a row that ended for want of money or of a tool: the next is submitted later each time."""
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
        self.name = f"u{self.number}.{self.runs}"
        self.minted = self.world.mint(self.name, 0)
        self.key = self.world.storage.run_key()
        self.begun_us = self.world.clock.mono_us
        self.has_key = chance() < 0.5
        self.graph = world.graphs[int(chance() * len(world.graphs))]
        tight = 5 + int(chance() * 55)
        limited = world.plan.has("tight_budget") and chance() < 0.7
        self.agent = "agent" if chance() < 0.7 else "other"
        self.budget_nanousd = tight if limited else -1
        self.submit()

    def submit(self) -> None:
        """With a key a repeat may come through another replica, which makes another run id."""
        self.tries += 1
        run, sealed_by = self.minted, self.key
        if self.has_key and self.tries > 1:
            run, sealed_by = self.world.mint(self.name, self.tries), self.world.storage.run_key()
        key = f"key-{self.name}" if self.has_key else ""
        given = content(list=[1, 2, 3], k=self.runs % 2 == 0)
        command = Submit(
            run,
            "q",
            "team",
            self.agent,
            self.graph,
            given,
            "digest",
            key,
            budget_nanousd=self.budget_nanousd,
            key=sealed_by,
        )
        self.world.ask(command, self._submitted, self._again)

    def _again(self) -> None:
        """Until its patience ends: whether the run began it then does not know."""
        late = self.world.clock.mono_us - self.begun_us > PATIENCE_US
        self.world.clock.after(self._pause_us(), self.go_on if late else self.submit)

    def _submitted(self, answer: Answer) -> None:
        refused = answer.refused
        if refused is not None:
            if refused.problem == "conflict" and self.world.plan.retention_days:
                self.go_on()  # it has ended, and its day has left the history
                return
            if refused.problem == "budget_exceeded" and self.budget_nanousd >= 0:
                self.world.clock.after(self._pause_us(), self.go_on)  # it could not pay for a step
                return
            assert refused.problem in TRANSIENT, refused
            self._again()
            return
        view = answer.value
        assert isinstance(view, RunView)
        named = view.run_id.partition("-")[2].rpartition(".")[0]
        assert named == self.name, f"{self.name} was answered with {view.run_id}"
        known = self.world.ledger.runs
        assert view.run_id in known, f"{view.run_id} was acknowledged before it was durable"
        self.run = view.run_id
        self._patience = 1
        self.world.acknowledged_runs[self.run] = None
        if self.has_key and self.world.chance.random() < 0.2:
            self.world.ask(self._repeat(), partial(self._repeated, f"key-{self.name}", self.run), nothing)
        self.watch()

    def _repeat(self) -> Submit:
        given = content(list=[1, 2, 3], k=self.runs % 2 == 0)
        run, key = f"{self.world.mint(self.name, self.tries)}again", f"key-{self.name}"
        sealed_by = self.world.storage.run_key()
        return Submit(run, "q", "team", self.agent, self.graph, given, "digest", key, key=sealed_by)

    def _repeated(self, key: str, run: str, answer: Answer) -> None:
        """The same key gets the same run, however often it is asked."""
        if answer.refused is None:
            assert answer.value.run_id == run or self.world.ledger.used_keys[key][0] != run

    def watch(self, after_seq: int = 0) -> None:
        """Mostly for the end; now and then for any news."""
        until_end = self.world.chance.random() < 0.8
        self.world.ask(WatchRun(self.run, after_seq, until_end), self._seen, self._watch_again)

    def _watch_again(self) -> None:
        self.world.clock.after(self._pause_us(), self.watch)

    def _pause_us(self) -> int:
        """Longer each time, until somebody answers."""
        self._patience = min(2 * self._patience, MOST_PATIENCE)
        return int(RETRY_US * self._patience * self.world.chance.random())

    def _seen(self, answer: Answer) -> None:
        # One who is replaced and does not know it may not know the run: ``World.leaves`` holds who may.
        if answer.refused is None and answer.value.status in ENDED:
            assert self.run in self.world.ledger.ended, f"{self.run} was told to have ended, and has not"
            if answer.value.failure in AWAY and self.budget_nanousd < 0:
                self._broke += 1
                self.world.clock.after(self._broke * self._pause_us(), self.go_on)
            else:
                self._broke = 0
                self.go_on()
        elif answer.refused is None:
            self._patience = 1
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
        self._pause_us = LOOK_US
        self._look()

    def _look(self) -> None:
        ledger = self.world.ledger
        if self.helpful and len(ledger.questions) > len(ledger.answers):
            self.world.ask(ListApprovals(), self._found, nothing)
        self.world.clock.after(self._pause_us, self._look)
        self._pause_us = min(2 * self._pause_us, MOST_LOOK_US)

    def _found(self, answer: Answer) -> None:
        for wait in answer.value or ():
            self._pause_us = LOOK_US
            after_us = int(self.world.chance.random() ** 2 * 100_000)
            self.world.clock.after(after_us, partial(self._answer, wait))
            if self.world.chance.random() < 0.15:
                self.world.clock.after(after_us + 1_000, partial(self._answer, wait))

    def _answer(self, wait: WaitView) -> None:
        command = self._command(wait)
        if command is not None:
            self.answered += 1
            self.world.ask(command, nothing_to_say, nothing)

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


def nothing() -> None:
    """Nobody minds that no answer came."""


def nothing_to_say(answer: Answer) -> None:
    """Nobody minds what the answer is: others may have been faster."""
