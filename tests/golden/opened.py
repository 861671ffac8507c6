"""A golden state under this release's shell, with workers that answer by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

from hive_ray.config import Settings
from hive_ray.control.views import RunView, run_answer
from hive_ray.core.commands import Command, Complete, Resolve, Resume
from hive_ray.core.messages import AttachRequest, Lease, Outcome, StepContent, WorkerInfo, encode
from hive_ray.core.run import Run
from hive_ray.core.values import Value, decode
from hive_ray.state.access import open_blobs
from hive_ray.state.blobs import BlobRef, Blobs
from hive_ray.state.content import PlainCodec
from hive_ray.state.journal import Journal
from hive_ray.state.records import read_row
from hive_ray.state.snapshots import kept_manifests
from hive_ray.state.store import Store, open_store
from tests.control.driver import Driver
from tests.core.story import content
from tests.golden.releases import expected, unpack_state

HOUR_US = 3_600_000_000
ROUNDS = 20
"""More than any golden run has steps and backoffs left."""
OUTPUTS = {
    "greet": {"greeting": "hello"},
    "shout": {"shouted": "HELLO"},
    "await_file": {"found": "go"},
    "await_file_once": {"found": "go"},
    "await_start": {"found": "go"},
    "collect": {"results": [{"found": "go"}] * 3},
}
"""By function; a map's results are collected."""


class Golden:
    """A copy of a golden state, opened by this release at about the time of its making."""

    def __init__(self, version: str, folder: Path) -> None:
        self.told = expected(version)
        self.store: Store = open_store(unpack_state(version, folder).as_uri())
        settings = Settings.model_validate({"state": {"url": self.store.url}})
        self.blobs: Blobs = open_blobs(settings, self.store)
        self.driver = Driver(self.store, [])
        newest = max(run.submitted_us for run in self.driver.engine.runs.values())
        self.driver.clock = self.driver.clock._replace(wall_us=newest)
        self._sessions: dict[str, tuple[str, int]] = {}

    def view(self, run_id: str) -> RunView:
        return run_answer(self.driver.engine, run_id).value

    def outputs(self, view: RunView) -> dict[str, Any]:
        return {key: self._value(value) for key, value in view.outputs.items()}

    def _value(self, value: Value) -> Any:
        if not value.blob:
            return decode(value)
        return msgspec.msgpack.decode(self.blobs.get(BlobRef(value.blob, value.size)))

    def events(self, run_id: str) -> list[str]:
        rows = (
            read_row(segment.name, row, PlainCodec())
            for segment in Journal(self.store, 0).read_segments()
            for row in segment.columns.rows()
            if row.run == run_id
        )
        return [type(recorded.event).__name__ for recorded in rows if recorded is not None]

    def live(self) -> list[Run]:
        return [run for run in self.driver.engine.runs.values() if not run.terminal]

    def ask(self, command: Command) -> None:
        answer = self.driver.replies[self.driver.command(command)]
        assert answer.refused is None, answer.refused

    def attach(self, pool: str) -> None:
        call = self.driver.call()
        info = WorkerInfo(f"new-{pool}", pool, 64, "host", "boot", 2, 2)
        self.driver.shell.attach(call, AttachRequest(info, (), ()), self.driver.clock)
        self.driver.perform()
        self._sessions[pool] = (self.driver.replies[call].session, 0)

    def work(self, pool: str) -> int:
        """Do what the pool's worker is given; returns how much that was."""
        session, n = self._sessions[pool]
        call = self.driver.exchange(session, n + 1)
        self._sessions[pool] = (session, n + 1)
        if call not in self.driver.replies:
            return 0
        leases = self.driver.replies[call].leases
        self.driver.exchange(session, n + 2, *map(_done, leases))
        self._sessions[pool] = (session, n + 2)
        return len(leases)

    def snapshot(self) -> None:
        """Take a snapshot now, whatever has happened since the last one."""
        with patch("hive_ray.control.snapshotting.EVERY_SEGMENTS", 0):
            number = kept_manifests(self.store, 0)[-1].header.segment_number
            for _ in range(ROUNDS):
                self.driver.pass_time(1)
                if kept_manifests(self.store, 0)[-1].header.segment_number > number:
                    return
        raise AssertionError("no snapshot was taken")

    def live_on(self) -> None:
        """Lead every live run to its end: people answer, workers of old are gone and new ones work."""
        self.driver.pass_time(60_000_000)
        for pool in ("function", "llm"):
            self.attach(pool)
        for run in self.live():
            if run.paused:
                self.ask(Resume(run.id, "ann"))
            for wait in self.view(run.id).waits:
                self.ask(_answer(run.id, wait.approval_id, wait.reason))

        for _ in range(ROUNDS):
            if not self.work("function"):
                self.driver.pass_time(HOUR_US)
                self.attach("function")


def _done(lease: Lease) -> Outcome:
    return Outcome(*lease.key, "", encode(content(**OUTPUTS[lease.name or lease.kind])), name=lease.name)


def _answer(run: str, approval: str, reason: str) -> Command:
    match reason:
        case "client":
            return Complete(run, content(answer="enough"), principal="ann")
        case "outcome_unknown":
            return Resolve(run, approval, "happened", content(found="go"), "ann")
        case _:
            return Resolve(run, approval, "approve", StepContent(), "ann", "yes")
