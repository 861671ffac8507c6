"""Artifacts and long-term memory over HTTP, from the SDK and at the terminal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from hive_ray.client import Client, Run
from hive_ray.errors import Conflict, InputError, NotFound
from tests.http.installation import Installation
from tests.servers.process import REPO

pytestmark = pytest.mark.timeout(300)
LEDGER = REPO / "docs" / "examples" / "ledger"
TOOLS = """
import random
import hive_ray as hive

NAME = 'B\\u00fccher "2026"; x=1.bin'

@hive.function(idempotent=True)
def gather(size: int, context: hive.ToolContext):
    context.artifact("notes.txt", "first")
    context.memory.put("run:size", size)
    return context.artifact(NAME, random.Random(7).randbytes(size))

@hive.function(idempotent=True)
def again(file: str, context: hive.ToolContext):
    return context.artifact("notes.txt", "second")
"""
GATHER: dict[str, Any] = {
    "id": "gather",
    "nodes": [
        {"id": "gather", "function": "gather", "input_keys": ["size"], "output_keys": ["file"]},
        {"id": "again", "function": "again", "input_keys": ["file"], "output_keys": ["notes"]},
    ],
    "edges": [{"id": "e", "source": "gather", "target": "again", "condition": "on_success"}],
}
NAME = 'Bücher "2026"; x=1.bin'
SIZE = 600_000


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The ledger's tools, and some that make large files."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "more.py").write_text(TOOLS)
    modules = ["more.py", str(LEDGER / "tools.py")]
    with Installation(folder, tools={"modules": modules}) as running:
        yield running


@pytest.fixture(scope="module")
def client(installation: Installation) -> Iterator[Client]:
    with installation.client() as client:
        yield client


@pytest.fixture(scope="module")
def run(client: Client) -> Run:
    run = client.submit(GATHER, input={"size": SIZE})
    run.result(60)
    return run


@pytest.fixture
def http(installation: Installation) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=installation.url, timeout=60) as client:
        yield client


def test_a_run_s_files_are_listed_and_read(run: Run):
    """In the order of their steps; a name means the newest, an id that one."""
    found = run.artifacts()

    assert [(item.id, item.name, item.node) for item in found] == [
        ("art-1", "notes.txt", "gather"),
        ("art-2", NAME, "gather"),
        ("art-3", "notes.txt", "again"),
    ]
    assert (run.artifact("notes.txt").read(), run.artifact("art-1").read()) == (b"second", b"first")
    assert hashlib.sha256(run.artifact(NAME).read()).hexdigest() == found[1].sha256
    with pytest.raises(NotFound, match="has no artifact other"):
        run.artifact("other")


def test_a_download_says_what_it_is_and_runs_nowhere(run: Run, http: httpx2.Client):
    """The name cannot end its header, whatever it holds."""
    answer = http.get(f"/v1/runs/{run.id}/artifacts/art-2")
    headers = answer.headers

    assert answer.status_code == 200 and len(answer.content) == SIZE == int(headers["Content-Length"])
    assert headers["ETag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
    assert headers["Content-Disposition"] == (
        'attachment; filename="B_cher _2026__ x_1.bin"; '
        "filename*=UTF-8''B%C3%BCcher%20%222026%22%3B%20x%3D1.bin"
    )
    assert (headers["Content-Type"], headers["X-Content-Type-Options"]) == (
        "application/octet-stream",
        "nosniff",
    )


def test_a_download_may_be_part_of_it_or_nothing_new(run: Run, http: httpx2.Client):
    """One range of bytes; the rest of RFC 9110's forms gets the whole."""
    path = f"/v1/runs/{run.id}/artifacts/art-3"

    def part(wanted: str) -> tuple[int, bytes, str]:
        answer = http.get(path, headers={"Range": wanted})
        return answer.status_code, answer.content, answer.headers.get("Content-Range", "")

    assert part("bytes=1-3") == (206, b"eco", "bytes 1-3/6")
    assert part("bytes=4-") == (206, b"nd", "bytes 4-5/6")
    assert part("bytes=-2") == (206, b"nd", "bytes 4-5/6")
    assert part("bytes=9-") == (416, b"", "bytes */6")
    assert part("bytes=0-1,3-4") == (200, b"second", "")
    etag = http.get(path).headers["ETag"]
    assert http.get(path, headers={"If-None-Match": etag}).status_code == 304


@pytest.mark.parametrize("name", ["../../../etc/passwd", "..%2f..%2fhive.yaml", "art-9", "%00", "hive.yaml"])
def test_no_name_leads_anywhere_else(run: Run, http: httpx2.Client, name: str):
    """Names are looked up in a list, never in a folder."""
    answer = http.get(f"/v1/runs/{run.id}/artifacts/{name}")

    assert answer.status_code == 404 and answer.headers["Content-Type"] == "application/problem+json"


def test_the_events_of_a_run_tell_what_it_left(run: Run):
    """Files with the success that made them, memory behind it."""
    events = {event["kind"]: event for event in run.events() if event["node"] in ("gather", "")}

    assert [made["name"] for made in events["StepSucceeded"]["artifacts"]] == ["notes.txt", NAME]
    assert events["MemoryWritten"]["outputs"] == {"size": SIZE}
    assert (events["MemoryWritten"]["scope"], events["MemoryWritten"]["version"]) == ("run", 1)


def test_a_run_that_is_not_there_has_none(http: httpx2.Client):
    """404 with the run's id."""
    assert http.get("/v1/runs/nobody/artifacts").status_code == 404


