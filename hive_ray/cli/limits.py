"""``hive-ray pools``, ``rates``, ``limits``, ``maintenance``: who works, who waits, and what may begin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hive_ray.cli.budgets import NO_LIMIT, Why
from hive_ray.cli.common import Config, Json, Url, client_of, show_lines
from hive_ray.cli.groups import showing_group

if TYPE_CHECKING:
    from hive_ray.client import Client

pools = showing_group("pools", "Pools: workers, queues, what steps wait for, limits.")
rates = showing_group("rates", "Rates of pools, models and tools.")
limits = showing_group("limits", "Parallel runs of teams and agents.")
maintenance = showing_group("maintenance", "Admit nothing new, and let work finish.")

Pool = Annotated[str, typer.Argument(metavar="POOL")]
Rated = Annotated[str, typer.Argument(metavar="NAME", help="pool/NAME, model/NAME or tool/NAME.")]
Running = Annotated[str, typer.Argument(metavar="SCOPE", help="team/NAME or agent/TEAM/NAME.")]
Requests = Annotated[int | None, typer.Option(help="Attempts that may begin; 0: any number.")]
Tokens = Annotated[int | None, typer.Option(help="Tokens of LLM calls; 0: any number.")]


# --- pools -------------------------------------------------------------------------------------------


@pools.command("show")
def show_pools(
    name: Annotated[str, typer.Argument(metavar="[POOL]")] = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """All pools, or one."""
    with client_of(url, config) as client:
        found = [client.get(f"/v1/pools/{name}")] if name else client.get("/v1/pools")["pools"]
    lines = chain.from_iterable(map(_pool_lines, found))
    show_lines(found[0] if name else found, as_json, lines)


@pools.command("set")
def set_pool(  # noqa: PLR0913 - each parameter is an option of the command
    name: Pool,
    requests_per_minute: Requests = None,
    tokens_per_minute: Tokens = None,
    usd_per_hour: Annotated[str | None, typer.Option(help="US dollars an hour, or `none`.")] = None,
    reason: Why = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Change the limits of a pool; they hold at once. What is not named stays as it is."""
    given = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "usd_per_hour": usd_per_hour,
    }
    with client_of(url, config) as client:
        told = _changed_to(client, f"/v1/pools/{name}", given, reason)
    show_lines(told, as_json, _pool_lines(told))


