"""What the object store does when requests fail on their way, seen through a proxy that fails them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hive_ray.errors import AlreadyExists, StoreError
from hive_ray.state.journal import Committed, Journal, write_pending
from hive_ray.state.owner import Owner
from hive_ray.state.store import open_store
from tests.servers.s3_proxy import Fault, S3Proxy
from tests.state.faults import S3_OPTIONS, rows


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[S3Proxy]:
    """A proxy in front of the S3 server."""
    with S3Proxy(s3_endpoint) as server:
        yield server


def _store(proxy: S3Proxy, prefix: str):
    return open_store(f"s3://state/{prefix}", options={**S3_OPTIONS, "endpoint": proxy.endpoint})


def test_passing_error_of_a_read_is_not_seen(proxy: S3Proxy):
    """A 503 is retried and the read succeeds."""
    store = _store(proxy, "passing")
    store.create("a", b"1")
    proxy.fail(Fault.UNAVAILABLE, 2)

    assert store.get("a") == b"1"
    assert proxy.methods == ["PUT", "GET", "GET", "GET"]


def test_lasting_error_ends_after_four_tries(proxy: S3Proxy):
    """Retries are counted, so that a storm of errors is bounded."""
    store = _store(proxy, "lasting")
    proxy.fail(Fault.UNAVAILABLE, 100)

    with pytest.raises(StoreError, match="s3://state/lasting/a"):
        store.get("a")
    assert proxy.methods == ["GET"] * 4


def test_create_whose_answer_is_lost_meets_its_own_object(proxy: S3Proxy):
    """The repeated create says AlreadyExists; whose it is, the reader decides."""
    store = _store(proxy, "own")
    proxy.fail(Fault.SPOILED)

    with pytest.raises(AlreadyExists):
        store.create("a", b"mine")
    assert store.get("a") == b"mine"


def test_journal_commits_through_lost_answers_over_http(proxy: S3Proxy, owner: Owner):
    """Claim and segment survive a 500 behind the write: exactly one object each."""
    store = _store(proxy, "lost")
    journal = Journal(store, 0)
    proxy.fail(Fault.SPOILED)
    claim = journal.claim(owner, "a", 1)
    pending = journal.prepare(rows(1))
    proxy.fail(Fault.SPOILED)

    assert journal.settle(pending, write_pending(store, pending)) == Committed(2, 4)
    assert claim.epoch == 1
    assert [segment.header.nonce for segment in Journal(store, 0).read_segments()] == ["a", "a"]


def test_a_large_write_is_one_request(proxy: S3Proxy):
    """A multipart upload is not conditional, and leaves its pieces behind when it is cut off."""
    store = _store(proxy, "large")
    store.create("a", bytes(12 * 1024 * 1024))
    store.put("b", bytes(12 * 1024 * 1024))

    assert proxy.methods == ["PUT", "PUT"]
