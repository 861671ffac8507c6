"""The first admin key of an installation that needs keys: made by `up`, kept in a file of its owner.

It is printed nowhere: what `up` prints ends in logs of services and pipelines. The command line on this
machine finds the file by itself (``record.Place.admin_key``).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hive_ray.config import Settings
from hive_ray.control import api_secrets, cluster
from hive_ray.control.door import Door
from hive_ray.control.envelope import Seal
from hive_ray.control.queries import ListKeys
from hive_ray.control.views import Answer, KeyView
from hive_ray.core.commands import CreateKey
from hive_ray.core.principals import DEFAULT_TEAM, Scope
from hive_ray.errors import ConfigError, Fault, Unavailable
from hive_ray.state.keyring import Keyring

NAME = "admin"


class Ask(NamedTuple):
    """The controller, and what it takes to ask it in the name of the installation."""

    controller: Any
    seal: Seal
    keyring: Keyring


def ensure(settings: Settings, ask: Ask, file: Path, another: bool = False) -> bool:
    """Make an admin key if one is needed and there is none that is valid; whether one was made.

    Args:
        another: make one in any case: whoever had the others may have lost them.

    Raises:
        ConfigError: keys are needed, and the state cannot hold any yet.
        Unavailable: the controller does not answer.
    """
    keys = msgspec.convert(_value(cluster.ask(ask.controller, ask.seal, ListKeys())), list[KeyView])
    _drop_strange(file, keys)
    closed = Door(settings).is_closed(bool(keys))
    can_enter = settings.auth.jwt is not None or any(map(_is_admin, keys))
    if not another and (can_enter or not closed):
        return False
    minted = api_secrets.mint()
    digest = api_secrets.digest(api_secrets.pepper_of(ask.keyring), minted.secret)
    name = NAME if all(key.name != NAME or _has_ended(key) for key in keys) else f"{NAME}-{minted.id}"
    command = CreateKey(minted.id, name, DEFAULT_TEAM, (Scope.ADMIN.value,), digest)
    # Before the key counts: one that nobody has would lock everybody out.
    _write(file, minted.secret)
    answer = cluster.ask(ask.controller, ask.seal, command)
    if answer.refused is not None:
        file.unlink(missing_ok=True)
        remedy = "start it on loopback without auth.required first, and do that"
        fault = Fault("auth", f"an API key is needed, and cannot be made: {answer.refused.message}", remedy)
        raise ConfigError("configuration", [fault])
    return True


def _value(answer: Answer) -> Any:
    if answer.refused is not None:
        raise Unavailable(f"the controller refuses: {answer.refused.message}")
    return answer.value


def _has_ended(key: KeyView) -> bool:
    return bool(key.revoked_us) or 0 < key.expires_us <= time.time_ns() // 1000


def _is_admin(key: KeyView) -> bool:
    return Scope.ADMIN in key.scopes and not _has_ended(key)


def _drop_strange(file: Path, keys: list[KeyView]) -> None:
    """A key of another state, or one that has ended, would only be refused."""
    if not file.exists():
        return
    own = api_secrets.id_of(file.read_text("ascii", "replace").strip())
    if not any(key.key_id == own and not _has_ended(key) for key in keys):
        file.unlink()


def _write(file: Path, secret: str) -> None:
    """With nobody else able to read it at any time, and durable before the key is."""
    draft = file.with_suffix(".new")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as out:
        out.write(f"{secret}\n")
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)
