"""Delivers notifications over HTTP: one signed POST to an address that was checked. It blocks.

Signed as Standard Webhooks (https://www.standardwebhooks.com) has it. A name is looked up once, every address
that it stands for must be public, and the connection goes to one that was checked: a name that changes its
meaning in between changes nothing. Redirects are not followed, and of the answer only its status is read.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator
from typing import NamedTuple
from urllib.parse import urlsplit

from hive_ray.config import SecretRef
from hive_ray.config_hooks import HooksSettings
from hive_ray.control.sending import Send
from hive_ray.core.outbox import Sent
from hive_ray.errors import ConfigError

LONGEST_RETRY_AFTER_S = 3600
USER_AGENT = "hive-ray"
_SECRET_PREFIX = "whsec_"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Resolve = Callable[[SecretRef], str]


class Refused(Exception):
    """It must not, or cannot, be sent: the message says why, in words of ours."""


class Webhooks:
    """Everything that this installation tells others.

    Args:
        resolve: finds the secret behind a reference; asked at each use, so that it may be renewed.
    """

    def __init__(self, settings: HooksSettings, resolve: Resolve) -> None:
        self._settings = settings
        self._resolve = resolve
        self._tls = ssl.create_default_context()

    def post(self, send: Send) -> Sent:
        """Try once; whatever happens is an answer."""
        until = time.monotonic() + self._settings.timeout_s
        try:
            target = target_of(send.url)
            key = self._key(send.hook)
            addresses = resolved(target, self._settings.allow_private)
            headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
            headers |= signature(key, send.notification, send.at_s, send.body)
            return self._post(target, addresses, send.body, headers, until)
        except Refused as error:
            return Sent(str(error))
        except (OSError, http.client.HTTPException) as error:
            return Sent(self._broken(error, time.monotonic() >= until))

    def _broken(self, error: Exception, late: bool) -> str:
        if late or isinstance(error, TimeoutError):
            return f"no answer within {self._settings.timeout_s:g} s"
        if isinstance(error, ssl.SSLError):
            return f"the TLS connection failed: {error.reason or 'for an unknown reason'}"
        return f"the connection failed: {type(error).__name__}"

    def _key(self, hook: str) -> bytes:
        who = f"receiver {hook}" if hook else "callbacks"
        reference = self._settings.secret_of(hook)
        if reference is None:
            raise Refused(
                f"no secret of {who} is known to this controller: start it with the present hive.yaml"
            )
        try:
            return signing_key(self._resolve(reference))
        except ConfigError as error:
            raise Refused(f"the secret of {who} cannot be read: {reference}") from error
        except ValueError as error:
            raise Refused(f"the secret of {who} is not whsec_ and base64 of 24 to 64 bytes") from error

    def _post(
        self, target: Target, addresses: list[str], body: bytes, headers: dict[str, str], until: float
    ) -> Sent:
        with _connected(target, addresses, until, self._tls) as sock:
            connection = http.client.HTTPConnection(target.host, target.port)
            connection.sock = sock
            connection.request("POST", target.path, body, {"Host": target.netloc, **headers})
            response = connection.getresponse()
            return _judged(response.status, response.getheader("Retry-After", ""))


def _judged(status: int, retry_after: str) -> Sent:
    if 200 <= status < 300:
        return Sent()
    if 300 <= status < 400:
        return Sent(f"answered {status}, and redirects are not followed", status)
    wait_s = min(int(retry_after), LONGEST_RETRY_AFTER_S) if retry_after.isdecimal() else 0
    return Sent(f"answered {status}", status, wait_s * 1_000_000)


# --- where it goes -------------------------------------------------------------------------------


class Target(NamedTuple):
    """Where a URL leads."""

    tls: bool
    host: str
    port: int
    path: str
    netloc: str


def target_of(url: str) -> Target:
    """The parts of a URL.

    Raises:
        Refused: it is none that can be posted to.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise Refused("its address is no URL") from error
    if not url:
        raise Refused("no receiver of this name is configured any more")
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise Refused("its address is no http or https URL of a host")
    if not url.isascii() or any(ord(mark) <= 32 or ord(mark) == 127 for mark in url):
        raise Refused("its address holds characters that must be escaped")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme == "https", parts.hostname, port, path, parts.netloc)


def resolved(target: Target, allow_private: bool) -> list[str]:
    """The addresses of a host, all of them checked.

    Raises:
        Refused: it has none, or one that nothing may be sent to.
    """
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refused("its host has no address") from error
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    bad = next((name for name in addresses if not allow_private and not is_public(name)), "")
    if bad:
        # Not the name: a callback's is content, and this is not.
        raise Refused(f"its host has the address {bad}, which is not public (hooks.allow_private)")
    return addresses


def is_public(address: str) -> bool:
    """Whether an address is one of the internet at large, also where it wraps one of IPv4."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


@contextlib.contextmanager
def _connected(
    target: Target, addresses: list[str], until: float, tls: ssl.SSLContext
) -> Generator[socket.socket]:
    """A connection to the first address that takes it; nothing goes on after ``until``.

    A socket's timeout bounds a silence; whoever drips bytes would never meet it.
    """
    sock = _connect(target, addresses, until)
    if target.tls:
        sock = tls.wrap_socket(sock, server_hostname=target.host, do_handshake_on_connect=False)
    watch = threading.Timer(max(0.0, until - time.monotonic()), _shut, (sock,))
    watch.daemon = True
    watch.start()
    try:
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        yield sock
    finally:
        watch.cancel()
        sock.close()


def _connect(target: Target, addresses: list[str], until: float) -> socket.socket:
    failure: OSError = OSError("no address")
    for address in addresses:
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        try:
            return socket.create_connection((address, target.port), timeout=left_s)
        except OSError as error:
            failure = error
    raise failure


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


# --- who sent it ---------------------------------------------------------------------------------


def signing_key(secret: str) -> bytes:
    """The bytes of a secret (``whsec_`` and base64).

    Raises:
        ValueError: it is none, or not of 24 to 64 bytes.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if not 24 <= len(key) <= 64:
        raise ValueError(f"{len(key)} bytes")
    return key


def signature(key: bytes, notification: str, at_s: int, body: bytes) -> dict[str, str]:
    """The headers that say what this is and prove who sent it."""
    signed = b".".join([notification.encode(), str(at_s).encode(), body])
    digest = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": notification,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{digest}",
    }
