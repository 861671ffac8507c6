"""Secrets of the installation never leave over HTTP, whoever wrote them where.

A worker knows the secrets of its own pool only: a function can raise with another pool's key in its text, and
a model can repeat the key that it is called with. A replica runs nobody's code, so it resolves what the
configuration refers to and masks these exact values in all that it sends. In users' own values (outputs,
arguments, answers) it masks secrets from ``LONG_SECRET_CHARS`` on: shorter ones may stand there by chance.
What is stored stays as it was written.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from hive_ray import config
from hive_ray.config import SecretRef, Settings
from hive_ray.errors import ConfigError
from hive_ray.observe.redaction import mask_bytes, register_secrets

_log = logging.getLogger(__name__)


def know_secrets(settings: Settings) -> None:
    """Resolve every reference; one that cannot be is named in the log, and can be told by nobody here."""
    for reference in sorted(settings.secret_references()):
        scheme, _, name = reference.partition(":")
        try:
            register_secrets([config.resolve(SecretRef("env" if scheme == "env" else "file", name))])
        except ConfigError as error:
            _log.warning("a secret cannot be read here, so it cannot be masked: %s", error)


def encoded(body: Any) -> bytes:
    """JSON without the installation's secrets."""
    return mask_bytes(msgspec.json.encode(body))
