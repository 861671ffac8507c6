"""Calls between processes that may be lost, late, doubled or out of order."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from hive_ray.testing.clock import SimulatedClock


class Call:
    """One request on its way, and the way back for its answer; the first answer or loss counts."""

    __slots__ = ("_answered", "_lost", "_network", "open")

    def __init__(self, network: Network, answered: Callable[[Any], None], lost: Callable[[], None]) -> None:
        self._network = network
        self._answered = answered
        self._lost = lost
        self.open = True

    def answer(self, payload: Any) -> None:
        """Send an answer back."""
        if self.open:
            self._network.carry(lambda: self._end(payload), self.time_out)

    def fail(self) -> None:
        """The other side is gone, or refuses: the caller learns that soon."""
        self._network.clock.after(self._network.hop_us, self._give_up)

    def time_out(self) -> None:
        """Nothing comes back: the caller gives up after its timeout."""
        self._network.clock.after(self._network.timeout_us, self._give_up)

    def _end(self, payload: Any) -> None:
        if self.open:
            self.open = False
            self._answered(payload)

    def _give_up(self) -> None:
        if self.open:
            self.open = False
            self._lost()


class Network:
    """Carries requests and answers.

    Attributes:
        lost, doubled, late: chance of each for one message.
        hop_us: time that a message takes; a late one takes up to ``late_us``, and others overtake it.
    """

    def __init__(self, clock: SimulatedClock, chance: Random) -> None:
        self.clock = clock
        self.chance = chance
        self.hop_us = 200
        self.late_us = 20_000_000
        self.timeout_us = 30_000_000
        self.lost = self.doubled = self.late = 0.0
        self.faults = {"lost": 0, "doubled": 0, "late": 0}

    @property
    def calm(self) -> bool:
        return not (self.lost or self.doubled or self.late)

    def call(
        self, deliver: Callable[[Call], None], answered: Callable[[Any], None], lost: Callable[[], None]
    ) -> Call:
        """Send a request. ``deliver`` gets it, perhaps twice, and answers or fails the call it gets."""
        call = Call(self, answered, lost)
        self.carry(lambda: deliver(call), call.time_out)
        return call

    def carry(self, arrive: Callable[[], None], never: Callable[[], None]) -> None:
        """Take one message over, with the faults of the moment."""
        after = self.clock.after
        if self.calm:
            after(self.hop_us, arrive)
            return
        fate = self.chance.random()
        if fate < self.lost:
            self.faults["lost"] += 1
            never()
            return
        fate -= self.lost
        if fate < self.late:
            self.faults["late"] += 1
            after(self.hop_us + int(self.chance.random() * self.late_us), arrive)
            return
        fate -= self.late
        if fate < self.doubled:
            self.faults["doubled"] += 1
            after(self.hop_us + int(self.chance.random() * self.late_us), arrive)
        after(self.hop_us, arrive)
