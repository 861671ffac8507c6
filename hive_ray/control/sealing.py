"""What snapshots have to do with keys: their items are sealed, and they make keys needless.

A key may go once a snapshot shows its run as it is without it, so that recovery never needs it. The
snapshot itself says which keys these are: whoever recovers from it erases them, if that was not done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from hive_ray.core import sealing
from hive_ray.core.run import Run
from hive_ray.state.blobs import Blobs
from hive_ray.state.content import ContentCodec
from hive_ray.state.keyring import Keyring
from hive_ray.state.snapshot_items import Doomed

if TYPE_CHECKING:
    from hive_ray.control.shell import Shell

PAUSE_US = 5_000_000
"""Between two tries to erase."""


class Sealing:
    """Keys on their way out.

    Args:
        keyring: None where nothing is sealed.
        undone: what the newest snapshot made needless, and perhaps is there still.
        descendants: a run's children that only the history knows: their blobs go with its own.
    """

    def __init__(
        self,
        codec: ContentCodec,
        keyring: Keyring | None = None,
        blobs: Blobs | None = None,
        undone: Doomed | None = None,
        descendants: Callable[[str], Iterable[str]] = lambda _: (),
    ) -> None:
        self.codec = codec
        self.undone = undone or Doomed()
        self._keyring = keyring
        self._blobs = blobs
        self._descendants = descendants
        self._try_again_us = 0

    def is_due(self, shell: Shell) -> bool:
        """Whether a snapshot is wanted for the sake of keys that must go."""
        return shell.mono_us >= shell.erase_by_us

    def doomed(self, shell: Shell) -> Doomed:
        """What should have gone before; ``doom`` adds what goes once the snapshot that begins now stands."""
        shell.erase_by_us = NEVER_US
        return Doomed(list(self.undone.keys), list(self.undone.runs))

    def doom(self, shell: Shell, names: Iterable[str], doomed: Doomed) -> None:
        """Add what goes of these runs.

        Only families that have ended by now, and before the first item is taken: a member's may be taken at
        any moment from there on, and while it is live that item needs the key.
        """
        known = {*doomed.keys, *doomed.runs} if doomed else ()
        for name in names:
            run = shell.engine.runs.get(name)
            if run is not None:
                doomed.keys.extend(key for key in _keys(shell, run) if key not in known)
                if run.forgotten and run.id not in known:
                    doomed.runs.append(run.id)

    def again(self, shell: Shell) -> None:
        """The snapshot was not written: what it would have doomed still has to go."""
        shell.erase_by_us = min(shell.erase_by_us, shell.mono_us + PAUSE_US)

    def may_try(self, shell: Shell) -> bool:
        return shell.mono_us >= self._try_again_us

    def failed(self, shell: Shell) -> None:
        self._try_again_us = shell.mono_us + PAUSE_US

    def erase(self, doomed: Doomed) -> None:
        """Erase keys and blobs; harmless to repeat, and to leave half done."""
        if self._keyring is not None:
            self._keyring.erase(doomed.keys)
        if self._blobs is not None:
            for run in doomed.runs:
                for one in (run, *self._descendants(run)):
                    self._blobs.delete_of(one)


def _keys(shell: Shell, run: Run) -> list[bytes]:
    return sealing.keys_to_erase(run, shell.engine.graphs.get(run.graph))


NEVER_US = 1 << 62
"""No snapshot is due for the sake of keys."""
