"""The process behind `hive-ray up`: Ray head, controller, HTTP face, from start to end.

``python -m serve.supervisor FOLDER PIPE OPTIONS`` (see ``hive_ray.control.launch``). It holds the lock of
its folder while it lives, and Ray's processes end with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from hive_ray import config
from hive_ray.config import SecretRef, Settings, VaultSettings
from hive_ray.control.envelope import seal_of
from hive_ray.control.launch import Said, UpOptions, free_port, say
from hive_ray.control.planning import plan_of
from hive_ray.control.record import TOKEN_VARIABLE, Place, Record, clean, is_alive, refuse_second
from hive_ray.errors import (
    ConfigError,
    Conflict,
    Fault,
    FaultsError,
    HiveError,
    KeysRefused,
    StateRefused,
    StoreError,
    Unavailable,
)
from hive_ray.observe.logging import configure
from hive_ray.state.access import open_keyring, open_state
from hive_ray.state.lineage import open_for_work
from hive_ray.state.owner import process_start
from serve.tokens import Tokens

log = logging.getLogger("hive_ray.supervisor")

STORE_TIMEOUT_S = 15.0
WATCH_S = 1.0


def main(argv: list[str]) -> int:
    folder, writing, options = argv
    place = Place(Path(folder))
    pipe = int(writing)
    try:
        held = place.lock()
        if held is None:
            raise refuse_second(place)
        _write_to(place.log)
        _clear_leftover(place)
        return _Supervisor(place, msgspec.json.decode(options, type=UpOptions), pipe).run()
    except HiveError as error:
        say(pipe, _told(error))
        return 2


def _told(error: HiveError) -> Said:
    kind = "Unavailable"
    faults: tuple[tuple[str, str, str], ...] = ()
    problem = str(error)
    if isinstance(error, FaultsError):
        kind, problem = "ConfigError", error.subject
        faults = tuple((f.place, f.problem, f.remedy) for f in error.faults)
    elif isinstance(error, Conflict | KeysRefused):
        kind = type(error).__name__
    return Said(problem=problem, faults=faults, kind=kind)


def _write_to(file: Path) -> None:
    """Let everything that this process and Ray print end in a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.close(out)


def _clear_leftover(place: Place) -> None:
    """The lock is free, so whatever the record names was left behind by a killed supervisor."""
    record = place.read()
    if record is not None and not is_alive(record.pid, record.start):
        clean(place, record)


