"""Notifications of a controller that dies, waits, parks: durable before they leave, and delivered at last."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from hive_ray.control import snapshotting
from hive_ray.control.sending import AT_ONCE_TO_ONE, Send
from hive_ray.control.views import Answer, RunView
from hive_ray.core.commands import ApplyPlan, Command, Resolve, Submit
from hive_ray.core.hooks import HookPlan, HooksPlan
from hive_ray.core.messages import StepContent
from hive_ray.core.outbox import Sent
from hive_ray.core.plan import ControlPlan, encode_plan
from hive_ray.graph.asking import Asked, AskPlan
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.store import Store
from tests.control.driver import Crash, Driver
from tests.core.graphs import HOUR_US, chain, human

SECOND_US = 1_000_000
ASKS = AskPlan((Asked("key:ann", HOUR_US), Asked("role:chief", HOUR_US)))
GRAPH = chain(human("h", "approved", asks=ASKS))
CRM = HookPlan("crm", "https://crm.example/hook")
CALLBACK = "https://submitter.example/done?job=7"
_NUMBERS = itertools.count()


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    name = f"notifications{next(_NUMBERS)}"
    yield MemoryStore(name)
    forget_memory(name)


def plan(*hooks: HookPlan, **fields: Any) -> ApplyPlan:
    data = encode_plan(ControlPlan(hooks=HooksPlan(hooks, **fields)))
    return ApplyPlan(data, str(data))


def submit(run: str = "r", **fields: Any) -> Submit:
    return Submit(run, "q", "team", "agent", GRAPH.version, StepContent(), "d", run, **fields)


class World:
    """Receivers that hear, people who answer late, and the controllers between them."""

    def __init__(self) -> None:
        self.heard: dict[str, Send] = {}
        self.deliveries = 0

    def meet(self, driver: Driver) -> None:
        self.driver = driver
        driver.receiver = self.hear

    def hear(self, send: Send) -> Sent:
        """The same id is the same notification, word for word."""
        known = self.heard.setdefault(send.notification, send)
        assert (known.body, known.hook, known.url) == (send.body, send.hook, send.url)
        self.deliveries += 1
        return Sent()

    def live(self) -> None:
        """One run with a callback; its second owner answers."""
        self._ask(plan(CRM))
        run = self._ask(submit(callback=CALLBACK))
        while not self.driver.engine.runs["r"].terminal:
            wait = self._view().waits[0]
            if wait.owner == "key:ann":
                self.driver.pass_time(HOUR_US)
            else:
                self._ask(Resolve("r", "r.1", "approve", StepContent(), digest="yes"))
        assert run.run_id == "r"

    def _view(self) -> RunView:
        return self.driver.replies[self.driver.watch("r")].value

    def _ask(self, command: Command) -> Any:
        answer: Answer = self.driver.replies[self.driver.command(command)]
        assert answer.refused is None, answer.refused
        return answer.value

    def told(self) -> list[tuple[str, str]]:
        return sorted((json.loads(send.body)["type"], send.hook) for send in self.heard.values())


EXPECTED = [
    ("approval.escalated", "crm"),
    ("approval.requested", "crm"),
    ("run.finished", ""),
    ("run.finished", "crm"),
]


def crashed_at(store: Store, boundary: int) -> tuple[World, int]:
    """Live until the crash, then live on with a new controller."""
    world = World()
    driver = Driver(store, [GRAPH], boundary)
    try:
        world.meet(driver)
        world.live()
    except Crash:
        world.meet(Driver(store, [GRAPH], clock=driver.clock))
        world.live()
    world.driver.pass_time(SECOND_US)
    return world, driver.performed


def test_a_crash_between_any_two_actions_loses_no_notification():
    """At every boundary, also between a delivery and the word of it: each is heard, under one id, and at the
    end nothing is pending."""
    stores = (MemoryStore(f"crash{next(_NUMBERS)}") for _ in itertools.count())
    undisturbed, boundaries = crashed_at(next(stores), -1)
    assert (undisturbed.told(), undisturbed.deliveries) == (EXPECTED, 4)
    repeated = 0

    for boundary in range(1, boundaries + 1):
        world, _ = crashed_at(next(stores), boundary)

        assert world.told() == EXPECTED, f"crash at action {boundary}"
        outbox = world.driver.engine.fleet.outbox
        assert not outbox.pending, f"crash at action {boundary}"
        repeated += world.deliveries - len(world.heard)
    assert repeated, "no crash came between a delivery and the word of it: the test looks past them"


def test_no_notification_leaves_before_its_event_is_durable(store: Store):
    """What is told outside must not be lost with a crash."""
    driver = Driver(store, [GRAPH])
    driver.command(plan(CRM))
    driver.holds_writes = True
    driver.command(submit())
    driver.pass_time(SECOND_US)
    assert driver.engine.fleet.outbox.pending and not driver.sends

    driver.release()

    assert [send.hook for send in driver.sends] == ["crm"]


def test_a_payload_holds_ids_kinds_and_links_and_never_content(store: Store):
    """The question's words, its form and what it shows stay here."""
    driver = Driver(store, [GRAPH], public_url="https://hive.example/")
    driver.command(plan(CRM))
    driver.command(submit())
    told = json.loads(driver.sends[0].body)

    assert told == {
        "type": "approval.requested",
        "timestamp": "1970-01-01T00:33:20.000Z",
        "data": {
            "run_id": "r", "team": "team", "agent": "agent", "graph": "g", "approval_id": "r.1", "node": "h",
            "reason": "approval", "owner": "key:ann", "deadline_at": "1970-01-01T01:33:20.000Z", "level": 0,
            "owners": 2,
            "links": {"run": "https://hive.example/v1/runs/r",
                      "approval": "https://hive.example/v1/approvals/r.1"},
        },
    }  # fmt: skip
    assert "." not in driver.sends[0].notification


