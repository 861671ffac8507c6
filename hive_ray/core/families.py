"""In which order runs are shown, so that no child's cost is seen that its parent lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hive_ray.core.run import Run


def family_order(runs: Mapping[str, Run], names: Iterable[str]) -> list[str]:
    """Runs with all their ancestors, children first; the fleet (the empty name) last.

    The fleet's accounts then show whatever a run's item shows.
    """
    found: dict[str, int] = {}
    note_depths(runs, names, found)
    return deepest_first(found)


def note_depths(runs: Mapping[str, Run], names: Iterable[str], found: dict[str, int]) -> None:
    """Add some runs and their ancestors, each with its depth, to what was found so far."""
    for name in names:
        while name not in found:
            run = runs.get(name)
            if run is None or not run.parent:
                found[name] = 0
                break
            found[name] = run.depth
            name = run.parent


def deepest_first(found: Mapping[str, int]) -> list[str]:
    """``family_order`` of what ``note_depths`` found."""
    levels: dict[int, list[str]] = {}
    for name, depth in found.items():
        levels.setdefault(depth, []).append(name)
    order = [name for depth in sorted(levels, reverse=True) for name in levels[depth] if name]
    return [*order, ""] if "" in found else order
