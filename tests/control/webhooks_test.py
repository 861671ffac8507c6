"""One attempt to deliver a notification: where it may go, how it is signed, and how it can end."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hive_ray.config import Settings
from hive_ray.config_base import SecretRef
from hive_ray.control import webhooks
from hive_ray.control.sending import Send
from hive_ray.control.webhooks import Webhooks, is_public, signature, signing_key
from hive_ray.errors import ConfigError, Fault

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'
Answer = Callable[[BaseHTTPRequestHandler], None]


def resolve(reference: SecretRef) -> str:
    if reference.name == "MISSING":
        raise ConfigError("secrets", [Fault("env:MISSING", "is not set", "set it")])
    return {"GOOD": SECRET, "SHORT": "whsec_c2hvcnQ="}[reference.name]


def poster(secret: str = "env:GOOD", timeout_s: float = 10.0, allow_private: bool = True) -> Webhooks:
    hook = {"name": "crm", "url": "http://example.com/", "secret": secret}
    data: dict[str, Any] = {"to": [hook], "timeout_s": timeout_s, "allow_private": allow_private}
    return Webhooks(Settings.model_validate({"hooks": data}).hooks, resolve)


def to(url: str, hook: str = "crm") -> Send:
    return Send("msg_p5jXN8AQM9LWM0D4loKWxJek", hook, url, BODY, 1_614_265_330)


@contextmanager
def receiver(answer: Answer, tls: ssl.SSLContext | None = None) -> Generator[tuple[str, list[Any]]]:
    """A server on loopback, and the requests that it got: path, headers, body."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, dict(self.headers), body))
            answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is to be told of it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    scheme = "https" if tls is not None else "http"
    try:
        yield f"{scheme}://localhost:{server.server_port}", got
    finally:
        server.shutdown()
        server.server_close()


def with_status(status: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


def test_the_signature_is_that_of_standard_webhooks():
    """The example of its specification and libraries."""
    headers = signature(signing_key(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, BODY)

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_delivery_is_one_signed_post():
    """To the path with its query, under the name that the URL has."""
    with receiver(with_status(204)) as (url, got):
        result = poster().post(to(f"{url}/hooks/x?team=a"))
    ((path, headers, body),) = got

    assert (result.error, path, body) == ("", "/hooks/x?team=a", BODY)
    assert headers["Host"] == url.removeprefix("http://")
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("answer", "error", "retry_after_s"),
    [
        (with_status(500), "answered 500", 0),
        (with_status(410), "answered 410", 0),
        (with_status(429, Retry_After="7"), "answered 429", 7),
        (with_status(503, Retry_After="99999"), "answered 503", 3600),
        (with_status(302, Location="http://127.0.0.1:1/"), "answered 302, and redirects are not followed", 0),
    ],
)
def test_any_other_answer_is_no_delivery(answer: Answer, error: str, retry_after_s: int):
    """A redirect least of all; what the receiver writes in its answer is not read."""
    with receiver(answer) as (url, got):
        result = poster().post(to(url))

    assert (result.error, result.retry_after_us) == (error, retry_after_s * 1_000_000)
    assert len(got) == 1


def test_a_receiver_that_drips_meets_the_time_limit():
    """A byte now and then is no silence that a socket's timeout would notice."""
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        try:
            while not stop.wait(0.05):
                handler.wfile.write(b"H")
        except OSError:
            pass

    with receiver(drip) as (url, _):
        result = poster(timeout_s=0.5).post(to(url))
        stop.set()

    assert result.error == "no answer within 0.5 s"


def test_nobody_there_is_an_error_and_no_exception():
    """Whatever happens is told by the result."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    assert poster().post(to(f"http://127.0.0.1:{port}/")).error.startswith("the connection failed: Conn")


@pytest.mark.parametrize(
    ("send", "secret", "error"),
    [
        (to("http://example.com/", "gone"), "env:GOOD", "no secret of receiver gone is known"),
        (to("http://example.com/", ""), "env:GOOD", "no secret of callbacks is known"),
        (to("http://example.com/"), "env:MISSING", "the secret of receiver crm cannot be read: env:MISSING"),
        (to("http://example.com/"), "env:SHORT", "is not whsec_ and base64"),
        (to(""), "env:GOOD", "no receiver of this name is configured any more"),
        (to("ftp://example.com/"), "env:GOOD", "no http or https URL"),
        (to("http://user:word@example.com/"), "env:GOOD", "no http or https URL"),
        (to("http://example.com/a b"), "env:GOOD", "characters that must be escaped"),
        (to("http://example.com/\r\nX: y"), "env:GOOD", "characters that must be escaped"),
        (to("http://example.com:port/"), "env:GOOD", "is no URL"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(send: Send, secret: str, error: str):
    """And nothing leaves."""
    assert error in poster(secret).post(send).error


# --- where it may go -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
    ],
)  # fmt: skip
def test_private_loopback_link_local_and_metadata_addresses_are_not_public(address: str):
    """Nor where an address of IPv6 wraps one of IPv4."""
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07::1", "64:ff9b::5db8:d70e"])
def test_addresses_of_the_internet_at_large_are_public(address: str):
    assert is_public(address)


def test_nothing_goes_to_this_machine_unless_it_may():
    """The refusal names the address and the setting; the server hears nothing."""
    with receiver(with_status(200)) as (url, got):
        error = poster(allow_private=False).post(to(url)).error

    assert "which is not public (hooks.allow_private)" in error
    assert not got


def test_one_private_address_among_public_ones_refuses_all(monkeypatch: pytest.MonkeyPatch):
    """And the name is looked up once: the connection goes to what was checked."""
    asked: list[str] = []

    def addresses(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        found = ["93.184.215.14", "127.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (name, port)) for name in found]

    def connect(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(webhooks.socket, "getaddrinfo", addresses)
    monkeypatch.setattr(webhooks.socket, "create_connection", connect)
    error = poster(allow_private=False).post(to("http://rebinding.example/")).error

    assert error == "its host has the address 127.0.0.1, which is not public (hooks.allow_private)"
    assert asked == ["rebinding.example"]


def test_a_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch):
    """A name that means something else a moment later changes nothing."""
    connected: list[Any] = []

    def addresses(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", port))]

    def connect(address: Any, **_: Any) -> None:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(webhooks.socket, "getaddrinfo", addresses)
    monkeypatch.setattr(webhooks.socket, "create_connection", connect)
    error = poster(allow_private=False).post(to("http://receiver.example/")).error

    assert (connected, error) == ([("93.184.215.14", 80)], "the connection failed: ConnectionRefusedError")


def test_a_certificate_is_checked_against_the_name(tmp_path: Path):
    """One that nobody vouches for ends the attempt before anything is said."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-keyout", str(key), "-out", str(certificate), *subject],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with receiver(with_status(200), tls) as (url, got):
        error = poster().post(to(url)).error
        trusting = poster()
        trusting._tls.load_verify_locations(certificate)  # pyright: ignore[reportPrivateUsage]
        known = trusting.post(to(url)).error

    assert error == "the TLS connection failed: CERTIFICATE_VERIFY_FAILED"
    assert (known, len(got)) == ("", 1)
