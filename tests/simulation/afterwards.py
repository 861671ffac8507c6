"""What operators do with the state that a history left: verify, copy, adopt, replay, bill."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import msgspec

from hive_ray.control.adoption import adopt_state
from hive_ray.control.recovery import decode_item, recover
from hive_ray.control.replaying import Shown, replay_run
from hive_ray.core.engine import Engine
from hive_ray.core.run import Run
from hive_ray.core.values import inline
from hive_ray.errors import Conflict, HiveError, NotFound, StateRefused
from hive_ray.state import ledger as bills
from hive_ray.state.backup import backup, restore
from hive_ray.state.lineage import open_for_work
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.store import Store
from hive_ray.state.verify import Inspected, verify
from hive_ray.testing import GatedStore
from tests.core.graphs import Facts
from tests.simulation.controller import ENVIRONMENT
from tests.simulation.storage import Storage, codec_over, damaged, says_the_same
from tests.simulation.world import World

_NAMES = count()
RUNS_REPLAYED = 3
DIFFERENCES: tuple[dict[str, Any], ...] = (
    {"spent_nanousd": -1},
    {"memory": {"said": inline("otherwise")}},
    {"visit_counts": {99: 1}},
)
"""What a replay of a run must find, as fields that are not what the journal says."""
DAMAGES, MANY_EVENTS = 4, 10_000
"""Places that are damaged; from so many events on only one, and a history is looked back at less often: that
would take longer than to play it."""


def far(store: Store) -> Store:
    """The same store, as if every request took its time: much is read at once, on threads."""
    gated = GatedStore(store, _nothing, _nothing)
    gated.inline = False
    return gated


def _nothing(operation: str, name: str) -> None:
    """No fault."""


def inspected(storage: Storage, store: Store) -> Inspected:
    """A state in a store, with the keys of a history."""
    keyring = storage.keyring_over(store)
    codec, blobs = codec_over(store, keyring if storage.keyring is not None else None)
    return Inspected(store, keyring, codec, blobs, partial(decode_item, codec))


def check_store(storage: Storage, store: Store) -> None:
    """Everything in it is whole, and what is referred to is there."""
    faults = verify(inspected(storage, store)).faults
    assert not faults, f"verify finds {faults[:3]}"


def check_damage(world: World) -> None:
    """Whatever is damaged, ``verify`` says so by name, or it was not needed; and it never breaks down."""
    storage = world.storage
    names, needed = storage.raw.list(""), storage.needed()
    for _ in range(DAMAGES if world.ledger.events < MANY_EVENTS else 1):
        name = world.pick(needed if needed and world.chance.random() < 0.5 else names)
        data = storage.raw.get(name)
        worse = damaged(data, world.chance.random())
        if name in needed and says_the_same(name, data, worse):
            continue
        storage.raw.put(name, worse)
        faults = verify(inspected(storage, storage.raw)).faults
        storage.raw.put(name, data)
        found = any(fault.name.startswith(name) for fault in faults)
        assert found or name not in needed, f"verify finds no fault in {name}, only {faults[:3]}"


def check_copy(world: World, live: Engine) -> None:
    """A backup, restored elsewhere and adopted, holds the same runs."""
    names = [f"{what}-{next(_NAMES)}" for what in ("copy", "restored", "empty")]
    copy, place = (far(MemoryStore(name)) for name in names[:2])
    try:
        first = backup(far(world.storage.raw), copy, ENVIRONMENT, lambda: world.clock.wall_us)
        again = backup(far(world.storage.raw), copy, ENVIRONMENT, lambda: world.clock.wall_us)
        assert again.objects < first.objects, f"a second backup copied {again.objects} objects again"
        restore(copy, place)
        check_store(world.storage, place)
        _refused(Conflict, lambda: restore(copy, place))
        _refused(NotFound, lambda: restore(place, far(MemoryStore(names[2]))))
        _refused(Conflict, lambda: backup(copy, place, ENVIRONMENT, lambda: world.clock.wall_us))
        far_us = world.clock.wall_us + 3_600_000_000
        _refused(StateRefused, lambda: open_for_work(place, ENVIRONMENT, far_us))
        adopt_state(place, ENVIRONMENT, far_us)
        open_for_work(place, ENVIRONMENT, far_us)
        _refused(Conflict, lambda: adopt_state(place, ENVIRONMENT, far_us))
        _refused(StateRefused, lambda: open_for_work(place, "another", far_us))
        owner = world.controllers[0].owner
        there = inspected(world.storage, place)
        found = recover(place, there.blobs, there.codec, Facts(), 0, owner, far_us, "copy", parks=True).engine
        assert found.seq == live.seq, f"the copy ends at {found.seq}, the state at {live.seq}"
        _refused(Conflict, lambda: adopt_state(place, "another", far_us))  # somebody works on it
    finally:
        for name in names:
            forget_memory(name)


def _refused(error: type[HiveError], work: Callable[[], object]) -> None:
    try:
        work()
    except error:
        return
    raise AssertionError(f"a copy was worked on without a {error.__name__}")


def check_replays(world: World, derived: Engine | None) -> None:
    """``hive-ray replay`` finds that a run is what its events make of it, and tells what is not.

    Args:
        derived: all runs, as their events make them; None where content was erased.
    """
    there = inspected(world.storage, world.storage.raw)
    for run_id in world.ledger.names[:RUNS_REPLAYED]:
        shown = [] if derived is None else [Shown("controller", derived.runs[run_id])]
        verdict = replay_run(there.store, there.codec, there.blobs, run_id, shown)
        assert verdict.ok, f"{run_id}: {verdict}"
        for one in shown:
            _check_differences(there, one.run)


def _check_differences(there: Inspected, run: Run) -> None:
    for change in DIFFERENCES:
        other = Shown("controller", msgspec.structs.replace(run, **change))
        verdict = replay_run(there.store, there.codec, there.blobs, run.id, [other])
        (field,) = change
        assert not verdict.misfit and field in verdict.difference, f"{run.id} with {change}: {verdict}"


def check_bills(world: World) -> None:
    """What a bill is compared with is what was charged."""
    charges = bills.charges(world.storage.raw)
    total = sum(charge.nanousd for charge in charges)
    assert all(charge.request_id for charge in charges), "a charge whose request nobody knows"
    ledger = world.ledger
    charged = sum(attempt.charged for attempt in ledger.attempts.values()) + sum(ledger.corrected.values())
    assert total == charged, f"the ledger of bills holds {total}, charged was {charged}"
