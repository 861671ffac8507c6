"""Commands about what runs here: up, down, status."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hive_ray.cli.common import FAILED, SUCCEEDED, Config, Json, Url, app, client_of, show_json

if TYPE_CHECKING:
    from hive_ray.control.record import Record


@app.command()
def up(  # noqa: PLR0913 - each parameter is an option of the command
    config: Config = None,
    address: Annotated[str, typer.Option(help="Join this running Ray cluster.")] = "",
    port: Annotated[int, typer.Option(help="Instead of http.port.")] = 0,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Fence an owner that still seems alive.")
    ] = False,
    idle_exit_s: Annotated[float, typer.Option(help="End after so long without work; 0 never.")] = 0.0,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and end with Ctrl-C.")] = False,
    admin_key: Annotated[
        bool, typer.Option("--admin-key", help="Make another admin key, into .hive/admin.key.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start Ray, the controller and the HTTP face; returns when they are ready."""
    from hive_ray.control.launch import UpOptions, absolute, launch
    from hive_ray.control.record import place_of

    options = UpOptions(absolute(config), address, port, take_over, idle_exit_s, admin_key=admin_key)
    record = launch(place_of(config), options)
    _show_record(record, as_json)
    if foreground:
        _stay(record, config)


def _stay(record: Record, config: Path | None) -> None:
    import time

    from hive_ray.control.record import end, is_alive, place_of

    try:
        while is_alive(record.pid, record.start):
            time.sleep(0.5)
    except KeyboardInterrupt:
        end(place_of(config))


def _show_record(record: Record, as_json: bool) -> None:
    if as_json:
        show_json(_public(record))
        return
    print(f"ready      {record.url}")
    print(f"dashboard  {record.dashboard_url}")
    print(f"jobs       RAY_AUTH_MODE=token ray job submit --address {record.dashboard_url} -- hive-ray run …")
    print(f"ray        {record.ray_address}")
    print(f"controller process {record.controller_pid}, epoch {record.epoch}")
    print(f"supervisor process {record.pid}, log {record.log}")
    if record.admin_key_file:
        print(f"admin key  {record.admin_key_file}")
        print("           made now: calls need a key here. It may do everything, and this command line uses")
        print("           it by itself; make others with `hive-ray keys create`")


def _public(record: Record) -> dict[str, Any]:
    import msgspec

    told: dict[str, Any] = msgspec.to_builtins(record)
    for key in ("token", "temporary"):
        told.pop(key)
    return told


@app.command()
def down(config: Config = None, as_json: Json = False) -> None:
    """End what runs here, or what a killed supervisor left behind."""
    from hive_ray.control.record import end, left_behind, place_of

    place = place_of(config)
    was_killed = place.running() is None
    ended = end(place)
    left = left_behind(ended) if ended and was_killed else ""
    if as_json:
        show_json({"ended": _public(ended) if ended else None, "left_behind": left or None})
    else:
        print(f"ended {ended.url or ended.pid}" if ended else "nothing runs here")
    if left:
        print(left, file=sys.stderr)
        raise typer.Exit(FAILED)


@app.command()
def status(url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Readiness, workers, counters, versions."""
    from importlib.metadata import version

    with client_of(url, config) as client:
        told = {"url": client.url, "versions": {name: version(name) for name in ("hive-ray", "ray")}}
        told |= client.status()
    if as_json:
        show_json(told)
    else:
        for text in _status_lines(told):
            print(text)
    raise typer.Exit(SUCCEEDED if told["ready"] else FAILED)


def _status_lines(told: Mapping[str, Any]) -> list[str]:
    ready = "ready" if told["ready"] else "not ready"
    lines = [
        f"{ready}: {told['reason']} at {told['url']}",
        f"state      {told['state']} (environment {told['environment']}, "
        f"feature level {told['feature_level']})",
        f"controller process {told['controller_pid']}, epoch {told['epoch']}",
    ]
    if "workers" not in told:
        # Totals of all teams are shown to admins only.
        return [*lines, _versions(told)]
    lines.append(f"live runs  {told['live_runs']}, cost ${told['cost_usd']}")
    for worker in told["workers"]:
        used = f"{worker['leases']}/{worker['slots']} slots"
        lines.append(f"worker     {worker['worker']}: {used}, process {worker['pid']} on {worker['host']}")
    lines.append("counters   " + ", ".join(f"{name} {count}" for name, count in told["counters"].items()))
    return [*lines, _versions(told)]


def _versions(told: Mapping[str, Any]) -> str:
    return "versions   " + ", ".join(f"{name} {text}" for name, text in told["versions"].items())
