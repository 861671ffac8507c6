"""A state that takes no writes, such as a mounted backup: what is read of it without an installation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hive_ray.cli import app
from hive_ray.config import load
from hive_ray.core.commands import Submit
from hive_ray.core.keys import key_ref
from hive_ray.errors import NotFound, StoreError
from hive_ray.state.access import open_keyring, open_state
from hive_ray.state.file_store import FileStore
from tests.control.driver import Driver
from tests.control.shell_test import GRAPH, done
from tests.core.story import content

SECRET = "a-word-that-is-sealed"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A sealed state with a run that waits for its person; every write to it is a fault."""
    monkeypatch.setenv("STATE_KEY", "ab" * 32)
    (tmp_path / "hive.yaml").write_text(
        f"state: {{url: 'file://{tmp_path}/state'}}\nkeys: {{key: 'env:STATE_KEY'}}\n"
    )
    monkeypatch.chdir(tmp_path)
    settings = load(tmp_path / "hive.yaml")
    store = open_state(settings)
    keys = open_keyring(settings, store)
    keys.open(create=True)
    driver = Driver(store, [GRAPH], keys=keys)
    key = key_ref(keys.add_page().page, 0)
    driver.command(Submit("r", "q", "team", "agent", GRAPH.version, content(word=SECRET), key=key))
    session = driver.attached().session
    (lease,) = driver.exchanged(session, 1).leases
    driver.exchange(session, 2, done(lease))

    def refuse(_: FileStore, name: str, *__: Any) -> None:
        raise StoreError(f"{name}: no writing here")

    for method in ("create", "put", "delete"):
        monkeypatch.setattr(FileStore, method, refuse)
    before = tree(tmp_path)
    yield
    assert tree(tmp_path) == before


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and the time of its last change."""
    found = {str(path): path.stat() for path in sorted(folder.rglob("*"))}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def told(*arguments: str) -> str:
    answer = CliRunner().invoke(app, list(arguments))
    assert answer.exit_code == 0, (answer.output, answer.exception)
    return answer.stdout


@pytest.mark.usefixtures("folder")
def test_a_run_is_shown_out_of_the_state_alone():
    """Why it waits and what it needs, as an installation would tell; content is opened with the keys."""
    shown = json.loads(told("show", "r", "--json"))

    assert (shown["run_id"], shown["status"], len(shown["waits"])) == ("r", "waiting", 1)
    assert [event["kind"] for event in shown["events"]][:2] == ["RunSubmitted", "NodeEntered"]
    assert SECRET in json.dumps(shown["events"])
    assert "hive-ray approve" in told("show", "r")
    kinds = [json.loads(line)["kind"] for line in told("events", "r", "--json").splitlines()]
    assert kinds == [event["kind"] for event in shown["events"]]


@pytest.mark.usefixtures("folder")
def test_one_that_is_not_there_is_named():
    for command in ("show", "events", "replay"):
        assert isinstance(CliRunner().invoke(app, [command, "nobody"]).exception, NotFound)


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay", "r"),
        ("state", "show"),
        ("state", "verify"),
        ("sql", "select count(*) from events"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_looks_at_the_state_as_a_whole_writes_nothing_either(arguments: tuple[str, ...]):
    told(*arguments)
