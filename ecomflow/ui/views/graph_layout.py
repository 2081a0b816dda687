"""The steps of a graph, what they read and what they write in; boxes and edges with their places, in pixels, out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal

import msgspec

from ecomflow.metrics.snapshot import Branch
from ecomflow.pipeline.tree import Step

Kind = Literal["subscription", "step", "table", "dead_letters"]

MARGIN = 2
_BEND = 8

# From left to right.
_STEP_WIDTH, _SOURCE_WIDTH, _SINK_WIDTH, _GAP = 166, 156, 196, 74
_HEIGHT, _LOW_HEIGHT, _SINK_HEIGHT = 88, 66, 46
_LANE_GAP, _BAND_GAP, _SINK_GAP = 34, 24, 8
# Two edges into the left side of one box.
_APART = 10

# From top to bottom, on a phone.
_TALL_WIDTH, _TALL_GAP, _INDENT = 350, 22, 18
_TALL_HEIGHTS: dict[Kind, int] = {"subscription": 56, "step": 58, "table": 44, "dead_letters": 44}
# To the right of the boxes the edges of refused messages, those from further away outside.
_LANES, _LANE = 34, 8


class Box(msgspec.Struct, frozen=True):
    """A subscription, a step, a table, or the dead letters of a stream, by name. ``step``: the step, with its inner ones."""

    kind: Kind
    name: str
    x: float
    y: float
    width: float
    height: float
    step: Step | None = None

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height


class Edge(msgspec.Struct, frozen=True):
    """``refused``: the messages that ``source`` refuses, on their way to the step that writes their dead letters; otherwise those
    that it passes on. ``beside``: the other steps that refuse messages of the same stream, if ``source`` counts those of several
    streams together. The label is at (``x``, ``y``).
    """

    source: Box
    target: Box
    path: str
    x: float
    y: float
    anchor: Literal["start", "end"]
    refused: bool = False
    beside: tuple[str, ...] = ()


class Layout(msgspec.Struct, frozen=True):
    """A whole picture."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    # To the right of the boxes, for edges.
    beside: float = MARGIN

    @property
    def width(self) -> float:
        return max((box.right for box in self.boxes), default=0.0) + self.beside

    @property
    def height(self) -> float:
        return max((box.bottom for box in self.boxes), default=0.0) + MARGIN


@lru_cache(maxsize=2)
def wide_layout(steps: tuple[Step, ...], subscription: str, branches: tuple[Branch, ...]) -> Layout:
    """A column for each distance from the subscription, a band for each branch: above its steps and tables, below the way of its
    refused messages.
    """
    return _Wide(steps, subscription, branches).layout()


@lru_cache(maxsize=2)
def tall_layout(steps: tuple[Step, ...], subscription: str, branches: tuple[Branch, ...]) -> Layout:
    """One box below the other, those of a branch indented, their refused messages at the right."""
    return _Tall(steps, subscription, branches).layout()


def every_step(steps: Sequence[Step]) -> Iterator[Step]:
    """The steps of a tree in the order of the picture."""
    for step in steps:
        yield step
        yield from every_step(step.then)


class _Drawing:
    """What both pictures share: the boxes and edges so far, and what the branches say of a step."""

    def __init__(self, steps: Sequence[Step], subscription: str, branches: Sequence[Branch]) -> None:
        self.steps, self.subscription = steps, subscription
        self.writes = {branch.write: branch for branch in branches if branch.write}
        self.letters = {branch.dead_letters: branch for branch in branches}
        self.boxes: list[Box] = []
        self.edges: list[Edge] = []

    def add(self, box: Box) -> Box:
        self.boxes.append(box)
        return box

    def refusing(self, name: str, before: Sequence[Box]) -> list[tuple[Box, tuple[str, ...]]]:
        """The steps whose refused messages the step ``name`` writes, nearest first, each with its ``beside``. The first step
        only reads; one that refuses all of its messages gets none that were refused before.
        """
        branch = self.letters[name]
        sources = [*before[1:]][::-1] if branch.write else [before[-1]]
        own = [source.name for source in sources if source.name in (branch.first, branch.write)]
        return [(source, () if source.name in own else tuple(own)) for source in sources]