def test_a_receiver_that_is_down_is_tried_again_later_and_at_last_given_up(store: Store):
    """Each attempt under the same id; the pauses grow; why it failed can be read, after a restart too."""
    driver = Driver(store, [GRAPH])
    driver.receiver = lambda _: Sent("answered 500", 500)
    driver.command(plan(CRM, attempts=3, first_retry_us=4 * SECOND_US))
    driver.command(submit())
    (pending,) = driver.engine.fleet.outbox.pending.values()
    driver.pass_time(SECOND_US)
    assert (len(driver.sends), pending.attempts, pending.error) == (1, 1, "answered 500")
    assert driver.clock.wall_us + SECOND_US <= pending.due_us <= driver.clock.wall_us + 3 * SECOND_US
    driver.pass_time(3 * SECOND_US)
    assert len(driver.sends) == 2

    again = Driver(store, [GRAPH], clock=driver.clock)
    again.receiver = driver.receiver
    again.pass_time(16 * SECOND_US)
    ended = list(again.engine.fleet.outbox.ended.values())

    assert [send.notification for send in (*driver.sends, *again.sends)] == [pending.id] * 3
    assert [(item.state, item.attempts, item.error) for item in ended] == [("failed", 3, "answered 500")]
    assert again.shell.counters.notifications_failed == 1


@pytest.mark.parametrize(
    ("result", "pause_s"), [(Sent("answered 429", 429, 60 * SECOND_US), 60), (Sent("answered 410", 410), 0)]
)
def test_a_receiver_says_when_to_come_again_or_never(store: Store, result: Sent, pause_s: int):
    """Retry-After is honoured; 410 means that it wants to hear nothing more."""
    driver = Driver(store, [GRAPH])
    driver.receiver = lambda _: result
    driver.command(plan(CRM))
    driver.command(submit())
    outbox = driver.engine.fleet.outbox

    waits = [item.due_us - driver.clock.wall_us for item in outbox.pending.values()]
    assert waits == ([pause_s * SECOND_US] if pause_s else [])
    assert len(outbox.ended) == (not pause_s)


