"""``hive-ray budgets``: what teams, agents, workflows, pools, models and tools may spend, and have spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hive_ray.cli.common import Config, Json, Url, client_of, show_lines
from hive_ray.cli.groups import showing_group

if TYPE_CHECKING:
    from hive_ray.client import Client

budgets = showing_group("budgets", "What accounts may spend and have spent; limits live; the kill switch.")

NAMES = "team/NAME, agent/TEAM/NAME, workflow/TEAM/GRAPH, pool/NAME, model/NAME or tool/NAME"
Scope = Annotated[str, typer.Argument(metavar="SCOPE", help=NAMES)]
Why = Annotated[str, typer.Option(help="Why; kept with the change.")]
NO_LIMIT = "none"


@budgets.command()
def show(
    scope: Annotated[str, typer.Argument(metavar="[SCOPE]", help=NAMES)] = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """All accounts, or one: limit, spent, reserved, window."""
    with client_of(url, config) as client:
        found = [client.get(address(scope))] if scope else all_budgets(client)
    if scope:
        _show_one(found[0], as_json)
    else:
        show_lines(found, as_json, lines(found))


@budgets.command("set")
def set_(  # noqa: PLR0913 - each parameter is an option of the command
    scope: Scope,
    usd: Annotated[str | None, typer.Option(help="US dollars in a window, or `none`.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens in a window, or `none`.")] = None,
    at_limit: Annotated[
        str | None, typer.Option(help="At the limit: stop, pause_for_approval or degrade.")
    ] = None,
    warn_percent: Annotated[int | None, typer.Option(help="Share of the limit at which to warn.")] = None,
    owner: Annotated[str | None, typer.Option(help="Who is asked with pause_for_approval.")] = None,
    reason: Why = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Change limits; they hold at once. What is not named stays as it is."""
    named = {
        "usd": _limit("--usd", usd),
        "tokens": _limit("--tokens", tokens),
        "at_limit": at_limit,
        "warn_percent": warn_percent,
        "owner": owner,
    }
    given = {key: value for key, value in named.items() if value is not None}
    with client_of(url, config) as client:
        body = _as_it_is(client, scope) | given | {"reason": reason}
        for key in ("usd", "tokens"):
            body[key] = None if body[key] == NO_LIMIT else body[key]
        told = client.send("PUT", address(scope), body)
    _show_one(told, as_json)


def _as_it_is(client: Client, scope: str) -> dict[str, Any]:
    now = client.get(address(scope))
    kept = {"usd": now["limit_usd"], "tokens": now["limit_tokens"], "owner": now["owner"]}
    return kept | {key: now[key] for key in ("at_limit", "warn_percent") if now[key] is not None}


def _limit(option: str, given: str | None) -> str | int | None:
    """An amount, a number, or ``none``; what is wrong with it, the server says."""
    if given is None or given == NO_LIMIT or option != "--tokens":
        return given
    if given.isdecimal():
        return int(given)
    from hive_ray.errors import Fault, InputError

    raise InputError("options", [Fault(option, f"{given!r} is no number", "a whole number, or none")])


@budgets.command()
def reset(scope: Scope, url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Go back to the configuration's limits."""
    with client_of(url, config) as client:
        _show_one(client.send("DELETE", address(scope)), as_json)


@budgets.command()
def stop(scope: Scope, reason: Why = "", url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """The kill switch: start no further step that this account pays for."""
    with client_of(url, config) as client:
        _show_one(client.post(f"{address(scope)}/stop", {"reason": reason}), as_json)


@budgets.command()
def allow(scope: Scope, url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Let spending go on that was stopped."""
    with client_of(url, config) as client:
        _show_one(client.post(f"{address(scope)}/allow"), as_json)


def address(scope: str) -> str:
    from urllib.parse import quote

    return f"/v1/budgets/{quote(scope, safe='/')}"


def all_budgets(client: Client) -> list[dict[str, Any]]:
    """All pages of the list."""
    found: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None:
        page = client.get("/v1/budgets", params={"after": after})
        found.extend(page["budgets"])
        after = page["next_after"]
    return found


def _show_one(told: Mapping[str, Any], as_json: bool) -> None:
    show_lines(told, as_json, details(told))


# --- text --------------------------------------------------------------------------------------------


def lines(found: list[dict[str, Any]]) -> Iterator[str]:
    """A table, one account a line."""
    if not found:
        yield "no account has a limit or was used"
        return
    width = max(12, *(len(one["scope"]) for one in found))
    yield f"{'ACCOUNT':<{width}}  {'SPENT':>24}  {'RESERVED':>14}  {'LIMIT':>24}  UNTIL"
    for one in found:
        limit = _amounts(one["limit_usd"], one["limit_tokens"])
        spent = _amounts(one["spent_usd"], one["spent_tokens"] or None)
        until = one["window"]["ends_at"][:16].replace("T", " ")
        marks = "".join(f"  {mark}" for mark in _marks(one))
        reserved = f"${one['reserved_usd']}"
        yield f"{one['scope']:<{width}}  {spent:>24}  {reserved:>14}  {limit:>24}  {until}{marks}"


def _amounts(usd: str | None, tokens: int | None) -> str:
    parts = [f"${usd}"] if usd is not None else []
    parts += [f"{tokens} tokens"] if tokens is not None else []
    return ", ".join(parts) or "-"


def _marks(one: Mapping[str, Any]) -> Iterator[str]:
    if one["stopped_by"]:
        yield f"STOPPED by {one['stopped_by']}"
    if one["warned"]:
        yield "warned"
    if one["changed_by"]:
        yield f"changed by {one['changed_by']}"


def details(one: Mapping[str, Any]) -> Iterator[str]:
    """One account in full."""
    window = one["window"]
    yield f"account   {one['scope']}"
    yield f"window    {window['kind']}, {window['begins_at']} to {window['ends_at']}"
    limit = _amounts(one["limit_usd"], one["limit_tokens"])
    who = f" (asked: {one['owner']})" if one["owner"] else ""
    if one["at_limit"]:
        yield f"limit     {limit}; at the limit {one['at_limit']}{who}, warning at {one['warn_percent']} %"
    else:
        yield "limit     none"
    yield f"spent     {_amounts(one['spent_usd'], one['spent_tokens'])}"
    yield f"reserved  {_amounts(one['reserved_usd'], one['reserved_tokens'])} at worst"
    if one["at_limit"] not in (None, "stop"):
        yield f"          {_amounts(one['likely_usd'], one['likely_tokens'])} probably"
    if one["at_limit"]:
        yield f"free      {_amounts(one['free_usd'], one['free_tokens'])}"
    if one["warned"]:
        yield f"warned    more than {one['warn_percent']} % were spent in this window"
    if one["changed_by"]:
        undo = f"hive-ray budgets reset {one['scope']}"
        yield f"changed   by {one['changed_by']} at {one['changed_at']}; undo with: {undo}"
    if one["stopped_by"]:
        yield f"STOPPED   by {one['stopped_by']}; go on with: hive-ray budgets allow {one['scope']}"
