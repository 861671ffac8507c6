"""A receiver of webhooks on loopback: verifies signatures, remembers what it heard, withholds its answers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Heard(NamedTuple):
    """One request that was signed right."""

    id: str
    kind: str
    data: dict[str, Any]


class WebhookReceiver:
    """What came, in order; ``forged`` counts what was not signed with the secret."""

    def __init__(self, secret: str) -> None:
        self._key = base64.b64decode(secret.removeprefix("whsec_"))
        self.heard: list[Heard] = []
        self.forged = 0
        self.url = ""
        self._go = threading.Event()
        self._go.set()

    def hold(self) -> None:
        """Answer nothing until ``release``."""
        self._go.clear()

    def release(self) -> None:
        self._go.set()

    def take(self, headers: Any, body: bytes) -> None:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        right = base64.b64encode(hmac.digest(self._key, signed, hashlib.sha256)).decode()
        if headers["webhook-signature"] != f"v1,{right}":
            self.forged += 1
            return
        told = json.loads(body)
        self.heard.append(Heard(headers["webhook-id"], told["type"], told["data"]))

    def wait(self) -> None:
        self._go.wait(60)

    def kinds(self) -> list[str]:
        return [heard.kind for heard in self.heard]


@contextmanager
def webhook_receiver(secret: str) -> Generator[WebhookReceiver]:
    """A receiver that answers 204 as long as nobody holds it."""
    receiver = WebhookReceiver(secret)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.take(self.headers, self.rfile.read(int(self.headers["Content-Length"])))
            receiver.wait()
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """What came is remembered, not told."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        receiver.release()
        server.shutdown()
        server.server_close()
