"""The DDL and the questions in; docs/data-model.md and its diagram out: ``python docs/make_data_model.py``.

A test holds both files equal to this. The page's own text, above ``MARK``, is kept as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import NamedTuple

from ecomflow.contract.loading import shop_contracts
from ecomflow.contract.tables import stream_tables, tables_of
from ecomflow.sql import Column, Question, TableDefinition, definition_of, questions

PAGE = Path(__file__).parent / "data-model.md"
PICTURE = Path(__file__).parent / "pictures" / "data-model.svg"
MARK = "<!-- From here on: python docs/make_data_model.py -->\n"

# The key of a row, as in the _unique views.
KEY = ("event_id", "line_number")


class Relation(NamedTuple):
    """Two tables with rows of the same entity, by columns that are equal in them; ``many`` at either end, or one."""

    left: str
    right: str
    columns: tuple[tuple[str, str], ...]
    ends: tuple[str, str]
    is_of_one_event: bool


RELATIONS = (
    Relation("fact_order_header", "fact_order_item", (("event_id", "event_id"),), ("1", "n"), True),
    Relation("fact_order_item", "fact_order", (("event_id", "event_id"), ("line_number", "line_number")), ("1", "1"), True),
    Relation("fact_order_item", "fact_inventory", (("product_id", "product_id"),), ("n", "n"), False),
    Relation("fact_order_header", "fact_user_activity", (("customer_id", "user_id"),), ("n", "n"), False),
)


def tables() -> dict[str, TableDefinition]:
    """The fact tables by name, as their DDL has them."""
    return {table.name: definition_of(table) for table in tables_of(shop_contracts())}


# The page


def page(text: str, found: Mapping[str, TableDefinition], asked: tuple[Question, ...]) -> str:
    """``text`` of the page with everything below ``MARK`` made anew: a section for each table."""
    head, mark, _ = text.partition(MARK)
    if not mark:
        raise ValueError(f"docs/data-model.md: expected the line {MARK.strip()}, found none")
    return head + mark + "".join(_section(table, asked) for table in found.values())


def _section(table: TableDefinition, asked: tuple[Question, ...]) -> str:
    lines = [
        f"\n## {table.name}\n",
        f"{table.description}\n",
        f"- Source: events of type `{_stream(table.name)}`",
        f"- Key: {_names(key(table))}",
        f"- Partition: {_names((table.partition,))} (daily)",
        f"- Cluster: {_names(table.clustering)}",
        *_served(table.name, asked),
        "",
        "| column | type | mode | meaning |",
        "| --- | --- | --- | --- |",
        *(_row(column) for column in table.columns),
    ]
    return "\n".join(lines) + "\n"


def _served(name: str, asked: tuple[Question, ...]) -> Iterator[str]:
    """The questions that read the table, by the tables that their SQL names."""
    for one in asked:
        if name in tables_read(one):
            yield f"- Answers [{one.name}](../ecomflow/sql/queries/{one.name}.sql): {one.asks}"


def tables_read(one: Question) -> set[str]:
    """The fact tables that a question reads, through their _unique views."""
    return set(re.findall(r"\becomflow\.(\w+?)_unique\b", one.sql))


def key(table: TableDefinition) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns if column.name in KEY)


def _stream(name: str) -> str:
    return next(stream for stream, names in stream_tables(shop_contracts()).items() if name in names)


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _row(column: Column) -> str:
    return f"| `{column.name}` | {column.type} | {'REQUIRED' if column.required else 'NULLABLE'} | {column.description} |"


# The diagram

ROW, HEAD, WIDTH, GAP_X, GAP_Y, MARGIN = 20, 34, 286, 92, 64, 12
COLUMNS = (("fact_order_header", "fact_user_activity"), ("fact_order_item", "fact_inventory"), ("fact_order",))

_STYLE = """
  text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #1f2933; }
  .box { fill: #ffffff; stroke: #9aa5b1; }
  .head { fill: #0f6b53; }
  .name { fill: #ffffff; font-weight: 600; font-size: 13px; }
  .key { font-weight: 600; }
  .type { fill: #52606d; }
  .badge { fill: #e3f4ee; stroke: #0f6b53; }
  .mark { fill: #0f6b53; font-size: 10px; font-weight: 600; text-anchor: middle; }
  .line { stroke: #e4e7eb; }
  .edge { fill: none; stroke: #7b8794; stroke-width: 1.5; }
  .shared { stroke-dasharray: 4 4; }
  .label, .legend { fill: #6b7785; }
  .label { font-size: 11px; text-anchor: middle; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e4e7eb; }
    .box { fill: #161b22; stroke: #4a5563; }
    .type, .legend, .label { fill: #9fb0c0; }
    .badge { fill: #10332a; stroke: #4cc79f; }
    .mark { fill: #4cc79f; }
    .line { stroke: #2a313b; }
    .edge { stroke: #8593a3; }
  }
"""


class Box(NamedTuple):
    """A table's place in the diagram."""

    x: int
    y: int
    height: int

    @property
    def right(self) -> int:
        return self.x + WIDTH

    @property
    def bottom(self) -> int:
        return self.y + self.height


def picture(found: Mapping[str, TableDefinition]) -> str:
    """The entity diagram as SVG, legible on light and on dark pages."""
    boxes = layout(found)
    width = max(box.right for box in boxes.values()) + MARGIN
    height = max(box.bottom for box in boxes.values()) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        "<title>The five fact tables</title>",
        f"<style>{_STYLE}</style>",
        *(part for one in RELATIONS for part in _edge(one, found, boxes)),
        *(part for name, box in boxes.items() for part in _table(found[name], box)),
        *_legend(boxes["fact_order"].x, boxes["fact_order"].bottom + 36),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def layout(found: Mapping[str, TableDefinition]) -> dict[str, Box]:
    """Three columns of tables; those in the second row begin at the same height."""
    second = MARGIN + GAP_Y + max(_height(found[names[0]]) for names in COLUMNS[:2])
    boxes = {}
    for number, names in enumerate(COLUMNS):
        for name, y in zip(names, (MARGIN, second), strict=False):
            boxes[name] = Box(MARGIN + number * (WIDTH + GAP_X), y, _height(found[name]))
    return boxes


def _height(table: TableDefinition) -> int:
    return HEAD + ROW * len(table.columns) + 6


def _table(table: TableDefinition, box: Box) -> Iterator[str]:
    yield f'<rect class="box" x="{box.x}" y="{box.y}" width="{WIDTH}" height="{box.height}" rx="6"/>'
    yield (f'<path class="head" d="M{box.x} {box.y + HEAD}v{6 - HEAD}a6 6 0 0 1 6 -6h{WIDTH - 12}a6 6 0 0 1 6 6v{HEAD - 6}z"/>')
    yield f'<text class="name" x="{box.x + 12}" y="{box.y + 22}">{escape(table.name)}</text>'
    for number, column in enumerate(table.columns):
        middle = box.y + HEAD + ROW * number + ROW // 2 + 3
        if number:
            top = middle - ROW // 2
            yield f'<line class="line" x1="{box.x + 1}" x2="{box.right - 1}" y1="{top}" y2="{top}"/>'
        yield from _column(table, column, box, middle)


def _column(table: TableDefinition, column: Column, box: Box, middle: int) -> Iterator[str]:
    if marks := _marks(table, column):
        yield f'<rect class="badge" x="{box.x + 7}" y="{middle - 7}" width="{4 + 9 * len(marks)}" height="14" rx="3"/>'
        yield f'<text class="mark" x="{box.x + 9 + 4.5 * len(marks)}" y="{middle + 3.5}">{marks}</text>'
    is_key = ' class="key"' if column.name in KEY else ""
    yield f'<text{is_key} x="{box.x + 34}" y="{middle + 4}">{escape(column.name)}</text>'
    shown = column.type if column.required else f"{column.type}?"
    yield f'<text class="type" x="{box.right - 10}" y="{middle + 4}" text-anchor="end">{shown}</text>'


def _marks(table: TableDefinition, column: Column) -> str:
    """K: part of the key, P: the partition, C: a cluster."""
    return "".join(
        mark for mark, names in (("K", KEY), ("P", (table.partition,)), ("C", table.clustering)) if column.name in names
    )


def _edge(one: Relation, found: Mapping[str, TableDefinition], boxes: Mapping[str, Box]) -> Iterator[str]:
    """A line with the cardinality at its ends: between the first columns of two neighbours, or from a table to that below."""
    for left, right in one.columns:
        _has(found[one.left], left)
        _has(found[one.right], right)
    style = "edge" if one.is_of_one_event else "edge shared"
    text = ", ".join(left if left == right else f"{left} = {right}" for left, right in one.columns)
    start, end = boxes[one.left], boxes[one.right]
    if start.x == end.x:
        x, top, bottom = start.x + WIDTH // 2, start.bottom, end.y
        yield f'<path class="{style}" d="M{x} {top}V{bottom}"/>'
        yield _label(x - 10, top + 16, one.ends[0])
        yield _label(x - 10, bottom - 8, one.ends[1])
        yield f'<text class="label" x="{x + 12}" y="{(top + bottom) // 2 + 4}" style="text-anchor: start">{escape(text)}</text>'
        return
    y = start.y + HEAD + ROW // 2 + 3
    yield f'<path class="{style}" d="M{start.right} {y}H{end.x}"/>'
    yield _label(start.right + 10, y - 6, one.ends[0])
    yield _label(end.x - 10, y - 6, one.ends[1])
    for number, (left, _) in enumerate(one.columns):
        yield _label((start.right + end.x) // 2, y + 16 + 14 * number, left)


def _has(table: TableDefinition, name: str) -> None:
    if name not in {column.name for column in table.columns}:
        raise ValueError(f"RELATIONS: expected a column of {table.name}, found {name}")


def _label(x: int, y: int, text: str) -> str:
    return f'<text class="label" x="{x}" y="{y}">{escape(text)}</text>'


def _legend(x: int, y: int) -> Iterator[str]:
    words = (
        "K  key of the _unique view",
        "P  partition column",
        "C  cluster column",
        "?  nullable",
        "solid line: rows of the same event",
        "dashed line: a shared id",
    )
    for number, line in enumerate(words):
        yield f'<text class="legend" x="{x}" y="{y + 18 * number}" xml:space="preserve">{escape(line)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(picture(tables()), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), tables(), questions()), encoding="utf-8")
