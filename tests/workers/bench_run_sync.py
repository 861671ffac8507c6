"""Overhead of one synchronous function step: ``python tests/workers/bench_run_sync.py``."""

from __future__ import annotations

import sys
import timeit
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import hive_ray.workers.tools as hive
from hive_ray.core.messages import StepKind
from tests.workers import steps


@hive.function(idempotent=True)
def echo(payload: str) -> dict[str, str]:
    return {"payload": payload}


def main() -> None:
    plan = steps.node(input_keys=("payload",), output_keys=("payload",), function="echo")
    executor = steps.executor(steps.graph(plan, facts=(("payload", "x"),)), echo)
    step = steps.lease(StepKind.FUNCTION, "echo", {"payload": "x" * 1024})
    assert steps.outputs(executor.run_sync(step)) == {"payload": "x" * 1024}
    n = 20_000
    best = min(timeit.repeat(lambda: executor.run_sync(step), number=n, repeat=5)) / n
    bare = min(timeit.repeat(lambda: echo("x"), number=n, repeat=5)) / n
    print(f"run_sync {best * 1e6:.2f} us, of it the function itself {bare * 1e6:.2f} us")


if __name__ == "__main__":
    main()
