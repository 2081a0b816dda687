"""Writes docs/contract-language.md from the loader's own tables and sentences: ``python docs/make_contract_reference.py``.

A test holds the file equal to this. The contract in its examples is the ``refund`` of docs/contracts.md.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ecomflow.contract import expressions, keys, limits
from ecomflow.contract.check import Tally, check_lines
from ecomflow.contract.codec import Codec
from ecomflow.contract.language import FIELD_TYPES
from ecomflow.contract.loading import load_text, read_contract
from ecomflow.contract.nesting import MAX_DEPTH

DOCS = Path(__file__).parent
TARGET = DOCS / "contract-language.md"
_WIDTH = 145
_WORDS: Any = {"break_long_words": False, "break_on_hyphens": False}

_INTRODUCTION = """\
# The contract language

Made by `python docs/make_contract_reference.py` from the loader's own tables and sentences. For a way into the language, see
[contracts.md](contracts.md).

A contract file is [TOML](https://toml.io/) in UTF-8. It is data: nothing in it is run.
`ecomflow contract show order --format toml` prints a built-in file, and `ecomflow contract lint` checks yours.
"""
_TYPES = """\
With `written_as`, numbers may be in strings, and ids may be numbers. A `float` may be written as any JSON number. The elements of
a list of scalars have no limits of their own: a list of strings may contain empty ones.
"""
_FIELDS = """\
`[fields]` describes the event, `[records.<name>]` a JSON object within it. A field is a type, or a table with the keys below.

```toml
order_id = "string"
amount   = { type = "numeric", min = 0 }
```
"""
_RECORDS = """\
`[records.<name>]` has fields like `[fields]`, and several fields may use the same record. Its name is a [name](#names), but not
that of a type. A record can't contain itself, and a list can't contain a list, at any depth: use type `json` for such values.
"""
_RULES = "Counters are shown by `ecomflow job metrics`. Rules are checked in the order of the file."
_EXPRESSIONS = """\
The `check` of a rule is a comparison; the `value` of a column is a field, the product of two, or a constant. Paths consist of the
names of fields, not of the keys in the message: `lines.price` is the field `price` of the elements of `lines`. Calculations are
exact: nothing is rounded, and nothing overflows.
"""
_COLUMNS = """\
An entry of `columns` is the name of a field, or a table with the keys below.

```toml
columns = [
  "refund_id",
  "lines",
  { name = "total_amount", value = "lines.quantity * lines.price", description = "quantity x price, exact." },
]
```

A column is `NULLABLE` if its field, or a record around it, is optional and has no default. Otherwise it is `REQUIRED`.
"""
_CHECKS = """\
In this order; the first fault makes the event a dead letter. The errors are those of one event, a `refund` of
[contracts.md](contracts.md), with all of these faults, which are repaired one after the other.
"""
_CHECKED_LAST = """\
BigQuery has the last word: rows that it refuses become dead letters with the reason `rejected_by_bigquery`.
"""
_MISTAKES = """\
A mistake is a sentence with the file, the place, what was expected and what was found. `ecomflow contract lint` lists all
mistakes, also those between files, with exit code 2; so does every other command that reads contracts. Each of these lines
replaces one of the `refund` of [contracts.md](contracts.md).
"""


def reference() -> str:
    """The whole page, in Markdown."""
    paragraphs = "\n\n".join(part.strip() for part in _parts()).split("\n\n")
    return "\n\n".join(map(_filled, paragraphs)) + "\n"


def _filled(paragraph: str) -> str:
    """Prose and the items of a list on lines of one length; tables, headings and code as they are."""
    if paragraph.startswith("- "):
        return "\n".join(textwrap.fill(item, _WIDTH, subsequent_indent="  ", **_WORDS) for item in paragraph.splitlines())
    return paragraph if paragraph.startswith(("|", "#", "```")) else textwrap.fill(paragraph, _WIDTH, **_WORDS)


def _parts() -> Iterator[str]:
    yield from (_INTRODUCTION, "## The file", _key_table(keys.FILE_KEYS))
    yield from ("## Types", _types(), _TYPES)
    yield from ("## Fields", _FIELDS, _key_table(keys.FIELD_KEYS), _keys_by_type())
    yield from ("## Records", _RECORDS)
    yield from ("## Rules", _key_table(keys.RULE_KEYS), _RULES)
    yield from ("## Expressions", _EXPRESSIONS, f"```text\n{_grammar()}\n```", _expression_limits())
    yield from ("## Tables", _key_table(keys.TABLE_KEYS))
    yield from ("### Columns", _COLUMNS, _key_table(keys.COLUMN_KEYS))
    yield from ("### Columns of every table", _columns_of_every_table())
    yield from ("## Names", _names())
    yield from ("## How an event is checked", _CHECKS, _checks(), _CHECKED_LAST)
    yield from ("## Limits of every event", _event_limits())
    yield from ("## Mistakes", _MISTAKES, _mistakes())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in (head, ["---"] * len(head), *rows))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _key_table(found: Sequence[keys.Key]) -> str:
    rows = [(f"`{key.name}`", key.value, key.default, key.meaning, key.limits) for key in found]
    return _table(("key", "value", "default", "meaning", "limits"), rows)


def _types() -> str:
    rows = [(f"`{name}`", facts.json, facts.column or "", facts.meaning) for name, facts in keys.TYPES.items()]
    return _table(("type", "in the message", "column", "meaning"), rows)


def _keys_by_type() -> str:
    common = [key.name for key in keys.FIELD_KEYS if key.types == FIELD_TYPES]
    rows = [
        (f"`{kind}`", _code(key.name for key in keys.FIELD_KEYS if kind in key.types and key.name not in common))
        for kind in FIELD_TYPES
    ]
    return f"Every field may have {_code(common)}. Which of the others it may have depends on its type:\n\n" + _table(
        ("type", "keys"), rows
    )


def _code(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _grammar() -> str:
    """The lines of the grammar, as the parser's module states them."""
    lines = (expressions.__doc__ or "").splitlines()
    return "\n".join(line[4:] for line in lines if line.startswith("    "))


def _expression_limits() -> str:
    return (
        f"At most {expressions.MAX_LENGTH:,} characters, and {expressions.MAX_TOKENS} words and symbols. Fields of a list need a "
        "`sum`, which adds over the elements of one list and contains no other `sum`. Elements that lack one of its fields are "
        "not counted, and a list that is missing is empty."
    )


def _columns_of_every_table() -> str:
    text = re.sub(r'(refunded_at .*), description = ".*"', r"\1", _refund())
    found: dict[str, tuple[str, str, str]] = {}
    for table in load_text(text, "refund.toml").tables:
        for column in table.columns:
            if column.source != "value":
                mode = "REQUIRED" if column.required else "NULLABLE"
                found[column.name] = (column.type, mode, column.description)
    prefixed = {"event_date": "`<time_prefix>_date`", "event_timestamp": "`<time_prefix>_timestamp`"}
    only = {"line_number": " Only in tables with `each`.", "unknown_fields": " Only in the first table, if they are kept."}
    rows = [
        (
            prefixed.get(name, f"`{name}`"),
            kind,
            mode,
            meaning.replace("event_timestamp", prefixed["event_timestamp"]) + only.get(name, ""),
        )
        for name, (kind, mode, meaning) in found.items()
    ]
    how = "They need no entry in `columns`. An entry with the name of one of them moves it to that place, or describes it."
    return f"{how}\n\n{_table(('column', 'type', 'mode', 'meaning'), rows)}"


def _names() -> str:
    return "\n".join(
        (
            f"- Names of fields, records, rules and columns have at most {keys.MAX_NAME} letters, digits and `_`, "
            "and don't begin with a digit. If the key in the message is different, use `path`.",
            "- Two columns of a table must differ in more than case, which BigQuery ignores.",
            f"- No column begins with {_code(keys.RESERVED_PREFIXES)}, in any case.",
            "- No column is called like a reserved word of SQL, because each query would have to quote it: "
            f"{', '.join(sorted(keys.SQL_WORDS))}.",
            f"- A file has at most {keys.MAX_FILE_BYTES // 2**20} MiB.",
        )
    )


def _event_limits() -> str:
    return "\n".join(
        (
            f"- JSON in UTF-8 without a byte order mark, with at most {MAX_DEPTH} levels of objects and arrays.",
            f"- Its UTC date is at most {limits.YEARS_BACK} years in the past and {limits.YEARS_AHEAD} year in the future: "
            "BigQuery streams no other rows into a daily partition.",
            "- For tables with `each`: the bytes of what is repeated on each row (the id of the event, STRING and JSON columns) "
            f"times the number of elements is at most {limits.MAX_REPEATED_BYTES // 2**20} MiB.",
            f"- No row has more than {limits.MAX_ROW_BYTES / 1e6} MB, as Arrow: a request to BigQuery can hold no more.",
            "- Products in columns fit the column's type.",
        )
    )


def _refund() -> str:
    """The contract file of the worked example."""
    blocks = re.findall(r"^```toml\n(.*?)^```", (DOCS / "contracts.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return next(block for block in blocks if block.startswith('event = "refund"'))


# How an event is checked

_LINE = {"product_id": "P-7", "quantity": 1, "price": 49.9}
_GOOD = {
    "event_type": "refund",
    "refund_id": "R-1",
    "order_id": "O-1001",
    "refunded_at": "2025-12-01T09:30:00Z",
    "amount": 49.9,
    "reason": "damaged",
    "lines": [_LINE],
}
_TODAY = datetime(2025, 12, 1, 12, 0, tzinfo=UTC)


class Fault(NamedTuple):
    """``step`` is what is checked; ``changes`` are the values of the event that are wrong, None for one that is missing."""

    step: str
    changes: dict[str, Any]


FAULTS = (
    Fault("`event_type` names a type.", {"event_type": "refundd"}),
    Fault("If the type has several versions, `event_version` names one of them.", {"event_version": 7}),
    Fault(
        "Each value, in the order of the message: its type, how it is written, and what its field allows. Also unknown fields, "
        "if they are refused.",
        {"reason": "lost"},
    ),
    Fault("No required field is missing.", {"order_id": None}),
    Fault("Exact numbers and their bounds, addresses, and the products of columns.", {"amount": "12.1234567891"}),
    Fault("The date.", {"refunded_at": "1999-01-01T00:00:00Z"}),
    Fault("The size of the event times its elements.", {"refund_id": "x" * 2_000_000, "lines": [_LINE] * 20}),
    Fault("The rules with `refuse`.", {"amount": 50}),
)


def _checks() -> str:
    refund = _refund()
    texts = refund.replace('otherwise = "count"', 'otherwise = "refuse"'), refund.replace("version = 1", "version = 2")
    codec = Codec([load_text(text, "refund.toml") for text in texts])
    rows = [("JSON in UTF-8, not nested too deeply.", *_refused(b'{"event_type":', codec))]
    for index, fault in enumerate(FAULTS):
        rows.append((fault.step, *_refused(msgspec.json.encode(event_with(FAULTS[index:])), codec)))
    numbered = [(str(number), step, f"`{reason}`", f"`{error}`") for number, (step, reason, error) in enumerate(rows, 1)]
    return _table(("", "what is checked", "reason", "error"), numbered)


def event_with(faults: Sequence[Fault]) -> dict[str, Any]:
    """An event with all of ``faults``; where two change the same value, with that of the first."""
    changes = {name: value for fault in reversed(faults) for name, value in fault.changes.items()}
    return {name: value for name, value in {**_GOOD, **changes}.items() if value is not None}


def _refused(data: bytes, codec: Codec) -> tuple[str, str]:
    (refused,) = check_lines([data], "", _TODAY, codec, Tally())
    return refused.reason, refused.error


# Mistakes


class Mistake(NamedTuple):
    """The line of the file that begins with ``old``, written as ``new``; what is wrong with it is the value of ``key``."""

    key: str
    old: str
    new: str


MISTAKES: dict[str, tuple[Mistake, ...]] = {
    "The file": (
        Mistake("", "description", 'desription = "Money given back."'),
        Mistake("event", "event", 'event = "re fund"'),
        Mistake("type", "version", 'type = " refund"'),
        Mistake("version", "version", "version = 0"),
        Mistake("description", "description", "description = 5"),
        Mistake("time", "time", 'time = "refund_at"'),
        Mistake("time_prefix", "version", 'time_prefix = "2nd"'),
        Mistake("unknown_fields", "version", 'unknown_fields = "kep"'),
        Mistake("key", "version", 'key = ["orderid"]'),
        Mistake("fields", "[fields]", "[field]"),
        Mistake("records", "[records.line]", "[records.lines]"),
        Mistake("rules", "[[rules]]", "[rules]"),
        Mistake("tables", 'name = "fact_refund_line"', 'name = "Fact_Refund"'),
    ),
    "Fields": (
        Mistake("", "order_id ", '"order-id" = "string"'),
        Mistake("type", "order_id ", 'order_id = "strng"'),
        Mistake("type", "quantity ", 'quantity = { type = "list", of = "integer" }'),
        Mistake("description", "order_id ", 'order_id = { type = "string", description = "The \\"order\\"." }'),
        Mistake("path", "order_id ", 'order_id = { type = "string", path = "refund_id" }'),
        Mistake("path", "order_id ", 'order_id = { type = "string", path = "customer" }'),
        Mistake("path", "order_id ", 'order_id = { type = "string", path = "event_type" }'),
        Mistake("optional", "refunded_at ", 'refunded_at = { type = "timestamp", optional = true }'),
        Mistake("personal", "order_id ", 'order_id = { type = "string", personal = "yes" }'),
        Mistake("default", "currency ", 'currency = { type = "string", pattern = "[A-Z]{3}", default = "Euro" }'),
        Mistake("min", "order_id ", 'order_id = { type = "string", min = 1 }'),
        Mistake("max", "amount ", 'amount = { type = "numeric", min = 5, max = 4 }'),
        Mistake("min_length", "order_id ", 'order_id = { type = "string", min_length = -1 }'),
        Mistake("max_length", "order_id ", 'order_id = { type = "string", min_length = 5, max_length = 4 }'),
        Mistake("values", "reason ", 'reason = { type = "string", values = ["late", "late"] }'),
        Mistake("pattern", "currency ", 'currency = { type = "string", pattern = "[A-Z" }'),
        Mistake("without_offset", "refunded_at ", 'refunded_at = { type = "timestamp", without_offset = "Europe/Berln" }'),
        Mistake("written_as", "amount ", 'amount = { type = "numeric", written_as = "text" }'),
        Mistake("fake", "order_id ", 'order_id = { type = "string", fake = 5 }'),
        Mistake("of", "lines ", 'lines = { type = "list", of = "lines" }'),
        Mistake("min_items", "lines ", 'lines = { type = "list", of = "line", min_items = -1 }'),
        Mistake("max_items", "lines ", 'lines = { type = "list", of = "line", max_items = 0 }'),
    ),
    "Rules": (
        Mistake("check", "check", 'check = "amount <= lines.price"'),
        Mistake("check", "check", 'check = "amount < sum(lines.prise)"'),
        Mistake("check", "check", 'check = "reason == 5"'),
        Mistake("check", "check", 'check = "amount / 2 < 5"'),
        Mistake("check", "check", 'check = "amount"'),
        Mistake("otherwise", "otherwise", 'otherwise = "warn"'),
        Mistake("name", 'name = "amount', 'name = "amount within lines"'),
    ),
    "Tables": (
        Mistake("name", 'name = "fact_refund"', 'name = "fact-refund"'),
        Mistake("name", 'name = "fact_refund"', 'name = "dead_letters"'),
        Mistake("description", 'description = "One row for each refund."', "description = 5"),
        Mistake("each", "each", 'each = "line"'),
        Mistake("cluster", 'cluster = ["order_id"', 'cluster = ["order"]'),
        Mistake("cluster", 'cluster = ["order_id"', 'cluster = ["unknown_fields"]'),
        Mistake("columns", '  "refund_id"', '  "refundid",'),
        Mistake("columns", '  "refund_id"', '  "refund_id", "refund_id",'),
        Mistake("columns", 'cluster = ["order_id"', 'columns = ["refund_id", "order_id", "amount", "currency", "reason"]'),
    ),
    "Columns": (
        Mistake("name", '  { name = "total', '  { value = "lines.quantity * lines.price" },'),
        Mistake("name", '  { name = "total', '  { name = "order", value = "lines.quantity * lines.price" },'),
        Mistake("name", '  { name = "total', '  { name = "line_number", value = "lines.quantity * lines.price" },'),
        Mistake("value", '  { name = "total', '  { name = "total", value = "lines.price * lines.price" },'),
        Mistake("value", '  { name = "total', '  { name = "total", value = "lines.quantity + 1" },'),
        Mistake("description", '  { name = "total', '  { name = "total", value = 5, description = "The \\"total\\"." },'),
    ),
}


def _mistakes() -> str:
    return "\n\n".join(
        f"### {heading}\n\n" + _table(("line", "sentence"), [(f"`{one.new.strip()}`", f"`{sentence_of(one)}`") for one in found])
        for heading, found in ((f"Mistakes in {part.lower()}", found) for part, found in MISTAKES.items())
    )


def sentence_of(mistake: Mistake) -> str:
    """What the loader says of the worked example with ``mistake`` in it: one sentence, the file's name left out."""
    lines = _refund().splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith(mistake.old))
    _, (sentence, *_) = read_contract("\n".join([*lines[:at], mistake.new, *lines[at + 1 :]]), "refund.toml")
    return sentence.removeprefix("refund.toml: ")


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
