"""The table of faults: each is refused by place and remedy, without a traceback, the state untouched."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.http.installation import TOOLS, chain, hive_ray, single
from tests.servers.process import free_port

pytestmark = pytest.mark.timeout(120)
BAD_INPUT = 2

LLM = {
    "id": "llm",
    "nodes": [{"id": "write", "node_type": "llm_generate", "output_keys": ["text"], "model": "big"}],
    "edges": [],
}
NO_PRICE = {"provider": "openai-compatible", "model": "own", "base_url": "http://127.0.0.1:9/v1"}
S3_NOWHERE = {
    "url": "s3://bucket/runs",
    "options": {
        "endpoint": f"http://127.0.0.1:{free_port()}",
        "region": "r",
        "access_key_id": "env:TEST_S3_NAME",
        "secret_access_key": "env:TEST_S3_WORD",
    },
}


@dataclass(frozen=True)
class Case:
    """A command that must be refused, and what its message must name."""

    name: str
    command: tuple[str, ...]
    place: str
    remedy: str
    config: str = ""
    graph: Any = field(default_factory=chain)
    given: str = ""


def configured(**sections: Any) -> str:
    return yaml.safe_dump(sections)


UP = ("up", "--port", str(free_port()))
RUN = ("run", "graph.yaml", "--input", '{"name": "x"}')
CASES = [
    Case("unreadable YAML", UP, "hive.yaml:3:", "mend the YAML", config="http:\n  port: [1\nx: }"),
    Case("unknown key", UP, "http.prot", "did you mean port?", config="http: {prot: 1}"),
    Case("missing key", UP, "models.m.model", "add model", config="models: {m: {provider: openai}}"),
    Case(
        "unknown model", RUN, "nodes.write.model", "did you mean 'bigger'?",
        config=configured(models={"bigger": NO_PRICE | {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0}}),
        graph=LLM,
    ),
    Case(
        "model without a price", RUN, "nodes.write.model", "price",
        config=configured(models={"big": NO_PRICE}), graph=LLM,
    ),
    Case(
        "MCP server that does not start", RUN, "tools.mcp", "mend its command or url",
        config=configured(tools={"mcp": {"gone": {"command": ["/no/such/server"]}}}),
    ),
    Case("store unreachable", UP, "state.url", "make the store reachable", configured(state=S3_NOWHERE)),
    Case(
        "state folder is a file", UP, "state.url", "make the store reachable",
        config=configured(state={"url": "file:///dev/null/state"}),
    ),
    Case(
        "unknown function", RUN, "nodes.gret.function", "did you mean 'greet'?", graph=single("gret", [], [])
    ),
    Case("input of the wrong type", ("run", "graph.yaml", "--input", "[1]"), "--input", "give an object"),
    Case("input that is no JSON", (*RUN[:3], "-"), "stdin", "give an object", given="{a"),
    Case("input that is missing", ("run", "graph.yaml", "--input", "no.json"), "no.json", "name a JSON file"),
    Case(
        "20 MB input", ("run", "graph.yaml", "--input", "-"), "input", "raise limits.max_input_bytes",
        given=json.dumps({"name": "x" * 20_000_000}),
    ),
    Case("graph that is not there", ("run", "no.yaml"), "no.yaml", "name a file"),
    Case("nothing runs here", ("ls",), "nothing runs here", "hive-ray up"),
    Case("secret that is not set", UP, "env:NOT_SET_ANYWHERE", "set NOT_SET_ANYWHERE", config=configured(
        models={"m": {"provider": "openai", "model": "x", "api_key": "env:NOT_SET_ANYWHERE"}}
    )),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_fault_is_refused_by_place_and_remedy(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Exit 2 within seconds; nothing runs afterwards and the state folder is as before."""
    monkeypatch.setenv("TEST_S3_NAME", "name")
    monkeypatch.setenv("TEST_S3_WORD", "word")
    (tmp_path / "tools.py").write_text(TOOLS)
    (tmp_path / "graph.yaml").write_text(yaml.safe_dump(case.graph))
    if case.config:
        (tmp_path / "hive.yaml").write_text(case.config)
    before = digest(tmp_path / ".hive" / "state")

    refused = hive_ray(*case.command, cwd=tmp_path, given=case.given)

    assert refused.returncode == BAD_INPUT, refused.stdout + refused.stderr
    assert case.place in refused.stderr
    assert case.remedy in refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr
    assert digest(tmp_path / ".hive" / "state") == before
    assert not (tmp_path / ".hive" / "up.json").exists()


def test_a_port_in_use_is_named(tmp_path: Path):
    """Exit 2, with the port, and how to choose another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        refused = hive_ray("up", "--port", str(port), cwd=tmp_path)

    assert refused.returncode == BAD_INPUT
    assert f"port {port}" in refused.stderr
    assert "--port" in refused.stderr
    assert digest(tmp_path / ".hive" / "state") == digest(tmp_path / "nothing")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system without a free byte."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system is forbidden here")
    try:
        (folder / "state").mkdir()
        with pytest.raises(OSError), (folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        yield folder / "state"
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_named(full_disk: Path, tmp_path: Path):
    """Exit 2, with the store's address and what the system said."""
    (tmp_path / "hive.yaml").write_text(configured(state={"url": full_disk.as_uri()}))

    refused = hive_ray(*UP, cwd=tmp_path)

    assert refused.returncode == BAD_INPUT, refused.stderr
    assert "state.url" in refused.stderr
    assert "No space left" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_lint_names_every_fault_and_exits_two(tmp_path: Path):
    """One line each with node or edge, over several files; fine graphs are said to be fine."""
    bad = chain()
    bad["edges"][0]["target"] = "shuot"
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(bad))
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(chain()))

    linted = hive_ray("lint", "bad.yaml", "good.yaml", cwd=tmp_path)

    assert linted.returncode == BAD_INPUT
    assert "edges.e.target" in linted.stdout
    assert "did you mean 'shout'?" in linted.stdout
    assert "good.yaml: " in linted.stdout
    assert hive_ray("lint", "good.yaml", cwd=tmp_path).returncode == 0


def digest(folder: Path) -> str:
    """Of every name and byte below a folder; empty for none."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        total.update(str(file.relative_to(folder)).encode())
        if file.is_file():
            total.update(file.read_bytes())
    return total.hexdigest() if folder.exists() else ""
