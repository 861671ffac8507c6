"""``hive-ray state``: each command as a user would call it; nothing of Ray runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.golden.releases import releases, unpack_state
from tests.http.installation import hive_ray

pytestmark = pytest.mark.timeout(120)


class Desk:
    """A folder with a ``hive.yaml`` and a state that a release left behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = unpack_state(releases()[0], folder)
        self.configure("production", self.state)

    def configure(self, environment: str, state: Path) -> None:
        config = {"environment": environment, "state": {"url": state.as_uri()}}
        (self.folder / "hive.yaml").write_text(json.dumps(config))

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return hive_ray("state", *arguments, cwd=self.folder)

    def told(self, *arguments: str) -> Any:
        done = self.call(*arguments, "--json")
        assert done.stderr == ""
        return json.loads(done.stdout)

    def place(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    # The blobs of a plain state are named for the environment in which it was made.
    made = Desk(tmp_path)
    made.configure("local", made.state)
    return made


def test_a_sound_state_exits_0_and_a_damaged_one_1_by_name(desk: Desk):
    """Counts when all is well; the object, the problem and the reason when not."""
    sound = desk.call("verify")
    segment = desk.state / "journal" / "0000" / "000000000009.arrow.zst"
    segment.write_bytes(segment.read_bytes()[:100])

    damaged = desk.call("verify")

    assert (sound.returncode, sound.stdout.split(":")[0]) == (0, "sound")
    assert damaged.returncode == 1
    assert "damaged      journal/0000/000000000009.arrow.zst: " in damaged.stdout
    assert "DAMAGED:" in damaged.stdout


def test_back_up_restore_adopt_and_the_state_is_another_environments(desk: Desk):
    """The whole way; the restored state is read-only until it is adopted, and sound all the time."""
    backup, restored = desk.place("backup").as_uri(), desk.place("restored")

    saved = desk.told("backup", backup)
    again = desk.told("restore", backup, restored.as_uri())
    desk.configure("staging", restored)
    before = desk.told("show")
    adopted = desk.told("adopt", "--yes")
    after = desk.told("show")
    verified = desk.told("verify")

    assert saved["verified"]["sound"] and again["verified"]["sound"]
    assert saved["objects_copied"] == again["objects_copied"] > 500
    assert before["read_only"].startswith("it was restored from a backup of")
    assert before["environment"] == "local"
    assert (after["environment"], after["read_only"]) == ("staging", "")
    assert after["lineage"] == adopted["lineage"] != before["lineage"]
    assert after["ancestors"] == [f"{before['lineage']} (local, {desk.state.as_uri()})"]
    assert verified["sound"]


def test_adoption_is_asked_about(desk: Desk):
    """Without a terminal and without --yes nothing happens."""
    desk.call("backup", desk.place("backup").as_uri())
    desk.call("restore", desk.place("backup").as_uri(), desk.place("restored").as_uri())
    desk.configure("local", desk.place("restored"))

    asked = desk.call("adopt")

    assert asked.returncode == 2
    assert "not adopted" in asked.stderr
    assert "Traceback" not in asked.stderr
    assert desk.told("show")["read_only"]


def test_what_is_no_copy_is_not_adopted(desk: Desk):
    """One's own state, an empty place, a backup that broke off."""
    desk.told("adopt", "--yes")
    own = desk.call("adopt", "--yes")
    desk.configure("local", desk.place("nothing"))
    empty = desk.call("adopt", "--yes")
    desk.configure("local", desk.state)
    desk.call("backup", desk.place("backup").as_uri())
    head = desk.place("backup") / "backup"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"finished_us": 0}))
    desk.configure("local", desk.place("backup"))
    broken = desk.call("adopt", "--yes")

    assert "is yours already" in own.stderr
    assert "is empty" in empty.stderr
    assert "did not come to its end" in broken.stderr
    assert {own.returncode, empty.returncode, broken.returncode} == {2}


def test_up_refuses_a_copy_and_another_environment(desk: Desk):
    """Before anything starts, with what to do; the state is not touched."""
    desk.told("adopt", "--yes")
    shutil.copytree(desk.state, desk.place("copy"))
    desk.configure("local", desk.place("copy"))
    before = _files(desk.place("copy"))
    copy = hive_ray("up", cwd=desk.folder)
    desk.configure("staging", desk.state)
    environment = hive_ray("up", cwd=desk.folder)

    assert copy.returncode == environment.returncode == 2
    assert "is read-only: it is a copy of" in copy.stderr
    assert "hive-ray state adopt" in copy.stderr
    assert "'local'" in environment.stderr and "'staging'" in environment.stderr
    assert _files(desk.place("copy")) == before


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_copy_answers_questions(desk: Desk):
    """Readers need no lineage of their own."""
    shutil.copytree(desk.state, desk.place("copy"))
    desk.configure("local", desk.place("copy"))

    asked = hive_ray("sql", "select count(*) as runs from runs", "--json", cwd=desk.folder)

    assert json.loads(asked.stdout)[0]["runs"] > 100
    assert desk.told("verify")["sound"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("backup", "nowhere"), "URL: 'nowhere' has no scheme that is known"),
        (("backup", "s3://bucket/x", "--option", "endpoint"), "--option: 'endpoint' is not KEY=VALUE"),
        (("backup", "{state}"), "is not empty"),
        (("restore", "{state}", "{folder}/restored"), "is no backup"),
        (("upgrade", "--yes"), "nothing runs here"),
    ],
)
def test_faults_are_named(desk: Desk, arguments: tuple[str, ...], said: str):
    """Exit 2, one message, no traceback, nothing changed."""
    before = _files(desk.state)
    urls = {"state": desk.state.as_uri(), "folder": desk.folder.as_uri()}

    done = desk.call(*(argument.format(**urls) for argument in arguments))

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert _files(desk.state) == before
