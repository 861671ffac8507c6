"""Addresses of long-term memory in graphs: what they mean, and how faults are told."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from hive_ray.errors import GraphError
from hive_ray.graph.compiled import MemoryPlan, MemoryScope, encode_graph
from hive_ray.graph.compiler import LATER, CompileEnvironment, compile_graph
from hive_ray.graph.environment import FunctionInfo, ToolInfo
from hive_ray.graph.load import parse_graph
from hive_ray.graph.memory_keys import BadAddress, check_key, parse_address, parse_declaration

AGENT, TEAM, RUN = MemoryScope.AGENT, MemoryScope.TEAM, MemoryScope.RUN


def compiled(environment: CompileEnvironment | None = None, **node: Any) -> Any:
    fields = {"id": "n", "node_type": "function", "function": "f", "output_keys": ["x"]} | node
    spec = parse_graph({"id": "g", "nodes": [fields], "edges": []})
    return compile_graph(spec, environment or CompileEnvironment())


def faults(**node: Any) -> list[str]:
    with pytest.raises(GraphError) as refused:
        compiled(**node)
    return [str(fault) for fault in refused.value.faults]


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("agent:profile", MemoryPlan(AGENT, "profile", False, "profile")),
        ("who=team:people/ada@example.org", MemoryPlan(TEAM, "people/ada@example.org", False, "who")),
        ("team:faq/*", MemoryPlan(TEAM, "faq/", True, "faq/")),
        ("run:*", MemoryPlan(RUN, "", True, "")),
        ("c=agent:customer/{id}/notes", MemoryPlan(AGENT, "customer/{id}/notes", False, "c", ("id",))),
    ],
)
def test_a_declaration_says_scope_key_and_name(text: str, plan: MemoryPlan):
    """A key, all keys that begin so, or a key made of inputs."""
    assert parse_declaration(text) == plan


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profile", "'profile' has no scope"),
        ("agnet:profile", "unknown scope 'agnet' in 'agnet:profile'"),
        ("agent:", "no key"),
        ("agent:a//b", "no key"),
        ("agent:../b", "no key"),
        ("agent:a b", "no key"),
        ("agent:a*b", "no key"),
        ("agent:" + "x" * 201, "no key"),
        ("1x=agent:a", "'1x' is no name"),
        ("x=team:faq/*", "gives one name to many keys"),
    ],
)
def test_what_a_declaration_cannot_be(text: str, said: str):
    """Each fault says what would be right."""
    with pytest.raises(BadAddress) as refused:
        parse_declaration(text)
    assert said in refused.value.problem and refused.value.remedy


def test_an_address_has_neither_name_nor_star_nor_braces():
    """Those are for declarations."""
    assert parse_address("team:faq/a") == (TEAM, "faq/a")
    for text in ("team:faq/*", "x=team:a", "agent:{id}"):
        with pytest.raises(BadAddress):
            parse_address(text)
    assert check_key("ä/é:1") == "ä/é:1"


def test_a_fault_names_the_node():
    """All faults of a node at once."""
    assert faults(memory=["agnet:profile", "profile"]) == [
        "nodes.n.memory: unknown scope 'agnet' in 'agnet:profile' (write SCOPE:KEY, SCOPE:PREFIX* or "
        "NAME=SCOPE:KEY; SCOPE is one of run, agent, team)",
        "nodes.n.memory: 'profile' has no scope (write SCOPE:KEY, SCOPE:PREFIX* or NAME=SCOPE:KEY; SCOPE is "
        "one of run, agent, team)",
    ]


def test_nodes_without_steps_read_no_memory():
    """A person is shown inputs; a map's children declare what they read."""
    (fault,) = faults(node_type="human_input", function=None, memory=["agent:profile"])
    assert "nodes.n.memory: means nothing on a human_input node" in fault


def test_an_llm_must_find_each_value_under_a_name_of_its_own():
    """Inputs and memory stand side by side in its prompt."""
    llm: dict[str, Any] = {"node_type": "llm_generate", "function": None, "input_keys": ["profile"]}
    (fault,) = faults(**llm, memory=["agent:profile"])
    assert "'profile' is also the name of something else" in fault and "other=agent:profile" in fault

    plan = compiled(**llm, memory=["habits=agent:profile"]).nodes[0]
    assert plan.memory == (MemoryPlan(AGENT, "profile", False, "habits"),)


def test_a_key_is_made_of_inputs_that_the_node_reads():
    """A name that is none of them is a fault, if the node lists its inputs."""
    (fault,) = faults(input_keys=["ticket"], memory=["agent:customer/{id}"])
    assert "'{id}' in 'agent:customer/{id}' is not an input key (add 'id' to input_keys)" in fault


def test_what_a_tool_declares_is_read_by_the_nodes_that_use_it():
    """A node of its own reads it for itself, an agent for each call."""
    plan = MemoryPlan(AGENT, "profile", False, "profile")
    environment = CompileEnvironment(
        tools={"look": ToolInfo(memory=(plan,))}, functions={"f": FunctionInfo(memory=(plan,))}
    )

    assert compiled(environment, memory=["agent:profile", "team:x"]).nodes[0].memory == (
        plan,
        MemoryPlan(TEAM, "x", False, "x"),
    )
    tool = compiled(environment, node_type="tool", function=None, tool="look").nodes[0]
    agent = compiled(environment, node_type="event_loop", function=None, tools=["look"]).nodes[0]
    assert tool.memory == (plan,)
    assert (agent.memory, agent.tools[0].memory) == ((), (plan,))


def test_a_graph_without_memory_keeps_the_hash_that_it_always_had():
    """The format has grown; what does not use the addition is encoded as before, and so is its hash."""
    plain = compiled()
    content: dict[str, Any] = msgspec.msgpack.decode(
        encode_graph(msgspec.structs.replace(plain, version="", name=""))
    )
    for node in content["nodes"]:
        assert node.pop("memory") == []
        assert not any(node.pop(name) for name in LATER)

    assert plain.version == hashlib.sha256(msgspec.msgpack.encode(content)).hexdigest()
    assert compiled(memory=["agent:profile"]).version != plain.version
