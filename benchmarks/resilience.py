"""A CRM that goes away, an LLM that turns slow, a storm of 429: what a cluster makes of them.

``python -m benchmarks.resilience outage|slowness|storm``. Everything is real: Ray, controller, workers, HTTP
servers in processes of their own that are killed, started again and slowed down. ``tests/cluster`` plays the
same scenes with shorter times.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from benchmarks.cluster import ray_session
from hive_ray.config import Settings
from hive_ray.control.views import RunView
from hive_ray.core.events import NOTHING
from hive_ray.state.access import open_state
from hive_ray.state.records import Recorded, decode_event
from hive_ray.state.run_events import every_row
from tests.cluster.installation import ENDED, Installation, installed, settings_for
from tests.servers.aimock import AimockServer, error
from tests.servers.moody import MoodyServer, effects
from tests.servers.process import free_port

CRM_TOOLS = '''
"""Tools of a CRM: looking up does no harm twice, a note would stand there twice."""

import json
import urllib.error
import urllib.request

import hive_ray as hive

URL = "http://127.0.0.1:{port}"


def _ask(request):
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return json.load(answer)
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionRefusedError):
            raise hive.ToolUnavailable("the CRM does not listen") from error
        raise


@hive.tool(idempotent=True)
def crm_lookup(id: str) -> dict:
    """Look a customer up."""
    return _ask(URL + "/customers/" + id)


@hive.tool()
def crm_note(customer: str, idempotency_key: str) -> bool:
    """Write a note about a customer."""
    headers = {{"Idempotency-Key": idempotency_key}}
    return _ask(urllib.request.Request(URL + "/notes", b"{{}}", headers))["noted"]
'''
QUICK = {"max_retries": 1, "base_s": 0.05, "cap_s": 0.1}
TICKET = {
    "id": "ticket",
    "nodes": [
        {"id": "look_up", "node_type": "tool", "tool": "crm_lookup", "input_keys": ["id"],
         "output_keys": ["customer"], "retry": QUICK,
         "fallback": {"human": {"reason": "the CRM is away", "owner": "role:support"}}},
        {"id": "note", "node_type": "tool", "tool": "crm_note", "input_keys": ["customer"],
         "output_keys": ["noted"], "retry": QUICK, "fallback": {"human": {"reason": "no note was written"}}},
    ],
    "edges": [{"id": "e", "source": "look_up", "target": "note", "condition": "on_success"}],
}  # fmt: skip
REPLY = {
    "id": "reply",
    "nodes": [{"id": "a", "node_type": "llm_generate", "model": "large", "prompt": "say hello",
               "output_keys": ["reply"], "max_tokens": 64}],
    "edges": [],
}  # fmt: skip
STORMY = {
    "id": "storm",
    "nodes": [{"id": "a", "node_type": "llm_generate", "prompt": "say hello", "output_keys": ["reply"],
               "max_tokens": 16, "retry": {"max_retries": 2, "base_s": 0.1, "cap_s": 0.2}}],
    "edges": [],
}  # fmt: skip


# --- what they share --------------------------------------------------------------------------------


def journal(settings: Settings) -> list[Recorded]:
    """Every event, in order, without content; of a state at which nobody is at work."""
    found: list[Recorded] = []
    for row in every_row(open_state(settings), 0):
        event = decode_event("the journal", row)
        if event is not None:
            found.append(Recorded(row.seq, row.time_us, event, NOTHING))
    return found


def kind(recorded: Recorded) -> str:
    return type(recorded.event).__name__


def named(events: Iterable[Recorded], *kinds: str) -> list[Recorded]:
    return [recorded for recorded in events if kind(recorded) in kinds]


async def steadily(every_s: float, until: Callable[[], bool], act: Callable[[], Awaitable[Any]]) -> None:
    """Act at fixed times, however long it takes."""
    due = time.monotonic()
    while not until():
        await act()
        due += every_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def settled(running: Installation, runs: Iterable[str]) -> list[RunView]:
    return [await running.settled(run) for run in runs]


# --- a CRM that goes away ---------------------------------------------------------------------------


class Outage(NamedTuple):
    """What became of runs while a CRM was away."""

    events: list[Recorded]
    statuses: Counter[str]
    """Of all runs in the end."""
    asked: int
    """Runs that asked a person in the CRM's place."""
    notes: Counter[str]
    """How often each note was written, by its key."""
    stopped_us: int
    started_us: int


