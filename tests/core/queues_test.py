"""Lines of ready steps: classes, shares of teams, steps that stand aside."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive_ray.core.queues import RELIEF, Queue, StepRef

INTERACTIVE, NORMAL, BATCH = range(3)


def ref(team: str, number: int) -> StepRef:
    return (f"{team}{number}", 1, 0)


def taken(queue: Queue, most: int) -> list[str]:
    """Teams of the next steps."""
    found = (queue.take() for _ in range(most))
    return [one[2].team for one in found if one is not None]


def test_a_team_keeps_its_own_order():
    queue = Queue({})
    for number in range(5):
        queue.put(ref("a", number), "a", NORMAL)
    assert [queue.take()[0] for _ in range(5)] == [ref("a", number) for number in range(5)]  # pyright: ignore[reportOptionalSubscript]
    assert queue.take() is None


@pytest.mark.parametrize("weights", [{}, {"b": 3}, {"a": 5, "b": 2, "c": 1}])
def test_teams_share_by_weight_whatever_they_have_queued(weights: dict[str, int]):
    """Over any stretch, each is within one step of its share."""
    queue = Queue(weights)
    for number in range(3_000):
        queue.put(ref("a", number), "a", NORMAL)
    for team in ("b", "c"):
        for number in range(1_000):
            queue.put(ref(team, number), team, NORMAL)
    total = sum(weights.get(team, 1) for team in "abc")
    counts = Counter(taken(queue, 100 * total))
    for team in "abc":
        assert abs(counts[team] - 100 * weights.get(team, 1)) <= 2, counts


def test_who_comes_late_is_next_and_does_not_make_up_for_its_absence():
    """Ten thousand of another team's are in line."""
    queue = Queue({})
    for number in range(10_000):
        queue.put(ref("many", number), "many", NORMAL)
    taken(queue, 500)
    for number in range(3):
        queue.put(ref("few", number), "few", NORMAL)
    assert taken(queue, 6).count("few") == 3


def test_classes_go_first_and_none_starves():
    """One taking of so many goes to the lowest class."""
    queue = Queue({})
    for number in range(100):
        queue.put(ref("i", number), "i", INTERACTIVE)
        queue.put(ref("n", number), "n", NORMAL)
        queue.put(ref("b", number), "b", BATCH)
    counts = Counter(taken(queue, 5 * RELIEF))
    assert counts == {"i": 5 * (RELIEF - 1), "b": 5}


def test_what_stands_aside_is_not_looked_at_until_it_is_woken_and_keeps_its_place():
    queue = Queue({})
    for number in range(4):
        queue.put(ref("a", number), "a", NORMAL)
    for _ in range(3):
        one = queue.take()
        assert one is not None
        queue.set_aside("money", one)
    assert (queue.ready, queue.aside, len(queue)) == (1, 3, 4)
    assert queue.wake("money", 2) == 2
    assert queue.wake("nothing", 2) == 0
    order = [queue.take() for _ in range(3)]
    assert [one[0] for one in order if one] == [ref("a", 0), ref("a", 1), ref("a", 3)]
    assert queue.awaited() == ["money"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=5))
def test_nothing_is_lost_or_doubled(moves: list[tuple[int, int]]):
    """Whatever is done, what was put in and not taken out stands there once."""
    queue = Queue({"a": 2})
    inside: list[StepRef] = []
    for number, (move, choice) in enumerate(moves * 3):
        team = "abc"[choice % 3]
        match move:
            case 0 | 1:
                queue.put(ref(team, number), team, choice % 3)
                inside.append(ref(team, number))
            case 2:
                one = queue.take()
                if one is not None:
                    queue.set_aside("xyz"[choice % 3], one)
            case 3:
                queue.wake("xyz"[choice % 3], choice)
            case 4:
                one = queue.take()
                if one is not None:
                    queue.put_back(one)
            case _:
                one = queue.take()
                if one is not None:
                    inside.remove(one[0])
        assert sorted(queue) == sorted(inside)
        assert len(queue) == len(inside)
    for step in list(inside):
        queue.remove(step, step[0][0], next(p for p in range(3) if _stands(queue, step, p)))
        inside.remove(step)
        assert sorted(queue) == sorted(inside)


def _stands(queue: Queue, step: StepRef, priority: int) -> bool:
    """Whether removing it as one of a class finds it; what stands aside is found in any."""
    lines = queue._classes[priority].lines
    own = step[0][0] in lines and step in lines[step[0][0]].steps
    aside = any(entry[0] == step for entries in queue._aside.values() for entry in entries)
    return own or aside
