"""Who is told of a history outside: what they heard, held against what the durable journal says."""

from __future__ import annotations

import msgspec

from hive_ray.control.sending import Send
from hive_ray.core import events as ev
from hive_ray.core.engine import Engine
from hive_ray.core.hooks import RUN_FINISHED, HookPlan, HooksPlan
from hive_ray.core.plan import ControlPlan

HOOKS = HooksPlan(
    (HookPlan("all", "https://all.example/"), HookPlan("ends", "https://ends.example/", (RUN_FINISHED,))),
    attempts=4,
    first_retry_us=200_000,
)


def with_receivers(plan: ControlPlan, seed: int) -> ControlPlan:
    """In every third history somebody is told; chance is not asked, so that no history is another for it."""
    return msgspec.structs.replace(plan, hooks=HOOKS) if seed % 3 == 1 else plan


class Receivers:
    """What came, and the notifications of the durable journal."""

    def __init__(self) -> None:
        self.heard: dict[str, Send] = {}
        self.pending: dict[str, None] = {}
        self.decided: dict[str, None] = {}

    def hear(self, send: Send) -> None:
        """Nothing is heard that a crash could take back, and what comes again is the same."""
        assert send.notification in self.decided, f"{send.notification} left before it was durable"
        known = self.heard.setdefault(send.notification, send)
        assert (known.hook, known.url, known.body) == (send.hook, send.url, send.body), send.notification

    def note(self, event: ev.Event) -> None:
        """An event is durable."""
        match event:
            case ev.NotificationQueued():
                assert event.notification not in self.decided, f"{event.notification} was decided twice"
                self.decided[event.notification] = self.pending[event.notification] = None
            case ev.NotificationDelivered():
                assert event.notification in self.heard, f"{event.notification} was delivered to nobody"
                del self.pending[event.notification]
            case ev.NotificationFailed():
                del self.pending[event.notification]
            case _:
                pass

    def compare(self, engine: Engine) -> None:
        """A controller that knows all that is durable has everything still to be told, and nothing else."""
        outbox = engine.fleet.outbox.pending
        assert outbox.keys() == self.pending.keys(), f"pending: {outbox.keys() ^ self.pending.keys()}"
