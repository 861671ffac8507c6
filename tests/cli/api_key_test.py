"""Where the command line takes its API key from; no cluster needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hive_ray.cli import _with_key_file_first, common
from hive_ray.cli.api_keys import seconds_of
from hive_ray.control import launch
from hive_ray.control.record import Place, Record
from hive_ray.errors import InputError
from hive_ray.state.owner import process_start


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key in this process's environment, and a folder of its own."""
    monkeypatch.delenv("HIVE_RAY_API_KEY", raising=False)
    monkeypatch.setattr(common, "api_key_file", None)
    monkeypatch.chdir(tmp_path)


URL = "http://127.0.0.1:8700"


def running(folder: Path) -> Place:
    """An installation of this folder: this process stands for it."""
    import os

    place = Place(folder)
    place.hive.mkdir()
    place.write(Record("t", os.getpid(), process_start(os.getpid()) or 0, url=URL))
    place.admin_key.write_text("hrk_from_up\n")
    return place


@pytest.mark.parametrize(
    ("words", "sorted_"),
    [
        (["ls"], ["ls"]),
        (["ls", "--api-key-file", "f", "--json"], ["--api-key-file", "f", "ls", "--json"]),
        (["keys", "list", "--api-key-file=f"], ["--api-key-file=f", "keys", "list"]),
        (["signal", "r", "--", "--api-key-file", "said"], ["signal", "r", "--", "--api-key-file", "said"]),
        (["ls", "--api-key-file"], ["--api-key-file", "ls"]),
    ],
)
def test_the_option_may_stand_anywhere(words: list[str], sorted_: list[str]):
    """Before the command and behind it; not behind ``--``, where everything is text."""
    assert _with_key_file_first(words) == sorted_


def test_a_named_file_goes_before_the_environment_and_that_before_what_up_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    running(tmp_path)
    assert common.api_key_for(URL, None) == "hrk_from_up"

    monkeypatch.setenv("HIVE_RAY_API_KEY", "hrk_from_environment")
    assert common.api_key_for(URL, None) == "hrk_from_environment"

    (tmp_path / "mine.key").write_text("hrk_from_file\n")
    monkeypatch.setattr(common, "api_key_file", tmp_path / "mine.key")
    assert common.api_key_for(URL, None) == "hrk_from_file"


def test_the_key_of_this_folder_is_sent_nowhere_else(tmp_path: Path):
    """``--url`` names another installation: that must not learn it."""
    running(tmp_path)

    assert common.api_key_for("http://elsewhere.example:8700", None) is None


@pytest.mark.parametrize("text", ["", " \n", "two words", "two\nlines", "\u00e9"])
def test_a_file_without_a_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str):
    file = tmp_path / "bad.key"
    file.write_text(text, "utf-8")
    monkeypatch.setattr(common, "api_key_file", file)

    with pytest.raises(InputError, match=r"bad\.key"):
        common.api_key_for(URL, None)


def test_an_installation_does_not_inherit_the_key_of_whoever_starts_it(monkeypatch: pytest.MonkeyPatch):
    """Its tools would find it in their environment."""
    monkeypatch.setenv("HIVE_RAY_API_KEY", "hrk_mine")
    monkeypatch.setenv("OTHER", "stays")

    environment = launch._environment("token")

    assert "HIVE_RAY_API_KEY" not in environment
    assert environment["OTHER"] == "stays"


def test_times_are_written_with_a_unit():
    assert [seconds_of(text, "--ttl") for text in ("90", "90s", "1.5m", "2h", "90d")] == [
        90,
        90,
        90,
        7200,
        90 * 86_400,
    ]
