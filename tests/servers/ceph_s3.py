"""Ceph's S3 gateway over a cluster of one: a monitor, one OSD on a sparse file, a RADOS gateway.

The programs come from Debian's packages: ``make ceph-packages`` installs them. Everything lies in one
folder and listens on loopback. Unlike moto it keeps its data over the death of any of its processes: each can
be killed and started again.
"""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

from tests.servers.process import ServerProcess, accepts, free_port
from tests.servers.signed_s3 import make_bucket

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
KEY = "test"
CONFIG = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
ms bind msgr1 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = {folder}/keyring
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 2000
mon data = {folder}/mon
mon data avail crit = 0
mon data avail warn = 0
osd data = {folder}/osd
osd objectstore = bluestore
bluestore block size = 4294967296
osd memory target = 939524096
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
pid file = {folder}/run/$name.pid
log file = {folder}/log/$name.log
debug rgw = 0/0
rgw data = {folder}/rgw
rgw enable usage log = false
rgw ops log rados = false
rgw frontends = beast endpoint=127.0.0.1:{port}
"""
CAPS = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *"),
    "osd.0": ("mon", "allow profile osd", "osd", "allow *"),
    "client.rgw": ("mon", "allow rw", "osd", "allow rwx"),
}


def missing_programs() -> list[str]:
    """Which of the programs this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class CephS3Server:
    """A running gateway; ``folder`` must be short, since sockets lie in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fsid = str(uuid.uuid4())
        self._mon_port, self.port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._processes: dict[str, ServerProcess] = {}
        try:
            self._start_cluster()
        except BaseException:
            self.close()
            raise

    # --- as every S3 server of the tests ---------------------------------------------------------

    def create_bucket(self, name: str) -> str:
        """Make a bucket and return its ``s3://`` URL."""
        return make_bucket(self.url, name, KEY, KEY)

    def options(self) -> dict[str, str]:
        """What an S3 client needs to talk to this server."""
        return {
            "endpoint": self.url,
            "region": "us-east-1",
            "access_key_id": KEY,
            "secret_access_key": KEY,
        }

    @property
    def pid(self) -> int:
        """The gateway's process."""
        return self._processes["radosgw"].pid

    def close(self) -> None:
        """End all processes."""
        for process in self._processes.values():
            process.close()

    def __enter__(self) -> CephS3Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what can be killed ----------------------------------------------------------------------

    def kill(self, program: str) -> None:
        """SIGKILL ``radosgw``, ``ceph-osd`` or ``ceph-mon``."""
        self._processes[program].close()

    def start(self, program: str) -> None:
        """Start one again on the data that it left, and wait until the gateway answers."""
        {"ceph-mon": self._start_mon, "ceph-osd": self._start_osd, "radosgw": self._start_gateway}[program]()

    # --- making it -------------------------------------------------------------------------------

    def _start_cluster(self) -> None:
        for name in ("mon", "osd", "run", "log", "rgw"):
            (self._folder / name).mkdir(parents=True)
        (self._folder / "ceph.conf").write_text(
            CONFIG.format(folder=self._folder, fsid=self._fsid, mon_port=self._mon_port, port=self.port)
        )
        self._make_keys()
        self._make_mon()
        self._start_mon()
        self._make_osd()
        self._start_osd()
        self._start_gateway()
        user = ("--uid", "test", "--display-name", "test", "--access-key", KEY, "--secret-key", KEY)
        self._do("radosgw-admin", "user", "create", *user)

    def _make_keys(self) -> None:
        keyring = str(self._folder / "keyring")
        for number, (name, caps) in enumerate(CAPS.items()):
            pairs = [word for i in range(0, len(caps), 2) for word in ("--cap", *caps[i : i + 2])]
            new = () if number else ("--create-keyring",)
            _run("ceph-authtool", keyring, *new, "--gen-key", "-n", name, *pairs)

    def _make_mon(self) -> None:
        monmap, keyring = str(self._folder / "monmap"), str(self._folder / "keyring")
        address = f"[v2:127.0.0.1:{self._mon_port}]"
        _run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", address, monmap)
        self._do("ceph-mon", "-i", "a", "--mkfs", "--keyring", keyring, "--monmap", monmap)

    def _make_osd(self) -> None:
        name = str(uuid.uuid4())
        self._do("ceph", "osd", "create", name)
        self._do("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", name)

    def _start_mon(self) -> None:
        self._start_process("ceph-mon", "-i", "a")
        self._processes["ceph-mon"].await_ready(lambda: accepts(self._mon_port))

    def _start_osd(self) -> None:
        self._start_process("ceph-osd", "-i", "0")
        self._processes["ceph-osd"].await_ready(lambda: "1 up" in self._do("ceph", "osd", "stat"))

    def _start_gateway(self) -> None:
        self._start_process("radosgw", "-n", "client.rgw")
        self._processes["radosgw"].await_ready(lambda: accepts(self.port))

    def _start_process(self, program: str, *words: str) -> None:
        log = self._folder / "log" / f"{program}.out"
        self._processes[program] = ServerProcess([*self._with_config(program), *words, "-f"], log)

    def _with_config(self, program: str) -> Sequence[str]:
        return (program, "-c", str(self._folder / "ceph.conf"))

    def _do(self, program: str, *words: str) -> str:
        return _run(*self._with_config(program), *words)


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr[-2000:]}")
    return done.stdout
