"""Makes the golden files of a release: its wheel, a state that it wrote, and what it said of it.

``python -m tests.golden.make VERSION COMMIT`` builds the wheel from that commit, installs it into a folder,
starts it for real, lets runs of every kind finish, wait and run, and kills it while some are under way.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from hive_ray.client import Client
from tests.golden import scenes
from tests.golden.releases import EXPECTED, GOLDEN, STATE, Release, install, told_of
from tests.servers.aimock import AimockServer
from tests.servers.process import wait_until

REPO = Path(__file__).parents[2]
PATIENCE_S = 120.0


def main(argv: list[str]) -> int:
    version, commit = argv
    target = GOLDEN / version
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        folder = Path(name)
        _build(commit, target, folder / "checkout")
        code = install(version, folder / "code")
        told = _live(folder, code)
        (target / EXPECTED).write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", "utf-8")
        _pack(folder, target / STATE)
    print(f"{target}: {len(told)} runs, {(target / STATE).stat().st_size} bytes of state")
    return 0


def _build(commit: str, target: Path, checkout: Path) -> None:
    if list(target.glob("*.whl")):
        return
    subprocess.run(["git", "worktree", "add", "-q", "--detach", checkout, commit], cwd=REPO, check=True)
    try:
        build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", target]
        subprocess.run(build, cwd=checkout, check=True, capture_output=True)
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", checkout], cwd=REPO, check=True)


def _live(folder: Path, code: Path) -> dict[str, Any]:
    """Everything that happens in a golden state; the last word of the release about every run."""
    with AimockServer(scenes.MODEL, folder) as model:
        release = Release(folder, model.openai_url)
        client = release.up(code)
        try:
            runs = _before_the_snapshot(client)
            runs += _until_a_snapshot(client, folder / "state")
            runs += _behind_the_snapshot(client)
            children = [line["run_id"] for line in client.runs(children=True) if line["parent"]]
            told = told_of(client, [*runs, *children])
        finally:
            release.kill()
            release.down()
    return told


def _submit(client: Client, name: str, /, **values: Any) -> str:
    return client.submit(scenes.GRAPHS[name], input=values, agent=name).id


def _ended(client: Client, name: str, /, **values: Any) -> str:
    run = client.submit(scenes.GRAPHS[name], input=values, agent=name)
    run.outcome(PATIENCE_S)
    return run.id


def _waiting(client: Client, name: str, /, **values: Any) -> str:
    run = client.submit(scenes.GRAPHS[name], input=values, agent=name)
    wait_until(lambda: run.status == "waiting", PATIENCE_S)
    return run.id


def _leased(client: Client, name: str, /, **values: Any) -> str:
    run = client.submit(scenes.GRAPHS[name], input=values, agent=name)
    wait_until(lambda: any(step["status"] == "leased" for step in run.show()["steps"]), PATIENCE_S)
    return run.id


def _with_leased_children(client: Client, name: str, /, **values: Any) -> str:
    run = client.submit(scenes.GRAPHS[name], input=values, agent=name)

    def leased() -> int:
        children = [line["run_id"] for line in client.runs(children=True) if line["parent"] == run.id]
        return sum(step["status"] == "leased" for c in children for step in client.run(c).show()["steps"])

    wait_until(lambda: leased() == 2, PATIENCE_S)
    return run.id


def _backing_off(client: Client, /, **values: Any) -> str:
    run = client.submit(scenes.GRAPHS["retrying"], input=values, agent="retrying")
    wait_until(lambda: any(step["status"] == "backoff" for step in run.show()["steps"]), PATIENCE_S)
    return run.id


def _before_the_snapshot(client: Client) -> list[str]:
    client.register("greeter", scenes.GRAPHS["chain"])
    keyed = client.submit(agent="greeter", input={"name": "Key"}, idempotency_key="golden", budget_usd="1")
    keyed.outcome(PATIENCE_S)
    runs = [
        keyed.id,
        _ended(client, "large", name="x"),
        _ended(client, "failing", name="Bo"),
        _ended(client, "mapping", items=[1, 2, 3]),
        *(_waiting(client, "asking", name=name) for name in ("Ann", "Ben", "Cay")),
        *(_waiting(client, "talking", name=name) for name in ("Dee", "Eve")),
        _leased(client, "running", name="go"),
        _backing_off(client, name="go"),
    ]
    client.approve(client.approvals(runs[4])[0]["approval_id"], {"approved": True, "feedback": "fine"})
    client.reject(client.approvals(runs[5])[0]["approval_id"])
    client.run(runs[7]).signal("enough")
    for run in (runs[4], runs[5], runs[7]):
        client.run(run).outcome(PATIENCE_S)
    return runs


def _until_a_snapshot(client: Client, state: Path) -> list[str]:
    """One run after the other until the release has taken a snapshot; the last few of them."""
    runs: list[str] = []
    until = time.monotonic() + 600
    while not list((state / "snapshots").glob("*/*.arrow.zst")):
        assert time.monotonic() < until, "no snapshot was taken"
        runs.append(_ended(client, "chain", name=f"n{len(runs)}"))
    return runs[-3:]


def _behind_the_snapshot(client: Client) -> list[str]:
    cancelled = _waiting(client, "asking", name="Fay")
    client.run(cancelled).cancel("not needed")
    paused = _leased(client, "running", name="go")
    client.run(paused).pause("for a while")
    return [
        cancelled,
        paused,
        _ended(client, "chain", name="Gus"),
        _waiting(client, "asking", name="Hal"),
        _waiting(client, "talking", name="Ida"),
        _leased(client, "running", name="go"),
        _leased(client, "once", name="go"),
        _with_leased_children(client, "mapping_files", items=["go", "go", "go"]),
        _backing_off(client, name="go"),
    ]


def _pack(folder: Path, file: Path) -> None:
    with tarfile.open(file, "w:gz", compresslevel=9) as archive:
        for path in sorted((folder / "state").rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and ".tmp" not in name.parts:
                archive.add(path, str(name), filter=_anonymous)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
