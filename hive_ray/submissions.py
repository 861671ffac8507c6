"""What a submission says, as it travels: the graph, its input, and its terms."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from hive_ray.errors import Fault, InputError
from hive_ray.graph.builder import Graph

Json = Any
GraphLike = Graph | Mapping[str, Any] | str | Path


def submission_body(  # noqa: PLR0913 - as of ``submit``
    graph: GraphLike | None = None,
    *,
    input: Mapping[str, Json] | None = None,
    agent: str | None = None,
    budget_usd: Decimal | str | float | None = None,
    deadline_s: float | None = None,
    idempotency_key: str = "",
    priority: str | None = None,
    callback_url: str = "",
) -> dict[str, Any]:
    """A submission as it travels; its key travels apart."""
    body: dict[str, Any] = {"input": checked_json(dict(input or {}))} | usd_body(budget_usd)
    if graph is not None:
        body["graph"] = graph_content(graph)
    if agent is not None:
        body["agent"] = agent
    if deadline_s is not None:
        body["deadline_s"] = deadline_s
    if priority is not None:
        body["priority"] = priority
    if callback_url:
        body["callback_url"] = callback_url
    return body


def usd_body(budget_usd: Decimal | str | float | None) -> dict[str, Any]:
    """A ceiling as it travels; nothing if there is none."""
    return {} if budget_usd is None else {"budget_usd": str(budget_usd)}


def key_of(submission: Mapping[str, Any]) -> str:
    """A key of its own makes it harmless to send the batch again."""
    return submission.get("idempotency_key") or uuid.uuid4().hex


def graph_content(graph: GraphLike) -> Mapping[str, Any]:
    """A graph as it travels.

    Raises:
        GraphError: a file that cannot be read, or a graph whose form is wrong.
    """
    if isinstance(graph, Graph):
        return graph.content()
    if isinstance(graph, Mapping):
        return graph
    from hive_ray.graph.load import read_graph

    return read_graph(Path(graph))


def checked_json(value: Json, place: str = "input") -> Json:
    """The same value if it is made of JSON types only.

    Raises:
        InputError: every place that is not, with its Python type.
    """
    faults = list(_not_json(value, place))
    if faults:
        raise InputError(place, faults)
    return value


def _not_json(value: Json, place: str) -> Iterator[Fault]:
    if value is None or isinstance(value, bool | int | str):
        return
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            yield Fault(place, f"is {value}, which JSON cannot say", "use a finite number or None")
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            if not isinstance(key, str):
                yield Fault(f"{place}.{key}", f"has a key of type {type(key).__name__}", "use text as key")
            yield from _not_json(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(cast("list[Any]", value)):
            yield from _not_json(item, f"{place}.{number}")
    else:
        yield Fault(
            place, f"is a {type(value).__name__}", "use text, numbers, booleans, None, lists and dicts"
        )
