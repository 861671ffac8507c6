"""What goes wrong in a history, and how often: chosen from its seed."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

KINDS = (
    "crash",
    "fuse",
    "zombie",
    "rival",
    "lost",
    "late",
    "doubled",
    "worker_death",
    "worker_stop",
    "slow_step",
    "store_error",
    "lost_ack",
    "store_down",
    "disk_full",
    "wall_jump",
    "stall",
    "rot",
    "commands",
    "step_failure",
    "tight_budget",
)
"""Kinds of fault. ``fuse``: killed between two of its actions, in a recovery or within a snapshot too;
``stall``: everything stands still while time passes; ``rot``: an object is cut short or damaged at rest."""

LEAST_KINDS = 3


class Plan(NamedTuple):
    """One history: its faults and its size."""

    kinds: tuple[str, ...]
    steps: int
    """Attempts to give out before the faults stop."""
    users: int
    """Runs that are submitted side by side."""
    every_us: int
    """Mean time between two faults that happen at a moment."""
    every_steps: int
    """Mean number of steps given out between two of them."""
    rate: float
    """Chance of each fault that may meet a message or an operation."""
    inline: bool
    """Writes are done at once, as to a local disk; else they take a while and others run meanwhile."""
    people: bool
    """Somebody answers questions; else their deadlines do."""
    snapshot_segments: int
    """Segments between two snapshots."""
    parks: bool
    """Runs that wait or have ended leave memory, and old segments become history."""
    park_after_us: int
    sealed: bool
    """Content lies under a key of each run; else it is plain. Only where runs park."""
    retention_days: int
    """Of the history; 0: for ever."""

    def has(self, kind: str) -> bool:
        return kind in self.kinds


def plan(chance: Random, steps: int = 0) -> Plan:
    """Draw a plan; ``steps`` overrides its size."""
    count = LEAST_KINDS + int(chance.random() * (len(KINDS) - LEAST_KINDS - 4))
    kinds = tuple(sorted(chance.sample(KINDS, count)))
    drawn = int(120 + chance.random() ** 3 * 900)
    return Plan(
        kinds,
        steps or drawn,
        1 + int(chance.random() ** 2 * 60),
        int(20_000 + chance.random() ** 2 * 400_000),
        4 + int(chance.random() ** 2 * 60),
        0.002 + chance.random() ** 3 * 0.04,
        chance.random() < 0.2,
        chance.random() < 0.7,
        4 + int(chance.random() ** 2 * 120),
        chance.random() < 0.7,
        int(chance.random() ** 2 * 3_000_000),
        chance.random() < 0.5,
        1 if chance.random() < 0.2 else 0,
    )
