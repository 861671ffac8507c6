"""Whose step is next in a pool: the line's, but for the last slots, which wait for teams that have few."""

from __future__ import annotations

from hive_ray.core.queues import Queue, Taken


class Turns:
    """The order for one answer to a worker.

    Args:
        counts: attempts under way in the pool, by team.
        slots: of the whole pool.
        spare: so many of them no team fills that has its share already.
    """

    def __init__(
        self, queue: Queue, counts: dict[str, int] | None = None, slots: int = 0, spare: int = 0
    ) -> None:
        self._queue = queue
        self._counts = counts if counts is not None else {}
        self._spare = spare
        self._slots = slots
        self._free = slots - sum(self._counts.values())

    def take(self) -> Taken | None:
        """The next step that may start; None if there is none for now."""
        if not self._spare or self._free > self._spare:
            return self._queue.take()
        ready = self._queue.teams()
        # A team's share is that of all that have something here, and one more that may come.
        share = self._slots // (len(ready | self._counts.keys()) + 1)
        few = {team for team in ready if self._counts.get(team, 0) < min(share, self._slots - self._spare)}
        return self._queue.take_of(few) if few else None

    def note(self, team: str) -> None:
        """A step of a team started."""
        if self._spare:
            self._counts[team] = self._counts.get(team, 0) + 1
            self._free -= 1
