"""Making a copied state one's own."""

from __future__ import annotations

from hive_ray.errors import Conflict
from hive_ray.state import backup, lineage
from hive_ray.state.journal import Journal, heartbeat_name
from hive_ray.state.lineage import Identity, Lineage
from hive_ray.state.store import Store

PARTITION = 0


def check_adoption(store: Store, environment: str, now_us: int) -> Identity | None:
    """Whether a state can be adopted here; returns the identity that it has now.

    Raises:
        Conflict: there is nothing to adopt, somebody works on it, or it is a backup that is incomplete.
    """
    head = backup.read_head(store)
    if head is not None and not head.finished_us:
        raise Conflict(f"{store.url} is a backup that did not come to its end: back up again")
    found = lineage.standing(store)
    if found is None:
        if not store.list("journal/"):
            raise Conflict(f"{store.url} is empty, there is nothing to adopt: `hive-ray up` makes a state")
        return None
    identity = found.lineage.identity
    if not found.read_only:
        if identity.environment == environment:
            raise Conflict(f"{store.url} is yours already (environment {environment}): start it")
        _refuse_living_owner(store, now_us)
    return identity


def adopt_state(store: Store, environment: str, now_us: int) -> Lineage:
    """Give the state an identity of its own here.

    The signs of life that were copied with it are the original's owner's, and go; the journal's epochs go on.
    """
    check_adoption(store, environment, now_us)
    store.delete(heartbeat_name(PARTITION), backup.HEAD)
    return lineage.adopt(store, environment, now_us)


def _refuse_living_owner(store: Store, now_us: int) -> None:
    owner = Journal(store, PARTITION).read_owner()
    if owner is not None and not owner.may_be_replaced(now_us):
        raise Conflict(
            f"process {owner.owner.pid} on {owner.owner.host} works on {store.url}: end it, then adopt"
        )
