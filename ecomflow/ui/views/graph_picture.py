"""The graph and its counts in; a picture (SVG), from left to right or from top to bottom, out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

import msgspec

from ecomflow.metrics.snapshot import Branch, StepMetrics
from ecomflow.pipeline.tree import Step
from ecomflow.terminal.amounts import count_text, counted, rate_text, seconds_text
from ecomflow.ui.views.graph_layout import Box, Edge, Layout, tall_layout, wide_layout
from ecomflow.ui.views.html import Html, shown, tag

_LINE_CHARACTERS, _SOURCE_CHARACTERS, _SINK_CHARACTERS, _TALL_CHARACTERS = 20, 17, 24, 34
# Above it a count is shortened: there is room for nine characters between two boxes.
_MAX_LABEL = 9_999_999
_EMPTY = StepMetrics("")


class Flow(msgspec.Struct, frozen=True):
    """The totals of a step since the pipeline started, and its current input rate per second; None: not known."""

    metrics: StepMetrics | None = None
    rate: float | None = None


class Counts(msgspec.Struct, frozen=True):
    """All numbers of the picture. ``rows``: of each table in the warehouse; ``appended``: the rows of it that this pipeline has
    written; ``letters``: dead letters in the bucket, by stream, None if they were not all read; ``objects``: the objects that
    contain them. None, or missing: not known.
    """

    flows: Mapping[str, Flow] = {}
    appended: Mapping[str, int] = {}
    rows: Mapping[str, int] = {}
    letters: Mapping[str, int] | None = None
    objects: Mapping[str, int] | None = None
    backlog: int | None = None
    oldest_seconds: float | None = None


class Graph(msgspec.Struct, frozen=True):
    """The steps, the name of the subscription that they read, and the branches, which name the tables and dead letters."""

    steps: tuple[Step, ...]
    subscription: str
    bucket: str
    branches: tuple[Branch, ...]


def pictures(graph: Graph, counts: Counts, selected: str | None = None) -> list[Html]:
    """The picture for a wide screen and that for a phone, of which the style shows one. ``selected``: the step that is open."""
    wide = wide_layout(graph.steps, graph.subscription, graph.branches)
    tall = tall_layout(graph.steps, graph.subscription, graph.branches)
    return [_picture(wide, graph, counts, selected, "wide"), _picture(tall, graph, counts, selected, "tall")]


def step_address(name: str) -> str:
    """The address of the graph with the details of a step."""
    return f"/?{urlencode({'step': name})}#step"


def refused_on(edge: Edge, counts: Counts) -> int:
    """The messages on an edge of refused ones. Of a step that counts several streams together, those of this one are what its
    dead letters have beyond those of the other steps.
    """
    refused = _metrics(counts, edge.source.name).refused
    if not edge.beside:
        return refused
    others = sum(_metrics(counts, name).refused for name in edge.beside)
    return min(refused, max(0, _metrics(counts, edge.target.name).messages_in - others))


def passed_on(edge: Edge, counts: Counts) -> int:
    """The messages on any other edge; to a table, the rows."""
    if edge.target.kind == "table":
        return counts.appended.get(edge.target.name, 0)
    if edge.target.kind == "dead_letters":
        return _metrics(counts, edge.source.name).messages_out
    target = _metrics(counts, edge.target.name)
    # The first step has no input: it reads.
    return target.messages_out if edge.source.kind == "subscription" else target.messages_in


def _picture(layout: Layout, graph: Graph, counts: Counts, selected: str | None, name: str) -> Html:
    tall = name == "tall"
    fastest = max((flow.rate or 0.0 for flow in counts.flows.values()), default=0.0)
    return tag(
        "svg",
        tag("title", "The pipeline's graph", id=f"graph-{name}"),
        tag("desc", "Each edge with its messages, each step with its rate. The table of steps below has the same numbers."),
        [_edge(edge, counts, fastest, tall) for edge in layout.edges],
        [_linked(box, graph, counts, tall, box.name == selected) for box in layout.boxes],
        class_=f"graph {name}",
        viewBox=f"0 0 {layout.width:g} {layout.height:g}",
        role="group",
        aria_labelledby=f"graph-{name}",
    )


def _linked(box: Box, graph: Graph, counts: Counts, tall: bool, is_selected: bool) -> Html:
    """The box as a link to its details."""
    match box.kind:
        case "subscription":
            address, words = step_address(graph.steps[0].name) if graph.steps else "/", f"Subscription {box.name}"
        case "step":
            address, words = step_address(box.name), f"{box.name}: {', '.join(box.step.parts) if box.step else ''}"
        case "table":
            address, words = f"/tables/{quote(box.name)}", f"Table {box.name}"
        case "dead_letters":
            address = f"/dead-letters?{urlencode({'stream': box.name})}"
            words = f"Dead letters: gs://{graph.bucket}/dlq/{box.name}/"
    return tag(
        "a",
        tag("title", words),
        tag("rect", x=f"{box.x:g}", y=f"{box.y:g}", width=f"{box.width:g}", height=f"{box.height:g}", rx="6"),
        _words(box, counts, tall),
        href=address,
        class_="box",
        data_kind=box.kind,
        data_name=box.name,
        aria_current="true" if is_selected else None,
    )


def _words(box: Box, counts: Counts, tall: bool) -> list[Html]:
    if box.kind == "step":
        return _step_words(box, counts.flows.get(box.name, Flow()), tall)
    left, width = box.x + 12, _TALL_CHARACTERS if tall else _SINK_CHARACTERS
    if box.kind == "subscription":
        lines = [shown(box.name, width if tall else _SOURCE_CHARACTERS), *_backlog(counts)]
        return [
            _text(line, left, box.y + 22 + 18 * at, "" if at else "name") for at, line in enumerate(lines[: 2 if tall else 3])
        ]
    if box.kind == "table":
        rows = counts.rows.get(box.name)
        name, below, tone = box.name, "not counted yet" if rows is None else counted(rows, "row"), ""
    else:
        name, (below, tone) = f"dlq/{box.name}/", _letters(box.name, counts)
    return [_text(shown(name, width), left, box.y + 19, "name"), _text(below, left, box.y + 36, tone)]


def _backlog(counts: Counts) -> list[str]:
    if counts.backlog is None:
        return ["backlog unknown"]
    oldest = [f"oldest {seconds_text(counts.oldest_seconds)}"] if counts.backlog else []
    return [f"{count_text(counts.backlog)} waiting", *oldest]


def _letters(stream: str, counts: Counts) -> tuple[str, str]:
    for numbers, what in ((counts.letters, "dead letter"), (counts.objects, "object")):
        if numbers is not None:
            found = numbers.get(stream, 0)
            return counted(found, what), "refused" if found else ""
    return "not counted yet", ""


def _step_words(box: Box, flow: Flow, tall: bool) -> list[Html]:
    """A step's name in one or two lines; below, its rate, and what it has refused."""
    left, bottom = box.x + 12, box.bottom - 11
    names = [shown(box.name, _TALL_CHARACTERS)] if tall else _wrapped(box.name)
    found = [_text(line, left, box.y + 21 + 16 * at, "name") for at, line in enumerate(names)]
    if flow.metrics is None:
        return [*found, _text("not reported yet", left, bottom)]
    if tall:
        amount = flow.metrics.messages_in or flow.metrics.messages_out
        found.append(_text(f"{count_text(amount)} in" if flow.metrics.messages_in else f"{count_text(amount)} out", left, bottom))
    else:
        found.append(_text(rate_text(flow.rate), left, bottom))
    if flow.metrics.refused:
        words, right = f"{count_text(flow.metrics.refused)} refused", box.right - 12
        found.append(_text(words, right, bottom, "refused", "end") if tall else _text(words, left, bottom - 17, "refused"))
    return found


