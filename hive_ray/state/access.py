"""Settings to the state plane's parts: the store, its codec, its blobs."""

from __future__ import annotations

import hashlib

from hive_ray.config import SecretRef, Settings, resolve
from hive_ray.state.blobs import Blobs
from hive_ray.state.content import ContentCodec, PlainCodec
from hive_ray.state.store import Store, open_store


def open_state(settings: Settings) -> Store:
    """The store behind ``state.url``; touches neither disk nor network."""
    options = {
        key: resolve(value) if isinstance(value, SecretRef) else value
        for key, value in settings.state.options.items()
    }
    return open_store(settings.state.url, options=options)


def content_codec(settings: Settings) -> ContentCodec:
    """The codec that seals content; plain until keys are configured."""
    return PlainCodec()


def open_blobs(settings: Settings, store: Store | None = None) -> Blobs:
    """Blobs and graphs in the state store."""
    key = hashlib.blake2b(settings.environment.encode(), digest_size=32).digest()
    return Blobs(store or open_state(settings), content_codec(settings), key)
