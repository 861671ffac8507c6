"""How long a backup, the next backup, a restore and the recovery from it take, and what they copy.

``python -m benchmarks.backup FOLDER`` measures on the state in FOLDER and prints one JSON line; what it made
is removed. Recovery is what a controller does before it is ready: claim, snapshot, journal, graphs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hive_ray.config import load
from hive_ray.control.inspection import inspected
from hive_ray.control.recovery import recover
from hive_ray.graph.expressions import Evaluator
from hive_ray.state.backup import backup, restore
from hive_ray.state.owner import this_process
from hive_ray.state.store import Store, open_store
from hive_ray.state.verify import verify


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    state = open_store(arguments.folder.resolve().as_uri())
    with tempfile.TemporaryDirectory(dir=arguments.folder.resolve().parent) as name:
        places = [open_store((Path(name) / part).as_uri()) for part in ("backup", "restored")]
        print(json.dumps(measured(state, *places)))


def measured(state: Store, copy: Store, place: Store) -> dict[str, Any]:
    """One line of numbers; seconds."""
    first = backup(state, copy, "local", _now_us)
    second = backup(state, copy, "local", _now_us)
    restored = restore(copy, place)
    verify_s, report = _timed(lambda: verify(inspected(load(None), place)))
    recover_s, runs = _timed(lambda: _recovered(place))
    return {
        "objects": first.objects,
        "bytes": first.bytes,
        "events": report.counts.events,
        "runs": runs,
        "faults": len(report.faults),
        "backup_s": round(first.seconds, 2),
        "next_backup_s": round(second.seconds, 2),
        "next_backup_objects": second.objects,
        "restore_s": round(restored.seconds, 2),
        "verify_s": round(verify_s, 2),
        "recover_s": round(recover_s, 2),
    }


def _recovered(place: Store) -> int:
    state = inspected(load(None), place)
    owner = this_process("node", "benchmark", _now_us())
    recovered = recover(place, state.blobs, state.codec, Evaluator(), 0, owner, _now_us())
    return len(recovered.engine.runs)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun_s = time.monotonic()
    done = work()
    return time.monotonic() - begun_s, done


def _now_us() -> int:
    return time.time_ns() // 1000


if __name__ == "__main__":
    main()
