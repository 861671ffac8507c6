"""What lint and the compiler have to say about a graph: errors refuse it, warnings do not."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from hive_ray.errors import Fault


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault, and whether the graph can be accepted with it."""

    severity: Severity
    fault: Fault

    def __str__(self) -> str:
        return f"{self.severity}: {self.fault}"


@dataclass(slots=True)
class Findings:
    """Collects findings below one place (``nodes.each.body.`` inside of a nested graph)."""

    place: str = ""
    all: list[Finding] = field(default_factory=list[Finding])

    def error(self, place: str, problem: str, remedy: str = "") -> None:
        self.all.append(Finding(Severity.ERROR, Fault(self.place + place, problem, remedy)))

    def warn(self, place: str, problem: str, remedy: str = "") -> None:
        self.all.append(Finding(Severity.WARNING, Fault(self.place + place, problem, remedy)))

    def below(self, place: str) -> Findings:
        """A collector for a nested graph; what it finds is found here too."""
        return Findings(f"{self.place}{place}.", self.all)

    def faults(self) -> list[Fault]:
        """The errors only."""
        return [finding.fault for finding in self.all if finding.severity is Severity.ERROR]
