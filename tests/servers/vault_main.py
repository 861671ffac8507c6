"""The process behind ``VaultServer``: ``python -m tests.servers.vault_main PORT FOLDER``.

Speaks the part of Vault's HTTP API that its transit engine is used by: encrypt, decrypt with
``associated_data``, and the look at one's own token. Answers have Vault's shape and status codes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SEED = "seed"
PREFIX = "vault:v1:"
_POLL_S = 0.02


class Fault(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, *errors: str) -> None:
        super().__init__(status, errors)
        self.status = status
        self.errors = errors


class Handler(BaseHTTPRequestHandler):
    """Switches are files in the folder: ``expired``, ``forbidden``, ``sealed``, ``hold``."""

    folder: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(self._lookup)

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or b"{}")
        self._answer(lambda: self._transit(given))

    def _answer(self, work: Any) -> None:
        while self._is("hold"):
            time.sleep(_POLL_S)
        with (self.folder / "calls.jsonl").open("a") as calls:
            calls.write(json.dumps({"path": self.path}) + "\n")
        try:
            self._reply(HTTPStatus.OK, {"data": work()})
        except Fault as fault:
            self._reply(fault.status, {"errors": list(fault.errors)})

    def _lookup(self) -> dict[str, Any]:
        self._check_token()
        if self.path != "/v1/auth/token/lookup-self":
            raise Fault(HTTPStatus.NOT_FOUND)
        return {"ttl": 3600}

    def _transit(self, given: dict[str, str]) -> dict[str, str]:
        self._check_token()
        if self._is("forbidden"):
            raise Fault(HTTPStatus.FORBIDDEN, "1 error occurred:\n\t* permission denied\n\n")
        _, _, mount, operation, key = self.path.split("/")
        if mount != "transit":
            raise Fault(HTTPStatus.NOT_FOUND, f"no handler for route {mount!r}")
        if key not in (self.folder / "keys").read_text().split():
            raise Fault(HTTPStatus.NOT_FOUND, "encryption key not found")
        cipher = AESGCM(hashlib.sha256(f"{(self.folder / SEED).read_text()}{key}".encode()).digest())
        aad = base64.b64decode(given.get("associated_data", ""))
        does = self._encrypt if operation == "encrypt" else self._decrypt
        return does(cipher, given, aad)

    def _encrypt(self, cipher: AESGCM, given: dict[str, str], aad: bytes) -> dict[str, str]:
        nonce = os.urandom(12)
        sealed = nonce + cipher.encrypt(nonce, base64.b64decode(given["plaintext"]), aad)
        return {"ciphertext": PREFIX + base64.b64encode(sealed).decode()}

    def _decrypt(self, cipher: AESGCM, given: dict[str, str], aad: bytes) -> dict[str, str]:
        if not given["ciphertext"].startswith(PREFIX):
            raise Fault(HTTPStatus.BAD_REQUEST, "invalid ciphertext: no prefix")
        sealed = base64.b64decode(given["ciphertext"].removeprefix(PREFIX))
        try:
            plain = cipher.decrypt(sealed[:12], sealed[12:], aad)
        except InvalidTag:
            raise Fault(HTTPStatus.BAD_REQUEST, "cipher: message authentication failed") from None
        return {"plaintext": base64.b64encode(plain).decode()}

    def _check_token(self) -> None:
        if self._is("sealed"):
            raise Fault(HTTPStatus.SERVICE_UNAVAILABLE, "Vault is sealed")
        known = (self.folder / "token").read_text()
        if self._is("expired") or self.headers.get("X-Vault-Token") != known:
            raise Fault(HTTPStatus.FORBIDDEN, "permission denied")

    def _is(self, switch: str) -> bool:
        return (self.folder / switch).exists()

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """The calls are in a file."""


def serve(port: int, folder: Path) -> None:
    Handler.folder = folder
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
