"""How long the codec takes for segments of 3, 100 and 400 rows, and a durable create on the file store.

``python -m benchmarks.segments --json`` prints one JSON line; times are the best of several rounds for the
codec and the median for the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import msgspec

from hive_ray.state.file_store import FileStore
from hive_ray.state.segments import Columns, SegmentHeader, decode_segment, encode_segment, segment_name

_ROUNDS = 7


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the file store is made")
    parser.add_argument("--creates", type=int, default=300)
    options = parser.parse_args()
    result = {"segments": [_codec(3, 0), _codec(3, 200), _codec(100, 1024), _codec(400, 1024)]}
    result["creates"] = [_creates(options.folder, size, options.creates) for size in (1_000, 20_000, 200_000)]
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


def _codec(rows: int, content_bytes: int) -> dict[str, float]:
    header = SegmentHeader(partition=0, number=9, epoch=3, nonce="a" * 32, claim=1, first_seq=70)
    columns = _sample(rows, content_bytes)
    data = encode_segment(header, columns)
    name = segment_name(0, 9)
    return {
        "rows": rows,
        "content_bytes": content_bytes,
        "encode_us": _best_us(lambda: encode_segment(header, columns)),
        "decode_us": _best_us(lambda: decode_segment(name, data)),
        "bytes": len(data),
    }


def _sample(rows: int, content_bytes: int) -> Columns:
    text = b'{"ticket": "the printer on floor 3 answers with an empty page", "priority": 2}, '
    noise = content_bytes // 4
    return Columns(
        seq=range(70, 70 + rows),
        time_us=[1_700_000_000_000_000 + i * 17 for i in range(rows)],
        run=[f"019a{i % 64:04x}-7000-7000-8000-{i % 64 * 7919:012x}" for i in range(rows)],
        kind=["StepStarted" if i % 2 else "StepSucceeded" for i in range(rows)],
        body=[msgspec.msgpack.encode({"node": "triage", "visit": 1, "cost": i * 31}) for i in range(rows)],
        content=[(os.urandom(noise) + text * 16)[:content_bytes] for _ in range(rows)],
    )


def _best_us(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_ROUNDS):
        calls = 0
        start = time.perf_counter()
        while (spent := time.perf_counter() - start) < 0.02:
            work()
            calls += 1
        best = min(best, spent / calls)
    return round(best * 1e6, 1)


def _creates(folder: str, size: int, count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=folder) as root:
        store = FileStore(root)
        data = os.urandom(size)
        times = [_timed_ms(store, f"journal/0000/{number:012d}.arrow.zst", data) for number in range(count)]
        store.close()
    return {"bytes": size, "p50_ms": round(statistics.median(times), 3), "p99_ms": round(_p99(times), 3)}


def _timed_ms(store: FileStore, name: str, data: bytes) -> float:
    start = time.perf_counter()
    store.create(name, data)
    return (time.perf_counter() - start) * 1e3


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


if __name__ == "__main__":
    main()
