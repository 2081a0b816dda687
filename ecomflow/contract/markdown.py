"""A published schema flows in; its table in Markdown flows out: a row a field, nested ones by their path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ecomflow.contract.schema import Schema


def markdown(schema: Schema, example: bytes) -> str:
    """A section: heading, table (field, type, required, rule) and the example."""
    rows = "".join(
        f"| {path} | {_type(part)} | {'yes' if required else 'no'} | {_rule(part)} |\n"
        for path, part, required in _rows(schema, "")
    )
    return (
        f"## {schema['title']}\n\n{schema['description']}\n\n"
        f"| field | type | required | rule |\n| --- | --- | --- | --- |\n{rows}\n```json\n{example.decode()}\n```\n"
    )


def _rows(schema: Schema, path: str) -> Iterator[tuple[str, Schema, bool]]:
    for name, part in schema["properties"].items():
        yield f"{path}{name}", part, name in schema["required"]
        if part.get("type") == "object":
            yield from _rows(part, f"{path}{name}.")
        elif "properties" in part.get("items", {}):
            yield from _rows(part["items"], f"{path}{name}[].")


def _type(part: Schema) -> str:
    kind: Any = part.get("type", "string")
    return kind if isinstance(kind, str) else " or ".join(kind)


def _rule(part: Schema) -> str:
    """Bounds first, then the rule's own words. Bounds of 64 bits go without saying: no other integer is one."""
    words = []
    if "const" in part:
        words.append(f"`{part['const']}`")
    if "enum" in part:
        words.append(", ".join(f"`{value}`" for value in part["enum"]))
    if part.get("minLength") or part.get("minItems"):
        words.append("not empty")
    if "minimum" in part:
        words.append("64 bits" if part["minimum"] < -(2**62) else f"{part['minimum']} or more")
    sentence = f"{'; '.join(words)}." if words else ""
    return " ".join(text for text in (sentence, part.get("description", "")) if text)
