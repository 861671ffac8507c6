"""A Ray cluster to run on: started here or joined, with the controller actor in it.

Nothing here knows HTTP. What every replica must know (the settings, the address of the HTTP face) is kept
in the cluster's own key-value store, so that nobody needs the file that `up` read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import ray
from ray._private import parameter
from ray.exceptions import RayError
from ray.experimental import internal_kv

from hive_ray.config import Settings, load
from hive_ray.control import haproxy
from hive_ray.control.actor import ControllerActor
from hive_ray.control.envelope import INSTALLATION, Seal, closed
from hive_ray.control.launch import free_port
from hive_ray.control.queries import ListWorkers, Request
from hive_ray.control.views import Answer
from hive_ray.errors import Unavailable
from hive_ray.names import NAMESPACE, controller_name, worker_name

SETTINGS_KEY = "settings"
URL_KEY = "url"
CALL_TIMEOUT_S = 30.0
READY_S = 60.0
_POLL_S = 0.05


class Joined(NamedTuple):
    """The cluster that this process is a driver of."""

    address: str
    dashboard_url: str
    name: str
    """Unique among clusters: Ray's session."""


def start_head(dashboard: bool = True) -> Joined:
    """Start a Ray head as a child of this process; everything listens on loopback."""
    with _own_agent_port(free_port()):
        context = ray.init(
            address="local",
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            dashboard_port=free_port() if dashboard else None,
            namespace=NAMESPACE,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )
    return _joined(context)


@contextmanager
def _own_agent_port(port: int) -> Generator[None]:
    """Give the head's agent a port of its own, which ``ray.init`` has no option for.

    Jobs go through that agent: with the fixed default they reach whichever cluster of this machine was
    there first.
    """
    before = parameter.RayParams

    class Params(before):
        def __init__(self, **given: Any) -> None:
            super().__init__(dashboard_agent_listen_port=port, **given)

    parameter.RayParams = Params
    try:
        yield
    finally:
        parameter.RayParams = before


def join(address: str) -> Joined:
    """Become a driver of a running cluster.

    Raises:
        Unavailable: nobody answers there.
    """
    try:
        return _joined(ray.init(address=address, namespace=NAMESPACE, log_to_driver=False))
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise Unavailable(f"no Ray cluster at {address}: {str(error).splitlines()[0]}") from error


def _joined(context: Any) -> Joined:
    info: Mapping[str, Any] = context.address_info
    dashboard = info.get("webui_url") or ""
    session = Path(str(info["session_dir"])).name
    return Joined(str(info["gcs_address"]), f"http://{dashboard}" if dashboard else "", session)


def start_controller(settings: Settings, cluster: str, take_over: bool, partition: int = 0) -> Any:
    """The controller actor, made if there is none, recovering."""
    data = settings.model_dump_json().encode()
    actor: Any = ControllerActor.options(  # pyright: ignore[reportAttributeAccessIssue]
        name=controller_name(partition),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=10_000,
        num_cpus=0,
    ).remote(partition, data, cluster, take_over)
    ray.get(actor.start.remote(), timeout=CALL_TIMEOUT_S)
    return actor


def standing(actor: Any, timeout_s: float = CALL_TIMEOUT_S) -> dict[str, Any]:
    """What the controller says of itself; never waits for its work."""
    return msgspec.msgpack.decode(ray.get(actor.standing.remote(), timeout=timeout_s))


def ask(actor: Any, seal: Seal, request: Request, timeout_s: float = CALL_TIMEOUT_S) -> Answer:
    """The controller's answer to a request of the installation itself.

    Raises:
        Unavailable: it does not answer now.
    """
    sealed = closed(seal, INSTALLATION, [request], time.time_ns() // 1000)
    try:
        data: Any = ray.get(actor.ask.remote(sealed), timeout=timeout_s)
    except RayError as error:
        raise Unavailable(f"the controller does not answer: {error}") from error
    (answer,) = _decode_answers(data)
    return answer


_decode_answers = msgspec.msgpack.Decoder(list[Answer]).decode


def activity(actor: Any, seal: Seal) -> tuple[int, ...]:
    """Steps under way or queued, then counters that only grow with work.

    Raises:
        Unavailable: the controller does not answer now.
    """
    try:
        said = standing(actor, timeout_s=5.0)
    except RayError as error:
        raise Unavailable(f"the controller does not answer: {error}") from error
    workers: list[dict[str, Any]] = ask(actor, seal, ListWorkers(), 5.0).value or []
    under_way = sum(worker["leases"] for worker in workers) + sum(said["queued"].values())
    counters: dict[str, int] = said["counters"]
    return (under_way, *(counters.get(key, 0) for key in ("steps", "leases", "commits", "runs_submitted")))


def await_ready(actor: Any, timeout_s: float = READY_S) -> dict[str, Any]:
    """Wait until the controller has recovered.

    Raises:
        Unavailable: it cannot; says why.
    """
    until = time.monotonic() + timeout_s
    while True:
        said = standing(actor)
        if said["ready"]:
            return said
        reason = str(said["standing"])
        if reason.startswith(("stopped", "fenced", "waiting: process")) or time.monotonic() > until:
            raise Unavailable(f"the controller does not become ready: {reason}")
        time.sleep(_POLL_S)


def publish(settings: Settings, url: str) -> None:
    """Let every process of the cluster find the settings and the HTTP face."""
    _put(SETTINGS_KEY, settings.model_dump_json().encode())
    _put(URL_KEY, url.encode())


def published_settings() -> Settings:
    """The settings of the installation on this cluster; without one those of this process."""
    data = _get(SETTINGS_KEY)
    return Settings.model_validate_json(data) if data else load()


def published_url(address: str) -> str:
    """Where the HTTP face of a cluster is; joins the cluster for the question.

    Raises:
        Unavailable: no cluster there, or no installation on it.
    """
    join(address)
    try:
        data = _get(URL_KEY)
    finally:
        ray.shutdown()
    if not data:
        raise Unavailable(f"hive_ray does not run on the cluster at {address}: run `hive-ray up --address`")
    return data.decode()


def _put(key: str, value: bytes) -> None:
    internal_kv._internal_kv_put(key, value, overwrite=True, namespace=NAMESPACE)  # pyright: ignore[reportPrivateUsage]


def _get(key: str) -> bytes | None:
    return internal_kv._internal_kv_get(key, namespace=NAMESPACE)  # pyright: ignore[reportPrivateUsage]


def remove(settings: Settings) -> None:
    """Take controller and workers off a cluster that stays."""
    names = [
        worker_name(pool, number) for pool, s in settings.pools.items() for number in range(s.workers.min)
    ]
    for name in (controller_name(0), *names):
        try:
            ray.kill(ray.get_actor(name, NAMESPACE))
        except (ValueError, RayError):
            continue
    for key in (SETTINGS_KEY, URL_KEY):
        internal_kv._internal_kv_del(key, namespace=NAMESPACE)  # pyright: ignore[reportPrivateUsage]


def prepare_environment(ha_proxy: bool, folder: Path) -> None:
    """What Ray and Serve read from the environment when they start.

    Args:
        folder: for HAProxy's sockets; a short path, since a socket's name has 107 bytes at most.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1" if ha_proxy else "0"
    if not ha_proxy:
        return
    for variable, name in _HA_PROXY_FILES.items():
        os.environ[variable] = str(folder / name)
    # Its exporter would listen on every address; /metrics is ours.
    os.environ["RAY_SERVE_HAPROXY_METRICS_ENABLED"] = "0"
    for variable in ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT"):
        os.environ[variable] = str(free_port())
    haproxy.narrow(folder)


_HA_PROXY_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}
