"""Durable steps per second on S3 at a given time for each request, and what the requests cost.

``python -m benchmarks.s3 --server moto|ceph --delay-ms 50 --json`` starts an S3 server on this machine and a
proxy before it that adds the delay to every request, and runs the load of ``benchmarks.throughput`` on
it. Ceph needs the packages of ``make ceph-packages``. Requests are counted by the proxy from the first of
the measured runs to the end of the controller, but for those by which the measurement reads the journal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.cluster import ray_session
from benchmarks.throughput import Load, measure
from tests.servers.s3 import S3Server, s3_server, state_section
from tests.servers.s3_proxy import S3Proxy

USD_PER_1000 = {"PUT": 0.005, "POST": 0.005, "GET": 0.0004, "HEAD": 0.0004, "DELETE": 0.0}
"""S3 Standard's list price in us-east-1; a listing is priced as a PUT, and deleting is free."""

SEGMENTS = "/journal/0000/"
"""A fresh journal's segments are written by the controller and read by the measurement only."""


def cost_usd(requests: Counter[str]) -> float:
    """What requests cost at the list price."""
    prices = {**USD_PER_1000, "LIST": USD_PER_1000["PUT"]}
    return sum(count * prices[kind] for kind, count in requests.items()) / 1000


def kind(method: str, path: str) -> str:
    """As the price list has it: a listing is not a read, and several objects are deleted by a POST."""
    if method == "GET" and "list-type=" in path:
        return "LIST"
    return "DELETE" if method == "POST" and path.endswith("?delete") else method


async def repeat(server: S3Server, number: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One repeat in a bucket of its own."""
    bucket = server.create_bucket(f"bench{number}")
    load = Load(options.in_flight, options.runs, options.steps, options.in_flight, options.workers)
    with S3Proxy(server.url, options.delay_ms / 1000) as proxy:
        result = await measure(
            load, state_section(server, bucket, folder, proxy.endpoint), proxy.requests.clear
        )
        segments = Counter(method for method, path in proxy.requests if SEGMENTS in path)
        requests = Counter(kind(*request) for request in proxy.requests)
        requests["GET"] -= segments["GET"]
    steps = result["steps"]
    return {
        **result,
        "delay_ms": options.delay_ms,
        "requests": dict(requests),
        "segments_per_1000_steps": round(1000 * segments["PUT"] / steps, 2),
        "writes_per_1000_steps": round(1000 * requests["PUT"] / steps, 2),
        "usd_per_1000000_steps": round(cost_usd(requests) / steps * 1e6, 4),
    }


async def repeats(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="hive-s3-") as folder:
        (Path(folder) / "s3").mkdir()
        with s3_server(Path(folder) / "s3", options.server) as server:
            for number in range(options.repeats):
                result = await repeat(server, number, options, Path(folder))
                line = {"repeat": number, "server": options.server, **result}
                print(json.dumps(line) if options.json else line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=["moto", "ceph"], default="moto")
    parser.add_argument("--delay-ms", type=float, default=50.0, help="added to every request")
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--runs", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ray_session():
        asyncio.run(repeats(options))


if __name__ == "__main__":
    main()
