"""HAProxy's status ports answer on loopback only."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from hive_ray.control import haproxy


def test_ports_that_would_bind_every_address_are_narrowed_before_haproxy_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The listener keeps the host that was configured; the real binary gets all arguments."""
    config = tmp_path / "haproxy.cfg"
    config.write_text("frontend p\n    bind :9101\nfrontend h\n    bind 10.0.0.5:80\n  bind *:8404\n")
    monkeypatch.setenv(haproxy.BINARY_VARIABLE, "/bin/echo")
    haproxy.narrow(tmp_path)

    said = subprocess.run(
        [os.environ[haproxy.BINARY_VARIABLE], "-db", "-f", str(config)],
        capture_output=True,
        text=True,
        check=True,
    )

    binds = [line.split()[1] for line in config.read_text().splitlines() if "bind" in line]
    assert binds == ["127.0.0.1:9101", "10.0.0.5:80", "127.0.0.1:8404"]
    assert said.stdout == f"-db -f {config}\n"
