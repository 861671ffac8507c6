"""Which nodes lead to which, as bitmasks over node indices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def reached_from(count: int, arcs: Iterable[tuple[int, int]]) -> list[int]:
    """For each node, the mask of the nodes from which it is reached over one arc or more."""
    successors: list[set[int]] = [set() for _ in range(count)]
    for source, target in arcs:
        successors[source].add(target)
    masks = [0] * count
    pending = set(range(count))
    while pending:
        source = pending.pop()
        gain = masks[source] | (1 << source)
        for target in successors[source]:
            if masks[target] | gain != masks[target]:
                masks[target] |= gain
                pending.add(target)
    return masks


def back_arcs(count: int, arcs: Sequence[tuple[int, int]], start: int) -> set[tuple[int, int]]:
    """The arcs that close a cycle in a depth-first walk from ``start``, in the order of the arcs."""
    successors: list[list[int]] = [[] for _ in range(count)]
    for source, target in arcs:
        successors[source].append(target)
    found: set[tuple[int, int]] = set()
    done: set[int] = set()
    for root in (start, *range(count)):
        _walk_back(root, successors, done, found)
    return found


def _walk_back(
    root: int, successors: Sequence[Sequence[int]], done: set[int], found: set[tuple[int, int]]
) -> None:
    path: dict[int, Iterator[int]] = {} if root in done else {root: iter(successors[root])}
    while path:
        node, left = next(reversed(path.items()))
        target = next(left, None)
        if target is None:
            done.add(node)
            del path[node]
        elif target in path:
            found.add((node, target))
        elif target not in done:
            path[target] = iter(successors[target])


def reachable(masks: Sequence[int], start: int) -> int:
    """Mask of ``start`` and of everything that it leads to."""
    found = 1 << start
    for node, mask in enumerate(masks):
        if mask >> start & 1:
            found |= 1 << node
    return found


def members(mask: int) -> Iterator[int]:
    """Indices of the bits that are set, ascending."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def cycles(masks: Sequence[int]) -> Iterator[int]:
    """Mask of each maximal set of nodes that all lead to each other."""
    seen = 0
    for node, mask in enumerate(masks):
        if mask >> node & 1 and not seen >> node & 1:
            group = sum(1 << other for other in members(mask) if masks[other] >> node & 1)
            seen |= group
            yield group
