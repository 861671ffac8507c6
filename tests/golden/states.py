"""Golden states for tests that need a real one: runs of every kind, a snapshot, blobs and graphs."""

from __future__ import annotations

from pathlib import Path

from hive_ray.config import Settings
from hive_ray.control.inspection import inspected
from hive_ray.state.store import Store, open_store
from hive_ray.state.verify import Inspected
from tests.golden.releases import releases, unpack_state


def real_state(folder: Path) -> Store:
    """A copy of what the first release left behind."""
    return open_store(unpack_state(releases()[0], folder).as_uri())


def looked_into(store: Store) -> Inspected:
    settings = Settings.model_validate({"state": {"url": store.url}})
    return inspected(settings, store)
