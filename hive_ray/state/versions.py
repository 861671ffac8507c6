"""Objects that are replaced without ever being overwritten: ``folder/000001``, ``folder/000002``, …

The newest version counts. Writing the next one is create-if-absent, so of two writers one learns that it
was late. Older versions are emptied, oldest first, and keep their names: a writer that slept through all of
it finds the next number taken, and can bring nothing back.
"""

from __future__ import annotations

from typing import NamedTuple

from hive_ray.errors import AlreadyExists, ObjectMissing, StoreError
from hive_ray.state.store import Store

_READ_TRIES = 10


class Version(NamedTuple):
    """One version of an object."""

    number: int
    data: bytes


def newest(store: Store, folder: str) -> Version | None:
    """Read the newest version; None if there is none.

    Raises:
        StoreError: the store failed, or the object was replaced faster than it could be read.
    """
    for _ in range(_READ_TRIES):
        numbers = version_numbers(store, folder)
        if not numbers:
            return None
        try:
            data = store.get(version_name(folder, numbers[-1]))
        except ObjectMissing:
            continue
        # Empty: it was replaced between the listing and the reading.
        if data:
            return Version(numbers[-1], data)
    raise StoreError(f"{store.url}/{folder} is replaced faster than it can be read")


def replace(store: Store, folder: str, number: int, data: bytes) -> bool:
    """Create version ``number``; whether it is ours. The older ones stay until ``empty_older``.

    Args:
        data: unlike what anybody else could write, since it tells whose version it is.
    """
    name = version_name(folder, number)
    try:
        store.create(name, data)
    except AlreadyExists:
        return store.get(name) == data
    return True


def empty_older(store: Store, folder: str) -> None:
    """Empty all versions but the newest, also those that a crash left behind.

    Oldest first, so that what is not empty yet always stands at the end.
    """
    numbers = version_numbers(store, folder)[:-1]
    full: list[str] = []
    for number in reversed(numbers):
        name = version_name(folder, number)
        if not store.get(name):
            break
        full.append(name)
    for name in reversed(full):
        store.put(name, b"")


def version_name(folder: str, number: int) -> str:
    return f"{folder}{number:06d}"


def version_numbers(store: Store, folder: str) -> list[int]:
    """Numbers of all versions, the emptied ones too, ascending."""
    return [int(name.rpartition("/")[2]) for name in store.list(folder)]
