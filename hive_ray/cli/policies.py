"""Commands about policies: ``test`` rules against cases, ``list`` and ``show`` those in force."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hive_ray.cli.common import FAILED, Config, Json, Url, app, client_of, show_json, url_of

if TYPE_CHECKING:
    from hive_ray.control.policy_cases import Tried
    from hive_ray.graph.policies import RulePlan

policies = typer.Typer(
    help="Rules about what steps may do: test them, list and show those in force.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(policies, name="policies")

RulesFile = Annotated[Path, typer.Argument(metavar="FILE", help="A file of rules, or a hive.yaml.")]
Cases = Annotated[
    list[str] | None,
    typer.Option("--case", help="A file with cases, or one as JSON; by default those that FILE brings."),
]


@policies.command()
def test(file: RulesFile, case: Cases = None, as_json: Json = False) -> None:
    """Decide cases offline; exits 1 if one is not decided as it expects."""
    from hive_ray.control import policy_cases

    rules, own = policy_cases.read_rules(file)
    found: list[Any] = []
    for given in case or ():
        found += policy_cases.cases_of(policy_cases.read_cases(given), given)
    if not case:
        found = policy_cases.cases_of(own, str(file))
    tried = [policy_cases.try_case(rules, one) for one in found]
    wrong = sum(bool(one.differs) for one in tried)
    if as_json:
        show_json({"cases": [_told(one, number) for number, one in enumerate(tried)], "failed": wrong})
    else:
        by_id = {rule.id: rule for rule in rules}
        for number, one in enumerate(tried):
            _print(one, number, by_id)
        print(f"{len(tried) - wrong} of {len(tried)} cases as expected")
    if wrong:
        raise typer.Exit(FAILED)


def _told(tried: Tried, number: int) -> dict[str, Any]:
    decision = tried.decision
    return {
        "name": tried.case.name or str(number),
        "ok": not tried.differs,
        "effect": decision.effect or "none",
        "rule": decision.rule.id if decision.rule else None,
        "matched": list(decision.matched),
        "errors": [{"rule": trouble.rule, "why": trouble.why} for trouble in decision.troubles],
        "route": decision.pool,
        "degrade": decision.level,
        "expected": tried.case.expect,
        "differs": list(tried.differs),
    }


def _print(tried: Tried, number: int, rules: dict[str, RulePlan]) -> None:
    decision = tried.decision
    verdict = "ok  " if not tried.differs else "FAIL"
    by = f" by {decision.rule.id}" if decision.rule else ""
    print(f"{verdict}  {tried.case.name or number}: {decision.effect or 'none'}{by}")
    for text in _reasons(tried, rules):
        print(f"      {text}")


def _reasons(tried: Tried, rules: dict[str, RulePlan]) -> list[str]:
    decision = tried.decision
    broken = {trouble.rule for trouble in decision.troubles}
    told = [_why(decision.rule)] if decision.rule and decision.rule.id not in broken else []
    told += [f"{trouble.rule} has no answer: {trouble.why}" for trouble in decision.troubles]
    deciding = decision.rule.id if decision.rule else ""
    beside = [name for name in decision.matched if name != deciding and name not in broken]
    told += [f"{name} holds too: {rules[name].effect}" for name in beside if name in rules]
    told += [f"goes to pool {decision.pool}"] if decision.pool else []
    told += [f"degrades to rung {decision.level}"] if decision.level else []
    return [*told, *tried.differs]


def _why(rule: RulePlan) -> str:
    about = _about({key: getattr(rule, key) for key in _SELECTORS})
    return f"{about}{f'; when {rule.when}' if rule.when else ''}{f' ({rule.reason})' if rule.reason else ''}"


@policies.command(name="list")
def list_(url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """The rules in force, in the order in which they are asked; where nothing runs, those of hive.yaml."""
    rules = _rules(url, config)
    if as_json:
        show_json(rules)
        return
    width = max(len(rule["id"]) for rule in rules)
    for rule in rules:
        when = f"; when {rule['when']}" if rule.get("when") else ""
        print(f"{rule['id']:<{width}}  {rule['then']:<16}  {_about(rule)}{when}  [{rule['source']}]")


@policies.command()
def show(
    rule_id: Annotated[str, typer.Argument(metavar="RULE")],
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """One rule in force; where nothing runs, of hive.yaml."""
    from hive_ray.errors import NotFound

    rules = {rule["id"]: rule for rule in _rules(url, config)}
    if rule_id not in rules:
        raise NotFound(f"no rule {rule_id} is in force; there are: {', '.join(rules)}")
    if as_json:
        show_json(rules[rule_id])
        return
    for key, value in rules[rule_id].items():
        print(f"{key:<12} {value}")


def _rules(url: str, config: Path | None) -> list[dict[str, Any]]:
    found = url_of(url, config)
    if found:
        with client_of(found, config) as client:
            return client.policies()
    from hive_ray.config import load
    from hive_ray.control.planning import plan_of
    from hive_ray.core.policies import Policies
    from serve.routes_policies import shape

    return [shape(rule) for rule in Policies(plan_of(load(config)).policies).rules]


_SELECTORS = ("tools", "tags", "nodes", "models", "agents", "teams", "kinds")


def _about(rule: dict[str, Any]) -> str:
    named = [f"{key} {', '.join(rule[key])}" for key in _SELECTORS if rule.get(key)]
    return "; ".join(named) or "every step"
