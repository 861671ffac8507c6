"""Ladders in ``hive.yaml``: what is wrong with them is told before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from hive_ray.config import Settings
from hive_ray.control.planning import plan_of
from hive_ray.core.ladder import Rung
from hive_ray.errors import ConfigError

LOCAL = {"provider": "openai-compatible", "model": "x", "base_url": "http://127.0.0.1:1/v1"}
PRICED = LOCAL | {"input_usd_per_mtok": "0.5", "output_usd_per_mtok": 1}


def settings(rung: dict[str, Any], name: str = "large") -> Settings:
    models = {"large": PRICED, "small": PRICED | {"max_tokens": 64}, "odd": LOCAL}
    return Settings.model_validate({"models": models, "ladders": {name: {"rungs": [rung]}}})


def test_the_models_of_rungs_come_with_their_prices():
    plan = plan_of(settings({"model": "small", "budget_percent": 80}))

    assert plan.ladders["large"].rungs == (Rung("small", budget_percent=80),)
    small = plan.models["small"]
    assert (small.max_tokens, small.input_nanousd_per_mtok, small.output_nanousd_per_mtok) == (
        64, 500_000_000, 1_000_000_000,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rung", "name", "place", "says"),
    [
        ({"model": "smal"}, "large", "ladders.large.rungs.0.model", "no model 'smal'"),
        ({"model": "odd"}, "large", "ladders.large.rungs.0.model", "has no price"),
        ({"max_tokens": 5}, "huge", "ladders.huge", "no model has this name"),
    ],
)
def test_a_model_that_is_not_there_or_has_no_price_is_named(rung: Any, name: str, place: str, says: str):
    with pytest.raises(ConfigError) as refused:
        plan_of(settings(rung, name))

    (fault,) = refused.value.faults
    assert fault.place == place and says in fault.problem
