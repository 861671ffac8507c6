"""Every error over HTTP: problem+json (RFC 9457) with the place, the remedy and the request's id."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from hive_ray.core.commands import Refused
from hive_ray.errors import (
    ConfigError,
    Conflict,
    Fault,
    FaultsError,
    Forgotten,
    HiveError,
    KeyErased,
    KeysRefused,
    NotFound,
    Overloaded,
    StoreError,
    Unavailable,
)
from serve.masking import encoded

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
STATUS = {
    "unauthenticated": 401,
    "forbidden": 403,
    "internal": 500,
    "not_found": 404,
    "conflict": 409,
    "mismatch": 422,
    "stale": 412,
    "invalid": 422,
    "overloaded": 429,
    "unavailable": 503,
    "maintenance": 503,
    "budget_exceeded": 402,
}


class Problem(Exception):
    """An answer that is an error.

    Attributes:
        kind: short and stable; clients match on it.
        run_id: of a submission whose fate is not known.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        faults: Sequence[Fault] = (),
        retry_after_s: float = 0.0,
        run_id: str = "",
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = _whole(detail)
        self.faults = tuple(faults)
        self.retry_after_s = retry_after_s
        self.run_id = run_id


def _whole(text: str) -> str:
    """Without halves of characters, which a request may hold (as ``\\ud800``) and no answer can."""
    return text.encode("utf-8", "replace").decode()


def refused(refusal: Refused, run_id: str = "") -> Problem:
    """The controller said no."""
    status = STATUS[refusal.problem]
    return Problem(status, refusal.problem, refusal.message, (), refusal.retry_after_s, run_id)


def invalid(place: str, problem: str, remedy: str, status: int = 422) -> Problem:
    """One fault in a request."""
    fault = Fault(place, problem, remedy)
    return Problem(status, "too_large" if status == 413 else "invalid", str(fault), [fault])


def of_error(error: HiveError) -> Problem:
    """What an exception of ours means over HTTP."""
    match error:
        case ConfigError():
            return Problem(503, "unavailable", str(error), error.faults, 5.0)
        case FaultsError():
            return Problem(422, "invalid", str(error), error.faults)
        case NotFound():
            return Problem(404, "not_found", str(error))
        case Conflict():
            return Problem(409, "conflict", str(error))
        case Overloaded():
            return Problem(429, "overloaded", str(error), (), error.retry_after_s)
        case _:
            return _of_state(error)


def _of_state(error: HiveError) -> Problem:
    match error:
        case Forgotten() | KeyErased():
            return Problem(410, "forgotten", str(error))
        case Unavailable() | StoreError() | KeysRefused():
            return Problem(503, "unavailable", str(error), (), 1.0)
        case _:
            return Problem(500, "internal", str(error))


def install(app: FastAPI) -> None:
    """Let every error of an application leave as a problem."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HiveError, _hive_error)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return respond(request, error)


async def _hive_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HiveError)
    return respond(request, of_error(error))


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return respond(request, of_validation(error.errors()))


def of_validation(errors: Sequence[Any], *inside: str) -> Problem:
    """What pydantic found wrong; ``inside``: the place of what it looked at."""
    faults = [
        Fault(".".join([*inside, *(str(part) for part in item["loc"])]), item["msg"], _expected(item))
        for item in errors
    ]
    return Problem(422, "invalid", "; ".join(str(fault) for fault in faults), faults)


def _expected(item: dict[str, Any]) -> str:
    return "see /openapi.json" if item["type"] != "extra_forbidden" else "remove it, or check its spelling"


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return respond(request, Problem(error.status_code, kind, str(error.detail)))


async def _bug(request: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return respond(request, Problem(500, "internal", f"{type(error).__name__}: see the log of this request"))


def respond(request: Request, problem: Problem) -> Response:
    """The response of a problem."""
    headers = {"Retry-After": str(math.ceil(problem.retry_after_s))} if problem.retry_after_s else {}
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="hive_ray"'
    return Response(encoded(body_of(request, problem)), problem.status, headers, MEDIA_TYPE)


def body_of(request: Request, problem: Problem) -> dict[str, Any]:
    """A problem as JSON (RFC 9457)."""
    body: dict[str, Any] = {
        "type": f"urn:hive-ray:{problem.kind}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "kind": problem.kind,
        "instance": request.url.path,
        "request_id": getattr(request.state, "request_id", ""),
    }
    if problem.faults:
        body["faults"] = [
            {"place": _whole(f.place), "problem": _whole(f.problem), "remedy": _whole(f.remedy)}
            for f in problem.faults
        ]
    if problem.run_id:
        body["run_id"] = problem.run_id
    return body
