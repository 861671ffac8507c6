"""The end of a map: what its items wrote becomes one list for each output key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hive_ray.graph.compiled import NodePlan

FAILED = "!"
"""Stands in place of a failed item's outputs (``core.children.FAILED``)."""


def collect(node: NodePlan, inputs: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The map's outputs, items in their order; an item that wrote nothing is left out.

    One output key takes whole items (the bare value where items write one key only); with several
    output keys each takes its own key of every item, ``None`` where an item has none.

    Args:
        inputs: ``"3.summary"`` is what item 3 wrote under ``summary``, ``"3.!"`` its failure.
    """
    items: dict[int, dict[str, Any]] = {}
    for name, value in inputs.items():
        number, _, key = name.partition(".")
        items.setdefault(int(number), {})[key] = value
    ordered = [items[number] for number in sorted(items)]
    if len(node.output_keys) > 1:
        return {key: [item.get(FAILED, item.get(key)) for item in ordered] for key in node.output_keys}
    written = {key for item in ordered for key in item if key != FAILED}
    bare = next(iter(written)) if len(written) == 1 else ""
    whole = [item.get(FAILED, item.get(bare) if bare else item) for item in ordered]
    return dict.fromkeys(node.output_keys, whole)
