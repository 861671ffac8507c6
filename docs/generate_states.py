"""Writes ``docs/states.md`` from the table of transitions: ``python -m docs.generate_states``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hive_ray.core.transitions import ENDED, MACHINES, NEW, Machine

PAGE = Path(__file__).with_name("states.md")

INTRODUCTION = """# States

Made by `python -m docs.generate_states` from `hive_ray/core/transitions.py`; do not edit it by hand. The
tests check every run, step and approval of every history against this table.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(line for machine in MACHINES for line in _section(machine))])


def _section(machine: Machine) -> Iterator[str]:
    yield f"## {machine.name.capitalize()}\n"
    yield "```mermaid\nstateDiagram-v2"
    yield from _arrows(machine)
    yield "```\n"
    yield "| state | meaning |\n|---|---|"
    for state, meaning in machine.glossary.items():
        yield f"| {state} | {meaning} |"
    yield "\n| in | event | leads to |\n|---|---|---|"
    for state, event, to in machine.transitions:
        yield f"| {state} | `{event.__name__}` | {' or '.join(to)} |"
    yield ""


def _arrows(machine: Machine) -> Iterator[str]:
    """One arrow for each pair of states, with all events that make it."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for state, event, to in machine.transitions:
        for target in to:
            arrows.setdefault((_place(state), _place(target)), []).append(event.__name__)
    for (source, target), events in arrows.items():
        yield f"    {source} --> {target}: {', '.join(dict.fromkeys(events))}"


def _place(state: str) -> str:
    return "[*]" if state in (NEW, ENDED) else state


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
