"""What operators do with the state that a history left: verify, copy, adopt, replay, bill."""

from __future__ import annotations

from functools import partial
from itertools import count

from hive_ray.control.adoption import adopt_state
from hive_ray.control.recovery import decode_item, recover
from hive_ray.control.replaying import replay_run
from hive_ray.core.engine import Engine
from hive_ray.state import ledger as bills
from hive_ray.state.backup import backup, restore
from hive_ray.state.blobs import Blobs
from hive_ray.state.content import PlainCodec
from hive_ray.state.key_providers import LocalKey
from hive_ray.state.keyring import Keyring
from hive_ray.state.lineage import open_for_work
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.store import Store
from hive_ray.state.verify import Inspected, verify
from tests.core.graphs import Facts
from tests.simulation.controller import DIGEST_KEY, ENVIRONMENT
from tests.simulation.world import World

_NAMES = count()
RUNS_REPLAYED = 3


def inspected(store: Store) -> Inspected:
    blobs = Blobs(store, PlainCodec(), DIGEST_KEY)
    holder = LocalKey(b"k" * 32, "the simulation")
    return Inspected(
        store,
        Keyring(store, lambda create: (holder, ())),
        PlainCodec(),
        blobs,
        partial(decode_item, PlainCodec()),
    )


def check_store(store: Store) -> None:
    """Everything in it is whole, and what is referred to is there."""
    faults = verify(inspected(store)).faults
    assert not faults, f"verify finds {faults[:3]}"


def check_copy(world: World, live: Engine) -> None:
    """A backup, restored elsewhere and adopted, holds the same runs."""
    names = [f"copy-{next(_NAMES)}", f"restored-{next(_NAMES)}"]
    copy, place = (MemoryStore(name) for name in names)
    try:
        backup(world.raw, copy, ENVIRONMENT, lambda: world.clock.wall_us)
        restore(copy, place)
        check_store(place)
        far_us = world.clock.wall_us + 3_600_000_000
        adopt_state(place, ENVIRONMENT, far_us)
        open_for_work(place, ENVIRONMENT, far_us)
        owner = world.controllers[0].owner
        blobs = Blobs(place, PlainCodec(), DIGEST_KEY)
        found = recover(place, blobs, PlainCodec(), Facts(), 0, owner, far_us, "copy", parks=True).engine
        assert found.seq == live.seq, f"the copy ends at {found.seq}, the state at {live.seq}"
    finally:
        for name in names:
            forget_memory(name)


def check_replays(world: World) -> None:
    """``hive-ray replay`` finds that a run is what its events make of it."""
    blobs = Blobs(world.raw, PlainCodec(), DIGEST_KEY)
    for run_id in list(world.ledger.runs)[:RUNS_REPLAYED]:
        verdict = replay_run(world.raw, PlainCodec(), blobs, run_id)
        assert verdict.ok, f"{run_id}: {verdict}"


def check_bills(world: World) -> None:
    """What a bill is compared with is what was charged."""
    total = sum(charge.nanousd for charge in bills.charges(world.raw))
    charged = sum(attempt.charged for attempt in world.ledger.attempts.values())
    assert total == charged, f"the ledger of bills holds {total}, charged was {charged}"