def test_the_terminal_lists_and_saves(installation: Installation, run: Run, tmp_path: Path):
    """By name or id, into a file or to stdout."""
    target = tmp_path / "out.bin"
    saved = installation.cli("artifacts", run.id, NAME, "-o", target)
    shown = installation.cli("artifacts", run.id, "notes.txt", "-o", "-")
    listed = json.loads(installation.cli("artifacts", run.id, "--json").stdout)
    missing = installation.cli("artifacts", run.id, "other")

    assert saved.returncode == 0 and hashlib.sha256(target.read_bytes()).hexdigest() == listed[1]["sha256"]
    assert (shown.stdout, len(listed)) == ("second", 3)
    assert missing.returncode == 2 and "notes.txt" in missing.stderr


# --- long-term memory --------------------------------------------------------------------------------


def test_the_ledger_remembers_and_states(client: Client):
    """The example of the documentation, twice for one customer: what its page says."""
    runs = [client.submit(LEDGER / "ledger.yaml", input={"customer": "ada", "amount": n}) for n in (10, 5.5)]
    for run in runs:
        run.result(60)

    memory = client.memory("agent", "ledger")
    assert memory.get("balance/ada") == 15.5
    statements = [run.artifact("statement-ada.txt").read().decode().splitlines() for run in runs]
    assert sorted(lines[2] for lines in statements) == ["Booked: 10.00", "Booked: 5.50"]
    assert any(lines[3] == "Balance: 15.50" for lines in statements)
    assert memory.entry("balance/ada")["written_by"].split(":")[0] in [run.id for run in runs]
    assert runs[0].memory.get("booked") == {"customer": "ada", "amount": 10}


def test_values_of_any_size_are_written_and_read(client: Client):
    """Large ones are blobs."""
    memory = client.memory("team", "default")
    for value in ({"a": [1, None, "é"]}, "x" * 100_000, None):
        version = memory.put("sizes/one", value)
        assert memory.get("sizes/one") == value
        assert memory.entry("sizes/one")["version"] == version
    with pytest.raises(InputError, match="limits"):
        memory.put("sizes/one", "x" * 300_000)
    memory.delete("sizes/one")
    with pytest.raises(NotFound):
        memory.get("sizes/one")


def test_a_version_that_is_gone_is_a_conflict(client: Client, http: httpx2.Client):
    """412 with the version that is there; nothing is written."""
    memory = client.memory("agent", "versions")
    first = memory.put("n", 1, if_version=0)
    second = memory.put("n", 2, if_version=first)
    for condition in (0, first):
        with pytest.raises(Conflict, match=f"has version {second}"):
            memory.put("n", 3, if_version=condition)
    with pytest.raises(Conflict):
        memory.delete("n", if_version=first)

    answer = http.get("/v1/memory/agent/versions/n")
    assert (answer.headers["ETag"], answer.json()["value"]) == (f'"v{second}"', 2)
    stale = http.put("/v1/memory/agent/versions/n", json={"value": 3}, headers={"If-Match": '"v1"'})
    assert (stale.status_code, stale.json()["kind"]) == (412, "stale")


def test_keys_come_in_pages(client: Client, http: httpx2.Client):
    """In order; the last page says so."""
    memory = client.memory("agent", "pages")
    for number in range(5):
        memory.put(f"k/{number}", number)
    memory.put("other", 1)

    page = http.get("/v1/memory/agent/pages", params={"prefix": "k/", "limit": 2}).json()
    assert [line["key"] for line in page["keys"]] == ["k/0", "k/1"] and page["next_after"] == "k/1"
    assert [line["key"] for line in memory.keys("k/")] == [f"k/{n}" for n in range(5)]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "said"),
    [
        ("GET", "agnet/x/k", {}, 422, "unknown scope 'agnet'"),
        ("GET", "agent/x/a%20b", {}, 422, "no key of long-term memory"),
        ("GET", "team/other/k", {}, 404, "no team other; yours is default"),
        ("GET", "run/nobody/k", {}, 404, "no run nobody"),
        ("PUT", "agent/x/k", {"If-Match": "7"}, 422, 'send an ETag such as \\"v7\\"'),
        ("PUT", "agent/x/k", {"If-None-Match": '"v1"'}, 422, "send * or nothing"),
    ],
)
def test_what_cannot_be_asked_for_is_named(
    http: httpx2.Client, method: str, path: str, headers: dict[str, str], status: int, said: str
):
    """The place and what would be right."""
    body = {"value": 1} if method == "PUT" else None
    answer = http.request(method, f"/v1/memory/{path}", headers=headers, json=body)

    assert answer.status_code == status and said in answer.text


def test_the_memory_of_a_run_that_ended_is_read_only(client: Client, run: Run):
    """It belongs to what happened."""
    assert run.memory.get("size") == SIZE
    with pytest.raises(Conflict, match="has ended already"):
        run.memory.put("size", 1)


def test_memory_at_the_terminal(installation: Installation):
    """Values are JSON, as argument or on stdin."""

    def memory(*arguments: str, given: str = "") -> tuple[int, str]:
        done = installation.cli("memory", *arguments, given=given)
        return done.returncode, done.stdout if done.returncode == 0 else done.stderr

    assert memory("put", "agent/cli", "a", '{"b": 1}')[0] == 0
    assert memory("put", "agent/cli", "c", "-", given='"text"')[0] == 0
    code, shown = memory("get", "agent/cli", "a")
    assert (code, json.loads(shown)) == (0, {"b": 1})
    listed = json.loads(memory("ls", "agent/cli", "--json")[1])
    assert [line["key"] for line in listed] == ["a", "c"]
    assert memory("put", "agent/cli", "a", "2", "--if-version", "9")[0] == 2
    assert memory("rm", "agent/cli", "a")[0] == 0
    assert memory("get", "agent/cli", "a")[0] == 2
    assert "not JSON" in memory("put", "agent/cli", "a", "text")[1]
    assert "SCOPE/OWNER" in memory("ls", "agnet/cli")[1]
