"""The keys of a state at the command line, as somebody meets them who lost or changed one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from hive_ray import config
from hive_ray.state.access import open_keyring
from tests.http.installation import hive_ray
from tests.servers.process import free_port
from tests.servers.vault import VaultServer

HEX = {"old": "11" * 32, "new": "22" * 32}


def write(folder: Path, **keys: Any) -> Path:
    """A ``hive.yaml`` with that section."""
    settings = {"http": {"port": free_port(), "ha_proxy": False}, "keys": keys}
    file = folder / "hive.yaml"
    file.write_text(yaml.safe_dump(settings))
    for name, text in HEX.items():
        (folder / name).write_text(text)
    return file


def sealed(folder: Path, **keys: Any) -> Path:
    """A state that has keys."""
    file = write(folder, **keys)
    open_keyring(config.load(file)).open(create=True)
    return file


def digest(folder: Path) -> dict[str, str]:
    """Of every object in the state."""
    state = folder / ".hive" / "state"
    return {
        str(file.relative_to(state)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(state.rglob("*"))
        if file.is_file()
    }


def lose(folder: Path) -> None:
    (folder / ".hive" / "keys" / "state.key").unlink()


def change(folder: Path) -> None:
    (folder / ".hive" / "keys" / "state.key").write_text(HEX["new"])


def spoil(folder: Path) -> None:
    (folder / ".hive" / "keys" / "state.key").write_text("hunter2hunter2")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lose, "state.key is missing"),
        (change, "this state's content is sealed with key local:"),
        (spoil, "is not a key of 256 bits"),
    ],
)
def test_up_refuses_a_state_whose_key_is_lost_or_another(
    tmp_path: Path, harm: Callable[[Path], None], said: str
):
    """Before anything starts, and without a change to the state; the key itself is not repeated."""
    sealed(tmp_path)
    harm(tmp_path)
    hive_ray("up", cwd=tmp_path)  # What the first start writes by itself, it has written.
    before = digest(tmp_path)

    refused = hive_ray("up", cwd=tmp_path)
    assert refused.returncode == 2
    assert said in refused.stderr and "hunter2" not in refused.stderr
    assert digest(tmp_path) == before
    assert not (tmp_path / ".hive" / "up.json").exists()


@pytest.mark.parametrize(
    ("switch", "said"), [("expired", "keys.vault.token"), ("forbidden", "capability `update`")]
)
def test_up_says_what_vault_wants(vault: VaultServer, tmp_path: Path, switch: str, said: str):
    """A token that died, and one that may not, are told apart."""
    (tmp_path / "token").write_text(vault.token)
    holder = {"url": vault.url, "key": "hive", "token": "file:token", "timeout_s": 2}
    sealed(tmp_path, vault=holder)
    vault.switch(switch)

    refused = hive_ray("up", cwd=tmp_path)
    assert refused.returncode == 2
    assert said in refused.stderr and vault.token not in refused.stderr


def shown(folder: Path, *command: str) -> Mapping[str, Any]:
    told = hive_ray("keys", *command, "--json", cwd=folder)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def test_keys_are_rotated_at_the_command_line(tmp_path: Path):
    """Old key, both, new key: each step is told, and the last needs the old one no more."""
    sealed(tmp_path, key="file:old")
    old = shown(tmp_path, "show")
    write(tmp_path, key="file:new", old_keys=["file:old"])

    assert shown(tmp_path, "rotate")["rewrapped"] == 1
    assert shown(tmp_path, "rotate")["rewrapped"] == 0
    write(tmp_path, key="file:new")
    new = shown(tmp_path, "show")
    assert old["wrapped_by"] == {"1": old["key"]} and new["wrapped_by"] == {"1": new["key"]}
    assert old["key"] != new["key"]
    write(tmp_path, key="file:old")
    refused = hive_ray("keys", "show", cwd=tmp_path)
    assert refused.returncode == 2 and new["key"] in refused.stderr


def test_a_state_without_keys_is_told_so(tmp_path: Path):
    """Nothing is made by looking."""
    write(tmp_path)

    told = hive_ray("keys", "show", cwd=tmp_path)
    assert told.returncode == 2 and "hive-ray" in told.stderr
    assert not (tmp_path / ".hive" / "keys").exists()
