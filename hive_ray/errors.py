"""Every exception that hive_ray raises on purpose.

    HiveError
    ├── UserError               the caller can mend it; CLI exit 2, HTTP 4xx
    │   ├── GraphError          a graph with faults; carries all of them
    │   ├── ConfigError         hive.yaml or an option; names the key
    │   ├── InputError          a run's input does not fit
    │   ├── SqlError            a query is refused, or is no SQL
    │   ├── Unauthenticated     nobody knows who asks: an API key is missing, wrong or has ended
    │   ├── Forbidden           who asks may not: names the scope that is missing
    │   ├── NotFound            no run, approval, agent or pool of that name
    │   ├── BudgetExceeded      no account can carry what was asked for
    │   ├── Conflict            the request contradicts what is already decided
    │   ├── Forgotten           the content that was asked for was given up
    │   └── KeysRefused         the configured keys do not open this state
    ├── Overloaded              a queue is full; retry after ``retry_after_s``
    ├── Unavailable             a part is not ready (controller recovering, store away)
    │   └── KeysUnavailable     whoever holds the key does not answer, or does not accept our token
    ├── StoreError              the object store failed
    │   ├── AlreadyExists       create-if-absent found an object
    │   ├── ObjectMissing       no object of that name
    │   ├── KeyErased           the content's key was erased on purpose; it cannot be read any more
    │   ├── StoreRefused        the store cannot hold a journal (start-up probe)
    │   ├── StateRefused        a copy, or another environment's state: not to be worked on here
    │   └── Corrupt             an object that cannot be read; names it
    │       └── TooNew          a newer release wrote it
    └── Fenced                  a newer controller owns the journal; this one must end

Outcomes that are expected in normal work (a failed step, an exhausted budget) are values, not
exceptions: see ``hive_ray.core.failures``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class HiveError(Exception):
    """Root of the tree."""


class UserError(HiveError):
    """Bad input: the message names the place and says what would be right."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong at one place.

    ``place`` is a path that a person can find: ``nodes.triage.tools``, ``edges.e3.condition_expr``,
    ``pools.llm.slots``. ``remedy`` says what would be right.
    """

    place: str
    problem: str
    remedy: str = ""

    def __str__(self) -> str:
        tail = f" ({self.remedy})" if self.remedy else ""
        return f"{self.place}: {self.problem}{tail}"


class FaultsError(UserError):
    """A ``UserError`` made of faults, all of them named at once."""

    def __init__(self, subject: str, faults: Sequence[Fault]) -> None:
        self.subject = subject
        self.faults = tuple(faults)
        lines = "\n".join(f"  {fault}" for fault in self.faults)
        super().__init__(f"{subject}: {len(self.faults)} fault(s)\n{lines}")

    def __reduce__(self) -> tuple[type[FaultsError], tuple[str, tuple[Fault, ...]]]:
        return type(self), (self.subject, self.faults)


class GraphError(FaultsError):
    """A graph is refused; ``faults`` lists everything wrong with it."""


class ConfigError(FaultsError):
    """Configuration is refused; each fault's place is the key."""


class InputError(FaultsError):
    """A run's input is refused."""


class SqlError(UserError):
    """A query is refused, or is no SQL."""


class Unauthenticated(UserError):
    """Nobody knows who asks."""


class Forbidden(UserError):
    """The caller is known, and may not."""


class NotFound(UserError):
    """Nothing of that name."""


class BudgetExceeded(UserError):
    """No account can carry what was asked for; names the account."""


class Conflict(UserError):
    """The request contradicts a decision that already stands."""


class Forgotten(UserError):
    """The content that was asked for was given up, and its key erased."""


class KeysRefused(UserError):
    """The configured keys do not open this state; nothing was written."""


class Overloaded(HiveError):
    """A bounded queue is full."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(HiveError):
    """A part of the system is not ready yet; the same request may be repeated."""


class KeysUnavailable(Unavailable):
    """Whoever holds the key does not answer, or does not accept our token; nothing was written."""


class StoreError(HiveError):
    """The object store failed; the operation may or may not have happened."""


class AlreadyExists(StoreError):
    """Create-if-absent found an object of that name."""


class ObjectMissing(StoreError):
    """No object of that name."""


class KeyErased(StoreError):
    """The key of a content was erased: the run ended, or was forgotten. It is gone for good."""


class StoreRefused(StoreError):
    """The store cannot carry a journal: create-if-absent or durability is missing."""


class StateRefused(StoreError):
    """The state is not this installation's to work on: a copy, or of another environment."""


class Corrupt(StoreError):
    """An object's content cannot be trusted; ``name`` tells which."""

    def __init__(
        self, name: str, why: str, remedy: str = "restore this object from a backup before starting again"
    ) -> None:
        super().__init__(f"{name}: {why}; {remedy}")
        self.name = name
        self.why = why
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[Corrupt], tuple[str, str, str]]:
        return type(self), (self.name, self.why, self.remedy)


class TooNew(Corrupt):
    """A newer release wrote it, in a form that this one does not know."""

    def __init__(
        self, name: str, why: str, remedy: str = "start the release that wrote it, or a newer one"
    ) -> None:
        super().__init__(name, why, remedy)


class Fenced(HiveError):
    """A newer incarnation owns the journal. This process must not act any more."""
