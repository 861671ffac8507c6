"""The audit: every act once, newest first, wherever its event lies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hive_ray.core.commands import Cancel, CreateKey, PutMemory, RevokeKey
from hive_ray.core.values import inline
from hive_ray.state.auditing import Act, Asked, acts
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.store import Store
from tests.control.driver import Driver
from tests.control.shell_test import submit
from tests.state.compaction_test import compact_all, covered, lived, snapshot


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    yield MemoryStore("audit")
    forget_memory("audit")


def busy(store: Store) -> Driver:
    """People and programs do things, between and after runs."""
    driver = lived(store)
    driver.command(submit("mine", principal="key:ci"))
    driver.command(CreateKey("k", "ci", "team", ("read",), b"secret-digest" * 2, principal="key:root"))
    driver.command(Cancel("mine", "enough", "user:ann"))
    snapshot(store, driver)
    driver.command(PutMemory("team", "team", "k", inline(1), principal="key:ci", request_id="q"))
    driver.command(RevokeKey("k", "key:root"))
    return driver


def told(found: list[Act]) -> list[tuple[str, str]]:
    return [(act.principal, act.kind) for act in found]


EXPECTED = [
    ("key:root", "ApiKeyRevoked"),
    ("key:ci", "MemoryWritten"),
    ("user:ann", "RunCancelled"),
    ("key:root", "ApiKeyCreated"),
    ("key:ci", "RunSubmitted"),
]


def test_acts_are_the_same_before_and_after_compaction(store: MemoryStore):
    """In order, each once; steps and timers are nobody's acts."""
    driver = busy(store)
    before = acts(store, Asked())
    assert told(before) == EXPECTED

    compact_all(store, covered(driver))

    assert acts(store, Asked()) == before


@pytest.mark.parametrize("compacted", [False, True])
def test_acts_are_found_by_who_what_when_and_team(store: MemoryStore, compacted: bool):
    driver = busy(store)
    if compacted:
        compact_all(store, covered(driver))
    every = acts(store, Asked())

    assert told(acts(store, Asked(principal="key:root"))) == [EXPECTED[0], EXPECTED[3]]
    assert told(acts(store, Asked(kind="RunCancelled"))) == [EXPECTED[2]]
    assert told(acts(store, Asked(team="team"))) == [EXPECTED[0], *EXPECTED[2:]]
    assert acts(store, Asked(team="other")) == []
    cancelled = every[2]
    assert acts(store, Asked(since_us=cancelled.time_us))[-1].seq <= cancelled.seq
    assert acts(store, Asked(until_us=every[-1].time_us)) == []


def test_pages_show_each_act_once(store: MemoryStore):
    driver = busy(store)
    compact_all(store, covered(driver) // 2)
    every = acts(store, Asked())

    found: list[Act] = []
    while page := acts(store, Asked(before_seq=found[-1].seq if found else 0, limit=2)):
        found += page

    assert found == every


def test_an_act_tells_what_it_was_about_and_no_secret(store: MemoryStore):
    """Names, scopes and times; never a hash, nor what people said."""
    busy(store)

    by = {act.kind: act for act in acts(store, Asked())}

    assert by["ApiKeyCreated"].facts == {"key": "k", "name": "ci", "scopes": ("read",)}
    assert by["RunCancelled"].run_id == "mine"
    assert by["MemoryWritten"].request_id is None
    assert "secret-digest" not in repr(by)
    assert "enough" not in repr(by)
