"""Bytes written for each step of one long run: journal, snapshots and history together.

``python -m benchmarks.checkpoints --steps N --json`` prints one JSON line. One run goes round two no-op nodes
for N steps, one at a time, with 64 bytes that do not compress in and out; nothing else happens, so that every
step has a segment of its own. ``bytes``: what was written when so many steps had ended.
"""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.cluster import chain
from benchmarks.loop import Loop, counting
from hive_ray.core.messages import Lease, Outcome, StepContent, encode
from hive_ray.core.values import inline
from hive_ray.graph.compiled import CompiledGraph, EdgeCondition, EdgePlan

PAYLOAD_BYTES = 64
PARTS = 5


def circle(steps: int) -> CompiledGraph:
    """Two nodes that lead to each other."""
    graph = chain(2)
    first, second = graph.nodes
    nodes = (
        msgspec.structs.replace(first, reached_from=3, max_visits=steps),
        msgspec.structs.replace(second, out_edges=(1,), reached_from=3, max_visits=steps),
    )
    back = EdgePlan(id="back", index=1, source=1, target=0, condition=EdgeCondition.ON_SUCCESS)
    edges = (*graph.edges, back)
    return msgspec.structs.replace(
        graph, version=f"bench-circle-{steps}", nodes=nodes, edges=edges, max_steps=steps + 1
    )


def ended(lease: Lease) -> Outcome:
    content = StepContent(outputs={"x": inline(secrets.token_hex(PAYLOAD_BYTES // 2))})
    return Outcome(*lease.key, "", encode(content), 100, lease.name)


def measure(steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="hive-bench-") as folder:
        store = counting(Path(folder).as_uri())
        loop = Loop(store, circle(steps))
        session = loop.attach(1)
        loop.submit(["run"], secrets.token_hex(PAYLOAD_BYTES // 2))
        store.written.clear()
        leases, marks = loop.exchange(session, 1), dict[int, int]()
        for done in range(1, steps + 1):
            leases = loop.exchange(session, done + 1, *(ended(lease) for lease in leases))
            loop.tick()
            if done % (steps // PARTS) == 0:
                marks[done] = store.written.total()
        last = marks[steps // PARTS * PARTS]
        return {
            "steps": steps,
            "bytes": marks,
            "bytes_per_step": round(last / steps, 1),
            "written_bytes": dict(store.written),
            "written_to_journal": round(store.written.total() / store.written["journal"], 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.steps)
    print(json.dumps(result) if options.json else result)


if __name__ == "__main__":
    main()
