"""The process behind ``CountingServer``: ``python -m tests.servers.counting_main PORT FOLDER``."""

from __future__ import annotations

import sys
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.servers.effect_log import HOLD_POLL_S, EffectLog


class Handler(BaseHTTPRequestHandler):
    """``POST /effects`` is counted by its ``Idempotency-Key``; repeats are counted too."""

    log: EffectLog
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.log.append({"key": self.headers.get("Idempotency-Key", ""), "body": body.decode()})
        while self.log.held():
            time.sleep(HOLD_POLL_S)
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """The effects are the log."""


class Server(ThreadingHTTPServer):
    """Many senders at once: with the default backlog of 5 some would be refused."""

    request_queue_size = 512


def serve(port: int, folder: Path) -> None:
    Handler.log = EffectLog(folder)
    Server(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
