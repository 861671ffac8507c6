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
