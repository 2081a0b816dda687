"""The steps of a graph and their metrics in; a picture (SVG), from left to right or from top to bottom, out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from ecomflow.metrics.snapshot import StepMetrics
from ecomflow.pipeline.tree import Step
from ecomflow.terminal.amounts import count_text, rate_text
from ecomflow.ui.views.html import Html, tag

_BOX, _GAP, _HEIGHT, _PITCH = 192, 60, 88, 110
_TALL_WIDTH, _TALL_HEIGHT, _TALL_PITCH, _INDENT = 340, 56, 84, 18
_LINE_CHARACTERS = 20
_MARGIN, _BEND = 2, 8


class Flow(msgspec.Struct, frozen=True):
    """The totals of a step since the pipeline started, and its current input rate per second; None: not known."""

    metrics: StepMetrics | None = None
    rate: float | None = None


class Box(msgspec.Struct, frozen=True):
    """A step with its position in pixels, and the box that it reads from."""

    step: Step
    x: float
    y: float
    width: float
    height: float
    reads: Box | None


def wide_boxes(steps: Sequence[Step]) -> list[Box]:
    """One column per distance from the source, one row per branch; the last steps are all in the last column."""
    deepest = max((_depth(step) for step in steps), default=1)
    boxes: list[Box] = []

    def place(step: Step, column: int, reads: Box | None) -> None:
        row = sum(not box.step.then for box in boxes)
        column = column if step.then else deepest - 1
        x, y = _MARGIN + column * (_BOX + _GAP), _MARGIN + row * _PITCH
        box = Box(step, x, y, _BOX, _HEIGHT, reads)
        boxes.append(box)
        for after in step.then:
            place(after, column + 1, box)

    for step in steps:
        place(step, 0, None)
    return boxes


def tall_boxes(steps: Sequence[Step]) -> list[Box]:
    """One below the other; if a step has several readers, these are indented."""
    boxes: list[Box] = []

    def place(step: Step, indent: int, reads: Box | None) -> None:
        x = _MARGIN + indent * _INDENT
        y = _MARGIN + len(boxes) * _TALL_PITCH
        box = Box(step, x, y, _TALL_WIDTH - 2 * _MARGIN - indent * _INDENT, _TALL_HEIGHT, reads)
        boxes.append(box)
        for after in step.then:
            place(after, indent + (len(step.then) > 1), box)

    for step in steps:
        place(step, 0, None)
    return boxes


def picture(steps: Sequence[Step], flows: Mapping[str, Flow], *, tall: bool) -> Html:
    """The graph with a rate on each edge, totals in each box, and refused messages in red."""
    boxes = tall_boxes(steps) if tall else wide_boxes(steps)
    width = max((box.x + box.width for box in boxes), default=0) + _MARGIN
    height = max((box.y + box.height for box in boxes), default=0) + _MARGIN
    fastest = max((flow.rate or 0.0 for flow in flows.values()), default=0.0)
    name = "tall" if tall else "wide"
    return tag(
        "svg",
        tag("title", "The pipeline's graph", id=f"graph-{name}"),
        tag("desc", "Each step with its totals, each edge with its rate. The table of steps below has the same numbers."),
        [_edge(box, flows.get(box.step.name, Flow()), fastest, tall) for box in boxes if box.reads],
        [_box(box, flows.get(box.step.name, Flow()), tall) for box in boxes],
        class_=f"graph {name}",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_labelledby=f"graph-{name}",
    )


def every_step(steps: Sequence[Step]) -> Iterator[Step]:
    """The steps of a tree in the order of the picture."""
    for step in steps:
        yield step
        yield from every_step(step.then)


def holds_refusals(step: Step) -> bool:
    """Whether the input of the step is refused messages. The label says so; Beam's proto does not."""
    return step.name.endswith("dead letters")


def _depth(step: Step) -> int:
    return 1 + max(map(_depth, step.then), default=0)


