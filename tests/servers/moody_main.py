"""A CRM and an LLM on one port, as slow as a file says: ``python -m tests.servers.moody_main PORT FOLDER``.

``GET /customers/ID`` looks one up; ``POST /notes`` with an ``Idempotency-Key`` is an effect, counted in
``effects.jsonl`` before it is answered; ``POST /v1/chat/completions`` speaks OpenAI's protocol. Calls of the
model ``large`` take ``latency_ms``, which is read at each of them.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    folder: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({"customer": self.path.rpartition("/")[2], "plan": "gold"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.path == "/notes":
            self._count(self.headers.get("Idempotency-Key", ""))
            self._answer({"noted": True})
            return
        asked = json.loads(body)
        slow_ms = int((self.folder / "latency_ms").read_text())
        time.sleep(slow_ms / 1000 if asked["model"] == "large" else 0.05)
        message = {"role": "assistant", "content": json.dumps({"reply": "hello"})}
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        kind = {"id": "c", "object": "chat.completion", "created": 0, "model": asked["model"]}
        self._answer(kind | {"choices": [choice], "usage": usage})

    def _count(self, key: str) -> None:
        with _lock, (self.folder / "effects.jsonl").open("a") as file:
            file.write(json.dumps({"key": key}) + "\n")

    def _answer(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[2])
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
