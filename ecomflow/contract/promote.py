"""A contract file, and a field that it does not name with its values, in; the file with that field, and the SQL that fills the
new columns from what was kept of it, out. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from ecomflow.contract.draft_text import value_text
from ecomflow.contract.guesses import field_name, is_personal_name
from ecomflow.contract.language import Contract, Table, records_of
from ecomflow.contract.loading import load_text, read_contract
from ecomflow.contract.reading_fields import can_be_key
from ecomflow.contract.scalars import scalars_of
from ecomflow.contract.tables import partition_of
from ecomflow.contract.toml_edits import with_element, with_line
from ecomflow.contract.tree import Node, tree_of
from ecomflow.errors import ConfigError

ELEMENT = "[]"
_STEP = re.compile(r'\.([^.\[\]"]+)|\.?"([^"]+)"|\["([^"]+)"\]|(\[\])')
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_NO_TABLE = "no table has a column for it"


class Promotion(msgspec.Struct, frozen=True):
    """``text`` is the file with ``line`` in it; ``columns`` are the new ones, by table; ``sql`` adds and fills them, in the
    dataset ``ecomflow``. ``because`` is why the type was chosen, where that is a guess.
    """

    text: str
    line: str
    columns: dict[str, str]
    sql: str
    because: str
    personal: bool


class _Target(msgspec.Struct, frozen=True):
    """Where the field is declared: the section's header, the keys from there, the list whose elements have it, and its name."""

    header: str
    name: str
    path: tuple[str, ...]
    each: tuple[str, ...]


def keys_in(path: str) -> tuple[str, ...]:
    """``$.items[].colour`` as keys: items, [], colour. A key with dots is written ``$["a.b"]``. Raises ConfigError."""
    keys, at = [], 1
    while at < len(path) and (match := _STEP.match(path, at)):
        keys.append(next(group for group in match.groups() if group is not None))
        at = match.end()
    if not path.startswith("$") or not keys or at != len(path) or keys[-1] == ELEMENT:
        raise ConfigError(
            f"'{path}' is not the path of a field.", "Write it as contract check shows it: '$.coupon', '$.items[].colour'."
        )
    if "'" in path:
        raise ConfigError(f"{path} has an apostrophe, which no SQL of ours can quote.", "Add the field by hand.")
    return tuple(keys)


def promote(text: str, file: str, path: str, values: Sequence[Any]) -> Promotion:
    """The field at ``path`` in the contract of ``text``, optional, of the type that takes all of ``values``.

    Raises ConfigError where the contract names it already, or no file can.
    """
    contract = load_text(text, file)
    keys = keys_in(path)
    target = _target(contract, keys, path)
    spec, because = _spec(keys, values)
    for name in (target.name, f"body_{target.name}", *(f"{target.name}_{number}" for number in range(2, 10))):
        made, line = with_line(text, target.header, name, value_text(_with_path(spec, name, target.path)))
        made = _in_a_table(made, file, contract, target, name)
        after, mistakes = read_contract(made, file)
        if after is not None:
            columns = _new_columns(contract, after)
            sql = "\n".join(_fill(contract, after, table, column, keys) for table, column in columns.items())
            return Promotion(made, line, columns, sql, because, bool(spec.get("personal")))
    raise ConfigError("\n".join(mistakes), "Add the field by hand.")


def _spec(keys: tuple[str, ...], values: Sequence[Any]) -> tuple[dict[str, Any], str]:
    """What is known only of these values (that they are few, that some are empty) is not said: it would refuse others."""
    found = [value for value in values if value is not None]
    if not found or any(isinstance(value, dict | list) for value in found):
        because = "its values are objects or arrays" if found else "there is no value to infer a type from"
        return {"type": "json", "optional": True}, because
    scalars = scalars_of(keys[-1], found)
    spec = {key: part for key, part in scalars.spec.items() if key not in ("values", "min_length")}
    parents = [key for key in keys[:-1] if key != ELEMENT]
    personal = {"personal": True} if spec["type"] == "ip_address" or is_personal_name(keys[-1], parents) else {}
    return {**spec, "optional": True, **personal}, "" if "values" in scalars.spec else scalars.because


def _with_path(spec: dict[str, Any], name: str, path: tuple[str, ...]) -> dict[str, Any]:
    if path == (name,):
        return spec
    written: Any = list(path) if any("." in key for key in path) else ".".join(path)
    return {"type": spec["type"], "path": written, **spec}


def _target(contract: Contract, keys: tuple[str, ...], path: str) -> _Target:
    """As far as the contract names the objects on the way; the rest is the field's path."""
    node, header, since = tree_of(contract), "[fields]", 0
    each: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    for at, key in enumerate(keys):
        child = next((one for one in node.children if one.key == ("" if key == ELEMENT else key)), None)
        if child is None:
            if ELEMENT in keys[at:] or not all(map(can_be_key, keys[since:])):
                raise ConfigError(f"{path}: a contract can't name it.", "Only an object's key can be promoted, by its text.")
            return _Target(header, field_name("_".join(keys[at:])), keys[since:], each)
        node = child
        names = (*names, node.field.name) if node.field is not None and key != ELEMENT else names
        each = names if key == ELEMENT else each
        if node.field is not None and node.kind == "object" and node.field.of in records_of(contract.records):
            header, since = f"[records.{node.field.of}]", at + 1
        _check_is_object(node, keys[at + 1 :], path)
    raise ConfigError(
        f"{path} is a field of the contract already.", "Fields that are not are listed by: ecomflow contract check FILE"
    )


