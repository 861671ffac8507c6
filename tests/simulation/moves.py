"""Things that happen at a moment: drawn from tables by weight, at a pace that keeps step with the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from tests.simulation.world import World


class Move(NamedTuple):
    """One line of a table of moves.

    Attributes:
        name: under which it is counted.
        weight: how often it is drawn, against the others of its table.
        make: does it; False if there was no occasion for it.
        kind: the plan must have drawn this kind of fault; empty: in every history, and no fault.
    """

    name: str
    weight: int
    make: Callable[[World], bool]
    kind: str = ""


class Pace(NamedTuple):
    """How often somebody moves.

    Attributes:
        every_us: mean time from one occasion to the next.
        every_steps: mean number of attempts given out between two moves: without progress hardly anything
            is done, else a history would be made of moves alone.
        most: moves.
    """

    every_us: int
    every_steps: float
    most: int = 1 << 30


IMPATIENCE = 0.03
"""Chance of a move though nothing has gone on since the last."""


class Player:
    """Makes one move after the other until the world is calm."""

    def __init__(self, world: World, moves: Sequence[Move], pace: Pace) -> None:
        self.world = world
        self.pace = pace
        self.made = 0
        self._moves = [move for move in moves if not move.kind or world.plan.has(move.kind)]
        self._bounds = list(accumulate(move.weight for move in self._moves))
        self._next_at = 0
        if self._moves:
            self._later()

    def _later(self) -> None:
        pause_us = int(self.world.chance.expovariate(1.0) * self.pace.every_us)
        self.world.clock.after(pause_us, self._occasion)

    def _occasion(self) -> None:
        world, pace = self.world, self.pace
        if world.calm or self.made >= pace.most:
            return
        if world.ledger.started >= self._next_at or world.chance.random() < IMPATIENCE:
            self._next_at = world.ledger.started + int(world.chance.expovariate(1.0) * pace.every_steps)
            self.move()
        self._later()

    def move(self) -> None:
        """Draw a move and make it."""
        drawn = self.world.chance.random() * self._bounds[-1]
        move = next(m for m, bound in zip(self._moves, self._bounds, strict=True) if drawn < bound)
        if move.make(self.world):
            self.made += 1
            counts = self.world.faults if move.kind else self.world.moves
            counts[move.name] = counts.get(move.name, 0) + 1
