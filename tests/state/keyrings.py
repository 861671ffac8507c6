"""Keyrings for tests, and a look at everything that lies in a state."""

from __future__ import annotations

from collections.abc import Sequence

from hive_ray.state.intermediate_keys import KeyProvider
from hive_ray.state.key_providers import LocalKey
from hive_ray.state.keyring import Keyring
from hive_ray.state.store import Store


def local(letter: str) -> LocalKey:
    """A key-encryption key that tests can tell from others."""
    return LocalKey(letter.encode() * 32, f"test {letter}")


def keyring(
    store: Store, key: KeyProvider | str = "k", old: Sequence[KeyProvider] = (), create: bool = True
) -> Keyring:
    """An opened keyring."""
    provider = local(key) if isinstance(key, str) else key
    ring = Keyring(store, lambda _create: (provider, old))
    ring.open(create)
    return ring


def everything(store: Store) -> dict[str, bytes]:
    """Every object and its bytes."""
    return {name: store.get(name) for name in store.list("")}
