"""``hive-ray sql`` over a state at which nothing runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hive_ray as hive
from hive_ray.errors import SqlError
from hive_ray.state.store import open_store
from tests.http.installation import hive_ray
from tests.state.compaction_test import compact_all, covered, lived

BAD_INPUT = 2
TOTAL = "select team, sum(cost_usd) as usd from events where cost_usd is not null group by team"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration whose state has history and a live end of the journal."""
    store = open_store(f"file://{tmp_path}/state")
    driver = lived(store)
    compact_all(store, covered(driver))
    (tmp_path / "hive.yaml").write_text(f"state: {{url: 'file://{tmp_path}/state'}}\n")
    return tmp_path


def test_the_cost_of_each_team_is_one_line(folder: Path):
    """As a table, as JSON with money as decimal text, and as an Arrow table in a notebook."""
    config = str(folder / "hive.yaml")
    shown = hive_ray("sql", TOTAL, cwd=folder)
    told = hive_ray("sql", TOTAL, "--json", cwd=folder)
    table = hive.sql(TOTAL, config)

    (line,) = json.loads(told.stdout)
    assert line["team"] == "team" and shown.stdout.split() == ["team", "usd", "team", line["usd"]]
    (row,) = table.to_pylist()
    assert format(row["usd"].normalize(), "f") == line["usd"] != "0"


def test_bad_sql_is_refused_by_its_place(folder: Path):
    """Exit code 2, what is wrong and where, and no traceback."""
    config = str(folder / "hive.yaml")
    answer = hive_ray("sql", "select nothing from events", cwd=folder)

    assert answer.returncode == BAD_INPUT
    assert "nothing" in answer.stderr and "Traceback" not in answer.stderr
    with pytest.raises(SqlError, match="read only"):
        hive.sql("drop view events", config)
