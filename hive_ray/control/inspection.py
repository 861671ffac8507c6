"""What is needed to look into a state without owning it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hive_ray.config import Settings
from hive_ray.control.recovery import decode_item
from hive_ray.errors import KeyErased
from hive_ray.state.access import content_codec, open_blobs, open_keyring, open_state
from hive_ray.state.snapshots import Item
from hive_ray.state.store import Store
from hive_ray.state.verify import Inspected


def inspected(settings: Settings, store: Store | None = None) -> Inspected:
    """A state, or a copy of it, whose keys are those of the settings."""
    store = store or open_state(settings)
    keyring = open_keyring(settings, store)
    codec = content_codec(settings, keyring)

    def decoded(name: str, item: Item) -> Any:
        with suppress(KeyErased):
            return decode_item(codec, name, item)

    return Inspected(store, keyring, codec, open_blobs(settings, store, keyring), decoded)
