"""What runs are about, on a whole installation: found in no file of the state and in no log.

What was said in an agent loop is gone with its run, unless the graph records it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hive_ray import config
from hive_ray.client import Client, Run
from hive_ray.state.access import content_codec, open_state
from hive_ray.state.history import newest_manifest
from hive_ray.state.history_reading import summaries
from tests.cluster.installation import aimock_model
from tests.cluster.scripts import Answer, agent, asks, calls, in_turn, joined, sets
from tests.http.installation import Installation
from tests.servers.aimock import AimockServer, Fixture
from tests.servers.process import wait_until
from tests.state import canaries

pytestmark = pytest.mark.timeout(400)

TOOLS = '''
import hive_ray as hive

def canary(word: str, of: str) -> str:
    """Put together here, so that a log of this source is no find."""
    return "-".join(("canary", word, of))

@hive.function(idempotent=True)
def gather(of: str, context: hive.ToolContext):
    context.memory.put(f"agent:{canary('key', of)}", canary("memory", of))
    context.artifact(canary("artifact", of) + ".txt", canary("file", of))
    return {"found": canary("output", of)}

@hive.tool(idempotent=True)
def look(q: str, of: str):
    """Looks something up."""
    if "first" in q:
        raise ValueError(canary("error", of))
    return canary("result", of)

@hive.function(idempotent=True)
def broken(answer: str):
    raise ValueError(f"cannot do anything about {answer}")
'''
SAID = ("first", "second", "thought", "result", "error", "question", "reply")
"""In the agent loop: arguments, words, a tool's result and error, a question to the client and its answer."""
TOLD = ("input", "output", "set", "comment", "large", "instructions", "prompt", "reason", "artifact", "file")
"""What outlives the run."""
REMEMBERED = ("key", "memory", "putkey", "put")
RECORDS = {"plain": False, "taped": True}
"""Two runs: one that does not record, and one that does."""


def canary(word: str, of: str) -> str:
    return f"canary-{word}-{of}"


def talk(of: str, record: bool) -> dict[str, Any]:
    """A function, an agent loop with a tool and a client, then a person, then what fails."""
    nodes: list[dict[str, Any]] = [
        {"id": "gather", "function": "gather", "input_keys": ["of"], "output_keys": ["found"]},
        {
            "id": "agent",
            "node_type": "event_loop",
            "input_keys": ["given", "large", "found"],
            "output_keys": [f"answer_{of}"],
            "tools": ["look"],
            "client_facing": True,
            "record": record,
            "system_prompt": f"Do as you are told: {canary('instructions', of)}",
            "prompt": canary("prompt", of) + ": {given}",
        },
        {
            "id": "check",
            "node_type": "human_input",
            "input_keys": [f"answer_{of}"],
            "output_keys": ["approved", "feedback"],
            "approval": {"reason": f"Is this right? {canary('reason', of)}"},
        },
        {
            "id": "broken",
            "function": "broken",
            "input_keys": ["answer"],
            "output_keys": ["never"],
            "max_retries": 0,
        },
    ]
    edges = [
        {"id": "e1", "source": "gather", "target": "agent", "condition": "on_success"},
        {"id": "e2", "source": "agent", "target": "check", "condition": "on_success"},
        {
            "id": "e3",
            "source": "check",
            "target": "broken",
            "condition": "on_success",
            "input_mapping": {"answer": f"answer_{of}"},
        },
    ]
    return {"id": f"talk-{of}", "nodes": nodes, "edges": edges}


def script(of: str) -> list[Fixture]:
    """The tool breaks, then answers; the client is asked; the output is set."""

    def look(word: str) -> Answer:
        return calls(("look", {"q": canary(word, of), "of": of})) | {"content": canary("thought", of)}

    turns = (look("first"), look("second"), asks(canary("question", of)))
    return in_turn(agent(f"answer_{of}"), *turns, sets(**{f"answer_{of}": canary("set", of)}))


