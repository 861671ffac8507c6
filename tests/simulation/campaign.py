"""Many histories: on several processes, for a number of seeds or a time, resumable, with a summary."""

from __future__ import annotations

import gc
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from pathlib import Path

import msgspec

from tests.simulation.history import History, Told
from tests.simulation.plan import LEAST_KINDS

Player = Callable[[int], History]
LEAST_STEPS = 100
BATCH = 8
"""Seeds that a process plays before it tells what came of them."""


class Failure(msgspec.Struct, frozen=True):
    """A history that broke an invariant, and where."""

    seed: int
    error: str
    where: str


class Totals(msgspec.Struct):
    """What a campaign came to so far. ``next_seed``: all below it were played."""

    next_seed: int = 0
    histories: int = 0
    steps: int = 0
    """Run-steps: attempts whose end is durable."""
    events: int = 0
    """Durable events, each checked."""
    inputs: int = 0
    short: int = 0
    """Histories in which the faults left less than 100 run-steps, or which had less than three kinds."""
    seconds: float = 0.0
    faults: dict[str, int] = {}
    moves: dict[str, int] = {}
    failures: list[Failure] = []

    def add(self, told: Told) -> None:
        self.histories += 1
        self.steps += told.steps
        self.events += told.events
        self.inputs += told.inputs
        self.short += told.steps < LEAST_STEPS or len(told.faults) < LEAST_KINDS
        _add(self.faults, told.faults)
        _add(self.moves, told.moves)

    def join(self, other: Totals) -> None:
        self.histories += other.histories
        self.steps += other.steps
        self.events += other.events
        self.inputs += other.inputs
        self.short += other.short
        _add(self.faults, other.faults)
        _add(self.moves, other.moves)
        self.failures.extend(other.failures)

    def summary(self) -> str:
        """One line, one of the faults by kind, one of what else was done."""
        rate = self.steps / max(self.seconds, 1e-9)
        return (
            f"{self.histories} histories, {len(self.failures)} failed, {self.short} short, "
            f"{self.steps} run-steps ({self.events} events), {sum(self.faults.values())} faults, "
            f"{self.seconds:.0f} s, {rate:.0f} run-steps/s\n"
            f"faults: {_listed(self.faults)}\nmoves: {_listed(self.moves)}"
        )


def _add(counts: dict[str, int], more: dict[str, int]) -> None:
    for name, number in more.items():
        counts[name] = counts.get(name, 0) + number


def _listed(counts: dict[str, int]) -> str:
    return " ".join(f"{name}={number}" for name, number in sorted(counts.items()))


def play(seed: int, of: Player = History) -> Told | Failure:
    """One history; what it raises is its failure."""
    try:
        return of(seed).play()
    except Exception as error:  # noqa: BLE001 - an exception out of production code is a finding too
        where = "".join(traceback.format_exception(error)[-4:])
        return Failure(seed, f"{type(error).__name__}: {error}", where)


def _play_batch(first: int, count: int, of: Player) -> Totals:
    logging.disable(logging.CRITICAL)
    gc.freeze()
    gc.disable()
    totals = Totals()
    for seed in range(first, first + count):
        told = play(seed, of)
        if isinstance(told, Failure):
            totals.histories += 1
            totals.failures.append(told)
        else:
            totals.add(told)
    return totals


def run(
    first: int,
    count: int,
    processes: int = 2,
    seconds: float = float("inf"),
    saved: Path | None = None,
    of: Player = History,
) -> Totals:
    """Play ``count`` seeds from ``first``, or as many of them as the time allows.

    Args:
        processes: 0: in this one, for who measures it.
        saved: file that keeps the totals; a campaign that was interrupted goes on from it.
        of: what a seed is a history of.
    """
    totals = msgspec.json.decode(saved.read_bytes(), type=Totals) if saved and saved.exists() else Totals()
    if not processes:
        totals.join(_play_batch(max(first, totals.next_seed), count, of))
        return totals
    begun, before = time.monotonic(), totals.seconds
    batches = iter(range(max(first, totals.next_seed), first + count, BATCH))
    for start, done in _in_order(batches, first + count, processes, begun + seconds, of):
        totals.join(done)
        totals.next_seed = min(start + BATCH, first + count)
        totals.seconds = before + time.monotonic() - begun
        if saved:
            saved.write_bytes(msgspec.json.encode(totals))
    return totals


def _in_order(
    batches: Iterator[int], end: int, processes: int, until_s: float, of: Player
) -> Iterator[tuple[int, Totals]]:
    """Batches as they are done, in the order of their seeds, so that a campaign can be resumed."""
    with ProcessPoolExecutor(processes) as pool:
        waiting: dict[int, Future[Totals]] = {}
        order: list[int] = []
        while True:
            room = 2 * processes - len(waiting) if time.monotonic() < until_s else 0
            for start in islice(batches, max(room, 0)):
                waiting[start] = pool.submit(_play_batch, start, min(BATCH, end - start), of)
                order.append(start)
            if not waiting:
                return
            wait(waiting.values(), return_when=FIRST_COMPLETED)
            while order and waiting[order[0]].done():
                start = order.pop(0)
                yield start, waiting.pop(start).result()
