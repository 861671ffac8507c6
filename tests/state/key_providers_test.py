"""Key-encryption keys: from the environment, a file, the file beside the state, and Vault."""

from __future__ import annotations

import base64
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hive_ray.config import SecretRef, Settings
from hive_ray.core.keys import STATE_KEY
from hive_ray.errors import ConfigError, KeysRefused, KeysUnavailable
from hive_ray.state.access import content_codec, open_keyring, open_state
from hive_ray.state.key_providers import key_in_file, local_key, parse_key
from hive_ray.state.vault import VaultKey
from tests.servers.process import free_port
from tests.servers.vault import VaultServer
from tests.state.keyrings import everything

KEY = bytes(range(32))
OTHER = KEY[::-1]
PLACE = ("r", "1")


def settings(folder: Path, keys: Mapping[str, Any] | None = None) -> Settings:
    url = (folder / "state").as_uri()
    return Settings.model_validate(
        {"state": {"url": url}, "keys": keys or {}}, context={"folder": str(folder)}
    )


def seal(given: Settings) -> bytes:
    """Make the state's keys and seal something."""
    ring = open_keyring(given)
    ring.open(create=True)
    return content_codec(given, ring).seal(b"x", PLACE, STATE_KEY)


def reads(given: Settings, sealed: bytes) -> bytes:
    """What a new process reads."""
    return content_codec(given).open(sealed, PLACE)


# --- here ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [KEY.hex(), KEY.hex().upper() + "\n", base64.b64encode(KEY).decode()])
def test_a_key_is_256_bits_as_text(text: str):
    """Hexadecimal or base64, with or without the newline of a file."""
    assert parse_key(text, "keys.key") == KEY


@pytest.mark.parametrize(
    "text", ["", "hunter2", KEY.hex()[:-2], base64.b64encode(KEY[1:]).decode(), "ß" * 64]
)
def test_what_is_no_key_is_refused_without_being_repeated(text: str):
    """It may be somebody's password."""
    with pytest.raises(ConfigError) as refused:
        parse_key(text, "keys.key")
    assert "openssl rand" in str(refused.value) and (not text or text not in str(refused.value))


def test_a_key_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same key by either reference opens the same state; its id tells nothing."""
    monkeypatch.setenv("HIVE_KEY", KEY.hex())
    (tmp_path / "kek").write_text(base64.b64encode(KEY).decode())
    sealed = seal(settings(tmp_path, {"key": "env:HIVE_KEY"}))

    assert reads(settings(tmp_path, {"key": "file:kek"}), sealed) == b"x"
    shown = local_key(SecretRef("env", "HIVE_KEY"), "keys.key").id
    assert shown.startswith("local:") and KEY.hex()[:8] not in shown
    monkeypatch.delenv("HIVE_KEY")
    with pytest.raises(ConfigError, match="env:HIVE_KEY"):
        reads(settings(tmp_path, {"key": "env:HIVE_KEY"}), sealed)


def test_a_state_in_a_folder_makes_its_own_key_beside_it(tmp_path: Path):
    """Readable by this user only, outside the state; the next process finds it."""
    given = settings(tmp_path / "hive")
    sealed = seal(given)
    file = given.own_key_file()

    assert file is not None and file == tmp_path / "hive" / "keys" / "state.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert reads(given, sealed) == b"x"
    assert [entry.name for entry in file.parent.iterdir()] == ["state.key"]
    assert not any(file.read_bytes().strip() in data for data in everything(open_state(given)).values())


def test_a_lost_key_file_is_not_made_again(tmp_path: Path):
    """A fresh key would look right and read nothing."""
    given = settings(tmp_path)
    seal(given)
    file = given.own_key_file()
    assert file is not None
    file.unlink()
    before = everything(open_state(given))

    for create in (True, False):
        with pytest.raises(KeysRefused, match=f"{file} is missing"):
            open_keyring(given).open(create)
    assert not file.exists() and everything(open_state(given)) == before


def test_processes_that_make_the_key_file_at_a_time_agree(tmp_path: Path):
    """One of them is first; all read the same key."""
    file = tmp_path / "keys" / "state.key"
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(key_in_file(file, True).id)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ids) == 16 and len(set(ids)) == 1
    assert os.listdir(file.parent) == ["state.key"]


def test_a_bucket_needs_a_key_that_somebody_chose():
    """A key that lies on one machine only would make the cluster's loss the data's."""
    given = Settings.model_validate({"state": {"url": "s3://bucket/x"}})
    ring = open_keyring(given)

    with pytest.raises(ConfigError, match=r"keys\.key.*s3://bucket/x.*openssl"):
        ring._holders(True)


def test_an_old_key_reads_until_it_is_taken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the new one alone the state is refused, by the ids of both; after a rotation it is not."""
    monkeypatch.setenv("OLD", KEY.hex())
    monkeypatch.setenv("NEW", OTHER.hex())
    sealed = seal(settings(tmp_path, {"key": "env:OLD"}))
    both = settings(tmp_path, {"key": "env:NEW", "old_keys": ["env:OLD"]})
    alone = settings(tmp_path, {"key": "env:NEW"})
    assert reads(both, sealed) == b"x"
    with pytest.raises(KeysRefused, match=r"keys\.old_keys"):
        reads(alone, sealed)

    assert open_keyring(both).rotate() == 1
    assert reads(alone, sealed) == b"x"


