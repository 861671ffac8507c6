"""docs/RELIABILITY.md names scenarios 1 to 28 in order, and only tests and places in the code that exist."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.servers.process import REPO

PAGE = REPO / "docs" / "RELIABILITY.md"
TEST = re.compile(r"`(tests/[\w/]+\.py::\w+)`")
GUARD = re.compile(r"`((?:core|control|state|workers|graph|observe)/\w+\.py): ([\w.]+)`")


def rows() -> list[list[str]]:
    """The cells of the table of scenarios."""
    lines = PAGE.read_text("utf-8").splitlines()
    return [line.strip("| ").split(" | ") for line in lines if re.match(r"\| \d+ \|", line)]


def test_every_scenario_has_its_row():
    """Each names a test, or says that what it needs is not built yet."""
    table = rows()

    assert [int(row[0]) for row in table] == list(range(1, 29))
    assert [row[0] for row in table if not TEST.findall(row[2]) and "not built yet" not in row[2]] == []


def test_every_test_that_is_named_is_collected():
    """A renamed test takes its row with it."""
    named = sorted(set(TEST.findall(PAGE.read_text("utf-8"))))
    files = sorted({name.split("::")[0] for name in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=110, check=False)
    collected = {line.split("[")[0] for line in done.stdout.splitlines() if "::" in line}

    assert done.returncode == 0, done.stdout[-2000:]
    assert [name for name in named if name not in collected] == []


def test_every_guard_that_is_named_exists():
    """By file and function."""
    missing: list[str] = []
    for file, function in GUARD.findall(PAGE.read_text("utf-8")):
        source = (REPO / "hive_ray" / file).read_text("utf-8")
        if not re.search(rf"def {function.rpartition('.')[2]}\b", source):
            missing.append(f"{file}: {function}")

    assert missing == []
