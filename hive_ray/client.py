"""The Python SDK: runs over HTTP, as one would with curl, with objects. Needs no Ray.

client = connect("http://127.0.0.1:8700")
run = client.submit(graph, input={"ticket": "…"}, budget_usd="0.50")
for event in run.watch():
    print(event["kind"], event["node"])
print(run.result())
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from hive_ray import bulk
from hive_ray import config as config_file
from hive_ray.connection import Connection, error_of
from hive_ray.errors import HiveError, Unavailable
from hive_ray.kept import Artifact, Memory, chosen
from hive_ray.submissions import (
    GraphLike,
    Json,
    checked_json,
    graph_content,
    key_of,
    submission_body,
    usd_body,
)

TERMINAL = ("succeeded", "failed", "cancelled")
WAIT_S = 20.0
"""One call waits this long for a run's end; then it is asked again."""
PATIENCE_S = 60.0
"""How long watching goes on without an answer before it gives up."""
PAUSE_S = 0.2


class RunFailed(HiveError):
    """A run ended without a result.

    Attributes:
        status: ``failed`` or ``cancelled``.
        failure: kind, place and message; None if it was cancelled.
    """

    def __init__(self, run_id: str, status: str, failure: Mapping[str, Any] | None, reason: str = "") -> None:
        self.run_id = run_id
        self.status = status
        self.failure = failure
        told = f"{failure['kind']} at {failure['place']}: {failure['message']}" if failure else reason
        super().__init__(f"run {run_id} {status}: {told}")


class RunWaits(HiveError):
    """A run has no result yet: it waits for a person, who is told what is needed."""

    def __init__(self, run_id: str, waits: list[dict[str, Any]]) -> None:
        self.run_id = run_id
        self.waits = waits
        needs = "; ".join(f"{wait['approval_id']} ({wait['reason']}): {wait['need']}" for wait in waits)
        super().__init__(f"run {run_id} waits: {needs}")


