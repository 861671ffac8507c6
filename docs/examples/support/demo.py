"""The support desk from ticket to mail, while parts of its cluster are killed.

``make demo`` runs this file. It starts a language model, an SMTP server and an installation of hive_ray in a
temporary folder, submits one ticket over HTTP, kills the controller and a worker with SIGKILL while a step is
in flight, approves the answer, and checks in the journal and at the SMTP server what came of it. It ends what
it started, and fails if anything that it promises did not happen.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from docs.examples.support.checks import Facts, Kill, checks
from hive_ray.client import Client, Run, connect
from hive_ray.errors import HiveError
from hive_ray.progress import line
from hive_ray.workers import local_llm
from tests.servers.effects import SmtpServer
from tests.servers.process import SCRIPTS, ServerProcess, free_port

HERE = Path(__file__).parent
HIVE_RAY = str(SCRIPTS / "hive-ray")
COMMAND_TIMEOUT_S = 150.0
RUN_DEADLINE_S = 120.0
MOMENT_S = 0.2
"""A lease is durable before it leaves: this much later the worker has asked the model."""

CONTROLLER_DIES_IN = "triage"
WORKER_DIES_IN = "write_answer"


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 0 if every check held."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--interactive", action="store_true", help="ask at the terminal instead of approving")
    options = parser.parse_args(arguments)
    # As an exception, so that everything is ended on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="hive-demo-"))
    begun = time.monotonic()
    try:
        failed = _play(folder, options.interactive)
    except (HiveError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        failed = [str(error)]
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        return 130
    for problem in failed:
        print(f"DEMO FAILED: {problem}", file=sys.stderr)
    if failed:
        print(f"its logs are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    print(f"\nThe demo took {time.monotonic() - begun:.0f} s. Everything that it started has ended.")
    return 0


def _play(folder: Path, interactive: bool) -> list[str]:
    """From the first server to the last check; returns what did not hold."""
    with ExitStack() as parts:
        _title("Starting a language model, an SMTP server and hive_ray on Ray")
        smtp = parts.enter_context(SmtpServer(_made(folder / "smtp")))
        model = parts.enter_context(LocalModel(_made(folder / "model")))
        print(f"model     {local_llm.MODEL} at {model.url}, process {model.pid}")
        print(f"smtp      127.0.0.1:{smtp.port}, process {smtp.pid}")
        client = parts.enter_context(_installation(folder / "desk", model, smtp))
        _title("One ticket, submitted over HTTP")
        ticket = json.loads((HERE / "ticket.json").read_text("utf-8"))
        deadline_s = None if interactive else RUN_DEADLINE_S
        model.hold()
        run = client.submit(HERE / "agent.json", input=ticket, deadline_s=deadline_s)
        scene = Scene(client, run, model, interactive)
        scene.play()
        _title("What the journal tells")
        _command("show", run.id, "--url", client.url)
        _title("Checks")
        return _verdict(client, run, scene, smtp)


def _verdict(client: Client, run: Run, scene: Scene, smtp: SmtpServer) -> list[str]:
    failed: list[str] = []
    facts = Facts(list(run.events()), run.outcome(0), client.status(), smtp.effects())
    for claim, holds in checks(facts, scene.kills, scene.agreed):
        print(f"{'ok  ' if holds else 'FAIL'}  {claim}")
        if not holds:
            failed.append(claim)
    return failed


class LocalModel(ServerProcess):
    """The embedded language model behind an OpenAI-compatible API, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        argv = [sys.executable, "-m", "hive_ray.workers.local_llm", "--port", str(port)]
        super().__init__(argv, folder / "model.log")
        self.await_ready(lambda: local_llm.is_ready(port))

    def hold(self) -> None:
        """Stop in the middle: what it is asked stays in flight, however fast the machine is."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@contextmanager
def _installation(folder: Path, model: LocalModel, smtp: SmtpServer) -> Generator[Client]:
    """``hive-ray up`` on a copy of this example; ``hive-ray down`` afterwards, whatever happened."""
    shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("__pycache__", ".hive"))
    file = folder / "hive.yaml"
    settings = yaml.safe_load(file.read_text("utf-8"))
    settings["models"]["local"]["base_url"] = model.url
    file.write_text(yaml.safe_dump(settings), "utf-8")
    os.environ["SUPPORT_SMTP"] = f"127.0.0.1:{smtp.port}"
    try:
        _command("up", "--config", str(file), "--port", "-1")
        record = json.loads((folder / ".hive" / "up.json").read_text("utf-8"))
        with connect(record["url"]) as client:
            yield client
    finally:
        _title("Ending what was started")
        _command("down", "--config", str(file))


class Scene:
    """One run, watched to its end; kills two processes and answers for the person on the way."""

    def __init__(self, client: Client, run: Run, model: LocalModel, interactive: bool) -> None:
        self._client = client
        self._run = run
        self._model = model
        self._interactive = interactive
        self.kills: dict[str, Kill] = {}
        """What was killed, by ``controller`` and ``worker``."""
        self.agreed = False
        """The person approved the mail."""

    def play(self) -> None:
        """Watch the run to its end."""
        for event in self._run.watch():
            text = line(event)
            if text:
                print(text, flush=True)
            self._react(event)

    def _react(self, event: Mapping[str, Any]) -> None:
        match event["kind"], event["node"]:
            case "StepStarted", node if node == CONTROLLER_DIES_IN and "controller" not in self.kills:
                self._kill("controller", node, self._client.status()["controller_pid"])
            case "StepSucceeded", node if node == CONTROLLER_DIES_IN:
                self._model.hold()
            case "StepStarted", node if node == WORKER_DIES_IN and "worker" not in self.kills:
                self._kill("worker", node, self._worker_pid(event["worker"]))
            case "ApprovalRequested", _:
                self._answer(event["approval"])
            case _:
                pass

    def _worker_pid(self, name: str) -> int:
        return next(w["pid"] for w in self._client.status()["workers"] if w["worker"] == name)

    def _kill(self, what: str, node: str, pid: int) -> None:
        time.sleep(MOMENT_S)
        steps = self._run.show()["steps"]
        in_flight = any(step["node"] == node and step["status"] == "leased" for step in steps)
        at_us = time.time_ns() // 1000
        os.kill(pid, signal.SIGKILL)
        self.kills[what] = Kill(node, pid, at_us, in_flight)
        self._model.go_on()
        print(f">>> SIGKILL to the {what}, process {pid}, while {node} is in flight", flush=True)

    def _answer(self, approval_id: str) -> None:
        """Show what a person is asked, and answer."""
        asked = self._client.approvals(self._run.id)
        wait = next(wait for wait in asked if wait["approval_id"] == approval_id)
        print(f"\n    {wait['need']}   (asked of {wait['owner']}, until {wait['deadline_at']})")
        for key, value in wait["shown"].items():
            print(f"    {key:<10}{value if isinstance(value, str) else json.dumps(value)}")
        print()
        self.agreed = not self._interactive or input("    Approve? [y/N] ").strip().lower() in ("y", "yes")
        if self.agreed:
            self._client.approve(approval_id, {"feedback": "Fine like this."})
        else:
            self._client.reject(approval_id, input("    Why not? "))


def _command(*words: str) -> None:
    """Run ``hive-ray`` as a user would, its output on this terminal."""
    print(f"$ hive-ray {' '.join(words)}", flush=True)
    # The MCP server of hive.yaml is a command of this environment.
    path = f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', '')}"
    env = {**os.environ, "PATH": path}
    subprocess.run([HIVE_RAY, *words], env=env, timeout=COMMAND_TIMEOUT_S, check=True)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _title(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
