"""Prices come from hive.yaml, else from the bundled list, else they are unknown."""

from __future__ import annotations

from decimal import Decimal

import pytest

from hive_ray.config import ModelSettings
from hive_ray.prices import Rates, price_of


def model(**fields: object) -> ModelSettings:
    return ModelSettings.model_validate({"provider": "openai", "model": "gpt-4o-mini", **fields})


def test_configured_prices_win_over_the_list():
    """What hive.yaml says is what a call costs; other input classes cost as input."""
    prices = price_of(model(input_usd_per_mtok="0.1", output_usd_per_mtok="0.000000001"))

    assert prices is not None
    assert prices.base == Rates(100_000_000, 1, 100_000_000, 100_000_000)


def test_an_explicit_zero_is_a_price():
    """A local model costs nothing, and that is known."""
    prices = price_of(model(input_usd_per_mtok=0, output_usd_per_mtok=0))

    assert prices is not None
    assert prices.base == Rates(0, 0, 0, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "no-such-model-9"},
        {"provider": "openai-compatible", "base_url": "http://127.0.0.1:9/v1"},
        {"base_url": "http://127.0.0.1:9/v1"},
    ],
)
def test_an_unknown_price_is_none(fields: dict[str, object]):
    """Neither an unlisted model nor somebody else's endpoint gets a price by guessing."""
    assert price_of(model(**fields)) is None


def test_listed_prices_are_whole_nano_dollars():
    """The bundled list knows a common model, its cheaper cache reads included."""
    prices = price_of(model())

    assert prices is not None
    assert 0 < prices.base.cached_input < prices.base.input < prices.base.output


def test_a_long_input_is_charged_at_its_tier():
    """Above a tier's start all tokens cost the tier's rates, and the bound covers the dearest class."""
    prices = price_of(model(provider="anthropic", model="claude-sonnet-4-5"))

    assert prices is not None
    start = prices.tiers[0].above_tokens
    assert prices.rates_of(start) == prices.base
    assert prices.rates_of(start + 1).input > prices.base.input
    assert prices.dearest_input == max(prices.tiers[-1].rates.cache_write, prices.tiers[-1].rates.input)
    assert prices.dearest_output == prices.tiers[-1].rates.output


def test_cost_is_rounded_up_and_exact():
    """Fractions of a nano-dollar are charged in full, never dropped."""
    rates = Rates(input=1, output=0, cached_input=0, cache_write=0)

    assert rates.cost_nanousd(1, 0) == 1
    assert rates.cost_nanousd(0, 0) == 0


def test_each_class_of_input_has_its_own_rate():
    """Cached and written tokens are part of the input and cost their own rates."""
    usd = 1_000_000_000
    rates = Rates(input=3 * usd, output=15 * usd, cached_input=usd // 10, cache_write=4 * usd)

    cost = rates.cost_nanousd(1_000_000, 1_000_000, cached=500_000, written=250_000)

    assert Decimal(cost) / usd == Decimal("0.75") + Decimal("0.05") + Decimal(1) + Decimal(15)


def test_a_configured_price_of_the_cache_counts_and_bounds_what_input_can_cost():
    """Writing to a cache may be dearer than other input; what is not given is priced as other input."""
    given = {"input_usd_per_mtok": 3, "output_usd_per_mtok": 15, "cache_write_usd_per_mtok": "3.75"}
    model = ModelSettings.model_validate({"provider": "anthropic", "model": "m"} | given)

    prices = price_of(model)

    assert prices is not None
    assert prices.base == Rates(3_000_000_000, 15_000_000_000, 3_000_000_000, 3_750_000_000)
    assert prices.dearest_input == 3_750_000_000
    assert (
        prices.base.cost_nanousd(1_000, 100, cached=200, written=300)
        == (500 + 200) * 3_000 + 300 * 3_750 + 1_500_000
    )