class _Wide(_Drawing):
    def layout(self) -> Layout:
        self.last = max((_depth(step, self.letters) for step in self.steps), default=1)
        source = self.add(Box("subscription", self.subscription, MARGIN, MARGIN, _SOURCE_WIDTH, _HEIGHT))
        bottom: float = MARGIN
        for step in self.steps:
            box, bottom = self._place(step, 1, bottom, ())
            self._pass_on(source, box)
        return Layout(tuple(self.boxes), tuple(self.edges))

    def _place(self, step: Step, column: int, y: float, before: tuple[Box, ...]) -> tuple[Box, float]:
        """Draw ``step`` and all that follows it, from ``y`` on; its box, and where the next branch begins."""
        if step.name in self.letters:
            return self._place_letters(step, y, before)
        box = self.add(Box("step", step.name, self._x(column), y, _STEP_WIDTH, _HEIGHT, step))
        bottom = max(box.bottom, self._place_tables(box))
        following = y
        for after in step.then:
            is_below = after.name in self.letters and step.name in self.writes
            at = bottom + _LANE_GAP if is_below else following
            then, following = self._place(after, column + 1, at, (*before, box))
            if after.name not in self.letters:
                self._pass_on(box, then)
        return box, max(following, bottom + _BAND_GAP)

    def _place_tables(self, box: Box) -> float:
        """The tables that a step writes, one below the other; the end of the last."""
        y = box.y
        for table in self.writes[box.name].tables if box.name in self.writes else ():
            drawn = self.add(Box("table", table, self._x(self.last + 1), y, _SINK_WIDTH, _SINK_HEIGHT))
            self._pass_on(box, drawn)
            y = drawn.bottom + _SINK_GAP
        return y - _SINK_GAP

    def _place_letters(self, step: Step, y: float, before: tuple[Box, ...]) -> tuple[Box, float]:
        box = self.add(Box("step", step.name, self._x(self.last), y, _STEP_WIDTH, _LOW_HEIGHT, step))
        sink_y = box.middle[1] - _SINK_HEIGHT / 2
        sink = Box("dead_letters", self.letters[step.name].stream, self._x(self.last + 1), sink_y, _SINK_WIDTH, _SINK_HEIGHT)
        self._pass_on(box, self.add(sink))
        sources = self.refusing(step.name, before)
        ways = [source for source, _ in sources if source.x != box.x and source.y != box.y]
        for source, beside in sources:
            y1 = box.middle[1]
            if len(ways) > 1 and source in ways:
                y1 += _APART * (2 * ways.index(source) / (len(ways) - 1) - 1)
            self.edges.append(self._refusal(source, box, y1, beside))
        return box, box.bottom + _BAND_GAP

    def _refusal(self, source: Box, box: Box, y1: float, beside: tuple[str, ...]) -> Edge:
        x0 = source.middle[0]
        if source.x == box.x:
            path, x, y = f"M{x0:g} {source.bottom:g}V{box.y:g}", x0 + 8, (source.bottom + box.y) / 2 + 4
        elif source.y == box.y:
            path, x, y = f"M{source.right:g} {y1:g}H{box.x:g}", source.right + 10, y1 - 8
        else:
            bent = f"V{y1 - _BEND:g}Q{x0:g} {y1:g} {x0 + _BEND:g} {y1:g}"
            path, x, y = f"M{x0:g} {source.bottom:g}{bent}H{box.x:g}", x0 + 8, source.bottom + 17
            if beside:  # the way is shared with other branches up to here
                x, y = box.x - _GAP - _STEP_WIDTH, y1 - 6
        return Edge(source, box, path, x, y, "start", True, beside)

    def _pass_on(self, source: Box, target: Box) -> None:
        x0, x1 = source.right, target.x
        y0 = min(max(source.middle[1], target.y + 8), target.bottom - 8) if source.kind == "subscription" else source.middle[1]
        y1 = y0 if abs(target.middle[1] - y0) < _BEND else target.middle[1]
        place = (x1 - 9, y1 - 7)
        if y0 == y1:
            self.edges.append(Edge(source, target, f"M{x0:g} {y0:g}H{x1:g}", *place, "end"))
            return
        x, side = x0 + 16, _BEND if y1 > y0 else -_BEND
        bent = f"H{x - _BEND:g}Q{x:g} {y0:g} {x:g} {y0 + side:g}V{y1 - side:g}Q{x:g} {y1:g} {x + _BEND:g} {y1:g}"
        self.edges.append(Edge(source, target, f"M{x0:g} {y0:g}{bent}H{x1:g}", *place, "end"))

    def _x(self, column: int) -> float:
        return MARGIN + (_SOURCE_WIDTH + _GAP + (column - 1) * (_STEP_WIDTH + _GAP) if column else 0)


class _Tall(_Drawing):
    def layout(self) -> Layout:
        self.y: float = MARGIN
        source = self._box("subscription", self.subscription, 0)
        for step in self.steps:
            self._pass_on(source, self._place(step, 0, ()))
        return Layout(tuple(self.boxes), tuple(self.edges), _LANES)

    def _box(self, kind: Kind, name: str, indent: int, step: Step | None = None) -> Box:
        x = MARGIN + indent * _INDENT
        box = Box(kind, name, x, self.y, _TALL_WIDTH - _LANES - x, _TALL_HEIGHTS[kind], step)
        self.y = box.bottom + _TALL_GAP
        return self.add(box)

    def _place(self, step: Step, indent: int, before: tuple[Box, ...]) -> Box:
        box = self._box("step", step.name, indent, step)
        if step.name in self.letters:
            self._pass_on(box, self._box("dead_letters", self.letters[step.name].stream, indent + 1))
            for lane, (source, beside) in enumerate(self.refusing(step.name, before), start=1):
                self._refuse(source, box, lane, beside)
        for table in self.writes[step.name].tables if step.name in self.writes else ():
            self._pass_on(box, self._box("table", table, indent + 1))
        for after in step.then:
            drawn = self._place(after, indent + (len(step.then) > 1), (*before, box))
            if after.name not in self.letters:
                self._pass_on(box, drawn)
        return box

    def _pass_on(self, source: Box, target: Box) -> None:
        if source.x == target.x:
            x = target.x + 16
            self.edges.append(Edge(source, target, f"M{x:g} {source.bottom:g}V{target.y:g}", x + 10, target.y - 7, "start"))
            return
        x, y = source.x + 8, target.middle[1]
        path = f"M{x:g} {source.bottom:g}V{y:g}H{target.x:g}"
        self.edges.append(Edge(source, target, path, target.x + 8, target.y - 7, "start"))

    def _refuse(self, source: Box, target: Box, lane: int, beside: tuple[str, ...]) -> None:
        x = source.right + lane * _LANE
        y0, y1 = source.middle[1] + (6 if source.kind == "step" else 0), target.middle[1]
        path = f"M{source.right:g} {y0:g}H{x:g}V{y1:g}H{target.right:g}"
        self.edges.append(Edge(source, target, path, source.right - 10, y0, "end", True, beside))


def _depth(step: Step, letters: dict[str, Branch]) -> int:
    """The number of columns from a step to the last, without those that write dead letters."""
    return 1 + max((_depth(after, letters) for after in step.then if after.name not in letters), default=0)
