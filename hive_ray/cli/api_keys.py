"""Commands about API keys: who may ask this installation for what."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from hive_ray.cli.common import Config, Json, Url, client_of, show_json, show_lines
from hive_ray.cli.keys import keys

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="Id of a key, as `keys list` shows it.")]
Scopes = Annotated[str, typer.Option(help="Comma-separated: submit, read, approve, operate, admin.")]
Roles = Annotated[str, typer.Option(help="Comma-separated; an approval may be owned by a role.")]
Team = Annotated[str, typer.Option(help="Team that everything asked with the key belongs to.")]
Ttl = Annotated[str, typer.Option(help="For how long it is good: 90s, 30m, 12h, 90d. By default for ever.")]
KeyName = Annotated[str, typer.Option(help="Name that events show (key:NAME); by default the key's id.")]
Grace = Annotated[str, typer.Option(help="For how long the old secret is good, too: 30m, 12h, 7d.")]

_TIME = re.compile(r"^(\d+(?:\.\d+)?)([smhd]?)$")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


@keys.command()
def create(  # noqa: PLR0913 - each parameter is an option of the command
    scopes: Scopes,
    team: Team = "",
    ttl: Ttl = "",
    name: KeyName = "",
    roles: Roles = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """API: make a key. Its secret is shown now and never again; with the first key, all calls need one."""
    body: dict[str, Any] = {"scopes": _listed(scopes), "roles": _listed(roles)}
    body |= {key: given for key, given in (("name", name), ("team", team)) if given}
    if ttl:
        body["ttl_s"] = seconds_of(ttl, "--ttl")
    with client_of(url, config) as client:
        made = client.post("/v1/keys", body, repeat=False)
    _show_secret(made, as_json)


@keys.command("list")
def list_keys(url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """API: all keys, those that have ended too; never their secrets."""
    with client_of(url, config) as client:
        found = client.get("/v1/keys")["keys"]
    show_lines(found, as_json, map(_line, found))


def _line(key: Mapping[str, Any]) -> str:
    until = key["revoked_at"] or key["expires_at"] or "no end"
    scopes = ",".join(key["scopes"])
    used = key["last_used_on"] or "never"
    of = f"{key['team']:<12} {key['name']:<20} {scopes:<28}"
    return f"{key['key_id']}  {key['status']:<8} {of} used {used:<10}  {until}"


@keys.command()
def roll(
    key_id: KeyId, grace: Grace = "", url: Url = "", config: Config = None, as_json: Json = False
) -> None:
    """API: give a key a new secret, shown now and never again."""
    body = {"grace_s": seconds_of(grace, "--grace")} if grace else {}
    with client_of(url, config) as client:
        rolled = client.post(f"/v1/keys/{key_id}/roll", body, repeat=False)
    _show_secret(rolled, as_json)


@keys.command()
def revoke(key_id: KeyId, url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """API: end a key at once, for good."""
    with client_of(url, config) as client:
        key = client.send("DELETE", f"/v1/keys/{key_id}")
    show_lines(key, as_json, [f"key {key['key_id']} ({key['name']}) is revoked"])


@keys.command()
def whoami(url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """API: whom the key belongs to that this command line asks with."""
    with client_of(url, config) as client:
        told = client.get("/v1/whoami")
    roles = f", roles {' '.join(told['roles'])}" if told["roles"] else ""
    line = f"{told['principal']} of team {told['team']}: {' '.join(told['scopes']) or 'no scope'}{roles}"
    show_lines(told, as_json, [line])


def _show_secret(key: Mapping[str, Any], as_json: bool) -> None:
    """The secret alone on stdout, so that it can go into a file; what it is on stderr."""
    if as_json:
        show_json(key)
        return
    until = f", until {key['expires_at']}" if key["expires_at"] else ""
    scopes = " ".join(key["scopes"])
    print(f"key {key['key_id']} ({key['name']}) of team {key['team']}: {scopes}{until}", file=sys.stderr)
    if key["old_secret_until"]:
        print(f"the old secret is good until {key['old_secret_until']}", file=sys.stderr)
    print("keep this, it is not shown again:", file=sys.stderr)
    print(key["secret"])


def _listed(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def seconds_of(text: str, option: str) -> float:
    """A time as people write it: ``90s``, ``30m``, ``12h``, ``7d``."""
    found = _TIME.match(text)
    if found is None:
        raise typer.BadParameter(f"{option} {text}: give a number with s, m, h or d, such as 90d")
    return float(found[1]) * _SECONDS[found[2]]
