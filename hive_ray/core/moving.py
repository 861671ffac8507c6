"""Taking runs on: nodes entered and left, children begun, parents told, runs ended.

What a decision changed in a run is followed here as far as it goes without another outcome.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from hive_ray.core import agent_loop, children, lifecycle, people, routing, sealing
from hive_ray.core import events as ev
from hive_ray.core.commands import Cancel, Moment
from hive_ray.core.events import Draft
from hive_ray.core.run import TERMINAL, Run, Visit
from hive_ray.graph.compiled import LOOPS, CompiledGraph, NodeKind

if TYPE_CHECKING:
    from hive_ray.core.engine import Engine


class Moving:
    """The part of the engine that moves runs on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._unborn: deque[Run] = deque()
        """Child runs that were submitted and have not begun."""
        self._untold: deque[Run] = deque()
        """Child runs that ended and whose parent has not been told."""
        self._settling = False

    @property
    def idle(self) -> bool:
        """Whether every child has begun and every parent been told."""
        return not self._unborn and not self._untold

    def begin(self, run: Run, now: Moment) -> None:
        """Enter the first node, or go on from where a fork was cut."""
        graph = self._engine.graphs[run.graph]
        if run.outside:
            self._engine.record([Draft(ev.RunLetIn(run.id))], now)
        if not run.serial:
            self.enter(run, graph, routing.enter_first(run, graph), now)
        else:
            for visit in list(run.visits.values()):
                if not visit.deciding:
                    self.open_visit(run, graph, visit, now)
        self.advance(run, now)

    def advance(self, run: Run, now: Moment) -> None:
        """Take a run as far as it goes without another outcome, and its family with it."""
        if run.begun or run.terminal:
            self._walk(run, now)
        if self._unborn or self._untold:
            self._settle(now)
        self.note_place(run, now)

    def note_place(self, run: Run, now: Moment) -> None:
        """Whether a run is under way may have changed: others begin if it has left a place."""
        engine = self._engine
        if engine.force.limits_runs and engine.entrance.note(engine.payer(run), engine.runs):
            engine.let_in_waiting(now)

    def _walk(self, run: Run, now: Moment) -> None:
        engine = self._engine
        graph = engine.graphs[run.graph]
        while run.status not in TERMINAL:
            if run.ended:
                engine.record(routing.leave(run, graph, run.ended[0], engine.evaluator), now)
                continue
            if run.tokens:
                entered = routing.enter(run, graph)
                if entered:
                    self.enter(run, graph, entered, now)
                    continue
            if not self._proceed_visits(run, graph, now):
                break
        if not run.visits:
            engine.record(routing.finish(run, graph), now)
        if run.id in engine.children:
            self._cancel_orphaned_children(run, now)
        if run.parent and run.terminal:
            self._untold.append(run)

    def _settle(self, now: Moment) -> None:
        """Begin new children and tell the parents of ended ones.

        One after the other rather than nested: a map may have thousands of items that end at once.
        """
        if self._settling:
            return
        self._settling = True
        try:
            while self._unborn or self._untold:
                if self._untold:
                    self._tell_parent(self._untold.popleft(), now)
                else:
                    self._begin_child(self._unborn.popleft(), now)
        finally:
            self._settling = False

    def _begin_child(self, child: Run, now: Moment) -> None:
        """Unless its parent failed in the meantime; a child of a paused run is born paused."""
        if child.terminal:
            return
        parent = self._engine.runs[child.parent]
        if parent.paused:
            paused = ev.RunPaused(child.id, parent.reason)
            self._engine.record([sealing.reasoned(paused, self._engine.fleet.feature_level)], now)
        self.begin(child, now)

    def _cancel_orphaned_children(self, run: Run, now: Moment) -> None:
        for child_id in self._engine.live_children(run.id):
            child = self._engine.runs[child_id]
            if run.terminal or child.parent_serial not in run.visits:
                self._engine.cancel(Cancel(child_id, f"its parent {run.id} went on without it"), now)

    def _proceed_visits(self, run: Run, graph: CompiledGraph, now: Moment) -> bool:
        """Move agent loops on, and end what nothing can move; whether anything happened."""
        moved = False
        for visit in list(run.visits.values()):
            drafts = agent_loop.proceed(run, graph, visit, now) if visit.loop is not None else []
            if not drafts and not visit.steps and visit.wait is None:
                drafts = lifecycle.fail_stuck(run, graph, visit)
            if drafts:
                self._engine.record(drafts, now)
                moved = True
        return moved

    def enter(self, run: Run, graph: CompiledGraph, entered: list[Draft], now: Moment) -> None:
        self._engine.record(entered, now)
        for drafted in entered:
            event = drafted.event
            if run.terminal or not isinstance(event, ev.NodeEntered):
                continue
            self.open_visit(run, graph, run.visits[event.serial], now)

    def open_visit(self, run: Run, graph: CompiledGraph, visit: Visit, now: Moment) -> None:
        """What a visit begins with besides a step."""
        node = graph.nodes[visit.node]
        if node.kind in _PLAIN and not node.pause:
            return
        if node.kind in LOOPS:
            self._engine.record([agent_loop.begin(run, graph, visit)], now)
        self._engine.record(people.ask(run, graph, visit, now), now)
        self.open_children(run, graph, visit, now)

    def open_children(self, run: Run, graph: CompiledGraph, visit: Visit, now: Moment) -> None:
        """Begin a map or a subgraph that waits for nobody."""
        if graph.nodes[visit.node].kind in _WITH_CHILDREN and visit.wait is None:
            self._open(children.begin(run, graph, visit, self._engine.graphs), now)

    def _open(self, opened: children.Opened, now: Moment) -> None:
        self._engine.record(opened.parent, now)
        self._engine.record(opened.children, now)
        self._unborn.extend(self._engine.runs[born.event.run] for born in opened.children)

    def _tell_parent(self, child: Run, now: Moment) -> None:
        parent = self._engine.runs[child.parent]
        visit = parent.visits.get(child.parent_serial)
        if visit is None or visit.children is None or child.item not in visit.children.live:
            return
        graph = self._engine.graphs[parent.graph]
        self._engine.record(children.child_ended(parent, graph, visit, child), now)
        if visit.serial in parent.visits:
            self._open(children.move_window(parent, graph, visit, self._engine.graphs), now)
        self._walk(parent, now)


_WITH_CHILDREN = (NodeKind.MAP, NodeKind.SUBGRAPH)
_PLAIN = (NodeKind.FUNCTION, NodeKind.TOOL, NodeKind.ROUTER, NodeKind.LLM_GENERATE)
