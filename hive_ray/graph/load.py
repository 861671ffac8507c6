"""Graph files and mappings -> ``GraphSpec``: size, syntax, duplicate keys, aliases, literal secrets.

Syntax errors name line and column. ``body`` and ``subgraph`` may be paths, relative to the file they
stand in; they are read in place, so that a loaded graph is complete.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from hive_ray.errors import Fault, GraphError
from hive_ray.graph.hive_format import SUBGRAPH_DEPTH_LIMIT, graph_from
from hive_ray.graph.json_bounds import DEPTH_LIMIT, not_json
from hive_ray.graph.secrets import literal_secrets
from hive_ray.graph.spec import GraphSpec

Json = Any

SIZE_LIMIT_BYTES = 4 * 1024 * 1024
ALIASES_LIMIT = 100
"""YAML aliases in one file."""

NODES_LIMIT = 200_000
"""YAML nodes in one file, those behind aliases counted each time."""

FAULTS_LIMIT = 1000
"""Faults that one refusal lists."""


def load_graph(path: str | Path) -> GraphSpec:
    """Read a graph from a YAML or JSON file.

    Raises:
        GraphError: everything wrong with its form; unreadable files too.
    """
    file = Path(path)
    return parse_graph(read_graph(file), file.stem, subject=str(file))


def read_graph(file: Path) -> dict[str, Json]:
    """The content of a graph's file, with the files that it names in their places.

    Raises:
        GraphError: a file cannot be read, or is no YAML or JSON object.
    """
    data = _read(file)
    if not isinstance(data, dict):
        raise GraphError(str(file), [Fault(str(file), "is not an object", "a graph has 'nodes' and 'edges'")])
    return _with_files(cast("dict[str, Json]", data), file, (file.resolve(),))


def parse_graph(data: Mapping[str, Json], fallback_id: str = "graph", *, subject: str = "") -> GraphSpec:
    """Bring the content of a graph file to its canonical form.

    Raises:
        GraphError: everything wrong with its form.
    """
    name = subject or fallback_id
    malformed = list(itertools.islice(not_json(data), FAULTS_LIMIT))
    if malformed:
        raise GraphError(name, malformed)
    secrets = list(literal_secrets(data))
    try:
        spec = graph_from(data, fallback_id)
    except GraphError as error:
        raise GraphError(name, [*secrets, *error.faults][:FAULTS_LIMIT]) from error
    if secrets:
        raise GraphError(name, secrets[:FAULTS_LIMIT])
    return spec


def _read(file: Path) -> Json:
    try:
        if file.stat().st_size > SIZE_LIMIT_BYTES:
            raise GraphError(
                str(file), [Fault(str(file), f"larger than {SIZE_LIMIT_BYTES} bytes", "split it")]
            )
        text = file.read_bytes().decode()
    except OSError as error:
        raise GraphError(
            str(file), [Fault(str(file), f"cannot be read: {error.strerror}", "name a file")]
        ) from error
    except UnicodeDecodeError as error:
        fault = Fault(f"{file}: byte {error.start}", "is not UTF-8", "save the file as UTF-8")
        raise GraphError(str(file), [fault]) from error
    return _decode(text, file)


def _decode(text: str, file: Path) -> Json:
    try:
        if file.suffix.lower() in (".yaml", ".yml"):
            return _yaml(text)
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _syntax_error(file, error.lineno, error.colno, error.msg) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise _syntax_error(file, line, column, error.problem or "not YAML") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _syntax_error(file, 1, 1, str(error).splitlines()[0]) from error


def _syntax_error(file: Path, line: int, column: int, problem: str) -> GraphError:
    language = "YAML" if file.suffix.lower() in (".yaml", ".yml") else "JSON"
    return GraphError(str(file), [Fault(f"{file}:{line}:{column}", problem, f"mend the {language} there")])


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key '{twice}' stands twice in one object")
    return result


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


class _Loader(yaml.SafeLoader):
    """Safe types only, bounded aliases, no duplicate keys, dates left as text."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > ALIASES_LIMIT:
                raise ComposerError(None, None, "too many aliases", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Json]:
        seen: set[Json] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key in seen:
                problem = f"the key '{key}' stands twice in one object" if key else "a key that is not text"
                raise ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _yaml(text: str) -> Json:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, NODES_LIMIT, DEPTH_LIMIT)
        return _textual(loader.construct_document(node))
    finally:
        loader.dispose()


def _count(node: yaml.Node, left: int, depth: int) -> int:
    """Nodes still allowed after this one, those behind aliases counted each time."""
    left -= 1
    if left < 0 or depth < 0:
        raise ComposerError(None, None, "too large or too deep", node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            left = _count(item, left, depth - 1)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            left = _count(value, _count(key, left, depth - 1), depth - 1)
    return left


def _textual(value: Json) -> Json:
    """Keys as text: YAML reads ``on:`` as a boolean and ``1:`` as a number."""
    if isinstance(value, dict):
        items = cast("dict[Any, Json]", value).items()
        return {_key(key): _textual(item) for key, item in items}
    if isinstance(value, list):
        return [_textual(item) for item in cast("list[Json]", value)]
    return value


def _key(key: Json) -> str:
    return key if isinstance(key, str) else json.dumps(key, default=str)


def _with_files(data: dict[str, Json], file: Path, trail: tuple[Path, ...]) -> dict[str, Json]:
    """The same data with every ``body`` and ``subgraph`` path replaced by that file's content."""
    inner = data.get("graph", data)
    nodes = cast("dict[str, Json]", inner).get("nodes") if isinstance(inner, dict) else None
    if not isinstance(nodes, list):
        return data
    loaded = [_node_with_files(node, file, trail) for node in cast("list[Json]", nodes)]
    graph = cast("dict[str, Json]", inner) | {"nodes": loaded}
    return data | {"graph": graph} if inner is not data else graph


def _node_with_files(node: Json, file: Path, trail: tuple[Path, ...]) -> Json:
    if not isinstance(node, dict):
        return node
    result = dict(cast("dict[str, Json]", node))
    for key in ("body", "subgraph"):
        value = result.get(key)
        if isinstance(value, str):
            result[key] = _included(value, file, f"nodes.{result.get('id', '?')}.{key}", trail)
        elif isinstance(value, dict):
            result[key] = _with_files(cast("dict[str, Json]", value), file, trail)
    return result


def _included(path: str, file: Path, place: str, trail: tuple[Path, ...]) -> Json:
    target = file.parent / path
    resolved = target.resolve()
    if resolved in trail:
        raise GraphError(
            str(file), [Fault(place, f"'{path}' contains itself", "break the cycle of subgraphs")]
        )
    if len(trail) > SUBGRAPH_DEPTH_LIMIT:
        problem = f"nested deeper than {SUBGRAPH_DEPTH_LIMIT} graphs"
        raise GraphError(str(file), [Fault(place, problem, "flatten the graph")])
    data = _read(target)
    if not isinstance(data, dict):
        raise GraphError(str(target), [Fault(place, f"'{path}' is not a graph", "name a graph's file")])
    return _with_files(cast("dict[str, Json]", data), target, (*trail, resolved))
