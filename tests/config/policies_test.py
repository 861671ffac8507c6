"""Policies in hive.yaml and in files of their own: what is accepted, and how faults are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from hive_ray.config import Settings, load
from hive_ray.control.planning import plan_of
from hive_ray.errors import ConfigError
from hive_ray.graph.asking import Asked
from hive_ray.graph.policies import Effect

HOUR_US = 3_600_000_000


def write(folder: Path, text: str, name: str = "hive.yaml") -> Path:
    file = folder / name
    file.write_text(text, "utf-8")
    return file


def refused(folder: Path, text: str) -> list[str]:
    """Every fault of a configuration, as a person is told."""
    with pytest.raises(ConfigError) as error:
        plan_of(load(write(folder, text)))
    return [str(fault) for fault in error.value.faults]


def test_rules_of_files_follow_those_of_hive_yaml(tmp_path: Path):
    """And the settings carry them on: whoever gets them later has no such file."""
    write(tmp_path, "rules: [{id: b, then: deny, tools: [x]}, {id: c, then: allow}]", "more.yaml")
    text = "policies: {files: [more.yaml], rules: [{id: a, then: deny, when: args.n > 1}]}"
    settings = load(write(tmp_path, text))
    sent = Settings.model_validate_json(settings.model_dump_json())
    (tmp_path / "more.yaml").unlink()

    rules = plan_of(sent).policies
    assert [(rule.id, rule.source) for rule in rules] == [("a", ""), ("b", "more.yaml"), ("c", "more.yaml")]
    assert rules[0].reads == (("f0", "args.n"),)


def test_a_list_may_stand_in_the_place_of_the_mapping(tmp_path: Path):
    settings = load(write(tmp_path, "policies: [{id: a, then: deny}]"))
    assert [rule.effect for rule in plan_of(settings).policies] == [Effect.DENY]


def test_faults_of_shape_are_told_at_once_by_rule_and_key(tmp_path: Path):
    write(tmp_path, "rules: [{id: far, then: forbid}, {id: typo, then: deny, wen: x}]", "more.yaml")
    text = "policies: {files: [more.yaml], rules: [{id: near, then: allow, kinds: [lmm]}, {then: deny}]}"
    told = refused(tmp_path, text)
    places = ["policies.near.kinds.0", "policies.1.id", "more.yaml: far.then", "more.yaml: typo.wen"]
    assert [fault.rpartition(": is ")[0] or fault.partition(": unknown")[0] for fault in told] == places
    assert "did you mean when?" in told[3]


def test_faults_of_conditions_are_told_at_once_with_their_columns(tmp_path: Path):
    write(tmp_path, 'rules: [{id: far, then: deny, when: "tool.name > 3"}]', "more.yaml")
    text = """
    policies:
      files: [more.yaml]
      rules:
        - {id: name, then: deny, when: args.a == 1 && amount > 5}
        - {id: syntax, then: deny, when: "args.a >"}
        - {id: python, then: deny, when: "args.a > 1 and tool.nam == 'x'"}
        - {id: function, then: deny, when: "args.a == 1 && foo(args.b)"}
        - {id: number, then: deny, when: "cost_usd"}
        - id: lines
          then: deny
          when: |
            args.a == 1 &&
              model < 3
    """
    told = refused(tmp_path, text)
    assert [fault.partition(": ")[0] for fault in told[:-1]] == [
        "policies.name.when:1:16",
        "policies.syntax.when:1:9",
        "policies.python.when:1:16",
        "policies.function.when:1:19",
        "policies.lines.when:2:9",
    ]
    assert "no fact is called 'amount' (memory.amount or args.amount" in told[0]
    assert "did you mean 'tool.name'?" in told[2]
    assert told[-1].startswith("more.yaml: far.when:1:11: > does not apply to (string, int)")


@pytest.mark.parametrize(
    ("rule", "place", "remedy"),
    [
        ("{id: a, then: route}", "policies.a", "name the pool"),
        ("{id: a, then: route, pool: nowhere}", "policies.a.pool", "known: function, llm, tool"),
        ("{id: a, then: route, pool: llm, kinds: [tool]}", "policies.a.pool", "another pool"),
        ("{id: a, then: deny, pool: llm}", "policies.a", "pool belongs to route"),
        ("{id: a, then: allow, owner: role:x}", "policies.a", "owner belongs to require_approval"),
        ("{id: a, then: deny, level: 1}", "policies.a", "level belongs to degrade"),
        ("{id: destructive, then: allow}", "policies.destructive.id", "name it differently"),
        ("{id: a, then: deny}, {id: a, then: allow}", "policies", "name one differently"),
        (
            "{id: a, then: require_approval, deadline_s: 5, escalate: [{owner: x, after_s: 5}]}",
            "policies.a.escalate",
            "raise deadline_s",
        ),
    ],
)
def test_what_means_nothing_is_refused(tmp_path: Path, rule: str, place: str, remedy: str):
    (told,) = refused(tmp_path, f"policies: [{rule}]")
    assert told.startswith(f"{place}: ")
    assert remedy in told


@pytest.mark.parametrize(("text", "place"), [("[]", "more.yaml"), ("rules: 1", "more.yaml: rules")])
def test_a_file_without_rules_is_refused(tmp_path: Path, text: str, place: str):
    write(tmp_path, text, "more.yaml")
    (told,) = refused(tmp_path, "policies: {files: [more.yaml]}")
    assert place in told


def test_a_missing_file_is_named(tmp_path: Path):
    (told,) = refused(tmp_path, "policies: {files: [gone.yaml]}")
    assert "gone.yaml: cannot be read" in told


def test_whom_a_rule_asks_is_as_in_approvals_but_for_what_it_says(tmp_path: Path):
    text = """
    approvals: {owner: role:a, default_deadline_s: 7200, escalate: [{owner: role:b, after_s: 3600}]}
    policies:
      - {id: plain, then: require_approval}
      - {id: owner, then: require_approval, owner: role:x}
      - {id: alone, then: require_approval, escalate: [], deadline_s: 3600, four_eyes: true}
    """
    plain, owner, alone = plan_of(load(write(tmp_path, text))).policies
    assert plain.asks is None
    assert owner.asks is not None
    assert owner.asks.chain == (Asked("role:x", HOUR_US), Asked("role:b", HOUR_US))
    assert alone.asks is not None
    assert (alone.asks.chain, alone.asks.four_eyes) == ((Asked("role:a", HOUR_US),), True)


def test_a_route_is_about_steps_that_its_pool_can_run(tmp_path: Path):
    text = """
    pools: {slow: {kind: llm}}
    policies: [{id: a, then: route, pool: slow}, {id: b, then: route, pool: tool}]
    """
    one, other = plan_of(load(write(tmp_path, text))).policies
    assert (one.kinds, other.kinds) == (("llm", "decide"), ("tool",))
