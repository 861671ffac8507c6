"""HTTP submissions per second, each durable before its 202.

``python -m benchmarks.submit --clients N --json`` starts an installation by ``hive-ray up`` in a folder of
its own, registers an agent of one no-op step, and lets N clients submit runs over kept-alive connections of
loopback, each as soon as its last one was answered. One JSON line a repeat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.servers.process import free_port

GRAPH = {
    "id": "bench",
    "entry_node": "only",
    "nodes": [
        {
            "id": "only",
            "node_type": "function",
            "function": "noop",
            "input_keys": ["x"],
            "output_keys": ["x"],
        }
    ],
    "edges": [],
}
CONFIG = """\
http: {{port: {port}}}
tools: {{modules: [benchmarks.noop]}}
observe: {{log_level: WARNING}}
"""


class Connection:
    """One kept-alive HTTP/1.1 connection; just enough of a client to cost little beside the server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def request(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        payload = json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        self._writer.write(head.encode() + payload)
        header = await self._reader.readuntil(b"\r\n\r\n")
        status = int(header.split(b" ", 2)[1])
        return status, await self._body(header.lower())

    async def _body(self, header: bytes) -> bytes:
        if b"transfer-encoding: chunked" not in header:
            length = int(header.split(b"content-length:")[1].split(b"\r\n", 1)[0])
            return await self._reader.readexactly(length)
        parts: list[bytes] = []
        while size := int((await self._reader.readline()).strip(), 16):
            parts.append(await self._reader.readexactly(size))
            await self._reader.readline()
        await self._reader.readline()
        return b"".join(parts)

    def close(self) -> None:
        self._writer.close()


async def client(url: str, until: float, latencies_ms: list[float]) -> None:
    connection = Connection(url)
    await connection.open()
    body = {"agent": "bench", "input": {"x": "y" * 1024}}
    while time.perf_counter() < until:
        begun = time.perf_counter()
        status, answer = await connection.request("POST", "/v1/runs", body)
        if status != 202:
            raise RuntimeError(f"{status}: {answer.decode()[:300]}")
        latencies_ms.append((time.perf_counter() - begun) * 1000)
    connection.close()


async def measure(url: str, clients: int, seconds: float) -> dict[str, float | int]:
    """One repeat."""
    latencies: list[float] = []
    begun = time.perf_counter()
    await asyncio.gather(*(client(url, begun + seconds, latencies) for _ in range(clients)))
    elapsed_s = time.perf_counter() - begun
    return {
        "clients": clients,
        "submissions": len(latencies),
        "submissions_per_s": round(len(latencies) / elapsed_s, 1),
        "p50_ms": round(statistics.median(latencies), 2),
        "p99_ms": round(statistics.quantiles(latencies, n=100)[98], 2),
    }


async def register(url: str) -> None:
    connection = Connection(url)
    await connection.open()
    status, answer = await connection.request("PUT", "/v1/agents/bench", {"graph": GRAPH})
    connection.close()
    if status not in (200, 201):
        raise RuntimeError(f"the agent was not taken: {status} {answer.decode()[:300]}")


def hive(*words: str) -> dict[str, Any]:
    """A ``hive-ray`` command; its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "hive_ray.cli", *words, "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr or done.stdout)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hive-bench-") as folder:
        config = Path(folder) / "hive.yaml"
        config.write_text(CONFIG.format(port=free_port()))
        record = hive("up", "--config", str(config))
        try:
            asyncio.run(register(record["url"]))
            asyncio.run(measure(record["url"], options.clients, 1.0))
            for number in range(options.repeats):
                result = asyncio.run(measure(record["url"], options.clients, options.seconds))
                print(json.dumps({"repeat": number, **result}) if options.json else result, flush=True)
        finally:
            hive("down", "--config", str(config))


if __name__ == "__main__":
    main()