class Run:
    """A run on a server. Reading an attribute asks the server; nothing is kept but the id."""

    def __init__(self, client: Client, run_id: str) -> None:
        self._client = client
        self.id = run_id

    def __repr__(self) -> str:
        return f"Run({self.id!r})"

    def show(self) -> dict[str, Any]:
        """All that the server tells of it."""
        return self._client.get(self._path())

    @property
    def status(self) -> str:
        return self.show()["status"]

    @property
    def cost(self) -> Decimal:
        """US dollars spent so far."""
        return Decimal(self.show()["cost_usd"])

    @property
    def waits(self) -> list[dict[str, Any]]:
        """What it needs of a person."""
        return self.show()["waits"]

    def events(self, after_seq: int = 0) -> Iterator[dict[str, Any]]:
        """What has happened so far, in order."""
        while True:
            page = self._client.get(self._path("/events"), params={"after_seq": after_seq})
            yield from page["events"]
            after_seq = page["last_seq"]
            if not page["more"] or not page["events"]:
                return

    def watch(self, after_seq: int = 0) -> Iterator[dict[str, Any]]:
        """Events as they happen, to the run's end; goes on behind the last one when the connection breaks.

        Raises:
            Unavailable: nobody answered for a minute.
        """
        silent_since = time.monotonic()
        while True:
            ended = False
            try:
                for event in self._client.stream(self._path("/events"), after_seq):
                    silent_since = time.monotonic()
                    after_seq = event["seq"]
                    ended = event["kind"] in ("RunSucceeded", "RunFailed", "RunCancelled")
                    yield event
                ended = ended or self.status in TERMINAL
            except Unavailable:
                if time.monotonic() - silent_since > PATIENCE_S:
                    raise
            if ended:
                return
            time.sleep(PAUSE_S)

    def result(self, timeout_s: float | None = None) -> dict[str, Any]:
        """The outputs, when it has succeeded; waits for the end.

        Raises:
            RunFailed: it failed or was cancelled.
            Forgotten: its content was given up.
            TimeoutError: it has not ended after ``timeout_s``.
        """
        outcome = self.outcome(timeout_s)
        if outcome["status"] not in TERMINAL:
            why = f" ({outcome['reason']})" if outcome["reason"] else ""
            raise TimeoutError(f"run {self.id} is {outcome['status']}{why} after {timeout_s} s")
        if outcome["status"] != "succeeded":
            raise RunFailed(self.id, outcome["status"], outcome["failure"], outcome["reason"])
        return outcome["outputs"]

    def outcome(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Status, outputs, cost and failure; at the end, or after ``timeout_s``."""
        until = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        while True:
            wait_s = max(0.0, min(WAIT_S, until - time.monotonic()))
            answer = self._client.get(self._path("/result"), params={"wait_s": wait_s})
            if answer["status"] in TERMINAL or time.monotonic() >= until:
                return answer

    def artifacts(self) -> list[Artifact]:
        """The files that its steps and those of its child runs made, in order."""
        found = self._client.get(self._path("/artifacts"))["artifacts"]
        return [Artifact(self._client, self.id, told) for told in found]

    def artifact(self, name: str) -> Artifact:
        """The newest artifact of that name, or the one of that id.

        Raises:
            NotFound: there is none.
        """
        return chosen(self.artifacts(), name, self.id)

    @property
    def memory(self) -> Memory:
        """Its own long-term memory."""
        return self._client.memory("run", self.id)

    def cancel(self, reason: str = "") -> dict[str, Any]:
        return self._client.post(self._path("/cancel"), {"reason": reason})

    def forget(self) -> dict[str, Any]:
        """Give up all content of a run that has ended, for good; what it did and cost stays.

        Raises:
            Conflict: it has not ended, or another run goes on with its content.
        """
        return self._client.post(self._path("/forget"))

    def pause(self, reason: str = "") -> dict[str, Any]:
        """Start no further steps; what is under way ends."""
        return self._client.post(self._path("/pause"), {"reason": reason})

    def resume(
        self,
        *,
        budget_usd: Decimal | str | float | None = None,
        deadline_s: float | None = None,
        callback_url: str | None = None,
    ) -> dict[str, Any]:
        """Let it go on after a pause; if it failed or was cancelled, a new run takes its place.

        Args:
            budget_usd: ceiling of the new run; by default that of this one.
            deadline_s: of the new run, from now.
            callback_url: of the new run; by default that of this one, empty for none.

        Returns:
            The run that goes on: ``run_id`` is another's if this one had ended. Asking again gives the same.
        """
        given = (("deadline_s", deadline_s), ("callback_url", callback_url))
        body = {key: item for key, item in given if item is not None}
        return self._client.post(self._path("/resume"), body | usd_body(budget_usd))

    def fork(  # noqa: PLR0913 - each parameter is a field of the request
        self,
        node: str,
        *,
        visit: int = 0,
        input: Mapping[str, Json] | None = None,
        agent: str | None = None,
        budget_usd: Decimal | str | float | None = None,
        deadline_s: float | None = None,
        callback_url: str | None = None,
        idempotency_key: str = "",
    ) -> Run:
        """Begin a run with the state that this one had before it entered a node; this one does not notice.

        Args:
            visit: which visit of the node, from 1; 0: the last.
            input: values that replace those in memory.
            callback_url: is told its end; by default that of this one, empty for none.

        Raises:
            UserError: the run never visited the node; the message lists what it visited.
        """
        body: dict[str, Any] = {"from": node, "visit": visit, "input": checked_json(dict(input or {}))}
        body |= usd_body(budget_usd)
        if agent is not None:
            body["agent"] = agent
        if deadline_s is not None:
            body["deadline_s"] = deadline_s
        if callback_url is not None:
            body["callback_url"] = callback_url
        answer = self._client.post_once(self._path("/fork"), body, idempotency_key)
        return Run(self._client, answer["run_id"])

    def replay(self) -> dict[str, Any]:
        """Derive its state from the journal again: ``ok``, or the first thing that differs."""
        return self._client.get(self._path("/replay"))

    def signal(self, said: Json, node: str = "") -> dict[str, Any]:
        """Say something to a run that waits for its client."""
        return self._client.post(self._path("/signal"), {"said": said, "node": node}, repeat=False)

    def complete(self, outputs: Mapping[str, Json] | None = None, node: str = "") -> dict[str, Any]:
        """End the conversation."""
        body = {"outputs": dict(outputs or {}), "node": node}
        return self._client.post(self._path("/complete"), body, repeat=False)

    def _path(self, tail: str = "") -> str:
        return f"/v1/runs/{self.id}{tail}"

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        view = self.show()
        keys = (
            "run_id",
            "status",
            "reason",
            "graph",
            "agent",
            "submitted_at",
            "finished_at",
            "cost_usd",
            "attempts",
        )
        rows = "".join(
            f"<tr><th style='text-align:left'>{key}</th><td>{html.escape(str(view[key] or ''))}</td></tr>"
            for key in keys
        )
        return f"<table>{rows}</table>"


class Client(Connection):
    """One installation over HTTP."""

    # --- runs ------------------------------------------------------------------------------------

    def submit(  # noqa: PLR0913 - each parameter is a field of the submission
        self,
        graph: GraphLike | None = None,
        *,
        input: Mapping[str, Json] | None = None,
        agent: str | None = None,
        budget_usd: Decimal | str | float | None = None,
        deadline_s: float | None = None,
        idempotency_key: str = "",
        priority: str | None = None,
        callback_url: str = "",
    ) -> Run:
        """Begin a run of a graph (built, as data, or a file) or of a registered agent.

        Args:
            budget_usd: ceiling of what the run may spend.
            idempotency_key: submitting again under the key gives the same run.
            priority: ``interactive``, ``normal`` or ``batch``; by default as the configuration has it.
            callback_url: is told the end of the run by a signed webhook.

        Raises:
            GraphError: the graph is refused, every fault named.
            InputError: the input is refused.
            BudgetExceeded: no account can carry its first step.
            Unavailable: nobody answered; with a key the submission may be repeated.
        """
        body = submission_body(
            graph,
            input=input,
            agent=agent,
            budget_usd=budget_usd,
            deadline_s=deadline_s,
            priority=priority,
            callback_url=callback_url,
        )
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        answer = self._send("POST", "/v1/runs", body, headers=headers, repeat=bool(idempotency_key))
        return Run(self, answer["run_id"])

    def estimate(
        self,
        graph: GraphLike | None = None,
        *,
        input: Mapping[str, Json] | None = None,
        agent: str | None = None,
        budget_usd: Decimal | str | float | None = None,
    ) -> dict[str, Any]:
        """What a run would cost, at worst and as expected, and which accounts could carry it."""
        return self.post(
            "/v1/estimate", submission_body(graph, input=input, agent=agent, budget_usd=budget_usd)
        )

    def submit_many(self, submissions: Iterable[Mapping[str, Any]]) -> list[Run | HiveError]:
        """Begin many runs at once, each given by the arguments that ``submit`` takes, by name.

        Returns:
            In the same order the run, or why it was refused: a bad submission spoils no other.
        """
        bodies = [submission_body(**one) | {"idempotency_key": key_of(one)} for one in submissions]
        return [self._one_of_many(told) for told in bulk.submitted(self.post, bodies)]

    def _one_of_many(self, told: Mapping[str, Any]) -> Run | HiveError:
        return Run(self, told["run_id"]) if told["status"] == 202 else error_of(told["kind"], told)

    def cancel_runs(self, **selection: Json) -> dict[str, Any]:
        """End all live runs that fit: ``ids``, or ``status``, ``agent``, ``older_than_s``, ``dead_lettered``;
        ``all=True`` to give no filter. ``reason`` is kept with each.

        Returns:
            Counts (``selected``, ``done``, ``refused``), ``runs`` and ``problems``.
        """
        return bulk.totals(bulk.steered(self.post, "cancel", selection))

    def resume_runs(self, **selection: Json) -> dict[str, Any]:
        """Resume all runs that fit, as ``Run.resume`` does; selected as in ``cancel_runs``, by ``ids``,
        ``status`` or ``dead_lettered``."""
        return bulk.totals(bulk.steered(self.post, "resume", selection))

    def run(self, run_id: str) -> Run:
        """A run by its id; not asked for yet."""
        return Run(self, run_id)

    def runs(self, **filters: Json) -> Iterator[dict[str, Any]]:
        """Runs, newest first; ``status``, ``agent`` and ``children`` filter."""
        while True:
            page = self.get("/v1/runs", params=filters)
            yield from page["runs"]
            if page["next_before"] is None:
                return
            filters = {**filters, "before": page["next_before"]}

    # --- people ----------------------------------------------------------------------------------

    def approvals(self, run_id: str = "", owner: str = "") -> list[dict[str, Any]]:
        """What waits for a person; ``owner`` is a principal or role: what is, or was, asked of it."""
        found: list[dict[str, Any]] = []
        params = {"run_id": run_id, "owner": owner, "limit": 1000}
        after: str | None = ""
        while after is not None:
            page = self.get("/v1/approvals", params=params | {"after": after})
            found.extend(page["approvals"])
            after = page.get("next_after")
        return found

    def approve(
        self,
        approval_id: str,
        answer: Mapping[str, Json] | None = None,
        comment: str = "",
        edition: int | None = None,
    ) -> dict[str, Any]:
        """Approve; an answer that somebody edited by its ``edition``."""
        return self.resolve(approval_id, "approve", answer, comment, edition)

    def edit(
        self, approval_id: str, answer: Mapping[str, Json] | None = None, comment: str = ""
    ) -> dict[str, Any]:
        """Approve another answer; where four eyes are needed, somebody else must approve that."""
        return self.resolve(approval_id, "edit", answer, comment)

    def reject(self, approval_id: str, comment: str = "") -> dict[str, Any]:
        return self.resolve(approval_id, "reject", None, comment)

    def resolve(
        self,
        approval_id: str,
        decision: str,
        answer: Mapping[str, Json] | None = None,
        comment: str = "",
        edition: int | None = None,
    ) -> dict[str, Any]:
        """Answer an approval: ``approve | reject | edit``, or about an unknown outcome ``happened |
        did_not_happen | abort``."""
        body = {
            "decision": decision,
            "answer": checked_json(dict(answer or {}), "answer"),
            "comment": comment,
        } | ({} if edition is None else {"edition": edition})
        return self.post(f"/v1/approvals/{approval_id}", body)

    def outbox(self, **filters: Json) -> Iterator[dict[str, Any]]:
        """Notifications, newest first; ``state`` (``pending, delivered, failed``) and ``run_id`` filter."""
        while True:
            page = self.get("/v1/outbox", params=filters)
            yield from page["notifications"]
            if page["next_before"] is None:
                return
            filters = {**filters, "before": page["next_before"]}

    def memory(self, scope: str, owner: str) -> Memory:
        """The long-term memory of a ``run`` (by id), an ``agent`` or a ``team`` (by name)."""
        return Memory(self, scope, owner)

    # --- agents and operation --------------------------------------------------------------------

    def agents(self) -> list[dict[str, Any]]:
        return self.get("/v1/agents")["agents"]

    def register(self, name: str, graph: GraphLike) -> dict[str, Any]:
        """Let a name stand for a graph."""
        return self._send("PUT", f"/v1/agents/{name}", {"graph": graph_content(graph)})

    def policies(self) -> list[dict[str, Any]]:
        """The rules in force, in order."""
        return self.get("/v1/policies")["policies"]

    def lint(self, graph: GraphLike) -> dict[str, Any]:
        """What is wrong with a graph on this installation."""
        return self.post("/v1/lint", {"graph": graph_content(graph)})

    def status(self) -> dict[str, Any]:
        return self.get("/v1/status")


def connect(url: str, api_key: str | None = None, team: str | None = None) -> Client:
    """A client of the installation at a URL; asks nothing yet.

    Args:
        api_key: by default what ``HIVE_RAY_API_KEY`` holds, if it is set.
        team: that an admin acts for; by default what ``HIVE_RAY_TEAM`` names, else the key's own.
    """
    return Client(url, api_key or config_file.api_key(), team=team or config_file.acting_team())


def up(
    config: str | Path | None = None,
    *,
    address: str = "",
    port: int = 0,
    idle_exit_s: float = 0.0,
    take_over: bool = False,
) -> Client:
    """Join the installation of a ``hive.yaml`` (or of the current folder), or start it.

    Raises:
        ConfigError: what it was told is wrong; names the key.
        Unavailable: it does not start.
    """
    from hive_ray.control.launch import UpOptions, absolute, launch
    from hive_ray.control.record import place_of

    file = Path(config) if config is not None else None
    place = place_of(file)
    record = place.running()
    if record is None or not record.url:
        options = UpOptions(absolute(file), address, port, take_over, idle_exit_s)
        record = launch(place, options)
    key = config_file.api_key()
    if not key and place.admin_key.is_file():
        key = place.admin_key.read_text("ascii").strip()
    return Client(record.url, key)
