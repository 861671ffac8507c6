"""Names of accounts, rates and limits as they stand in addresses: whether there is such a thing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hive_ray.config_breakers import BreakerName
from hive_ray.config_budgets import AccountName, RatedName, RunningName
from hive_ray.errors import NotFound
from hive_ray.graph.spec import nearest
from serve.backend import Backend
from serve.problems import invalid

_ACCOUNT: TypeAdapter[str] = TypeAdapter(AccountName)
_RATED: TypeAdapter[str] = TypeAdapter(RatedName)
_BROKEN: TypeAdapter[str] = TypeAdapter(BreakerName)
_RUNNING: TypeAdapter[str] = TypeAdapter(RunningName)


def check_account(backend: Backend, name: str) -> str:
    """The name of an account.

    Raises:
        Problem: nothing is called so.
        NotFound: no pool or model has that name.
    """
    return _known(backend, _checked(_ACCOUNT, name))


def check_rated(backend: Backend, name: str) -> str:
    """The name of a pool, a model or a tool; raises as ``check_account``."""
    return _known(backend, _checked(_RATED, name))


def check_running(name: str) -> str:
    """The name of a team or an agent; raises as ``check_account``."""
    return _checked(_RUNNING, name)


def check_broken(backend: Backend, name: str) -> str:
    """The name of a model or a tool that has a breaker; raises as ``check_account``."""
    return _known(backend, _checked(_BROKEN, name))


def check_pool(backend: Backend, name: str) -> str:
    """The name of a pool; raises ``NotFound``."""
    _known(backend, f"pool/{name}")
    return name


def _checked(adapter: TypeAdapter[str], name: str) -> str:
    try:
        return adapter.validate_python(name)
    except ValidationError as error:
        context: dict[str, Any] = error.errors()[0].get("ctx", {})
        raise invalid("path", context["problem"], context["remedy"]) from error


def _known(backend: Backend, name: str) -> str:
    """Pools and models are known; teams, agents, workflows and tools may come yet."""
    kind, _, rest = name.partition("/")
    known: dict[str, Iterable[str]] = {"pool": backend.settings.pools, "model": backend.settings.models}
    names = list(known.get(kind, ()))
    if kind in known and rest != "*" and rest not in names:
        remedy = nearest(rest, names) or f"{kind}s: {', '.join(names) or 'none'}"
        raise NotFound(f"no {kind} {rest}; {remedy}")
    return name
