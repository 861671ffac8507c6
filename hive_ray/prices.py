"""What a model's tokens cost: from ``hive.yaml``, else from the list that genai-prices bundles.

All amounts are integer nano-dollars for a million tokens. An unknown price is ``None``, never 0: the
caller refuses the graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Any

from hive_ray.config import ModelSettings

_MTOK = 1_000_000
_NANO = Decimal(10) ** 9
_CLASSES = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
# A model that charges for these too has no bound in text tokens: hive.yaml must give one.
_NOT_BOUNDED_BY_TOKENS = ("requests_kcount", "output_reasoning_mtok", "output_citation_mtok")


@dataclass(frozen=True, slots=True)
class Rates:
    """Nano-dollars for a million tokens of each class."""

    input: int
    output: int
    cached_input: int
    cache_write: int

    def cost_nanousd(self, input_tokens: int, output_tokens: int, cached: int = 0, written: int = 0) -> int:
        """The cost of one call, rounded up.

        Args:
            input_tokens: all of the input, ``cached`` and ``written`` included.
            cached: input tokens read from the provider's cache.
            written: input tokens written to it.
        """
        plain = max(0, input_tokens - cached - written)
        total = plain * self.input + cached * self.cached_input + written * self.cache_write
        return -(-(total + output_tokens * self.output) // _MTOK)


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates of a call whose whole input is longer than ``above_tokens``."""

    above_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Prices:
    """A model's price list."""

    base: Rates
    tiers: tuple[Tier, ...] = ()
    """Dearer rates of long inputs, shortest first; a tier's rates hold for all tokens of the call."""

    def rates_of(self, input_tokens: int) -> Rates:
        """The rates of a call with that much input."""
        reached = [tier.rates for tier in self.tiers if input_tokens > tier.above_tokens]
        return reached[-1] if reached else self.base

    @property
    def dearest_input(self) -> int:
        """Bound on what an input token can cost, of whichever class it turns out to be."""
        return max(max(rates.input, rates.cached_input, rates.cache_write) for rates in self._all())

    @property
    def dearest_output(self) -> int:
        """Bound on what an output token can cost."""
        return max(rates.output for rates in self._all())

    def _all(self) -> list[Rates]:
        return [self.base, *(tier.rates for tier in self.tiers)]


def price_of(model: ModelSettings) -> Prices | None:
    """The prices of a model; ``None`` when neither ``hive.yaml`` nor the bundled list knows them.

    The first look-up in the bundled list costs seconds of import.
    """
    return _configured(model) or _listed(model)


def _configured(model: ModelSettings) -> Prices | None:
    input_price, output_price = model.input_nanousd_per_mtok, model.output_nanousd_per_mtok
    if input_price is None or output_price is None:
        return None
    cached, written = model.cached_input_nanousd_per_mtok, model.cache_write_nanousd_per_mtok
    rates = Rates(
        input_price,
        output_price,
        input_price if cached is None else cached,
        input_price if written is None else written,
    )
    return Prices(rates)


def _listed(model: ModelSettings) -> Prices | None:
    from genai_prices.data_snapshot import get_snapshot

    provider = None if model.base_url else model.provider
    try:
        _, info = get_snapshot().find_provider_model(model.model, None, provider, model.base_url)
    except LookupError:
        return None
    # Some lists are cheaper at night: a price that bounds a call must hold at every hour.
    now = datetime.now(UTC)
    hours = [_prices(info.get_prices(now + timedelta(hours=hour))) for hour in range(24)]
    known = [prices for prices in hours if prices]
    return max(known, key=lambda prices: (prices.dearest_output, prices.dearest_input), default=None)


def _prices(listed: Any) -> Prices | None:
    if any(getattr(listed, name, None) for name in _NOT_BOUNDED_BY_TOKENS):
        return None
    base = _rates(listed, 0)
    starts = sorted(set(_tier_starts(vars(listed).values())))
    tiers = tuple(Tier(start, rates) for start in starts if (rates := _rates(listed, start + 1)))
    return Prices(base, tiers) if base else None


def _tier_starts(prices: Iterable[Any]) -> Iterable[int]:
    for price in prices:
        yield from (tier.start for tier in getattr(price, "tiers", ()))


def _rates(listed: Any, input_tokens: int) -> Rates | None:
    """The rates that the list gives at that length of input; ``None`` without a price for text."""
    found = {name: _nanousd(getattr(listed, name, None), input_tokens) for name in _CLASSES}
    input_price, output_price = found["input_mtok"], found["output_mtok"]
    if input_price is None or output_price is None:
        return None
    cached, written = found["cache_read_mtok"], found["cache_write_mtok"]
    return Rates(
        input_price,
        output_price,
        input_price if cached is None else cached,
        input_price if written is None else written,
    )


def _nanousd(price: Any, input_tokens: int) -> int | None:
    if price is None:
        return None
    usd = getattr(price, "base", price)
    for tier in getattr(price, "tiers", ()):
        if input_tokens > tier.start:
            usd = tier.price
    return int((Decimal(usd) * _NANO).to_integral_value(ROUND_CEILING))
