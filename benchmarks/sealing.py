"""What sealing costs on the hot path: ``python -m benchmarks.sealing``. Microseconds for each value."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable

from hive_ray.core.keys import key_ref
from hive_ray.state.content import PlainCodec, SealingCodec
from hive_ray.state.key_providers import LocalKey
from hive_ray.state.keyring import Keyring
from hive_ray.state.memory_store import MemoryStore

RUNS = 256


def measure(rounds: int = 50, size: int = 200) -> dict[str, float]:
    """The best of several rounds over 256 runs, one value each."""
    provider = LocalKey(os.urandom(32), "benchmark")
    ring = Keyring(MemoryStore("sealing"), lambda _create: (provider, ()))
    ring.open(create=True)
    page = ring.add_page().page
    keys = [key_ref(page, 2 * number) for number in range(RUNS)]
    data, plain, sealing = os.urandom(size), PlainCodec(), SealingCodec(ring)
    sealed = [sealing.seal(data, ("run", "1"), key) for key in keys]
    return {
        "plain": _best(rounds, lambda: [plain.seal(data, ("run", str(n)), k) for n, k in enumerate(keys)]),
        "seal": _best(rounds, lambda: [sealing.seal(data, ("run", str(n)), k) for n, k in enumerate(keys)]),
        "open": _best(rounds, lambda: [sealing.open(value, ("run", "1")) for value in sealed]),
        "erase_256": _best(1, lambda: ring.erase(keys)) * RUNS,
    }


def _best(rounds: int, work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return round(best / RUNS * 1e6, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=200)
    print(json.dumps(measure(size=parser.parse_args().bytes)))


if __name__ == "__main__":
    main()