def _check_is_object(node: Node, rest: tuple[str, ...], path: str) -> None:
    if rest and node.kind == "value":
        raise ConfigError(
            f"{path} is inside a field of the contract that is not an object.", "That field already contains it, as json."
        )
    if rest and node.kind == "list" and rest[0] != ELEMENT:
        raise ConfigError(f"{path} leads through a list.", f"Write {ELEMENT} behind the list's name.")


def _in_a_table(text: str, file: str, contract: Contract, target: _Target, name: str) -> str:
    """The field among the columns of a table, where the tables list theirs and none has it."""
    _, mistakes = read_contract(text, file)
    if not any(_NO_TABLE in sentence for sentence in mistakes):
        return text
    index = next((at for at, table in enumerate(contract.tables) if table.each == target.each), 0)
    record = target.header.removeprefix("[records.").removesuffix("]")
    within = [] if target.header == "[fields]" else _names_to(contract, record)
    return with_element(text, "[[tables]]", index, "columns", value_text(".".join((*within, name))))


def _names_to(contract: Contract, record: str) -> list[str]:
    """The names of the fields that lead to the first place of a record."""
    records = records_of(contract.records)
    waiting: list[tuple[list[str], Any]] = [([], contract.fields)]
    while waiting:
        names, fields = waiting.pop(0)
        for field in fields:
            if field.of == record:
                return [*names, field.name]
            if field.of in records:
                waiting.append(([*names, field.name], records[field.of].fields))
    return []


def _new_columns(old: Contract, new: Contract) -> dict[str, str]:
    """The column that each table has more; the tables are the same."""
    return {
        after.name: column.name
        for before, after in zip(old.tables, new.tables, strict=True)
        for column in after.columns
        if column.name not in [one.name for one in before.columns]
    }


def values_sql(contract: Contract, path: str, limit: int) -> str:
    """The query for the newest values at ``path`` that were kept, as JSON texts, in the dataset ``ecomflow``."""
    first, (each, rest) = contract.tables[0], _split(keys_in(path))
    source = f"JSON_QUERY({'line' if each else 'unknown_fields'}, {_json_path(rest)})"
    lines = f", UNNEST(JSON_QUERY_ARRAY(unknown_fields, {_json_path(each)})) AS line" if each else ""
    return (
        f"SELECT TO_JSON_STRING({source})\nFROM ecomflow.{first.name}{lines}\n"
        f"WHERE {source} IS NOT NULL\nORDER BY {partition_of(first)} DESC\nLIMIT {limit}"
    )


def _split(keys: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys to the list (empty if there is none), and those behind it."""
    at = keys.index(ELEMENT) if ELEMENT in keys else -1
    return keys[: max(at, 0)], keys[at + 1 :]


def _json_path(keys: tuple[str, ...]) -> str:
    """As a literal of GoogleSQL."""
    path = "$" + "".join(f".{key}" if _PLAIN.fullmatch(key) else f'."{key}"' for key in keys)
    return f"'{path}'"


def _fill(old: Contract, new: Contract, name: str, column: str, keys: tuple[str, ...]) -> str:
    """ALTER TABLE and UPDATE of one table. A row of another table than the first finds what was kept by its event."""
    table = next(one for one in new.tables if one.name == name)
    kind = next(one.type for one in table.columns if one.name == column)
    alter = f"ALTER TABLE ecomflow.{name} ADD COLUMN IF NOT EXISTS {column} {kind};\n"
    first, (each, rest) = old.tables[0], _split(keys)
    if table.name == first.name:
        value = _value("unknown_fields", rest, kind)
        where = f"JSON_QUERY(unknown_fields, {_json_path(rest)}) IS NOT NULL"
        return f"{alter}UPDATE ecomflow.{name}\nSET {column} = {value}\nWHERE {column} IS NULL AND {where};\n"
    return alter + _fill_from_first(first, table, column, kind, each, rest)


def _fill_from_first(first: Table, table: Table, column: str, kind: str, each: tuple[str, ...], rest: tuple[str, ...]) -> str:
    """By the view of the first table, which has each event once."""
    date, source, kept, same_line = partition_of(first), "kept.unknown_fields", f"ecomflow.{first.name}_unique", ""
    if each:
        source, same_line = "kept.line", " AND kept.line_number = fact.line_number"
        lines = f"UNNEST(JSON_QUERY_ARRAY(unknown_fields, {_json_path(each)})) AS line WITH OFFSET AS place"
        # Names that the loader has checked, and a path that keys_in has.
        kept = f"(\n  SELECT event_id, {date}, place + 1 AS line_number, line\n  FROM {kept}, {lines}\n)"  # noqa: S608
    return (
        f"UPDATE ecomflow.{table.name} AS fact\nSET {column} = {_value(source, rest, kind)}\nFROM {kept} AS kept\n"
        f"WHERE kept.{date} = fact.{date} AND kept.event_id = fact.event_id{same_line}\n"
        f"  AND fact.{column} IS NULL AND JSON_QUERY({source}, {_json_path(rest)}) IS NOT NULL;\n"
    )


def _value(source: str, keys: tuple[str, ...], kind: str) -> str:
    if kind == "JSON":
        return f"JSON_QUERY({source}, {_json_path(keys)})"
    value = f"JSON_VALUE({source}, {_json_path(keys)})"
    return value if kind == "STRING" else f"SAFE_CAST({value} AS {kind})"
