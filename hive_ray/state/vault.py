"""A key-encryption key in HashiCorp Vault's transit engine (OpenBao speaks the same API).

Two calls: ``POST /v1/{mount}/encrypt/{key}`` and ``…/decrypt/{key}``, with the token in ``X-Vault-Token``.
The token is resolved at each call, so that one that was renewed in its file is used at once. A connection
that fails and an answer that may pass (429, 5xx) are tried again within ``timeout_s``.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import httpx2
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from hive_ray.errors import HiveError, KeysRefused, KeysUnavailable

_CONNECT_S = 2.0
_MAY_PASS = (429, 500, 502, 503, 504)


class _TryAgain(Exception):
    """What may be otherwise in a moment."""


class VaultKey:
    """One transit key.

    Args:
        url: of the server, without ``/v1``.
        token: asked at each call; may raise ``ConfigError``.
        timeout_s: for one wrap or unwrap, tries included.
        ca_file: certificates to trust; empty: the system's.
    """

    def __init__(
        self,
        url: str,
        mount: str,
        key: str,
        token: Callable[[], str],
        timeout_s: float = 10.0,
        ca_file: str = "",
    ) -> None:
        self._url = url.rstrip("/")
        self._mount = mount
        self._key = key
        self._token = token
        self._timeout_s = timeout_s
        self._ca_file = ca_file

    @property
    def id(self) -> str:
        """``vault:`` with mount and key; Vault itself notes the key's version in what it encrypts."""
        return f"vault:{self._mount}/{self._key}"

    def wrap(self, key: bytes, aad: bytes) -> bytes:
        """Encrypt a key; raises ``KeysUnavailable``, ``KeysRefused``."""
        given = {"plaintext": _b64(key), "associated_data": _b64(aad)}
        return str(self._call("encrypt", given)["ciphertext"]).encode()

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Decrypt a key; raises ``KeysUnavailable``, ``KeysRefused``."""
        given = {"ciphertext": wrapped.decode(), "associated_data": _b64(aad)}
        return base64.b64decode(str(self._call("decrypt", given)["plaintext"]))

    def _call(self, operation: str, given: Mapping[str, str]) -> Mapping[str, Any]:
        retrying = Retrying(
            retry=retry_if_exception_type(_TryAgain),
            stop=stop_after_delay(self._timeout_s),
            wait=wait_exponential_jitter(multiplier=0.05, max=1.0),
            reraise=True,
        )
        try:
            return retrying(self._once, operation, given)
        except _TryAgain as error:
            raise KeysUnavailable(
                f"keys.vault: {self._url} does not answer ({error}); bring it back, then this goes on"
            ) from error

    def _once(self, operation: str, given: Mapping[str, str]) -> Mapping[str, Any]:
        path = f"/v1/{self._mount}/{operation}/{self._key}"
        try:
            with self._client() as client:
                answer = client.post(path, json=given, headers={"X-Vault-Token": self._token()})
                if answer.status_code == HTTPStatus.FORBIDDEN:
                    raise self._forbidden(client, path)
        except httpx2.TransportError as error:
            raise _TryAgain(f"{type(error).__name__}: {error}") from error
        return self._data(answer, operation)

    def _client(self) -> httpx2.Client:
        verify = ssl.create_default_context(cafile=self._ca_file) if self._ca_file else True
        timeout = httpx2.Timeout(self._timeout_s, connect=min(_CONNECT_S, self._timeout_s))
        return httpx2.Client(base_url=self._url, timeout=timeout, verify=verify)

    def _data(self, answer: httpx2.Response, operation: str) -> Mapping[str, Any]:
        status = answer.status_code
        if status in _MAY_PASS:
            raise _TryAgain(f"HTTP {status} {_errors(answer)}".strip())
        if status == HTTPStatus.NOT_FOUND:
            raise KeysRefused(
                f"keys.vault: {self._url} has no transit engine {self._mount!r} with a key {self._key!r} "
                f"({_errors(answer) or 'HTTP 404'}); correct keys.vault.mount and keys.vault.key"
            )
        if not answer.is_success:
            raise KeysRefused(
                f"keys.vault: {self._url} does not {operation} with key {self._key!r}: HTTP {status} "
                f"{_errors(answer)}; use the key that this state was sealed with"
            )
        try:
            return answer.json()["data"]
        except (ValueError, KeyError, TypeError) as error:
            raise KeysRefused(f"keys.vault: {self._url} answers what is no answer of Vault's") from error

    def _forbidden(self, client: httpx2.Client, path: str) -> HiveError:
        """Vault says 403 both for a dead token and for a living one that may not do this."""
        known = client.get("/v1/auth/token/lookup-self", headers={"X-Vault-Token": self._token()})
        if known.is_success:
            return KeysUnavailable(
                f"keys.vault: the token may not use {path} (403); give its policy the capability `update` "
                f"on {self._mount}/encrypt/{self._key} and {self._mount}/decrypt/{self._key}"
            )
        return KeysUnavailable(
            "keys.vault: the token has expired, was revoked, or is not this server's (403); put a fresh one "
            "where keys.vault.token points"
        )


def _errors(answer: httpx2.Response) -> str:
    try:
        return "; ".join(map(str, answer.json()["errors"]))[:300]
    except (ValueError, KeyError, TypeError):
        return ""


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
