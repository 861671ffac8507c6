"""A shell with all that keeps its state in order, made from what recovery found."""

from __future__ import annotations

from typing import NamedTuple

from hive_ray.config import Settings
from hive_ray.control.actions import Limits
from hive_ray.control.keeping import Apart, Keeper
from hive_ray.control.parking import Parking
from hive_ray.control.recovery import Recovered
from hive_ray.control.sealing import Sealing
from hive_ray.control.shell import Shell
from hive_ray.control.snapshotting import Snapshotter
from hive_ray.core.run import root_of
from hive_ray.state.blobs import Blobs
from hive_ray.state.content import ContentCodec
from hive_ray.state.history import newest_manifest
from hive_ray.state.history_reading import descendants
from hive_ray.state.keyring import Keyring
from hive_ray.state.pieces import pieces_of
from hive_ray.state.retention import Retention
from hive_ray.state.store import Store


class Upkeep(NamedTuple):
    """What the settings say about memory and history."""

    park_after_us: int = 60_000_000
    retention: Retention = Retention()


def upkeep_of(settings: Settings) -> Upkeep:
    """The settings' part of it."""
    kept = settings.retention
    return Upkeep(int(settings.state.park_after_s * 1e6), Retention(kept.default_days, dict(kept.teams)))


def limits_of(settings: Settings) -> Limits:
    """The shell's times and bounds."""
    return Limits(
        attach_grace_us=int(settings.lease.attach_grace_s * 1e6),
        idempotency_us=int(settings.limits.idempotency_key_s * 1e6),
        live_runs=settings.limits.live_runs,
        term_us=int(settings.lease.term_s * 1e6),
        heartbeat_us=int(settings.lease.heartbeat_s * 1e6),
        erase_us=int(settings.keys.erase_within_s * 1e6),
        public_url=settings.hooks.public_url,
        queue_limits={name: pool.queue_limit for name, pool in settings.pools.items()},
    )


class StateParts(NamedTuple):
    """One partition's store, and what reads and writes content in it."""

    store: Store
    blobs: Blobs
    codec: ContentCodec
    partition: int = 0
    keyring: Keyring | None = None
    """Without it nothing is sealed, and no key erased."""
    apart: Apart | None = None
    """Compacts beside a busy controller."""


def shell_of(recovered: Recovered, state: StateParts, limits: Limits, upkeep: Upkeep) -> Shell:
    """The controller over a recovered state; ``recover`` must have been told that it parks."""
    store, blobs, codec, partition, keyring, apart = state
    manifest, history = recovered.manifest, recovered.history

    def children(run: str) -> list[str]:
        if root_of(run) != run:
            # Its root is forgotten with it, and names all below.
            return []
        return descendants(store, newest_manifest(store, partition), run)

    return Shell(
        recovered.engine,
        recovered.journal,
        codec,
        limits,
        Snapshotter(store, partition, manifest, Sealing(codec, keyring, blobs, recovered.doomed, children)),
        Parking(state.store, blobs, codec, upkeep.park_after_us, manifest, history),
        Keeper(store, pieces_of(store, partition, codec), upkeep.retention, history, apart),
    )
