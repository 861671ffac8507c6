"""Graphs in Python: one call a node, one call an edge, the same checks as for a file.

    graph = (
        Graph("greeting")
        .function("greet", greet, inputs=["name"], outputs=["greeting"])
        .human("check", reason="Is this polite?", inputs=["greeting"], outputs=["approved"])
        .edge("greet", "check")
    )

Each method takes further fields of ``NodeSpec`` or ``EdgeSpec`` by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hive_ray.graph.load import parse_graph
from hive_ray.graph.spec import GraphSpec

Json = Any
Work = str | Callable[..., Any]


class Graph:
    """A graph being written; ``spec()`` checks its form and gives it away."""

    def __init__(self, name: str, **fields: Json) -> None:
        self._fields: dict[str, Json] = {"id": name, "name": name} | fields
        self._nodes: list[dict[str, Json]] = []
        self._edges: list[dict[str, Json]] = []
        self._terminal: list[str] = []

    def node(
        self, id: str, node_type: str, inputs: Iterable[str] = (), outputs: Iterable[str] = (), **fields: Json
    ) -> Graph:
        """Add a node of any type."""
        keys = {"input_keys": list(inputs), "output_keys": list(outputs)}
        self._nodes.append({"id": id, "node_type": node_type} | keys | fields)
        return self

    def function(self, id: str, work: Work, **fields: Json) -> Graph:
        """A node that runs a registered function, given itself or by name."""
        return self.node(id, "function", function=_name(work), **fields)

    def tool(self, id: str, work: Work, **fields: Json) -> Graph:
        """A node that calls one tool with its inputs."""
        return self.node(id, "tool", tool=_name(work), **fields)

    def llm(self, id: str, prompt: str = "", tools: Iterable[Work] = (), **fields: Json) -> Graph:
        """One LLM answer; with tools, as many calls as it needs."""
        names = [_name(tool) for tool in tools]
        node_type = "llm_tool_use" if names else "llm_generate"
        return self.node(id, node_type, prompt=prompt, tools=names, **fields)

    def event_loop(
        self, id: str, system_prompt: str = "", tools: Iterable[Work] = (), **fields: Json
    ) -> Graph:
        """An agent that works in turns until its outputs are set."""
        names = [_name(tool) for tool in tools]
        return self.node(id, "event_loop", system_prompt=system_prompt, tools=names, **fields)

    def router(
        self, id: str, routes: Mapping[str, str] | None = None, function: Work | None = None, **fields: Json
    ) -> Graph:
        """A choice among routes (key -> node), by a model or by a function that returns the key."""
        if function is not None:
            fields["function"] = _name(function)
        return self.node(id, "router", routes=dict(routes or {}), **fields)

    def human(self, id: str, reason: str = "", form: Json = None, **fields: Json) -> Graph:
        """A person's answer; ``deadline_s`` and ``owner`` say until when and whose."""
        approval = {key: fields.pop(key) for key in ("deadline_s", "owner") if key in fields}
        return self.node(id, "human_input", approval={"reason": reason, "form": form} | approval, **fields)

    def map(self, id: str, over: str, body: Graph | Mapping[str, Json], **fields: Json) -> Graph:
        """Run ``body`` (a graph or a single node) once for each item of a list in memory."""
        return self.node(id, "map", map_over=over, body=_content(body), **fields)

    def subgraph(self, id: str, graph: Graph | Mapping[str, Json], **fields: Json) -> Graph:
        """Run another graph as one node."""
        return self.node(id, "subgraph", subgraph=_content(graph), **fields)

    def edge(
        self, source: str, target: str, on: str = "on_success", when: str | None = None, **fields: Json
    ) -> Graph:
        """Lead from one node to another; ``when`` is a condition on memory."""
        self._edges.append(
            {"source": source, "target": target, "condition": on, "condition_expr": when} | fields
        )
        return self

    def entry(self, id: str) -> Graph:
        """The first node; needed only where several have no incoming edge."""
        self._fields["entry_node"] = id
        return self

    def terminal(self, *ids: str) -> Graph:
        """Nodes that end the run; by default all without an outgoing edge."""
        self._terminal.extend(ids)
        return self

    def content(self) -> dict[str, Json]:
        """The graph as a file would hold it."""
        terminal = {"terminal_nodes": list(self._terminal)} if self._terminal else {}
        return self._fields | terminal | {"nodes": list(self._nodes), "edges": list(self._edges)}

    def spec(self) -> GraphSpec:
        """The graph in canonical form.

        Raises:
            GraphError: everything wrong with its form.
        """
        return parse_graph(self.content(), str(self._fields["id"]))

    def __repr__(self) -> str:
        return f"Graph({self._fields['id']!r}, {len(self._nodes)} nodes, {len(self._edges)} edges)"


def _name(work: Work) -> str:
    return work if isinstance(work, str) else getattr(work, "__name__", type(work).__name__)


def _content(body: Graph | Mapping[str, Json]) -> Mapping[str, Json]:
    return body.content() if isinstance(body, Graph) else body
