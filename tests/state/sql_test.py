"""SQL sees each event once, wherever it lies, and no content."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from hive_ray.core.commands import Cancel
from hive_ray.errors import SqlError
from hive_ray.state.journal import Journal
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.sql import query
from hive_ray.state.store import Store
from tests.control.shell_test import submit
from tests.state.compaction_test import compact_all, covered, lived, snapshot


@pytest.fixture
def memory() -> Iterator[MemoryStore]:
    yield MemoryStore("sql")
    forget_memory("sql")


def ask(store: Store, statement: str) -> list[dict[str, Any]]:
    return query(store, statement).to_pylist()


def test_the_answer_is_the_same_before_and_after_compaction(store: Store):
    """A row of Parquet and a row of the journal's end are one kind of row."""
    driver = lived(store)
    statement = "select * exclude (partition) from events order by seq"
    before = ask(store, statement)
    assert len(before) > 40 and {line["team"] for line in before} == {"", "team"}

    compact_all(store, covered(driver) // 2)
    assert ask(store, statement) == before
    compact_all(store, covered(driver), 50)

    assert ask(store, statement) == before


def test_the_cost_of_a_team_is_the_sum_of_its_attempts(memory: MemoryStore):
    """To the nano-dollar, over history and journal."""
    driver = lived(memory)
    assert driver.engine.runs["a0"].spent_nanousd == 1_234_567_891
    spent = sum(run.spent_nanousd for run in driver.engine.runs.values())
    compact_all(memory, covered(driver))

    (line,) = ask(
        memory, "select team, sum(cost_usd) as usd from events where cost_usd is not null group by 1"
    )

    assert line == {"team": "team", "usd": Decimal(spent).scaleb(-9)}


def test_runs_are_there_from_their_first_event_to_their_summary(memory: MemoryStore):
    """Live runs are told from their events, ended ones from their summary."""
    driver = lived(memory)
    driver.command(Cancel("a0", "enough"))
    statement = "select run_id, status, agent, graph from runs order by run_id"
    before = ask(memory, statement)
    statuses = {line["run_id"]: line["status"] for line in before}
    assert (statuses["a0"], statuses["a1"]) == ("cancelled", "waiting")
    for _ in range(2):
        driver.command(submit("z" + str(driver.engine.seq)))
        snapshot(memory, driver)

    compact_all(memory, covered(driver))

    after = [line for line in ask(memory, statement) if not line["run_id"].startswith("z")]
    assert after == before
    summaries = ask(memory, "select run_id, status from _runs order by 1")
    assert summaries == [{"run_id": "a0", "status": "cancelled"}, {"run_id": "c2", "status": "failed"}]


def test_no_view_shows_content(memory: MemoryStore):
    """Not even sealed: costs are analysed by people who may not read what was said."""
    driver = lived(memory)
    compact_all(memory, covered(driver))

    for view in ("events", "runs"):
        columns = {line["column_name"] for line in ask(memory, f"describe {view}")}
        assert not columns & {"body", "content", "state"}
        with pytest.raises(SqlError, match="content"):
            ask(memory, f"select content from {view}")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("selec 1", "syntax error"),
        ("select nothing from events", "nothing"),
        ("select 1; select 2", "give one"),
        ("", "give one"),
        ("delete from events", "read only"),
        ("copy events to '/tmp/x.csv'", "read only"),
        ("select * from read_csv('/etc/passwd')", "disabled"),
        ("set threads = 1", "read only"),
    ],
)
def test_what_is_no_question_is_refused_with_the_reason(memory: MemoryStore, statement: str, message: str):
    """Nothing is written, and nothing of this machine is read."""
    with pytest.raises(SqlError, match=message):
        query(memory, statement)


def test_an_empty_state_answers(memory: MemoryStore):
    """No journal, no history: no rows."""
    assert ask(memory, "select count(*) as n from events") == [{"n": 0}]
    assert ask(memory, "select * from runs") == []
    assert list(Journal(memory, 0).read_segments()) == []


def test_segments_that_vanish_while_they_are_read_are_found_in_the_history(memory: MemoryStore):
    """Compaction between the manifest and the tail: the query begins again with the newer manifest."""
    driver = lived(memory)
    driver.command(Cancel("a0", "x"))
    before = ask(memory, "select count(*) as n from events")
    done: list[bool] = []

    def compact(operation: str, name: str) -> None:
        if operation == "get" and name.startswith("journal/0000/") and not done:
            done.append(True)
            compact_all(driver.store, covered(driver))

    racing = MemoryStore("sql", before=compact)
    assert ask(racing, "select count(*) as n from events") == before
    assert done