class _Supervisor:
    """One installation, from its checks to its end."""

    def __init__(self, place: Place, options: UpOptions, pipe: int) -> None:
        self._place = place
        self._options = options
        self._pipe = pipe
        self._stop = threading.Event()
        self._temporary: list[str] = []
        self._started = False

    def run(self) -> int:
        settings = self._checked()
        configure(settings, "supervisor")
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        record = self._record()
        try:
            self._place.write(record)
            folder = self._folder("secrets")
            settings = hand_over_secrets(settings, folder)
            if not self._options.address:
                settings = with_door_secret(settings, folder)
            record, controller = self._start(settings, record)
        except BaseException:
            self._end(settings)
            raise
        say(self._pipe, Said(record))
        try:
            self._watch(controller, settings)
        finally:
            self._end(settings)
        return 0

    # --- before anything starts ------------------------------------------------------------------

    def _checked(self) -> Settings:
        """Settings whose port is free and whose store answers."""
        options = self._options
        settings = config.load(Path(options.config) if options.config else None)
        settings = _with_options(settings, options)
        plan_of(settings)  # names every fault of a policy
        if not options.address:
            _check_port(settings.http.host, settings.http.port)
        for reference in sorted(settings.secret_references()):
            scheme, _, name = reference.partition(":")
            config.resolve(SecretRef("env" if scheme == "env" else "file", name))
        if settings.auth.jwt is not None:
            Tokens(settings.auth.jwt).check()
        _check_store(settings)
        # Before any epoch is claimed: with the wrong key nothing is written.
        open_keyring(settings).open(create=True)
        return settings

    def _record(self) -> Record:
        pid = os.getpid()
        return Record(
            token=os.environ[TOKEN_VARIABLE],
            pid=pid,
            start=process_start(pid) or 0,
            config=self._options.config,
            log=str(self._place.log),
            started_at_us=time.time_ns() // 1000,
            joined=bool(self._options.address),
        )

    def _folder(self, kind: str) -> Path:
        """A folder of this user only, which goes when the installation ends."""
        folder = tempfile.mkdtemp(prefix=f"hive-{kind}-")
        self._temporary.append(folder)
        return Path(folder)

    # --- starting --------------------------------------------------------------------------------

    def _start(self, settings: Settings, record: Record) -> tuple[Record, Any]:
        from hive_ray.control import cluster

        cluster.prepare_environment(settings.http.ha_proxy, self._folder("proxy"))
        sys.path.append(str(self._place.folder))
        options = self._options
        joined = cluster.join(options.address) if options.address else cluster.start_head()
        self._started = True
        signal.signal(signal.SIGTERM, self._on_signal)
        url = f"http://{_spelled(settings.http.host)}:{settings.http.port}"
        cluster.publish(settings, url)
        controller = cluster.start_controller(settings, joined.name, options.take_over)
        said = cluster.await_ready(controller)
        made = self._ensure_key(settings, controller)
        _serve(settings)
        record = msgspec.structs.replace(
            record,
            url=url,
            ray_address=joined.address,
            dashboard_url=joined.dashboard_url,
            cluster=joined.name,
            controller_pid=said["pid"],
            epoch=said["epoch"],
            temporary=tuple(self._temporary),
            admin_key_file=str(self._place.admin_key) if made else "",
        )
        self._place.write(record)
        log.info("ready at %s", url)
        return record, controller

    def _ensure_key(self, settings: Settings, controller: Any) -> bool:
        """Before anybody can ask: an installation that needs keys has one."""
        from hive_ray.control import first_key

        keyring = open_keyring(settings)
        ask = first_key.Ask(controller, seal_of(settings, keyring), keyring)
        return first_key.ensure(settings, ask, self._place.admin_key, self._options.admin_key)

    def _on_signal(self, number: int, _frame: Any) -> None:
        self._stop.set()

    # --- running ---------------------------------------------------------------------------------

    def _watch(self, controller: Any, settings: Settings) -> None:
        """Until told to stop, or nothing was done for ``idle_exit_s``."""
        from hive_ray.control import cluster

        limit_s = self._options.idle_exit_s
        idle = _Idle()
        seal = seal_of(settings, open_keyring(settings))
        while not self._stop.wait(WATCH_S):
            if not limit_s:
                continue
            with contextlib.suppress(Unavailable):
                idle.look(cluster.activity(controller, seal))
            if idle.seconds >= limit_s:
                log.info("nothing was done for %s s", limit_s)
                return

    def _end(self, settings: Settings) -> None:
        if self._started:
            self._leave_cluster(settings)
        for folder in self._temporary:
            shutil.rmtree(folder, ignore_errors=True)
        record = self._place.read()
        if record is not None:
            clean(self._place, record)

    def _leave_cluster(self, settings: Settings) -> None:
        import ray
        from ray import serve

        from hive_ray.control import cluster

        try:
            if self._options.address:
                serve.delete("hive")
                cluster.remove(settings)
        finally:
            ray.shutdown()


class _Idle:
    """How long a controller has had nothing to do."""

    def __init__(self) -> None:
        self._seen: tuple[int, ...] = ()
        self._since = time.monotonic()

    def look(self, activity: tuple[int, ...]) -> None:
        """``activity``: work under way, then counters that only grow."""
        if activity[0] or activity != self._seen:
            self._seen = activity
            self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._since


def _with_options(settings: Settings, options: UpOptions) -> Settings:
    http = settings.http
    if options.port:
        port = free_port() if options.port < 0 else options.port
        http = http.model_copy(update={"port": port})
    if options.ha_proxy is not None:
        http = http.model_copy(update={"ha_proxy": options.ha_proxy})
    modules = (*settings.tools.modules, *(m for m in options.modules if m not in settings.tools.modules))
    tools = settings.tools.model_copy(update={"modules": modules})
    return settings.model_copy(update={"http": http, "tools": tools})


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            problem = f"port {port} on {host} cannot be used: {error.strerror}"
            remedy = "end what listens there, or choose another port (http.port, --port)"
            raise ConfigError("configuration", [Fault("http.port", problem, remedy)]) from error