def _edge(edge: Edge, counts: Counts, fastest: float, tall: bool) -> Html:
    rate = counts.flows.get(edge.target.name, Flow()).rate if not edge.refused else None
    if edge.target.kind in ("table", "dead_letters"):
        rate = counts.flows.get(edge.source.name, Flow()).rate
    amount = refused_on(edge, counts) if edge.refused else passed_on(edge, counts)
    share = (rate or 0.0) / fastest if fastest else 0.0
    # On a phone there is no room beside the edges of refused messages: the boxes have the numbers.
    label = None if (edge.refused and (tall or not amount)) else _text(_short(amount), edge.x, edge.y, anchor=edge.anchor)
    words = f"{edge.source.name} to {edge.target.name}: {count_text(amount)}{' refused' if edge.refused else ''}"
    return tag(
        "g",
        tag("title", words),
        tag("path", d=edge.path, stroke_width=f"{1.5 + 3 * share**0.5:.1f}"),
        label,
        class_="edge",
        data_kind="refused" if edge.refused else "passed",
        data_tone="bad" if edge.refused and amount else None,
        data_moving=bool(rate),
    )


def _text(words: str, x: float, y: float, class_: str = "", anchor: str = "start") -> Html:
    return tag("text", words, class_=class_ or None, x=f"{x:g}", y=f"{y:g}", text_anchor=None if anchor == "start" else anchor)


def _metrics(counts: Counts, step: str) -> StepMetrics:
    return counts.flows.get(step, Flow()).metrics or _EMPTY


def _short(amount: int) -> str:
    return count_text(amount) if amount <= _MAX_LABEL else f"{amount / 1e6:,.1f} M"


def _wrapped(name: str) -> list[str]:
    """A label in one line, or in two lines of which the longer is as short as possible; each cut to the width of a box."""
    words = name.split(" ")
    if len(name) <= _LINE_CHARACTERS or len(words) < 2:
        return [shown(name, _LINE_CHARACTERS)]
    pairs: Sequence[tuple[str, str]] = [(" ".join(words[:cut]), " ".join(words[cut:])) for cut in range(1, len(words))]
    return [shown(line, _LINE_CHARACTERS) for line in min(pairs, key=lambda pair: max(map(len, pair)))]
