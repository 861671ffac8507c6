"""Which keys of a new ``hive.yaml`` hold at once, and which from the next start on."""

from __future__ import annotations

from typing import Any

import pytest

from hive_ray.config import Settings, of_content
from hive_ray.control.applying import needs_restart
from hive_ray.control.planning import plan_of

MODEL = {
    "provider": "openai-compatible",
    "model": "m.1",
    "base_url": "http://127.0.0.1:9/v1",
    "api_key": "env:KEY",
    "input_usd_per_mtok": 1,
    "output_usd_per_mtok": 2,
}
BASE: dict[str, Any] = {"models": {"m.1": MODEL}, "http": {"port": 8701}}


def changed(*path: str, to: Any) -> Settings:
    """The settings of ``BASE`` with another value at a place."""

    def put(old: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
        first, *rest = keys
        return {**old, first: put(old.get(first, {}), tuple(rest)) if rest else to}

    return of_content(put(BASE, path))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("budgets", "team/a", "usd"), 1),
        (("rates", "tool/x", "requests_per_minute"), 1),
        (("parallel_runs", "team/a"), 1),
        (("shares", "weights", "a"), 2),
        (("pools", "llm", "usd_per_hour"), 1),
        (("pools", "llm", "requests_per_minute"), 1),
        (("pools", "llm", "tokens_per_minute"), 1),
        (("models", "m.1", "usd_per_hour"), 1),
        (("models", "m.1", "requests_per_minute"), 1),
        (("policies", "rules"), [{"id": "r", "then": "deny", "tools": ["x"]}]),
        (("retries", "longest_wait_s"), 5),
        (("ladders", "m.1"), {"rungs": [{"max_tokens": 5}], "latency_p95_s": 1}),
        (("breakers", "model/m.1"), {"failure_percent": 20}),
    ],
)
def test_what_the_plan_reads_holds_at_once(path: tuple[str, ...], value: Any):
    """It changes the plan, and needs no restart."""
    old, new = of_content(BASE), changed(*path, to=value)

    assert plan_of(old) != plan_of(new)
    assert needs_restart(old, new) == []


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        (("models", "m.1", "input_usd_per_mtok"), 3, "models.m.1.input_usd_per_mtok"),
        (("models", "m.1", "api_key"), "env:OTHER", "models.m.1.api_key"),
        (("models", "other"), MODEL, "models.other"),
        (("pools", "llm", "slots"), 3, "pools.llm.slots"),
        (("pools", "llm", "workers", "min"), 1, ""),
        (("http", "port"), 8702, "http.port"),
        (("tools", "modules"), ["a.py"], "tools.modules"),
        (("state", "url"), "memory://x", "state.url"),
    ],
)
def test_the_rest_is_named_for_the_next_start(path: tuple[str, ...], value: Any, key: str):
    """By its innermost key; a default that is written out is no change."""
    old, new = of_content(BASE), changed(*path, to=value)
    if key == "models.other":
        new = new.model_copy(update={"default_model": "m.1"})

    assert needs_restart(old, new) == ([key] if key else [])


def test_a_secret_that_up_handed_over_in_a_file_is_the_same():
    """The file bears the variable's name."""
    new = of_content(BASE)
    handed = changed("models", "m.1", "api_key", to="file:/tmp/hive-secrets-x/KEY")
    other = changed("models", "m.1", "api_key", to="file:/tmp/hive-secrets-x/OTHER")

    assert needs_restart(handed, new) == []
    assert needs_restart(other, new) == ["models.m.1.api_key"]