def _check_store(settings: Settings) -> None:
    """Probe the store and look whose state it holds, for a bounded time.

    Raises:
        ConfigError: it does not answer, or cannot hold a journal.
        StateRefused: it holds a copy, or another environment's state.
    """
    failed: list[StoreError] = []
    store = open_state(settings)

    def probe() -> None:
        try:
            store.probe()
            open_for_work(store, settings.environment, time.time_ns() // 1000)
        except StoreError as error:
            failed.append(error)

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(STORE_TIMEOUT_S)
    why = f"does not answer within {STORE_TIMEOUT_S:g} s" if thread.is_alive() else ""
    if failed and isinstance(failed[0], StateRefused):
        raise failed[0]
    why = str(failed[0]) if failed else why
    if why:
        remedy = "make the store reachable and writable, or change state.url"
        raise ConfigError("configuration", [Fault("state.url", f"{settings.state.url}: {why}", remedy)])


def _spelled(host: str) -> str:
    """A host as a client on this machine would write it."""
    if host in ("0.0.0.0", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _serve(settings: Settings) -> None:
    from ray import serve

    from serve.app import app

    http = {"host": settings.http.host, "port": settings.http.port}
    serve.start(proxy_location="HeadOnly", http_options=http)
    serve.run(app, name="hive", route_prefix="/")


def hand_over_secrets(settings: Settings, folder: Path) -> Settings:
    """The same settings with ``env:`` references turned into files, and the variables gone from here.

    Ray's processes inherit this environment; what they may know, they read from files of this user.
    """
    written: dict[str, str] = {}

    def moved(value: Any) -> Any:
        if not isinstance(value, SecretRef) or value.scheme != "env":
            return value
        if value.name not in written:
            file = folder / value.name
            file.touch(0o600)
            file.write_text(config.resolve(value), "utf-8")
            written[value.name] = str(file)
        return SecretRef("file", written[value.name])

    moved_settings = _mapped(settings, moved)
    for name in written:
        os.environ.pop(name, None)
    return moved_settings


def with_door_secret(settings: Settings, folder: Path) -> Settings:
    """The same settings with a door secret of this start, unless they name one.

    In a file of this user: neither Ray's key-value store nor any environment holds it.
    """
    if settings.auth.door_secret is not None:
        return settings
    file = folder / "door"
    file.touch(0o600)
    file.write_text(secrets.token_hex(32), "ascii")
    return _with_door(settings, SecretRef("file", str(file)))


def _with_door(settings: Settings, door: SecretRef | None) -> Settings:
    auth = settings.auth.model_copy(update={"door_secret": door})
    return settings.model_copy(update={"auth": auth})


def _mapped(settings: Settings, moved: Callable[[Any], Any]) -> Settings:
    models = {n: m.model_copy(update={"api_key": moved(m.api_key)}) for n, m in settings.models.items()}
    servers = {
        n: s.model_copy(update={"env": {k: moved(v) for k, v in s.env.items()}})
        for n, s in settings.tools.mcp.items()
    }
    options = {k: moved(v) for k, v in settings.state.options.items()}
    keys = settings.keys
    keys = keys.model_copy(
        update={
            "key": moved(keys.key),
            "old_keys": tuple(map(moved, keys.old_keys)),
            "vault": _with_token(keys.vault, moved) if keys.vault else None,
            "old_vaults": tuple(_with_token(vault, moved) for vault in keys.old_vaults),
        }
    )
    settings = _with_door(settings, moved(settings.auth.door_secret))
    return settings.model_copy(
        update={
            "models": models,
            "tools": settings.tools.model_copy(update={"mcp": servers}),
            "state": settings.state.model_copy(update={"options": options}),
            "keys": keys,
        }
    )


def _with_token(vault: VaultSettings, moved: Callable[[Any], Any]) -> VaultSettings:
    return vault.model_copy(update={"token": moved(vault.token)})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
