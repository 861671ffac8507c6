"""What the object store does when requests fail on their way, seen through a proxy that fails them."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hive_ray.errors import AlreadyExists, StoreError
from hive_ray.state.journal import Committed, Journal, write_pending
from hive_ray.state.owner import Owner
from hive_ray.state.store import open_store
from tests.state.faults import S3_OPTIONS, rows


class Proxy(ThreadingHTTPServer):
    """Forwards to S3; ``before`` requests are refused unforwarded, ``after`` ones are forwarded and lost."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.before = 0
        self.after = 0
        self.requests: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _proxy(self) -> Proxy:
        assert isinstance(self.server, Proxy)
        return self.server

    def _forward(self) -> None:
        proxy = self._proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        proxy.requests.append(self.command)
        if proxy.before > 0:
            proxy.before -= 1
            self._answer(503, {}, b"")
            return
        status, headers, answer = self._ask(body)
        if proxy.after > 0:
            proxy.after -= 1
            status, headers, answer = 500, {}, b""
        self._answer(status, headers, answer)

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
        headers.setdefault("Content-Type", "application/octet-stream")
        url = self._proxy.upstream + self.path
        request = urllib.request.Request(url, data=body or None, headers=headers, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in headers.items():
            if key.lower() in ("etag", "last-modified", "content-type", "content-range"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_DELETE = do_POST = _forward

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[Proxy]:
    """A proxy in front of the S3 server."""
    with Proxy(s3_endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _store(proxy: Proxy, prefix: str):
    return open_store(f"s3://state/{prefix}", options={**S3_OPTIONS, "endpoint": proxy.endpoint})


def test_passing_error_of_a_read_is_not_seen(proxy: Proxy):
    """A 503 is retried and the read succeeds."""
    store = _store(proxy, "passing")
    store.create("a", b"1")
    proxy.before = 2

    assert store.get("a") == b"1"
    assert proxy.requests == ["PUT", "GET", "GET", "GET"]


def test_lasting_error_ends_after_four_tries(proxy: Proxy):
    """Retries are counted, so that a storm of errors is bounded."""
    store = _store(proxy, "lasting")
    proxy.before = 100

    with pytest.raises(StoreError, match="s3://state/lasting/a"):
        store.get("a")
    assert proxy.requests == ["GET"] * 4


def test_create_whose_answer_is_lost_meets_its_own_object(proxy: Proxy):
    """The repeated create says AlreadyExists; whose it is, the reader decides."""
    store = _store(proxy, "own")
    proxy.after = 1

    with pytest.raises(AlreadyExists):
        store.create("a", b"mine")
    assert store.get("a") == b"mine"


def test_journal_commits_through_lost_answers_over_http(proxy: Proxy, owner: Owner):
    """Claim and segment survive a 500 behind the write: exactly one object each."""
    store = _store(proxy, "lost")
    journal = Journal(store, 0)
    proxy.after = 1
    claim = journal.claim(owner, "a", 1)
    pending = journal.prepare(rows(1))
    proxy.after = 1

    assert journal.settle(pending, write_pending(store, pending)) == Committed(2, 4)
    assert claim.epoch == 1
    assert [segment.header.nonce for segment in Journal(store, 0).read_segments()] == ["a", "a"]


def test_a_large_write_is_one_request(proxy: Proxy):
    """A multipart upload is not conditional, and leaves its pieces behind when it is cut off."""
    store = _store(proxy, "large")
    store.create("a", bytes(12 * 1024 * 1024))
    store.put("b", bytes(12 * 1024 * 1024))

    assert proxy.requests == ["PUT", "PUT"]
