"""Requests to one installation: sent, repeated where that does no harm, and their refusals as errors."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import httpx2

from hive_ray.errors import (
    BudgetExceeded,
    Conflict,
    Fault,
    Forbidden,
    Forgotten,
    GraphError,
    HiveError,
    InputError,
    NotFound,
    Overloaded,
    Unauthenticated,
    Unavailable,
    UserError,
)

Json = Any
REQUEST_TIMEOUT_S = 60.0


class Connection:
    """HTTP with the credentials of one caller."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
        team: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        if team:
            headers["Hive-Team"] = team
        self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=timeout_s, trust_env=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, params: Mapping[str, Json] | None = None) -> Json:
        return self._send("GET", path, params=params)

    def post(self, path: str, body: Json = None, *, repeat: bool = True) -> Json:
        return self._send("POST", path, body, repeat=repeat)

    def post_once(self, path: str, body: Json, idempotency_key: str = "") -> Json:
        """A request that may be sent twice and has its effect once."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self._send("POST", path, body, headers=headers)

    def download(self, path: str) -> Iterator[bytes]:
        """The body of an answer that is no JSON, in parts."""
        try:
            with self._http.stream("GET", path) as answer:
                if answer.status_code != 200:
                    answer.read()
                    _checked(answer)
                yield from answer.iter_bytes()
        except httpx2.HTTPError as error:
            raise self._away(error) from error

    def send(
        self, method: str, path: str, body: Json = None, headers: Mapping[str, str] | None = None
    ) -> Json:
        """Any other request that may be repeated."""
        return self._send(method, path, body, headers=headers)

    def _send(
        self,
        method: str,
        path: str,
        body: Json = None,
        *,
        params: Mapping[str, Json] | None = None,
        headers: Mapping[str, str] | None = None,
        repeat: bool = True,
    ) -> Json:
        """One request; repeated once on a broken connection if that cannot do anything twice."""
        content = None if body is None else json.dumps(body).encode()
        sent = {**(headers or {}), **({"Content-Type": "application/json"} if content else {})}
        for last in (not repeat, True):
            try:
                answer = self._http.request(
                    method, path, content=content, params=_given(params), headers=sent
                )
            except httpx2.HTTPError as error:
                if last:
                    raise self._away(error) from error
            else:
                return _checked(answer)
        raise AssertionError("unreachable")

    def stream(self, path: str, after_seq: int) -> Iterator[dict[str, Any]]:
        """Server-sent events behind ``after_seq``, until the server closes."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after_seq)}
        try:
            with self._http.stream("GET", path, headers=headers) as answer:
                if answer.status_code != 200:
                    answer.read()
                    _checked(answer)
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        yield json.loads(line[6:])
        except httpx2.HTTPError as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> Unavailable:
        return Unavailable(f"{self.url} does not answer ({type(error).__name__}): is `hive-ray up` running?")


def _given(params: Mapping[str, Json] | None) -> dict[str, Json] | None:
    return {key: value for key, value in params.items() if value not in (None, "")} if params else None


def _checked(answer: httpx2.Response) -> Json:
    if answer.status_code < 400:
        return answer.json() if answer.content else None
    try:
        problem = answer.json()
        kind = problem["kind"]
    except (ValueError, KeyError, TypeError) as error:
        text = answer.text[:200]
        raise Unavailable(f"HTTP {answer.status_code} from {answer.url}: {text}") from error
    raise error_of(kind, problem, float(answer.headers.get("Retry-After", 1)))


def error_of(kind: str, problem: Mapping[str, Any], retry_after_s: float = 1.0) -> HiveError:
    """The error that a problem's kind stands for."""
    detail = str(problem["detail"])
    faults = [Fault(f["place"], f["problem"], f["remedy"]) for f in problem.get("faults", ())]
    make = _ERRORS.get(kind)
    if kind == "overloaded":
        return Overloaded(detail, retry_after_s)
    if kind in ("invalid", "too_large") and faults:
        subject, _, _ = detail.partition(": ")
        refused = InputError if faults[0].place.startswith(("body", "path", "headers")) else GraphError
        return refused(subject if refused is GraphError else "request", faults)
    return make(detail) if make else HiveError(f"{detail} (request {problem.get('request_id', '?')})")


_ERRORS: dict[str, Callable[[str], HiveError]] = {
    "invalid": UserError,
    "too_large": UserError,
    "unauthenticated": Unauthenticated,
    "forbidden": Forbidden,
    "not_found": NotFound,
    "conflict": Conflict,
    "mismatch": Conflict,
    "stale": Conflict,
    "forgotten": Forgotten,
    "unavailable": Unavailable,
    "maintenance": Unavailable,
    "budget_exceeded": BudgetExceeded,
}
