"""The rows of parked runs: packed, and found again by what they have in common."""

from __future__ import annotations

from hive_ray.core.parked import Kind, Parked, ParkedRuns
from hive_ray.core.run import RunStatus


def row(reason: str = "", team: str = "team", **fields: int | str) -> Parked:
    kind = Kind(RunStatus.WAITING, reason, team, "agent", "hash", "graph")
    return Parked(kind, 7, 1_000, **fields)  # pyright: ignore[reportArgumentType]


def test_rows_come_back_as_they_went_in():
    """Whatever of them is set."""
    runs = ParkedRuns()
    rows = {"a": row(), "b": row("why", spent_nanousd=5), "c": row(team="other", idempotency_key="key")}
    runs.update(rows)

    assert dict(runs) == rows
    runs["a"] = row("changed")
    assert runs["a"].kind.reason == "changed" and len(runs) == 3


def test_rows_are_found_newest_first_by_kind():
    """Those before an id only."""
    runs = ParkedRuns()
    runs.update({name: row(team="one" if name in "ace" else "two") for name in "edcba"})

    def names(before: str = "", team: str = "one") -> list[str]:
        return list(runs.newest_first(before, lambda kind: kind.team == team))

    assert names() == ["e", "c", "a"]
    assert names(before="c") == ["a"] and names(before="d") == ["c", "a"] and names(team="none") == []
    del runs["c"]
    assert names() == ["e", "a"]
    assert sorted(runs.ids_of(lambda kind: kind.team == "two")) == ["b", "d"]


def test_a_reason_is_forgotten_with_the_last_run_that_has_it():
    """Reasons are often a run's own: of runs that left, nothing may stay."""
    runs = ParkedRuns()
    runs["stays"] = row("stays")
    for number in range(100):
        runs["goes"] = row(f"reason {number}")
        del runs["goes"]
    seen: list[str] = []

    assert list(runs.ids_of(lambda kind: seen.append(kind.reason) or True)) == ["stays"]
    assert seen == ["stays"]
