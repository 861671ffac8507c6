"""An idempotency key stands for one run."""

from __future__ import annotations

from hive_ray.control import buckets
from hive_ray.core.commands import Moment, Refused, Submit
from hive_ray.core.engine import Engine
from hive_ray.core.messages import StepContent
from hive_ray.core.run import Run
from hive_ray.graph.compiled import CompiledGraph, NodeKind, NodePlan
from hive_ray.graph.expressions import Evaluator

GRAPH = CompiledGraph(
    "one", "one", 0, (NodePlan("a", 0, NodeKind.FUNCTION, "function", function="f", terminal=True),), ()
)


def submit(engine: Engine, run: str, digest: str) -> Run | Refused:
    command = Submit(
        run, "request", "team", "agent", "one", StepContent(), digest=digest, idempotency_key="key"
    )
    return engine.submit(command, Moment(1))


def fresh() -> Engine:
    engine = Engine(Evaluator(), buckets.take)
    engine.add_graph(GRAPH)
    return engine


def test_the_same_key_and_body_answers_with_the_first_run():
    """A repeat makes no second run, before and after the index was made again."""
    engine = fresh()
    first = submit(engine, "first", "d1")

    assert submit(engine, "second", "d1") is first
    engine.restored()
    assert submit(engine, "third", "d1") is first
    assert list(engine.runs) == ["first"]


def test_the_same_key_with_another_body_is_refused():
    """The refusal names the run that the key stands for."""
    engine = fresh()
    submit(engine, "first", "d1")
    answer = submit(engine, "second", "d2")

    assert isinstance(answer, Refused)
    assert answer.problem == "mismatch"
    assert "first" in answer.message


def test_a_key_whose_run_is_not_kept_any_more_begins_no_second_run():
    """History may be kept for less time than keys: that is a refusal which names the run, and not a fault."""
    engine = fresh()
    submit(engine, "first", "d1")
    engine.leave("first")

    answer = submit(engine, "second", "d1")

    assert isinstance(answer, Refused)
    assert answer.problem == "conflict"
    assert "first" in answer.message
    assert not engine.runs