async def outage(folder: Path, away_s: float, open_s: float, every_s: float = 0.1) -> Outage:
    """Runs every so often; the CRM dies, and comes back; who was asked then lets it try again."""
    port = free_port()
    (folder / "crm_tools.py").write_text(CRM_TOOLS.format(port=port))
    settings = settings_for(
        folder,
        [str(folder / "crm_tools.py")],
        breakers={"tool/crm_lookup": {"window_s": 5, "min_calls": 6, "open_s": open_s}},
    )
    crm = MoodyServer(folder, port)
    runs: list[str] = []
    try:
        async with installed(settings) as running:

            async def submit() -> None:
                runs.append(await running.submit(TICKET, {"id": f"c{len(runs)}"}))

            async def go_on(seconds: float) -> None:
                until = time.monotonic() + seconds
                await steadily(every_s, lambda: time.monotonic() > until, submit)

            await go_on(min(3.0, away_s))
            crm.close()
            stopped_us = time.time_ns() // 1000
            await go_on(away_s)
            crm = MoodyServer(folder, port)
            started_us = time.time_ns() // 1000
            await go_on(open_s + min(3.0, away_s))
            views = await settled(running, runs)
            waits = [wait for view in views for wait in view.waits if wait.reason == "fallback"]
            for wait in waits:
                await running.decide(wait, "retry")
            ended = [await running.ended(run) for run in runs]
        return Outage(
            journal(settings), Counter(view.status for view in ended), len(waits), effects(folder),
            stopped_us, started_us,
        )  # fmt: skip
    finally:
        crm.close()


BREAKER = ("BreakerOpened", "BreakerHalfOpened", "BreakerClosed")