def _box(box: Box, flow: Flow, tall: bool) -> Html:
    """A step's name in one or two lines; below, its input and refused messages, on one line if there is room."""
    total, refused = _totals(box.step, flow)
    written = [box.step.name] if tall else _wrapped(box.step.name)
    left, right, bottom = box.x + 12, box.x + box.width - 12, box.y + box.height - 11
    above = bottom if tall else bottom - 17
    where = {"x": f"{right:g}", "text_anchor": "end"} if tall else {"x": f"{left:g}"}
    return tag(
        "g",
        tag("title", f"{box.step.name}: {', '.join(box.step.parts)}"),
        tag("rect", x=f"{box.x:g}", y=f"{box.y:g}", width=f"{box.width:g}", height=f"{box.height:g}", rx="6"),
        [tag("text", line, class_="name", x=f"{left:g}", y=f"{box.y + 21 + 16 * at:g}") for at, line in enumerate(written)],
        tag("text", total, class_="total", x=f"{left:g}", y=f"{above:g}") if total else None,
        tag("text", refused, class_="refused", y=f"{bottom:g}", **where) if refused else None,
        class_="step",
        data_tone="bad" if refused and holds_refusals(box.step) else None,
        data_step=box.step.name,
    )


def _totals(step: Step, flow: Flow) -> tuple[str, str]:
    """The numbers in a box: the input, and, in red, how much of it was refused."""
    if flow.metrics is None:
        return "not reported yet", ""
    taken, messages_out, refused = flow.metrics.messages_in, flow.metrics.messages_out, flow.metrics.refused
    if holds_refusals(step):
        return "" if taken else "none", f"{count_text(taken)} refused" if taken else ""
    # The first step has no input: it reads.
    total = f"{count_text(taken)} in" if taken or not messages_out else f"{count_text(messages_out)} out"
    return total, f"{count_text(refused)} refused" if refused else ""


def _edge(box: Box, flow: Flow, fastest: float, tall: bool) -> Html:
    assert box.reads is not None
    path, x, y, anchor = _tall_way(box, box.reads) if tall else _wide_way(box, box.reads)
    share = (flow.rate or 0.0) / fastest if fastest else 0.0
    red = holds_refusals(box.step) and bool(flow.metrics and flow.metrics.messages_in)
    return tag(
        "g",
        tag("path", d=path, stroke_width=f"{1.5 + 3.5 * share**0.5:.1f}"),
        tag("text", rate_text(flow.rate), x=f"{x:g}", y=f"{y:g}", text_anchor=anchor),
        class_="edge",
        data_tone="bad" if red else None,
        data_moving=bool(flow.rate),
    )


def _wide_way(box: Box, reads: Box) -> tuple[str, float, float, str]:
    """The edge's path, along a trunk next to its source box, and the position of its rate, before its target box."""
    x0, y0, x1, y1 = reads.x + reads.width, reads.y + reads.height / 2, box.x, box.y + box.height / 2
    place = (x1 - 7, y1 - 8, "end")
    if y0 == y1:
        return f"M{x0:g} {y0:g}H{x1:g}", *place
    x = x0 + 16
    down = f"H{x - _BEND:g}Q{x:g} {y0:g} {x:g} {y0 + _BEND:g}V{y1 - _BEND:g}Q{x:g} {y1:g} {x + _BEND:g} {y1:g}"
    return f"M{x0:g} {y0:g}{down}H{x1:g}", *place


def _tall_way(box: Box, reads: Box) -> tuple[str, float, float, str]:
    y0 = reads.y + reads.height
    if box.x == reads.x:
        x = box.x + 16
        return f"M{x:g} {y0:g}V{box.y:g}", x + 10, box.y - 10, "start"
    x = reads.x + 8
    return f"M{x:g} {y0:g}V{box.y + box.height / 2:g}H{box.x:g}", box.x + 16, box.y - 10, "start"


def _wrapped(name: str) -> list[str]:
    """A label in one line, or in two lines of which the longer is as short as possible."""
    words = name.split(" ")
    if len(name) <= _LINE_CHARACTERS or len(words) < 2:
        return [name]
    pairs = [(" ".join(words[:cut]), " ".join(words[cut:])) for cut in range(1, len(words))]
    return list(min(pairs, key=lambda pair: max(map(len, pair))))