def test_two_present_keys_are_refused(tmp_path: Path):
    """Which one seals would be a guess."""
    vault = {"url": "http://v", "key": "hive", "token": "env:T"}
    with pytest.raises(ValueError, match="key and vault"):
        settings(tmp_path, {"key": "env:A", "vault": vault})


# --- Vault ---------------------------------------------------------------------------------------


def at(vault: VaultServer, timeout_s: float = 2.0, **changes: Any) -> dict[str, Any]:
    token = vault.folder / "given"
    token.write_text(vault.token + "\n")
    return {"url": vault.url, "key": "hive", "token": f"file:{token}", "timeout_s": timeout_s, **changes}


def test_vault_holds_the_key(vault: VaultServer, tmp_path: Path):
    """One call to make the state's keys, one in each process; none for each value."""
    given = settings(tmp_path, {"vault": at(vault)})
    sealed = seal(given)
    asked = len(vault.calls())

    codec = content_codec(given)
    assert [codec.open(sealed, PLACE) for _ in range(100)] == [b"x"] * 100
    assert vault.calls()[asked:] == ["/v1/transit/decrypt/hive"]
    assert not (tmp_path / "keys").exists()
    with pytest.raises(KeysRefused, match="vault:transit/hive"):
        reads(settings(tmp_path, {"key": f"file:{_key_file(tmp_path)}"}), sealed)


def _key_file(folder: Path) -> Path:
    file = folder / "kek"
    file.write_text(KEY.hex())
    return file


def test_from_a_key_to_vault_and_back(vault: VaultServer, tmp_path: Path):
    """Each time one rotation, and the earlier holder is not needed any more."""
    key, holder = f"file:{_key_file(tmp_path)}", at(vault)
    sealed = seal(settings(tmp_path, {"key": key}))
    open_keyring(settings(tmp_path, {"vault": holder, "old_keys": [key]})).rotate()
    assert reads(settings(tmp_path, {"vault": holder}), sealed) == b"x"

    open_keyring(settings(tmp_path, {"key": key, "old_vaults": [holder]})).rotate()
    assert reads(settings(tmp_path, {"key": key}), sealed) == b"x"


@pytest.mark.parametrize(
    ("switch", "said"),
    [
        ("expired", "token has expired"),
        ("forbidden", r"may not use /v1/transit/decrypt/hive.*update"),
        ("sealed", "503 Vault is sealed"),
        ("hold", "ReadTimeout"),
    ],
)
def test_what_vault_cannot_do_now_is_told_apart(vault: VaultServer, tmp_path: Path, switch: str, said: str):
    """None of it changes the state, and all of it passes without a new start."""
    given = settings(tmp_path, {"vault": at(vault, 0.5)})
    sealed = seal(given)
    before = everything(open_state(given))
    vault.switch(switch)
    codec = content_codec(given)

    with pytest.raises(KeysUnavailable, match=said) as unavailable:
        codec.open(sealed, PLACE)
    assert "keys.vault" in str(unavailable.value) and vault.token not in str(unavailable.value)
    assert everything(open_state(given)) == before
    vault.switch(switch, on=False)
    assert codec.open(sealed, PLACE) == b"x"


def test_a_renewed_token_is_used_at_once(vault: VaultServer, tmp_path: Path):
    """Whoever renews it writes it into its file."""
    given = settings(tmp_path, {"vault": at(vault)})
    sealed = seal(given)
    (vault.folder / "token").write_text("hvs.renewed")
    codec = content_codec(given)
    with pytest.raises(KeysUnavailable, match=r"keys\.vault\.token"):
        codec.open(sealed, PLACE)
    (vault.folder / "given").write_text("hvs.renewed")

    assert codec.open(sealed, PLACE) == b"x"


def test_nobody_there_is_an_outage(tmp_path: Path):
    """It is waited for as long as was said, and no longer; then named."""
    key = VaultKey(f"http://127.0.0.1:{free_port()}", "transit", "hive", lambda: "t", timeout_s=0.3)

    with pytest.raises(KeysUnavailable, match="ConnectError"):
        key.unwrap(b"vault:v1:xx", b"")


def test_a_short_outage_is_not_noticed(vault: VaultServer, tmp_path: Path):
    """Connections are tried again while there is time."""
    given = settings(tmp_path, {"vault": at(vault, 30.0)})
    sealed = seal(given)
    vault.switch("sealed")
    threading.Timer(0.3, lambda: vault.switch("sealed", on=False)).start()

    assert reads(given, sealed) == b"x"


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"mount": "elsewhere"}, r"keys\.vault\.mount"), ({"key": "other"}, r"keys\.vault\.key")],
)
def test_a_key_that_vault_does_not_have(
    vault: VaultServer, tmp_path: Path, changes: dict[str, Any], said: str
):
    """That does not pass by itself: it is refused, with the name of what to correct."""
    given = settings(tmp_path, {"vault": at(vault)})
    seal(given)
    holder = open_keyring(settings(tmp_path, {"vault": at(vault, **changes)}))._holders(False)[0]

    with pytest.raises(KeysRefused, match=said):
        holder.unwrap(b"vault:v1:" + base64.b64encode(bytes(60)), b"")


def test_what_vault_did_not_encrypt_is_refused(vault: VaultServer, tmp_path: Path):
    """Also a key of ours in another one's place."""
    holder = open_keyring(settings(tmp_path, {"vault": at(vault)}))._holders(False)[0]
    wrapped = holder.wrap(KEY, b"one")

    assert holder.unwrap(wrapped, b"one") == KEY
    with pytest.raises(KeysRefused, match="authentication failed"):
        holder.unwrap(wrapped, b"two")
