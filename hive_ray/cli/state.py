"""``hive-ray state``: whose the state is, whether it is sound, copies of it, its feature level."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hive_ray.cli.common import FAILED, SUCCEEDED, Config, Json, Url, app, client_of, show_json

if TYPE_CHECKING:
    from hive_ray.config import Settings
    from hive_ray.state.backup import Copied
    from hive_ray.state.lineage import Identity, Lineage, Standing
    from hive_ray.state.store import Store
    from hive_ray.state.verify import Report

state = typer.Typer(
    help="The state as a whole: verify, back up, restore, adopt, upgrade.", no_args_is_help=True
)
app.add_typer(state, name="state")

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Options = Annotated[
    list[str],
    typer.Option(
        "--option",
        help="KEY=VALUE for the other store, as in state.options; by default those of a store of its kind.",
    ),
]
Check = Annotated[bool, typer.Option("--verify/--no-verify", help="Read the whole copy at the end.")]
Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="Store URL: an empty place, or the last backup.")
]
Place = Annotated[str, typer.Argument(metavar="TARGET", help="Store URL of an empty place.")]
Source = Annotated[str, typer.Argument(metavar="SOURCE", help="Store URL of a backup.")]


# --- whose it is ---------------------------------------------------------------------------------


@state.command()
def show(config: Config = None, as_json: Json = False) -> None:
    """Whose state this is, and whether it may be worked on here; reads the state itself."""
    from hive_ray.config import load
    from hive_ray.state.access import open_state
    from hive_ray.state.lineage import standing

    settings = load(config)
    told = _standing(settings, standing(open_state(settings)))
    if as_json:
        show_json(told)
        return
    for key, value in told.items():
        print(f"{key:12} {value}")


def _standing(settings: Settings, found: Standing | None) -> dict[str, Any]:
    told: dict[str, Any] = {"url": settings.state.url}
    if found is None:
        return told | {"lineage": None, "read_only": ""}
    return told | _told(found.lineage) | {"read_only": found.read_only}


def _told(lineage: Lineage) -> dict[str, Any]:
    return {
        "lineage": lineage.identity.id,
        "environment": lineage.identity.environment,
        "made_for": lineage.identity.url,
        "since": _time(lineage.identity.since_us),
        "ancestors": [f"{life.id} ({life.environment}, {life.url})" for life in lineage.ancestors],
    }


def _time(at_us: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@state.command()
def adopt(config: Config = None, yes: Yes = False, as_json: Json = False) -> None:
    """Make a copy or a restored backup a state of its own, which may be worked on here."""
    from hive_ray.config import load
    from hive_ray.control.adoption import adopt_state, check_adoption
    from hive_ray.errors import Conflict
    from hive_ray.state.access import open_state

    settings = load(config)
    store = open_state(settings)
    before = check_adoption(store, settings.environment, time.time_ns() // 1000)
    if not yes and not _confirmed(_adoption_question(store, before, settings.environment)):
        raise Conflict("not adopted, nothing was changed: answer y, or give --yes")
    lineage = adopt_state(store, settings.environment, time.time_ns() // 1000)
    if as_json:
        show_json({"url": store.url} | _told(lineage))
    else:
        print(f"adopted {store.url} as {lineage.identity.id} (environment {settings.environment})")
        print("start it with `hive-ray up`")


def _adoption_question(store: Store, before: Identity | None, environment: str) -> str:
    origin = f"{before.url} (environment {before.environment})" if before else "a state without a lineage"
    return (
        f"{store.url} is a copy of {origin}.\n"
        f"Adopted for environment {environment}, its runs go on here. If the original goes on too, each\n"
        "step under way in both is done twice. Is the original ended for good, or are its effects harmless?"
    )


def _confirmed(question: str) -> bool:
    import sys

    return sys.stdin.isatty() and typer.confirm(question, err=True)


# --- whether it is sound -------------------------------------------------------------------------


@state.command()
def verify(config: Config = None, as_json: Json = False) -> None:
    """Read everything, beside a controller at work or not, and name what is damaged, missing or left over.

    Exits 0 when nothing is damaged or missing, else 1.
    """
    from hive_ray.config import load
    from hive_ray.control.inspection import inspected
    from hive_ray.state import verify as verification

    report = verification.verify(inspected(load(config)))
    _show_report(report, as_json)
    raise typer.Exit(FAILED if report.faults else SUCCEEDED)


def _show_report(report: Report, as_json: bool) -> None:
    if as_json:
        show_json(_report(report))
        return
    for finding in report.findings:
        print(f"{finding.problem:12} {finding.name}: {finding.why}")
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in _counts(report).items())
    print(f"{'DAMAGED' if report.faults else 'sound'}: {counts}")


def _counts(report: Report) -> Mapping[str, int]:
    import msgspec

    return msgspec.to_builtins(report.counts)


def _report(report: Report) -> dict[str, Any]:
    return {
        "sound": not report.faults,
        "findings": [finding._asdict() for finding in report.findings],
        "counts": _counts(report),
        "last_segments": {str(partition): number for partition, number in report.last.items()},
    }


# --- copies --------------------------------------------------------------------------------------


@state.command()
def backup(
    target: Target,
    option: Options = [],  # noqa: B006 - typer copies it
    check: Check = True,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Copy the state, at work or not; over an earlier backup only what is new is copied.

    Exits 0 when the copy is sound, else 1.
    """
    from hive_ray.config import load
    from hive_ray.state import backup as copies
    from hive_ray.state.access import open_state

    settings = load(config)
    place = _other_store(settings, target, option)
    copied = copies.backup(open_state(settings), place, settings.environment, lambda: time.time_ns() // 1000)
    _finish(settings, place, copied, check, as_json)


@state.command()
def restore(
    source: Source,
    target: Place,
    option: Options = [],  # noqa: B006 - typer copies it
    check: Check = True,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Copy a backup to an empty place; it opens read-only there until `hive-ray state adopt`."""
    from hive_ray.config import load
    from hive_ray.state import backup as copies

    settings = load(config)
    place = _other_store(settings, target, option)
    copied = copies.restore(_other_store(settings, source, option), place)
    _finish(settings, place, copied, check, as_json)


def _finish(settings: Settings, place: Store, copied: Copied, check: bool, as_json: bool) -> None:
    from hive_ray.control.inspection import inspected
    from hive_ray.state import verify as verification

    report = verification.verify(inspected(settings, place)) if check else None
    if as_json:
        show_json(_copied(place, copied) | ({"verified": _report(report)} if report else {}))
    else:
        print(
            f"copied {copied.objects} objects, {copied.bytes} bytes in {copied.seconds:.1f} s to "
            f"{place.url}: all that was acknowledged by {_time(copied.head.begun_us)}"
        )
        if report is not None:
            _show_report(report, as_json=False)
    raise typer.Exit(FAILED if report is not None and report.faults else SUCCEEDED)


def _copied(place: Store, copied: Copied) -> dict[str, Any]:
    return {
        "url": place.url,
        "lineage": copied.head.lineage,
        "acknowledged_by": _time(copied.head.begun_us),
        "last_segments": {str(partition): number for partition, number in copied.head.last.items()},
        "objects_copied": copied.objects,
        "bytes_copied": copied.bytes,
        "seconds": round(copied.seconds, 3),
    }


def _other_store(settings: Settings, url: str, given: list[str]) -> Store:
    """A store beside the state's own; by default with the options of the state's, if it is of that kind."""
    from urllib.parse import urlsplit

    from hive_ray.config import SecretRef, resolve
    from hive_ray.errors import ConfigError, Fault
    from hive_ray.state.store import open_store

    same = urlsplit(url).scheme == urlsplit(settings.state.url).scheme
    options = {
        key: resolve(value) if isinstance(value, SecretRef) else value
        for key, value in (settings.state.options.items() if same else ())
    }
    try:
        return open_store(url, options=options | dict(_option(text) for text in given))
    except ConfigError as error:
        faults = [Fault(_OF_STORE.get(f.place, f.place), f.problem, f.remedy) for f in error.faults]
        raise ConfigError("the other store", faults) from error


_OF_STORE = {"state.url": "URL"}


def _option(text: str) -> tuple[str, str]:
    from hive_ray.config import SecretRef, resolve
    from hive_ray.errors import ConfigError, Fault

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(
            "options", [Fault("--option", f"{text!r} is not KEY=VALUE", "write endpoint=http://…")]
        )
    scheme, _, name = value.partition(":")
    if scheme in ("env", "file") and name:
        return key, resolve(SecretRef("env" if scheme == "env" else "file", name))
    return key, value


# --- what it may hold ----------------------------------------------------------------------------


@state.command()
def upgrade(url: Url = "", config: Config = None, yes: Yes = False, as_json: Json = False) -> None:
    """Let the state hold what this release can write; the release before it can then no longer open it."""
    from hive_ray.errors import Conflict

    with client_of(url, config) as client:
        levels = client.get("/v1/state")
        present, latest = levels["feature_level"], levels["latest_feature_level"]
        if present < latest:
            if not yes and not _confirmed(_upgrade_question(levels)):
                raise Conflict(
                    f"not raised, the state stays at feature level {present}: answer y, or give --yes"
                )
            levels = client.post("/v1/state/upgrade", {"level": latest})
    if as_json:
        show_json(levels | {"raised_from": present})
    elif present == latest:
        print(f"the state is at feature level {present} already, the latest of this release")
    else:
        print(f"the state is at feature level {levels['feature_level']} (it was at {present})")


def _upgrade_question(levels: Mapping[str, Any]) -> str:
    gains = "\n".join(f"  level {gain['level']}: {gain['gives']}" for gain in levels["gains"])
    return (
        f"{levels['url']}: feature level {levels['feature_level']} to {levels['latest_feature_level']}.\n"
        f"{gains}\n"
        "There is no way back: releases that do not know the new level refuse to open the state from then\n"
        "on. Back it up first (`hive-ray state backup`).\n"
        "Raise it?"
    )
