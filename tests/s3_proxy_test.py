"""The proxy before S3 servers does to requests what its faults say."""

from __future__ import annotations

import http.client
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from tests.servers.moto_s3 import MotoS3Server
from tests.servers.process import wait_until
from tests.servers.s3_proxy import Fault, S3Proxy

SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"}
"""moto takes any signature, but wants one."""
EFFECTS = {
    Fault.UNAVAILABLE: (503, False),
    Fault.THROTTLED: (429, False),
    Fault.CUT: (None, False),
    Fault.TORN: (None, False),
    Fault.SPOILED: (500, True),
    Fault.UNANSWERED: (None, True),
    Fault.SLOW: (200, True),
}


def asked(method: str, endpoint: str, path: str, body: bytes = b"") -> int | None:
    """The status of one request; None when the connection ended without an answer."""
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=10)
    with suppress(OSError, http.client.HTTPException):
        connection.request(method, path, body, SIGNED)
        return connection.getresponse().status
    return None


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_is_what_it_says(moto_s3: MotoS3Server, fault: Fault):
    """The client is told so, and the object is there or not; the next request is forwarded again."""
    bucket = moto_s3.create_bucket(f"fault-{fault.name.lower()}").removeprefix("s3:/")
    with S3Proxy(moto_s3.url) as proxy:
        proxy.fail(fault, method="PUT", path="first")
        told = asked("PUT", proxy.endpoint, f"{bucket}/first", b"x" * 100_000)
        there = asked("GET", moto_s3.url, f"{bucket}/first") == 200
        second = asked("PUT", proxy.endpoint, f"{bucket}/second", b"y")

    assert (told, there) == EFFECTS[fault]
    assert second == 200
    assert proxy.suffered == {fault: 1}


def test_what_is_held_is_forwarded_on_release(moto_s3: MotoS3Server):
    """Neither answered nor seen by the server meanwhile."""
    bucket = moto_s3.create_bucket("held").removeprefix("s3:/")
    with S3Proxy(moto_s3.url) as proxy:
        proxy.hold("PUT", "kept")
        connection = http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=10)
        connection.request("PUT", f"{bucket}/kept", b"x", SIGNED)
        wait_until(lambda: len(proxy.requests) == 1)
        before = asked("GET", moto_s3.url, f"{bucket}/kept")
        proxy.release()
        told = connection.getresponse().status

    assert (before, told) == (404, 200)
    assert asked("GET", moto_s3.url, f"{bucket}/kept") == 200
