"""An installation whose state lies on S3, reached through a proxy that tests steer."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.cluster import Cluster, key_section, started
from hive_ray.config import Settings
from hive_ray.state.access import open_state
from tests.chaos.journal_reader import History, read_history
from tests.cluster.installation import eventually
from tests.servers.effects import CountingServer
from tests.servers.s3 import S3Server, state_section
from tests.servers.s3_proxy import S3Proxy

SEGMENTS = "/journal/0000/"
"""By which requests for segments are known."""


class Site(NamedTuple):
    """What stands there, and what a test may do to it."""

    cluster: Cluster
    proxy: S3Proxy
    server: S3Server
    counting: CountingServer

    def history(self) -> History:
        self.proxy.calm()
        return read_history(open_state(self.cluster.settings))

    def counts(self, *runs: str) -> dict[str, int]:
        """How often each effect of those runs happened."""
        return {key: n for key, n in self.counting.counts().items() if key.split(":")[0] in runs}

    async def effects_reach(self, count: int, *runs: str) -> None:
        """Wait until so many effects have happened, of all runs or of those."""

        async def reached() -> bool:
            return (sum(self.counts(*runs).values()) if runs else self.counting.count) >= count

        await eventually(reached, 60)


@asynccontextmanager
async def site_on(
    s3: S3Server, counting: CountingServer, folder: Path, **sections: Any
) -> AsyncGenerator[Site]:
    """Start one in a bucket of its own, in the present Ray session."""
    bucket = s3.create_bucket(f"site-{os.urandom(6).hex()}")
    with S3Proxy(s3.url) as proxy:
        settings = Settings.model_validate(
            {
                "state": state_section(s3, bucket, folder, proxy.endpoint),
                "keys": key_section(folder),
                "tools": {"modules": ["tests.chaos.effects"]},
                "observe": {"log_level": "ERROR"},
                **sections,
            }
        )
        async with started(settings) as cluster:
            yield Site(cluster, proxy, s3, counting)
            proxy.calm()
            proxy.release()