def show_outage(seen: Outage) -> None:
    """The timeline, from events alone but for the moments in which the server was killed and started."""
    lines = [(seen.stopped_us, "the CRM is killed"), (seen.started_us, "the CRM listens again")]
    for recorded in named(seen.events, *BREAKER):
        event: Any = recorded.event
        lines.append((recorded.time_us, f"{kind(recorded)} {event.name}: {event.reason}"))
    taken = named(seen.events, "FallbackTaken")
    for second, count in sorted(Counter((r.time_us - seen.stopped_us) // 1_000_000 for r in taken).items()):
        lines.append((seen.stopped_us + second * 1_000_000, f"{count} runs ask a person (within a second)"))
    for at_us, line in sorted(lines):
        print(f"{(at_us - seen.stopped_us) / 1e6:+8.2f} s  {line}")
    kinds = Counter(r.event.kind for r in taken)  # type: ignore[attr-defined]
    print(f"runs: {dict(seen.statuses)}; fallbacks to a human: {seen.asked}, by failure {dict(kinds)}")
    print(f"notes written: {sum(seen.notes.values())}, keys that came twice: {twice(seen.notes)}")


def twice(notes: Mapping[str, int]) -> int:
    return sum(count > 1 for count in notes.values())


# --- an LLM that turns slow -------------------------------------------------------------------------


class Slowness(NamedTuple):
    """What became of calls while a model was slow."""

    events: list[Recorded]
    slow_us: int
    well_us: int
    until_us: int


async def slowness(folder: Path, window_s: float, before_s: float, slow_s: float, after_s: float) -> Slowness:
    """Calls all the time; the model takes 200 ms, then 3,000 ms, then 200 ms again."""
    port = free_port()
    endpoint = {"provider": "openai-compatible", "base_url": f"http://127.0.0.1:{port}/v1"}
    large = endpoint | {"model": "large", "input_usd_per_mtok": 10, "output_usd_per_mtok": 30}
    small = endpoint | {"model": "small", "input_usd_per_mtok": 1, "output_usd_per_mtok": 3}
    ladder = {"window_s": window_s, "latency_p95_s": 1, "rungs": [{"model": "small"}]}
    settings = settings_for(
        folder,
        models={"large": large, "small": small},
        pools={"llm": {"num_cpus": 0, "slots": 64}},
        default_model="large",
        ladders={"large": ladder},
    )
    with MoodyServer(folder, port) as llm:
        async with installed(settings) as running:
            runs: list[str] = []

            async def submit() -> None:
                runs.append(await running.submit(REPLY))

            async def go_on(seconds: float) -> int:
                until = time.monotonic() + seconds
                await steadily(0.1, lambda: time.monotonic() > until, submit)
                return time.time_ns() // 1000

            slow_us = await go_on(before_s)
            llm.take(3000)
            well_us = await go_on(slow_s)
            llm.take(200)
            until_us = await go_on(after_s)
            await settled(running, runs)
        return Slowness(journal(settings), slow_us, well_us, until_us)


MOVES = ("ModelDegraded", "ModelRestored")


def show_slowness(seen: Slowness) -> None:
    """Every step of the ladder, then cost and latency of each part in one table."""
    for recorded in named(seen.events, *MOVES):
        event: Any = recorded.event
        at_s = (recorded.time_us - seen.slow_us) / 1e6
        print(f"{at_s:+8.2f} s  {kind(recorded)} to {event.level}: {event.reason}")
    print(f"slow from +0.00 s to {(seen.well_us - seen.slow_us) / 1e6:+.2f} s\n")
    moves = [recorded.time_us for recorded in named(seen.events, *MOVES)]
    bounds = [0, *sorted([seen.slow_us, seen.well_us, *moves]), seen.until_us + 60_000_000]
    print("   from s      to s  calls  large  small  p50 ms  p95 ms  USD/1000")
    done = named(seen.events, "StepSucceeded")
    for begin, end in pairwise(bounds):
        part = [r for r in done if begin <= r.time_us < end]
        if part:
            _row(part, seen.slow_us)


def _row(part: list[Recorded], zero_us: int) -> None:
    events: list[Any] = [recorded.event for recorded in part]
    took = sorted(event.usage.latency_us / 1000 for event in events)
    models = Counter(event.name for event in events)
    usd = mean(event.cost_nanousd for event in events) / 1e6
    times = [(recorded.time_us - zero_us) / 1e6 for recorded in (part[0], part[-1])]
    print(
        f"{times[0]:+9.1f} {times[1]:+9.1f} {len(part):6} {models['large']:6} {models['small']:6} "
        f"{median(took):7.0f} {took[-(-95 * len(took) // 100) - 1]:7.0f} {usd:9.3f}"
    )


# --- a storm of 429 ---------------------------------------------------------------------------------


class Storm(NamedTuple):
    """What became of calls that were all answered 429."""

    events: list[Recorded]
    requests: int
    """That reached the server."""
    failures: Counter[str]
    """How runs failed."""


async def storm(folder: Path, runs: int, retry_after_s: int) -> Storm:
    """Many runs at once against a server that sends everybody away."""
    with AimockServer([error(429, "too many", retry_after_s)], folder) as llm:
        model = {"provider": "openai-compatible", "model": "mock", "base_url": llm.openai_url}
        priced = model | {"input_usd_per_mtok": 1, "output_usd_per_mtok": 4}
        settings = settings_for(folder, models={"mock": priced}, pools={"llm": {"num_cpus": 0, "slots": 64}})
        async with installed(settings) as running:
            begun = [await running.submit(STORMY) for _ in range(runs)]
            views = [await running.until(run, lambda view: view.status in ENDED) for run in begun]
        return Storm(journal(settings), len(llm.requests()), Counter(view.failure for view in views))


def show_storm(seen: Storm) -> None:
    begun = len(named(seen.events, "RunSubmitted"))
    started = len(named(seen.events, "StepStarted"))
    print(f"{begun} runs with 2 retries at most: {started} attempts, {seen.requests} requests at the server")
    print(f"runs ended: {dict(seen.failures)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", choices=("outage", "slowness", "storm"))
    scene = parser.parse_args().scene
    with tempfile.TemporaryDirectory(prefix="hive-resilience-") as name, ray_session():
        folder = Path(name)
        if scene == "outage":
            show_outage(asyncio.run(outage(folder, away_s=30, open_s=5)))
        elif scene == "slowness":
            show_slowness(asyncio.run(slowness(folder, 10, before_s=15, slow_s=60, after_s=60)))
        else:
            show_storm(asyncio.run(storm(folder, runs=50, retry_after_s=1)))


if __name__ == "__main__":
    main()