def test_a_receiver_that_hangs_keeps_only_its_own_waiting(store: Store):
    """A few attempts to one receiver at a time; the others hear at once."""
    driver = Driver(store, [GRAPH])
    driver.holds_sends = True
    driver.command(plan(CRM, HookPlan("ops", "https://ops.example/", teams=("other",))))
    for number in range(10):
        driver.command(submit(f"r{number}"))
    driver.command(Submit("o", "q", "other", "agent", GRAPH.version, StepContent()))
    to = [send.hook for send in driver.sends]
    assert (to.count("crm"), to.count("ops")) == (AT_ONCE_TO_ONE, 1)

    for send in driver.sends:
        driver.sent(send)
        driver.perform()

    heard = [send.notification for send in driver.sends if send.hook == "crm"]
    assert len(heard) == len(set(heard)) == 11


def test_an_address_that_was_mended_is_used_for_what_is_pending(store: Store):
    """And a receiver that is gone hears nothing more."""
    driver = Driver(store, [GRAPH])
    driver.receiver = lambda _: Sent("no answer")
    driver.command(plan(CRM))
    driver.command(submit())
    driver.command(plan(HookPlan("crm", "https://new.example/")))
    driver.pass_time(10 * SECOND_US)
    driver.command(plan())
    driver.pass_time(HOUR_US // 2)

    assert [send.url for send in driver.sends] == [CRM.url, "https://new.example/", ""]


def test_a_run_need_not_be_in_memory_for_its_notifications(store: Store, monkeypatch: pytest.MonkeyPatch):
    """It waits in its row, or has left altogether, while its receiver comes back."""
    monkeypatch.setattr(snapshotting, "EVERY_SEGMENTS", 2)
    driver = Driver(store, [GRAPH], park_after_us=SECOND_US)
    driver.receiver = lambda _: Sent("no answer")
    driver.command(plan(CRM, first_retry_us=HOUR_US // 2))
    driver.command(submit(callback=CALLBACK))
    for number in range(4):
        driver.command(submit(f"other{number}"))
    for _ in range(8):
        driver.pass_time(SECOND_US)
    assert "r" in driver.engine.parked
    heard: list[Send] = []

    def hear(send: Send) -> Sent:
        assert "r" not in driver.engine.runs
        heard.append(send)
        return Sent()

    driver.receiver = hear
    driver.pass_time(HOUR_US // 2)

    assert "r.1" in {json.loads(send.body)["data"]["approval_id"] for send in heard}


def test_a_parked_question_goes_to_its_next_owner_on_time(store: Store, monkeypatch: pytest.MonkeyPatch):
    """It is loaded for that, and the next owner has his whole time, also behind a downtime."""
    monkeypatch.setattr(snapshotting, "EVERY_SEGMENTS", 2)
    driver = Driver(store, [GRAPH], park_after_us=SECOND_US)
    driver.command(submit())
    for number in range(4):
        driver.command(submit(f"other{number}"))
    for _ in range(8):
        driver.pass_time(SECOND_US)
    assert "r" in driver.engine.parked

    late = driver.clock._replace(wall_us=driver.clock.wall_us + 5 * HOUR_US)
    again = Driver(store, [GRAPH], park_after_us=SECOND_US, clock=late)
    again.pass_time(SECOND_US)
    again.pass_time(0)

    wait = again.replies[again.watch("r")].value.waits[0]
    assert (wait.owner, wait.deadline_us) == ("role:chief", again.clock.wall_us + HOUR_US)


def test_callbacks_need_a_state_that_can_hold_them(store: Store):
    """An older one says how to raise it."""
    driver = Driver(store, [GRAPH])
    driver.engine.fleet.feature_level = 1
    answer: Answer = driver.replies[driver.command(submit(callback=CALLBACK))]

    assert answer.refused is not None and "hive-ray state upgrade" in answer.refused.message
