"""A provider's bill against the ledger: read, compared, and corrected to the nano-dollar."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive_ray.control.reconciliation import Billed, Difference, Window, compare, of_model, plan, read_bill
from hive_ray.errors import InputError
from hive_ray.state.ledger import Charge

NOON_US = 1_762_000_000_000_000
"""2025-11-01T12:26:40Z."""
DAY_US = 86_400_000_000
NOVEMBER = Window(date(2025, 11, 1), date(2025, 11, 30))
MODELS = {"mock", "gpt-x"}


def charge(nanousd: int, unseen: bool = False, days: int = 0, **fields: Any) -> Charge:
    given: dict[str, Any] = {
        "run": "r",
        "serial": 1,
        "call": 0,
        "attempt": 1,
        "name": "mock",
        "request_id": "q",
    } | fields
    return Charge(**given, at_us=NOON_US + days * DAY_US, nanousd=nanousd, unseen=unseen)


def bill(*lines: str, window: Window = NOVEMBER) -> list[Billed]:
    return read_bill("bill.csv", [line + "\n" for line in lines], MODELS, window)


# --- reading -------------------------------------------------------------------------------------


def test_an_export_is_read_by_the_names_of_its_columns():
    """In any order and case, with others between; a byte order mark and empty lines do no harm."""
    found = bill(
        "\ufeffProject,COST_USD,Date,Model,Request_ID",
        "p,0.000000001,2025-11-02,gpt-x,q1",
        "",
        'p,"1.5",2025-11-02T23:30:00-02:00,mock,q2',
        "p,9,2025-11-02,another,q3",
        "p,9,2025-12-01,mock,q4",
    )

    assert found == [Billed(date(2025, 11, 2), "q1", 1), Billed(date(2025, 11, 3), "q2", 1_500_000_000)]


def test_without_a_column_of_models_every_line_counts():
    """The export was filtered by whoever made it."""
    assert bill("date,cost_usd", "2025-11-01,-0.25") == [Billed(date(2025, 11, 1), "", -250_000_000)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2025-11-31,1", "bill.csv:3: date '2025-11-31' is neither"),
        ("1.11.2025,1", "bill.csv:3: date '1.11.2025' is neither"),
        ("2025-11-01,1,000", ""),
        ("2025-11-01,$1", "bill.csv:3: cost_usd '$1' is no decimal number"),
        ("2025-11-01,NaN", "bill.csv:3: cost_usd NaN is not within"),
        ("2025-11-01,1e9", "bill.csv:3: cost_usd 1e9 is not within"),
        ("2025-11-01,0.0000000001", "bill.csv:3: cost_usd 0.0000000001 has more than nine"),
        ("2025-11-01", "bill.csv:3: has 1 columns, not 2"),
    ],
)
def test_a_bad_line_is_named(line: str, said: str):
    """By its number, with what would be right; good lines do not hide it."""
    lines = ("date,cost_usd", "2025-11-01,1", line)
    if not said:
        assert len(bill(*lines)) == 2
        return
    with pytest.raises(InputError) as error:
        bill(*lines)
    assert said in str(error.value)


def test_every_bad_line_is_named_at_once():
    """Up to a bound."""
    with pytest.raises(InputError) as error:
        bill("date,cost_usd", *["2025-11-01,x"] * 30)

    assert [fault.place for fault in error.value.faults] == [f"bill.csv:{n}" for n in range(2, 22)]


@pytest.mark.parametrize(
    ("header", "missing"),
    [("day,cost_usd", "no column date"), ("date,cost", "no column cost_usd"), ("", "no column date and no")],
)
def test_missing_columns_are_named(header: str, missing: str):
    """On the first line."""
    with pytest.raises(InputError, match=missing):
        bill(header, "2025-11-01,1")


# --- comparing -----------------------------------------------------------------------------------


def test_only_the_model_and_the_days_that_were_asked_for_count():
    """By the day (UTC) of an attempt's end."""
    window = Window(date(2025, 11, 1), date(2025, 11, 2))
    mine = [charge(1), charge(2, days=1), charge(3, days=2), charge(4, name="other")]

    assert [found.nanousd for found in of_model(mine, "mock", window)] == [1, 2]


def test_days_are_compared_where_requests_are_not_named():
    """Also those that only one side knows."""
    mine = [charge(5), charge(6), charge(7, days=1)]
    theirs = [Billed(date(2025, 11, 1), "q", 10), Billed(date(2025, 11, 9), "", 3)]

    told = [(d.group, d.charged_nanousd, d.billed_nanousd, d.nanousd) for d in compare(mine, theirs)]

    assert told == [
        ("2025-11-01", 11, 10, -1),
        ("2025-11-02", 7, 0, -7),
        ("2025-11-09", 0, 3, 3),
    ]


def test_requests_are_compared_where_every_line_names_one():
    """Whatever day the provider booked them on."""
    mine = [charge(5, request_id="a"), charge(6, request_id="b")]
    theirs = [Billed(date(2025, 11, 9), "a", 5), Billed(date(2025, 11, 9), "b", 4)]

    assert [(d.group, d.nanousd) for d in compare(mine, theirs)] == [("a", 0), ("b", -2)]


# --- correcting ----------------------------------------------------------------------------------


def deltas(charges: list[Charge], billed: int) -> list[int]:
    found = Difference("day", sum(c.nanousd for c in charges), billed, tuple(charges))
    planned = {id(p.charge): p.nanousd for p in plan(found)}
    return [planned.get(id(c), 0) for c in charges]


def test_attempts_that_nobody_saw_end_are_corrected_first():
    """They were charged their worst case; what others were charged was measured."""
    assert deltas([charge(100), charge(60, unseen=True), charge(50, unseen=True)], 120) == [0, -60, -30]


def test_what_is_left_is_spread_by_what_was_charged():
    """Exactly: nothing is lost to rounding."""
    assert deltas([charge(10), charge(20), charge(60, unseen=True)], 10) == [-7, -13, -60]
    assert deltas([charge(1), charge(1), charge(1)], 4) == [0, 0, 1]


def test_a_bill_that_is_higher_is_spread_over_what_was_seen():
    """An unseen attempt has its worst case already."""
    assert deltas([charge(10), charge(30), charge(60, unseen=True)], 140) == [10, 30, 0]


def test_without_an_attempt_there_is_nothing_to_correct():
    """Somebody else used the same key at the provider: a person must look."""
    assert plan(Difference("day", 0, 5, ())) == []


@given(
    st.lists(st.tuples(st.integers(0, 10**12), st.booleans()), min_size=1, max_size=8),
    st.integers(0, 10**13),
)
def test_corrections_close_the_gap_and_leave_nothing_below_0(
    charges: list[tuple[int, bool]], billed: int
) -> None:
    """Whatever was charged and billed."""
    mine = [charge(nanousd, unseen) for nanousd, unseen in charges]

    made = deltas(mine, billed)

    assert sum(made) == billed - sum(c.nanousd for c in mine)
    assert all(c.nanousd + delta >= 0 for c, delta in zip(mine, made, strict=True))


def test_the_same_plan_has_the_same_names_and_another_has_others():
    """A correction that was made twice by mistake is made once; the next bill's is another."""
    mine = charge(50)
    first = plan(Difference("day", 50, 40, (mine,)))
    after = charge(40)

    assert first == plan(Difference("day", 50, 40, (mine,)))
    assert plan(Difference("day", 40, 30, (after,)))[0].correction != first[0].correction