@pools.command("reset")
def reset_pool(name: Pool, url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Go back to the configuration's limits."""
    with client_of(url, config) as client:
        told = client.send("DELETE", f"/v1/pools/{name}")
    show_lines(told, as_json, _pool_lines(told))


def _changed_to(client: Client, path: str, given: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """What is given is changed, `none` being no limit; what is None stays as it is."""
    now = client.get(path)
    body = {key: now[key] if value is None else value for key, value in given.items()}
    body = {key: None if value == NO_LIMIT else value for key, value in body.items()}
    return client.send("PUT", path, body | {"reason": reason})


def _pool_lines(pool: Mapping[str, Any]) -> Iterator[str]:
    busy = f"{pool['busy_slots']} of {pool['slots']} slots busy"
    waiting = sum(one["steps"] for one in (*pool["ready"], *pool["waiting"]))
    stopped = f"  STOPPED by {pool['stopped_by']}" if pool["stopped_by"] else ""
    workers = f"{pool['workers']} worker(s), {busy}"
    yield f"{pool['pool']:<12} {pool['kind']}: {workers}, {waiting} step(s) wait{stopped}"
    told = [f"{pool['requests_per_minute']} requests/min"] if pool["requests_per_minute"] else []
    told += [f"{pool['tokens_per_minute']} tokens/min"] if pool["tokens_per_minute"] else []
    told += [f"${pool['usd_per_hour']}/hour"] if pool["usd_per_hour"] is not None else []
    if told:
        changed = f" (changed by {pool['rates_changed_by']})" if pool["rates_changed_by"] else ""
        yield f"{'':<12} limits: {', '.join(told)}{changed}"
    if pool["budget"] is not None and pool["budget"]["spent_usd"] != "0":
        yield f"{'':<12} spent this hour: ${pool['budget']['spent_usd']}"
    for one in pool["ready"]:
        yield f"{'':<12} ready: {one['steps']} of team {one['team']} ({one['priority']})"
    for one in pool["waiting"]:
        yield f"{'':<12} waiting for {one['for']}: {one['steps']}"


# --- rates -------------------------------------------------------------------------------------------


@rates.command("show")
def show_rates(
    name: Annotated[str, typer.Argument(metavar="[NAME]")] = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """All rates, or one."""
    with client_of(url, config) as client:
        found = [client.get(f"/v1/rates/{name}")] if name else client.get("/v1/rates")["rates"]
    show_lines(found[0] if name else found, as_json, map(_rate_line, found))


@rates.command("set")
def set_rate(
    name: Rated,
    requests_per_minute: Requests = None,
    tokens_per_minute: Tokens = None,
    reason: Why = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Change rates; they hold at once. What is not named stays as it is."""
    given = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    with client_of(url, config) as client:
        told = _changed_to(client, f"/v1/rates/{name}", given, reason)
    show_lines(told, as_json, [_rate_line(told)])


@rates.command("reset")
def reset_rate(name: Rated, url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Go back to the configuration's rates."""
    with client_of(url, config) as client:
        told = client.send("DELETE", f"/v1/rates/{name}")
    show_lines(told, as_json, [_rate_line(told)])


def _rate_line(rate: Mapping[str, Any]) -> str:
    told = [f"{rate['requests_per_minute']} requests/min"] if rate["requests_per_minute"] else []
    told += [f"{rate['tokens_per_minute']} tokens/min"] if rate["tokens_per_minute"] else []
    return f"{rate['name']:<20} {', '.join(told) or 'no limit'}{_changed(rate)}"


def _changed(told: Mapping[str, Any]) -> str:
    return f"  (changed by {told['changed_by']})" if told["changed_by"] else ""


# --- parallel runs -----------------------------------------------------------------------------------


@limits.command("show")
def show_limits(url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Parallel runs: limits, under way, waiting to begin."""
    with client_of(url, config) as client:
        found = client.get("/v1/limits")["limits"]
    show_lines(found, as_json, map(_runs_line, found))


@limits.command("set")
def set_limit(
    scope: Running,
    runs: Annotated[int, typer.Option(help="Runs under way at a time; 0: any number.")],
    reason: Why = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Change how many runs may be under way; it holds at once."""
    with client_of(url, config) as client:
        told = client.send("PUT", f"/v1/limits/{scope}", {"runs": runs, "reason": reason})
    show_lines(told, as_json, [_runs_line(told)])


@limits.command("reset")
def reset_limit(scope: Running, url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Go back to the configuration's number."""
    with client_of(url, config) as client:
        told = client.send("DELETE", f"/v1/limits/{scope}")
    show_lines(told, as_json, [_runs_line(told)])


def _runs_line(one: Mapping[str, Any]) -> str:
    limit = one["limit"] or "any number"
    return (
        f"{one['scope']:<24} {one['under_way']} under way of {limit}, {one['waiting']} waiting{_changed(one)}"
    )


# --- maintenance -------------------------------------------------------------------------------------


@maintenance.command("show")
def show_maintenance(url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Whether anything new is admitted, and what is still under way."""
    with client_of(url, config) as client:
        _show_maintenance(client.get("/v1/maintenance"), as_json)


@maintenance.command("on")
def begin(reason: Why = "", url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Admit nothing new; what was accepted goes on."""
    with client_of(url, config) as client:
        _show_maintenance(client.post("/v1/maintenance", {"reason": reason}), as_json)


@maintenance.command("off")
def end(url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Admit new runs again."""
    with client_of(url, config) as client:
        _show_maintenance(client.send("DELETE", "/v1/maintenance"), as_json)


def _show_maintenance(told: Mapping[str, Any], as_json: bool) -> None:
    show_lines(told, as_json, _maintenance_lines(told))


def _maintenance_lines(told: Mapping[str, Any]) -> Iterator[str]:
    state = f"on, begun by {told['by']}: nothing new is admitted" if told["on"] else "off"
    yield f"maintenance {state}"
    if "live_runs" in told:
        yield f"{told['live_runs']} live run(s), {told['queued_steps']} step(s) queued"
