"""Settings to the state plane's parts: the store, its keys, its codec, its blobs."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from hive_ray.config import SecretRef, Settings, VaultSettings, resolve
from hive_ray.errors import ConfigError, Fault
from hive_ray.state.blobs import Blobs
from hive_ray.state.content import ContentCodec, SealingCodec
from hive_ray.state.intermediate_keys import KeyProvider
from hive_ray.state.key_providers import LocalKey, key_in_file, local_key
from hive_ray.state.keyring import Keyring
from hive_ray.state.lineage import read_lineage
from hive_ray.state.store import Store, open_store
from hive_ray.state.vault import VaultKey

TRUST_S = 30.0
"""How long a process uses keys before it looks whether they were erased."""

_PROCESS_SECRET = secrets.token_bytes(32)


def open_state(settings: Settings) -> Store:
    """The store behind ``state.url``; touches neither disk nor network."""
    options = {
        key: resolve(value) if isinstance(value, SecretRef) else value
        for key, value in settings.state.options.items()
    }
    return open_store(settings.state.url, options=options)


def open_keyring(settings: Settings, store: Store | None = None, trust_s: float = TRUST_S) -> Keyring:
    """The state's keys; touches neither disk nor network until they are needed.

    Args:
        trust_s: see ``Keyring``; 0 for the controller only.
    """

    def holders(create: bool) -> tuple[KeyProvider, Sequence[KeyProvider]]:
        return _present_key(settings, create), _old_keys(settings)

    return Keyring(store or open_state(settings), holders, trust_s)


def content_codec(settings: Settings, keyring: Keyring | None = None) -> ContentCodec:
    """The codec that seals content."""
    return SealingCodec(keyring or open_keyring(settings))


def open_blobs(settings: Settings, store: Store | None = None, keyring: Keyring | None = None) -> Blobs:
    """Blobs and graphs in the state store."""
    store = store or open_state(settings)
    keyring = keyring or open_keyring(settings, store)
    plain_key = _plain_key(settings.environment)
    codec = content_codec(settings, keyring)
    return Blobs(store, codec, plain_key, keyring.digest_key, lambda: _older_plain_keys(store))


def _plain_key(environment: str) -> bytes:
    return hashlib.blake2b(environment.encode(), digest_size=32).digest()


def _older_plain_keys(store: Store) -> list[bytes]:
    """Of an adopted state: its plain blobs were named where it came from."""
    found = read_lineage(store)
    lives = (*found.ancestors, found.identity) if found else ()
    return [_plain_key(life.environment) for life in lives]


def _present_key(settings: Settings, create: bool) -> KeyProvider:
    keys = settings.keys
    if keys.vault is not None:
        return _vault(keys.vault)
    if keys.key is not None:
        return local_key(keys.key, "keys.key")
    file = settings.own_key_file()
    if file is not None:
        return key_in_file(file, create)
    if settings.state.url.startswith("memory:"):
        # It ends with this process, as the state does.
        return LocalKey(hashlib.sha256(_PROCESS_SECRET + settings.state.url.encode()).digest(), "memory")
    fault = Fault(
        "keys.key",
        f"is missing: content in {settings.state.url} is sealed, and its key may not lie on one machine only",
        "write keys: {key: env:NAME} with a key from `openssl rand -hex 32`, or keys.vault",
    )
    raise ConfigError("configuration", [fault])


def _old_keys(settings: Settings) -> Sequence[KeyProvider]:
    keys = settings.keys
    old: list[KeyProvider] = [
        local_key(ref, f"keys.old_keys[{number}]") for number, ref in enumerate(keys.old_keys)
    ]
    return [*old, *map(_vault, keys.old_vaults)]


def _vault(settings: VaultSettings) -> VaultKey:
    token = settings.token
    return VaultKey(
        settings.url,
        settings.mount,
        settings.key,
        lambda: resolve(token),
        settings.timeout_s,
        settings.ca_file,
    )