class Site:
    """A running installation, the runs that ended in it, and their state."""

    def __init__(self, installation: Installation, client: Client) -> None:
        self.installation = installation
        self.client = client
        self.settings = config.load(installation.config)
        self.store = open_state(self.settings)
        self.runs: dict[str, Run] = {}

    def live(self, of: str) -> None:
        """A run from its submission to its failure, with everything that people say in it."""
        given = {"of": of, "given": canary("input", of), "large": canary("large", of) * 5_000}
        run = self.client.submit(talk(of, RECORDS[of]), input=given, agent="scribe")
        self.runs[of] = run
        self.until(run, "client")
        run.signal(canary("reply", of))
        wait = self.until(run, "approval")
        self.client.approve(wait["approval_id"], comment=canary("comment", of))
        assert run.outcome(60)["status"] == "failed"
        memory = self.client.memory("agent", "scribe")
        memory.put(canary("putkey", of), canary("put", of))
        assert memory.get(canary("key", of)) == canary("memory", of)
        assert memory.get(canary("putkey", of)) == canary("put", of)
        assert run.artifact(canary("artifact", of) + ".txt").read().decode() == canary("file", of)

    def until(self, run: Run, reason: str) -> Mapping[str, Any]:
        wait_until(lambda: bool(run.waits) or run.status == "failed", 60)
        (wait,) = run.waits
        assert (wait["reason"] == "client") == (reason == "client"), wait
        return wait

    def become_history(self) -> None:
        """Other runs come and go until the history has these; each of them brings a snapshot."""
        ids = [run.id for run in self.runs.values()]

        def is_history() -> bool:
            filler = self.client.submit(
                talk("plain", False), input={"of": "filler", "given": "", "large": ""}
            )
            filler.cancel()
            return summaries(self.store, newest_manifest(self.store, 0), ids).keys() == set(ids)

        wait_until(is_history, 120)

    @property
    def log_folders(self) -> list[Path]:
        """Of Ray's session, in which our own JSON logs are, and of the supervisor."""
        record = self.installation.record
        return [Path("/tmp/ray") / record.cluster, Path(record.log).parent]

    def opened(self, of: str, *words: str) -> set[str]:
        """Those of some words that the keys of the state still open."""
        texts = b"\n".join(data for _, data in canaries.readable(self.store, content_codec(self.settings)))
        return {word for word in words if canary(word, of).encode() in texts}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AimockServer]:
    fixtures = joined(*(script(of) for of in RECORDS))
    with AimockServer(fixtures, tmp_path_factory.mktemp("llm")) as server:
        yield server


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, llm: AimockServer) -> Iterator[Site]:
    """Everything has ended, and is history; logs are as talkative as they can be."""
    folder = tmp_path_factory.mktemp("canaries")
    (folder / "more.py").write_text(TOOLS)
    sections = {
        "tools": {"modules": ["more.py"]},
        "models": aimock_model(llm.openai_url),
        "http": {"ha_proxy": True},
        "keys": {"erase_within_s": 0.5},
        "observe": {"log_level": "DEBUG"},
    }
    with Installation(folder, **sections) as running, running.client() as client:
        site = Site(running, client)
        for of in RECORDS:
            site.live(of)
        site.become_history()
        yield site


@pytest.mark.parametrize("of", RECORDS)
def test_what_runs_are_about_is_found_nowhere(site: Site, of: str):
    """Not in the state, in whatever form, and not in a log."""
    state = Path(site.settings.state.url.removeprefix("file://"))
    words = [canary(word, of) for word in (*SAID, *TOLD, *REMEMBERED)]
    found = [canaries.found_below(folder, words) for folder in (state, *site.log_folders)]

    assert found == [{}, {}, {}]
    assert canaries.found_below(site.log_folders[0], [site.runs[of].id]), "what fails in a run is logged"


def test_with_all_keys_what_was_said_is_gone_and_what_came_of_it_is_not(site: Site):
    """Prompts, answers, arguments and results of a loop that does not record."""
    assert site.opened("plain", *SAID) == set()
    assert site.opened("plain", *TOLD) == {*TOLD}


def test_with_all_keys_a_recorded_conversation_is_read(site: Site):
    """``record: true`` is the graph's wish."""
    assert site.opened("taped", *SAID, *TOLD) == {*SAID, *TOLD}


def test_over_http_only_a_recorded_conversation_is_told(site: Site):
    """Events stay, and say what is erased; a replica may have used the key, and looks again after a while."""
    told = {of: list(run.events()) for of, run in site.runs.items()}

    def is_erased() -> bool:
        told["plain"] = list(site.runs["plain"].events())
        return any(event.get("erased") for event in told["plain"])

    wait_until(is_erased, 60)
    for word in SAID:
        assert canary(word, "plain") not in json.dumps(told["plain"]), word
    assert canary("result", "taped") in json.dumps(told["taped"])
    assert not any(event.get("erased") for event in told["taped"])
