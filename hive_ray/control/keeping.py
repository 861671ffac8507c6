"""The history is kept beside the work: compacted behind snapshots, joined, and shortened by age.

An effect of what is durable: a snapshot that was written lets segments become history, a manifest that was
written lets them go. One piece of work is under way at a time, each bounded; whatever a crash leaves half
done is begun again, or is garbage that the next incarnation removes.

A piece takes a thread of the controller's process for up to a second. Beside a busy controller that is too
much, so a process of its own compacts meanwhile (``control.historian``); where there is none, the history
waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hive_ray.control.io import Broke, Done, Io
from hive_ray.control.tidying import Tidier
from hive_ray.state import compaction
from hive_ray.state.compaction import Stamp
from hive_ray.state.history import HistoryManifest, newest_manifest
from hive_ray.state.pieces import Piece, Pieces
from hive_ray.state.retention import ALL, Referred, Retention, is_due, left_behind, remove_blobs, retain
from hive_ray.state.run_items import RUN
from hive_ray.state.snapshots import items_shown
from hive_ray.state.store import Store

if TYPE_CHECKING:
    from hive_ray.control.shell import Shell

log = logging.getLogger(__name__)

LEVEL = 2
"""From this feature level on: releases of before read events from segments only."""

GRACE_US = 15 * 60 * 1_000_000
"""How long files stay that no manifest names any more: a query may take as long."""
RETAIN_EVERY_US = 3600 * 1_000_000
UNREPORTED_US = 24 * 3600 * 1_000_000
"""So long a value of long-term memory may lie in the store before it is reported, by whomever."""
PAUSE_US = 1_000_000
"""Between a failure and the next try."""
REST = 3
"""Work is followed by a rest of so many times its length: it shares the interpreter with the event loop."""
BUSY_EVENTS_PER_S = 5_000
"""While more is decided the history gives way: it can wait, people cannot."""
APART_EVENTS_PER_S = 300
"""While more is decided a process of its own compacts, if there can be one: a thread makes the event loop
wait for the interpreter, some milliseconds at a time."""
SAMPLE_US = 1_000_000
BUSY_REST_US = 30_000_000
"""From one piece of work to the next under load."""
MOST_BEHIND = 20_000
"""So many segments may wait for their turn; beyond, the history no longer gives way."""
KEEP_US = 60_000_000
"""How long the process that compacts is kept after its last piece."""
HERE_AGAIN_US = 60_000_000
"""How long the history does without that process after it broke."""


class Apart(Protocol):
    """A process that compacts; ``control.historian.Historian`` is the real one. Both calls block."""

    def compact(self, piece: Piece) -> HistoryManifest:
        """As ``Pieces.compact``."""
        ...

    def dismiss(self) -> None:
        """End it, if it runs."""
        ...


class _Kept(NamedTuple):
    """What is known here, whatever the history says."""

    runs: set[str]
    memory: Referred


class _Sample(NamedTuple):
    """How far the journal was at a time."""

    mono_us: int
    seq: int


class Keeper:
    """Keeps the history of one partition.

    Args:
        manifest: the newest one.
        apart: compacts beside a busy controller; without it the history gives way to one.
    """

    def __init__(
        self,
        store: Store,
        pieces: Pieces,
        retention: Retention,
        manifest: HistoryManifest,
        apart: Apart | None = None,
    ) -> None:
        self._store = store
        self._pieces = pieces
        self._apart = apart
        self._apart_again_us = 0
        self._dismiss_us = 0
        """When the process that compacts ends; 0: there is none."""
        self._retention = retention
        self.manifest = manifest
        self._tidier = Tidier(store)
        self._busy = False
        self._again_us = 0
        self._retain_again_us = 0
        self._attempt = 0
        self._behind = True
        """Segments may lie behind both kept snapshots."""
        self._cleaned = False
        """What earlier incarnations left behind is gone."""
        self._begun_us = 0
        self._sample = _Sample(0, 0)
        self._is_loaded = self._has_company = False
        self._broke = False
        """The last piece of work broke: its manifest may stand all the same, and its segments be gone."""

    def may_have_dropped(self, run: str, team: str, now_us: int) -> bool:
        """See ``Retention``."""
        return self._retention.may_have_dropped(run, team, now_us)

    def snapshot_taken(self) -> None:
        """There is a new snapshot: more may be compacted."""
        self._behind = True

    def advance(self, shell: Shell) -> None:
        """Called every tick: begin the next piece of work, if one is due."""
        self._tidier.advance(shell)
        gives_way = self._gives_way(shell)
        if self._busy or gives_way or shell.mono_us < self._again_us:
            return
        if shell.engine.fleet.feature_level < LEVEL:
            return
        if self._behind:
            self._behind = False
            self._compact(shell)
        elif self._dismiss_us and shell.mono_us >= self._dismiss_us:
            self._dismiss(shell)
        elif shell.mono_us >= self._retain_again_us:
            live = shell.live_run_ids()
            kept = self._kept(shell, live)
            self._retain_again_us = shell.mono_us + RETAIN_EVERY_US
            self._do(shell, "shorten the history", lambda stamp: self._retain(live, kept, stamp))

    def _kept(self, shell: Shell, live: list[str]) -> _Kept:
        """Whose blobs must stay, whatever retention says; asked for only where some may go."""
        engine = shell.engine
        if not is_due(self.manifest, shell.wall_us - GRACE_US):
            return _Kept(set(), ALL)
        # Whoever may still report a value began it in a run that lives.
        begun = (engine.runs.get(run) or engine.parked[run] for run in live)
        since_us = min([shell.wall_us - UNREPORTED_US, *(run.submitted_us for run in begun)])
        referred = Referred(frozenset(engine.keeping.shelves.blobs()), since_us)
        return _Kept({*engine.runs, *engine.parked}, referred)

    def _do(
        self, shell: Shell, what: str, work: Callable[[Stamp], HistoryManifest], apart: bool = False
    ) -> None:
        self._busy = True
        self._attempt += 1
        stamp = Stamp(shell.engine.fleet.epoch, self._attempt, shell.wall_us)
        self._begun_us = shell.mono_us
        shell.do(Io(what, partial(work, stamp), partial(self._ended, shell, what, apart)))

    def _ended(self, shell: Shell, what: str, apart: bool, ended: Done | Broke) -> None:
        self._busy = False
        self._broke = isinstance(ended, Broke)
        self._again_us = shell.mono_us + (0 if apart else REST * (shell.mono_us - self._begun_us))
        match ended:
            case Done(manifest):
                # A snapshot that came meanwhile counts too.
                self._behind = self._behind or manifest.covered > self.manifest.covered
                self.manifest = manifest
                shell.history_grew(manifest)
            case Broke(error):
                log.warning("could not %s: %s", what, error)
                self._behind = True
                self._again_us = shell.mono_us + PAUSE_US
                if apart:
                    self._apart_again_us = shell.mono_us + HERE_AGAIN_US

    def _compact(self, shell: Shell) -> None:
        apart = self._elsewhere(shell)
        compact = self._pieces.compact if apart is None else apart.compact
        before, in_doubt, tidies = self.manifest, self._broke, not self._cleaned
        if apart is not None:
            self._dismiss_us = shell.mono_us + KEEP_US
        self._do(
            shell,
            "compact the journal",
            lambda stamp: compact(Piece(before, stamp, in_doubt, tidies)),
            apart is not None,
        )

    def _elsewhere(self, shell: Shell) -> Apart | None:
        """The process that compacts, beside other work or if it runs anyway; not if it broke just now."""
        wanted = self._has_company or shell.mono_us < self._dismiss_us
        return self._apart if wanted and shell.mono_us >= self._apart_again_us else None

    def _dismiss(self, shell: Shell) -> None:
        assert self._apart is not None
        self._busy = True
        self._dismiss_us = 0
        shell.do(Io("dismiss the historian", self._apart.dismiss, self._dismissed))

    def _dismissed(self, ended: Done | Broke) -> None:
        self._busy = False

    def _gives_way(self, shell: Shell) -> bool:
        """Whether more important work is under way, and the history can wait."""
        since_us = shell.mono_us - self._sample.mono_us
        if since_us >= SAMPLE_US:
            decided = shell.durable_seq - self._sample.seq
            self._is_loaded = decided * 1_000_000 > BUSY_EVENTS_PER_S * since_us
            self._has_company = decided * 1_000_000 > APART_EVENTS_PER_S * since_us
            self._sample = _Sample(shell.mono_us, shell.durable_seq)
        if not self._is_loaded or self._elsewhere(shell) is not None:
            return False
        if shell.mono_us >= self._begun_us + BUSY_REST_US:
            return False
        return shell.journal.number - self.manifest.covered <= MOST_BEHIND

    # --- on a thread -----------------------------------------------------------------------------

    def _newest(self) -> HistoryManifest:
        if not self._broke:
            return self.manifest
        return newest_manifest(self._store, self.manifest.partition, self.manifest)

    def _retain(self, live: list[str], kept: _Kept, stamp: Stamp) -> HistoryManifest:
        manifest = self._newest()
        if not self._cleaned:
            compaction.remove_strays(self._store, manifest)
            self._cleaned = True
        if manifest.number == self.manifest.number:
            # Which runs are known was asked for this manifest; for another, next time.
            manifest = self._remove_dropped(manifest, kept, stamp.now_us - GRACE_US)
        return retain(self._store, manifest, self._retention, live, stamp.epoch, stamp.now_us)

    def _remove_dropped(self, manifest: HistoryManifest, kept: _Kept, before_us: int) -> HistoryManifest:
        """Files that were dropped long enough ago, and the blobs of their runs.

        Not as long as a kept snapshot shows one of these runs: whoever recovers from it knows the run again.
        """
        gone = left_behind(self._store, manifest, before_us, kept.runs)
        if gone and not items_shown(self._store, manifest.partition).isdisjoint(RUN + run for run in gone):
            return manifest
        remove_blobs(self._store, gone, kept.memory)
        return compaction.remove_dropped(self._store, manifest, before_us)
