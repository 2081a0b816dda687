"""A contract in; its page in Markdown out: a row a field, nested ones by their path, its tables, and an example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ecomflow.contract.json_schema import Schema, schema_of
from ecomflow.contract.language import TYPE_KEY, Contract, Table
from ecomflow.contract.tree import Node, json_path, tree_of

_FATES = {
    "keep": "Fields that are not listed pass. Their values are kept in the column unknown_fields of {table}.",
    "drop": "Fields that are not listed pass. Their values are dropped.",
    "refuse": "Fields that are not listed are refused.",
}


def markdown(contract: Contract, example: bytes | None) -> str:
    """A section: heading, fields (type, whether required, rule, meaning), rules, tables and the example."""
    schema = schema_of(contract)
    rows = "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in _rows(contract, schema))
    parts = [
        f"## {contract.event}",
        " ".join(text for text in (contract.description, schema["description"]) if text),
        f"| field | type | required | rule | meaning |\n| --- | --- | --- | --- | --- |\n{rows.rstrip()}",
        _FATES[contract.unknown_fields].format(table=contract.tables[0].name),
        *([_counted(contract)] if any(rule.otherwise == "count" for rule in contract.rules) else []),
        "Tables:\n\n" + "\n".join(_table(table) for table in contract.tables),
        *([f"```json\n{example.decode()}\n```"] if example else []),
    ]
    return "\n\n".join(parts) + "\n"


def _rows(contract: Contract, schema: Schema) -> Iterator[tuple[str, str, str, str, str]]:
    """A row for the type and each node, the element of a list left out where it has no fields of its own."""
    yield TYPE_KEY, "string", "yes", f"`{contract.event}`.", "The type of the event."
    yield from _rows_within(tree_of(contract), schema)


def _rows_within(node: Node, schema: Schema) -> Iterator[tuple[str, str, str, str, str]]:
    for child in node.children:
        if child.kind != "object" and child.key == "":  # the scalar element of a list, whose row says it
            continue
        part = schema["items"] if child.key == "" else schema["properties"][child.key]
        if child.key:
            required = "no" if child.optional else "yes"
            yield json_path(child.keys).removeprefix("$."), _type(part), required, _rule(part, child), _meaning(child)
        yield from _rows_within(child, part)


def _type(part: Schema) -> str:
    kind: Any = part.get("type", "any")
    names = [kind] if isinstance(kind, str) else list(kind)
    inner = part.get("items", {}).get("type", "object")
    if "array" in names and inner != "object":
        names[names.index("array")] = f"array of {inner}"
    return " or ".join(names)


def _rule(part: Schema, node: Node) -> str:
    """Bounds first, then the rule's own words. Bounds of 64 bits go without saying: no other integer is one."""
    words = []
    if "enum" in part:
        words.append(", ".join(f"`{value}`" for value in part["enum"] if value is not None))
    if part.get("minLength") == 1 or part.get("minItems") == 1:
        words.append("not empty")
    elif least := part.get("minLength") or part.get("minItems"):
        words.append(f"at least {least} {'characters' if 'minLength' in part else 'elements'}")
    if most := part.get("maxLength") or part.get("maxItems"):
        words.append(f"at most {most} {'characters' if 'maxLength' in part else 'elements'}")
    if "minimum" in part:
        words.append("64 bits" if part["minimum"] < -(2**62) else f"{part['minimum']} or more")
    if "maximum" in part and part["maximum"] < 2**62:
        words.append(f"at most {part['maximum']}")
    if node.field is not None and node.field.pattern is not None:
        words.append(f"matches `{node.field.pattern}`")
    if node.field is not None and node.field.default is not None:
        words.append(f"`{node.field.default}` where it is missing")
    sentence = f"{'; '.join(words)}." if words else ""
    return " ".join(text for text in (sentence, part.get("description", "")) if text)


def _meaning(node: Node) -> str:
    if node.field is None:
        return ""
    return " ".join(text for text in (node.field.description, "Personal." if node.field.personal else "") if text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _counted(contract: Contract) -> str:
    rules = [f"- `{rule.check.text}` ({rule.name})" for rule in contract.rules if rule.otherwise == "count"]
    return "Events that break these rules pass, and are counted:\n\n" + "\n".join(rules)


def _table(table: Table) -> str:
    date = next(column.name for column in table.columns if column.source == "date")
    cluster = f", clustered by {', '.join(table.cluster)}" if table.cluster else ""
    columns = ", ".join(f"{column.name} {column.type}" for column in table.columns)
    return f"- `{table.name}`: {table.description} Partitioned by {date}{cluster}. Columns: {columns}."
