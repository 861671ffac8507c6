"""What is left of a conversation when there is little room for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hive_ray.core.context import recent
from hive_ray.core.messages import Turn
from hive_ray.core.values import inline


def size(turn: Turn) -> int:
    return turn.value.size


@st.composite
def conversations(draw: st.DrawFn) -> list[Turn]:
    """Messages of a model, each with the results of all its calls behind it, and of a client."""
    turns: list[Turn] = []
    for number in range(draw(st.integers(0, 12))):
        said = inline("x" * draw(st.integers(0, 40)))
        if draw(st.booleans()):
            turns.append(Turn("user", said))
            continue
        calls = [f"c{number}.{call}" for call in range(draw(st.integers(0, 3)))]
        turns.append(Turn("assistant", said, ",".join(calls)))
        results = [Turn("tool", inline("y" * draw(st.integers(0, 40))), call, "t") for call in calls]
        turns += draw(st.permutations(results))
    return turns


@given(conversations(), st.integers(0, 300))
def test_what_is_shown_is_an_end_of_the_conversation_that_fits(turns: list[Turn], limit: int):
    """Whole turns, the last one always; one more would not fit."""
    shown = recent(turns, limit, size)

    assert list(shown.turns) == turns[shown.dropped :]
    if not limit or not turns:
        assert shown.dropped == 0
        return
    last = max((i for i, turn in enumerate(turns) if turn.role == "assistant"), default=len(turns) - 1)
    assert shown.dropped <= last
    if shown.dropped < last:
        assert sum(map(size, shown.turns)) <= limit
    if shown.dropped:
        starts = [i for i, turn in enumerate(turns[: shown.dropped]) if turn.role != "tool"]
        assert sum(map(size, turns[starts[-1] :])) > limit


@given(conversations(), st.integers(1, 300))
def test_a_tool_call_is_never_parted_from_its_result(turns: list[Turn], limit: int):
    """Whatever the sizes are: every result has its call before it, and every call its result behind it."""
    shown = recent(turns, limit, size).turns

    calls = [call for turn in shown if turn.role == "assistant" for call in turn.call_id.split(",") if call]
    assert sorted(turn.call_id for turn in shown if turn.role == "tool") == sorted(calls)
    assert not shown or shown[0].role != "tool"
