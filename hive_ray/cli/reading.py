"""Runs read out of the state itself, for commands that need nothing that runs; nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from hive_ray.state.blobs import Blobs
    from hive_ray.state.content import ContentCodec
    from hive_ray.state.store import Store


class _State(NamedTuple):
    store: Store
    codec: ContentCodec
    blobs: Blobs


def _opened(config: Path | None) -> _State:
    from hive_ray.config import load
    from hive_ray.state.access import content_codec, open_blobs, open_keyring, open_state

    settings = load(config)
    store = open_state(settings)
    keyring = open_keyring(settings, store)
    return _State(store, content_codec(settings, keyring), open_blobs(settings, store, keyring))


def verdict_of(run_id: str, config: Path | None) -> dict[str, Any]:
    """What comes of a replay; see ``control.replaying.replay_run``."""
    from hive_ray.control.replaying import replay_run
    from serve.shapes import verdict

    return verdict(replay_run(*_opened(config), run_id))


def told_of(run_id: str, config: Path | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run and its events, as an installation shows them; see ``control.replaying.derived_run``."""
    from hive_ray.control.replaying import derived_run
    from serve import shapes
    from serve.history import Names

    view, events = derived_run(*_opened(config), run_id)
    names = Names()
    for recorded in events:
        names.note(recorded.event)
    return shapes.run(view), [shapes.event(recorded, names) for recorded in events]
