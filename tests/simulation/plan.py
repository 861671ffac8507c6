"""What goes wrong in a history, and how often: chosen from its seed."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from hive_ray.core.plan import ControlPlan
from tests.simulation.budgets import draw_plan

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
    "forget",
    "step_failure",
    "tight_budget",
    "limits",
    "breakers",
)
"""Kinds of fault. ``fuse``: killed between two of its actions, in a recovery or within a snapshot too;
``stall``: everything stands still while time passes; ``rot``: an object is cut short or damaged at rest;
``limits``: budgets of teams, agents, workflows and pools, rates and bounds on runs, which people change;
``breakers``: of tools and models, which open and which people force, and a ladder of a model."""

LEAST_KINDS = 3


class Plan(NamedTuple):
    """One history: its faults and its size."""

    kinds: tuple[str, ...]
    steps: int
    """Attempts to give out before the faults stop."""
    users: int
    """Runs that are submitted side by side."""
    workers: int
    slots: int
    """Most slots of a worker."""
    most_faults: int
    """That happen at a moment."""
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
    on_disk: bool
    """The store is a folder; else it is memory."""
    control: ControlPlan
    """What the configuration says about control."""
    long_runs: bool = False
    """Half of the runs go round and round, and come to many steps."""

    def has(self, kind: str) -> bool:
        return kind in self.kinds


CROWDED = 0.15
"""Share of histories with many runs side by side, in which much happens in each exchange and segment."""


class _Size(NamedTuple):
    """How large a history is drawn; each number is a least and what chance may add."""

    steps: tuple[int, int]
    users: tuple[int, int]
    workers: tuple[int, int]
    slots: tuple[int, int]
    faults: tuple[int, int]


SMALL = _Size(steps=(150, 1_500), users=(10, 120), workers=(2, 6), slots=(4, 40), faults=(4, 24))
LARGE = _Size(steps=(3_000, 9_000), users=(200, 600), workers=(4, 8), slots=(32, 100), faults=(6, 30))
ALONE = 0.1
"""Share of the small ones in which a few runs have the controller to themselves."""


def plan(chance: Random, steps: int = 0) -> Plan:
    """Draw a plan; ``steps`` overrides its size."""
    count = LEAST_KINDS + int(chance.random() * (len(KINDS) - LEAST_KINDS - 4))
    kinds = tuple(sorted(chance.sample(KINDS, count)))
    size = LARGE if chance.random() < CROWDED else SMALL

    def number(bounds: tuple[int, int]) -> int:
        """The least is the likeliest."""
        return bounds[0] + int(chance.random() ** 2 * bounds[1])

    drawn, users, workers, slots, faults = map(number, size)
    wanted = steps or drawn
    if size is SMALL and chance.random() < ALONE:
        users, slots = 1 + users % 5, 1 + slots % 3
    snapshots = 2 + int(chance.random() ** 2 * 8)
    return Plan(
        kinds,
        wanted,
        users,
        workers,
        slots,
        faults,
        int(20_000 + chance.random() ** 2 * 200_000),
        1 + wanted // faults,
        0.002 + chance.random() ** 3 * 0.04,
        size is SMALL and chance.random() < 0.15,
        chance.random() < (0.6 if size is LARGE else 0.8),
        max(4, wanted // (16 if size is LARGE else 2) // snapshots),
        chance.random() < 0.7,
        int(chance.random() ** 2 * 3_000_000),
        chance.random() < 0.5,
        1 if chance.random() < 0.2 else 0,
        size is SMALL and chance.random() < 0.1,
        draw_plan(chance, "limits" in kinds, "breakers" in kinds),
        size is LARGE or chance.random() < 0.5,
    )
