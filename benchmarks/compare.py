"""Throughput of several work trees on one machine, in turns of a second or so.

``python -m benchmarks.compare before=../before now=. limits=.:controlled --rounds 20 --json`` starts one
cluster for each tree, has them run the same wave of runs one after the other, in an order that rotates, and
prints for each the median of steps per second and of CPU per step, and the median over the rounds of its
ratio to the first. A machine whose speed changes by the minute says nothing in repeats of minutes; a round is
over before it changes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

CHILD_S = 120.0


class Tree(NamedTuple):
    """A work tree, and how its cluster is configured."""

    name: str
    folder: Path
    controlled: bool


def tree(text: str) -> Tree:
    """Read ``NAME=FOLDER`` or ``NAME=FOLDER:controlled``."""
    name, _, rest = text.partition("=")
    folder, _, how = rest.partition(":")
    path = Path(folder).resolve()
    if not name or not (path / "benchmarks" / "throughput.py").is_file() or how not in ("", "controlled"):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER or NAME=FOLDER:controlled")
    return Tree(name, path, how == "controlled")


class Child:
    """The cluster of one tree, in a process of its own that runs a wave when told to."""

    def __init__(self, of: Tree, options: argparse.Namespace) -> None:
        self.of = of
        self.told: list[dict[str, float]] = []
        shape = [str(options.in_flight), str(options.steps), str(options.waves), str(int(of.controlled))]
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--serve", *shape],
            cwd=of.folder,
            env={**os.environ, "PYTHONPATH": str(of.folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"the cluster of {self.of.name} ended")

    def turn(self) -> dict[str, float]:
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self.read()

    def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(CHILD_S)


async def serve(in_flight: int, steps: int, waves: int, controlled: bool) -> None:
    """Run the waves of one turn for each line that comes in. Imports what the tree has under these names."""
    from benchmarks import cluster, throughput

    if controlled:
        with cluster.fresh_state() as given:
            settings = cluster.settings_for(given, in_flight, 1, throughput.CONTROL)
            async with cluster.started(settings) as running:
                await turns(running, cluster.chain(steps, throughput.COST_NANOUSD), in_flight, waves)
    else:
        async with cluster.cluster(in_flight, 1) as running:
            await turns(running, cluster.chain(steps), in_flight, waves)


class Progress(NamedTuple):
    """What a controller did meanwhile."""

    counters: dict[str, int]
    cpu_s: float
    elapsed_s: float

    @property
    def steps_per_s(self) -> float:
        return self.counters["steps"] / self.elapsed_s

    @property
    def cpu_us(self) -> float:
        """CPU of the controller for a step."""
        return self.cpu_s / self.counters["steps"] * 1e6


async def progress(
    running: Any, work: Iterable[Awaitable[object]], on_warm: Callable[[], object] = lambda: None
) -> Progress:
    """Do some work, one piece after the other, and say what the controller counted meanwhile.

    Here, and not beside the other measurements, since the trees that are compared may lack it there.
    """
    before = await running.standing()
    on_warm()
    begun_s = time.perf_counter()
    for piece in work:
        await piece
    elapsed_s = time.perf_counter() - begun_s
    after = await running.standing()
    counters = {name: count - before["counters"].get(name, 0) for name, count in after["counters"].items()}
    return Progress(counters, after["cpu_s"] - before["cpu_s"], elapsed_s)


async def turns(running: Any, graph: Any, in_flight: int, waves: int) -> None:
    from benchmarks.throughput import wave

    running.add_graph(graph)
    await wave(running, graph.version, 2)
    print("{}", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        done = await progress(running, (wave(running, graph.version, in_flight) for _ in range(waves)))
        print(json.dumps({"steps_per_s": done.steps_per_s, "cpu_us": done.cpu_us}), flush=True)


def compare(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    children: list[Child] = []
    try:
        for of in options.trees:
            children.append(Child(of, options))
            children[-1].read()
        for _ in range(2):
            for child in children:
                child.turn()
        for number in range(options.rounds):
            first = number % len(children)
            for child in children[first:] + children[:first]:
                child.told.append(child.turn())
    finally:
        for child in children:
            child.end()
    return {child.of.name: summary(child.told, children[0].told) for child in children}


def summary(told: list[dict[str, float]], base: list[dict[str, float]]) -> dict[str, float]:
    def median(key: str) -> float:
        return round(statistics.median(one[key] for one in told), 1)

    def ratio(key: str) -> float:
        pairs = zip(told, base, strict=True)
        return round(statistics.median(mine[key] / theirs[key] for mine, theirs in pairs), 3)

    return {
        "steps_per_s": median("steps_per_s"),
        "cpu_us": median("cpu_us"),
        "ratio": ratio("steps_per_s"),
        "ratio_of_cpu": ratio("cpu_us"),
        "ratio_of_medians": round(
            median("steps_per_s") / statistics.median(o["steps_per_s"] for o in base), 3
        ),
    }


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        from benchmarks.cluster import ray_session

        in_flight, steps, waves, controlled = map(int, sys.argv[2:])
        with ray_session():
            asyncio.run(serve(in_flight, steps, waves, bool(controlled)))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trees", nargs="+", type=tree, help="NAME=FOLDER[:controlled]")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--waves", type=int, default=1, help="in one turn")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = compare(options)
    for name, told in result.items():
        print(json.dumps({"tree": name, **told}) if options.json else f"{name:10} {told}", flush=True)


if __name__ == "__main__":
    main()
