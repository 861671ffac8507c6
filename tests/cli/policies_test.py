"""``hive-ray policies test``: cases decided offline, as an author of rules would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.process import REPO

EXAMPLES = sorted((REPO / "docs" / "examples" / "policies").glob("*.yaml"))
RULES = """
rules:
  - {id: big, then: require_approval, tools: [pay], when: args.amount > 100, reason: it is much}
  - {id: never, then: deny, tools: [pay], when: args.amount > 1000}
"""


def policies_test(*arguments: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "hive_ray.cli", "policies", "test", *map(str, arguments)]
    return subprocess.run(argv, timeout=60, capture_output=True, text=True, check=False)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES, "utf-8")
    return file


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.stem)
def test_the_cases_of_an_example_come_out_as_they_say(file: Path):
    """And each of its rules decides, routes or degrades in one of them."""
    done = policies_test(file, "--json")
    told = json.loads(done.stdout)

    assert done.returncode == 0, done.stdout
    held = {rule for case in told["cases"] for rule in case["matched"]}
    ids = {line.split()[-1] for line in file.read_text("utf-8").splitlines() if line.startswith("  - id: ")}
    assert ids <= held


def test_the_four_cases_are_there():
    assert [file.stem for file in EXAMPLES] == ["data", "doubt", "legal", "money"]


def test_a_case_that_comes_out_otherwise_is_told_with_the_rule_and_its_reason(rules: Path, tmp_path: Path):
    cases = tmp_path / "cases.yaml"
    cases.write_text(
        "cases:\n"
        "  - {name: much, tool: pay, args: {amount: 200}, expect: allow}\n"
        "  - {name: little, tool: pay, args: {amount: 2}, expect: none}\n"
        "  - {name: no sum, tool: pay, expect: deny, rule: big}\n",
        "utf-8",
    )
    done = policies_test(rules, "--case", cases)

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "FAIL  much: require_approval by big",
        "      tools pay; when args.amount > 100 (it is much)",
        "      effect is require_approval, expected allow",
        "ok    little: none",
        "FAIL  no sum: deny by never",
        "      big has no answer: `args.amount > 100`: > does not apply to (null_type, int64)",
        "      never has no answer: `args.amount > 1000`: > does not apply to (null_type, int64)",
        "      rule is never, expected big",
        "1 of 3 cases as expected",
    ]


def test_a_case_may_be_given_as_json_and_the_answer_taken_as_json(rules: Path):
    case = {"tool": "pay", "args": {"amount": 5000}, "expect": "deny", "team": "acme"}
    done = policies_test(rules, "--case", json.dumps(case), "--json")

    assert done.returncode == 0
    (told,) = json.loads(done.stdout)["cases"]
    assert (told["effect"], told["rule"], told["matched"]) == ("deny", "never", ["big", "never"])


def test_the_rules_of_a_hive_yaml_are_tested_with_those_of_its_files(rules: Path, tmp_path: Path):
    file = tmp_path / "hive.yaml"
    file.write_text(
        "policies: {files: [rules.yaml], rules: [{id: free, then: allow, nodes: [gift]}]}", "utf-8"
    )
    case = {"tool": "pay", "node": "gift", "args": {"amount": 200}, "expect": "allow", "rule": "free"}

    assert policies_test(file, "--case", json.dumps(case)).returncode == 0


@pytest.mark.parametrize(
    ("text", "case", "told"),
    [
        (RULES, "", "cases: no cases"),
        (RULES, '{"tool": "pay"}', "cases.0.expect: is missing"),
        (RULES, '{"tool": "pay", "expect": "deny", "argz": {}}', "did you mean args?"),
        (RULES, '{"tool"', "--case: is not JSON"),
        (RULES, "/no/such/file", "/no/such/file: cannot be read"),
        ("rules: [{id: a, then: deny, when: amount > 1}]", "", "rules.yaml: a.when:1:1: no fact is called"),
        ("rules: [{id: a, then: no}]", "", "rules.yaml: a.then: is False"),
        ("rules: []\nrulez: 1", "", "rulez: unknown key"),
    ],
)
def test_what_cannot_be_tested_is_named(tmp_path: Path, text: str, case: str, told: str):
    """Exit 2, as for any bad input."""
    file = tmp_path / "rules.yaml"
    file.write_text(text, "utf-8")
    done = policies_test(file, *(("--case", case) if case else ()))

    assert done.returncode == 2
    assert told in done.stderr
