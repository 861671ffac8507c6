"""A process that can be killed between any two of its actions, or stopped and continued."""

from __future__ import annotations

from collections.abc import Callable


class Killed(BaseException):
    """The process ended here. Not an ``Exception``: no handler of the process may run any more."""


class SimulatedProcess:
    """The life of one process: code that belongs to it runs through ``run``.

    Attributes:
        fuse: actions until it is killed; 0: it is not. See ``boundary``.
    """

    def __init__(self, name: str, on_death: Callable[[], None] | None = None) -> None:
        self.name = name
        self.alive = True
        self.stopped = False
        self.fuse = 0
        self._on_death = on_death
        self._backlog: list[Callable[[], None]] = []

    def run(self, work: Callable[[], None]) -> None:
        """Run something of this process: now, when it continues, or never."""
        if self.stopped:
            self._backlog.append(work)
        elif self.alive:
            try:
                work()
            except Killed:
                if self.alive:
                    raise  # it is the end of another process, in whose action this one happens

    def boundary(self) -> None:
        """Stand between two actions: here the process may end.

        Raises:
            Killed: it does, or did while others ran.
        """
        if self.fuse:
            self.fuse -= 1
            if not self.fuse:
                self.kill()
        if not self.alive:
            raise Killed(self.name)

    def kill(self) -> None:
        """SIGKILL. Whoever calls this from within the process raises ``Killed`` by ``boundary``."""
        if self.alive:
            self.alive = False
            self.stopped = False
            self._backlog = []
            if self._on_death is not None:
                self._on_death()

    def stop(self) -> None:
        """SIGSTOP: what comes meanwhile waits."""
        self.stopped = self.alive

    def go_on(self) -> None:
        """SIGCONT."""
        self.stopped = False
        backlog, self._backlog = self._backlog, []
        for work in backlog:
            self.run(work)
