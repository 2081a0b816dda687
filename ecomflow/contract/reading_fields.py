"""The ``[fields]`` and ``[records]`` of a contract file in; fields, and sentences about what is wrong with them, out. Pure."""

from __future__ import annotations

import math
import re
import zoneinfo
from decimal import Decimal
from typing import Any, get_args

from ecomflow.contract.language import (
    FIELD_TYPES,
    SCALAR_TYPES,
    TYPE_KEY,
    Field,
    FieldType,
    RecordType,
    Scalar,
    WrittenAs,
)
from ecomflow.contract.mistakes import Mistakes, Section, listed, nearest, shown
from ecomflow.contract.numbers import INT64_MAX, INT64_MIN, is_numeric

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
MAX_NAME = 300
# What msgspec takes for a key: its decoder compares keys as they stand in the message, before escapes are read.
_KEY = re.compile(r'[^"\\\x00-\x1f]*')
_MAX_VALUES = 10_000
_MAX_PATTERN = 1_000

_FOR_ALL = ("type", "description", "path", "optional", "personal")
_ALLOWED: dict[str, tuple[str, ...]] = {
    "string": ("default", "min_length", "max_length", "values", "pattern", "written_as", "fake"),
    "integer": ("default", "min", "max", "written_as", "fake"),
    "numeric": ("default", "min", "max", "written_as", "fake"),
    "float": ("default", "min", "max", "fake"),
    "boolean": ("default", "fake"),
    "date": ("fake",),
    "timestamp": ("without_offset", "fake"),
    "ip_address": ("fake",),
    "json": (),
    "record": ("of",),
    "list": ("of", "min_items", "max_items"),
}
_ALL_KEYS = tuple(dict.fromkeys((*_FOR_ALL, *(key for keys in _ALLOWED.values() for key in keys))))


def read_fields(mistakes: Mistakes, where: str, values: Any, records: dict[str, Any]) -> tuple[Field, ...]:
    """The fields of the table at ``where``. ``records`` are the file's, by name, as TOML has them."""
    if not isinstance(values, dict) or not values:
        mistakes.add(where, "a table of one or more fields", shown(values) if values else "none")
        return ()
    fields = [read_field(Section(mistakes, where, values), name, records) for name in values]
    read = tuple(field for field in fields if field is not None)
    _check_paths(mistakes, where, read)
    return read


def read_records(mistakes: Mistakes, values: Any) -> tuple[RecordType, ...]:
    """The ``[records.…]`` of the file."""
    if not isinstance(values, dict):
        mistakes.add("records", "tables, [records.<name>]", shown(values))
        return ()
    for name in values:
        if not is_name(name) or name in FIELD_TYPES:
            mistakes.add(f"records.{shown(name)}", "a name of letters, digits and _ that is no type", shown(name))
    read = [RecordType(name, read_fields(mistakes, f"records.{name}", part, values)) for name, part in values.items()]
    _check_nesting(mistakes, {record.name: record for record in read})
    return tuple(read)


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and len(name) <= MAX_NAME


def read_field(fields: Section, name: str, records: dict[str, Any]) -> Field | None:
    value = fields.values[name]
    if not is_name(name):
        fields.mistakes.add(
            fields.at(shown(name)),
            f"a name of letters, digits and _ that does not begin with a digit, of at most {MAX_NAME} characters",
            f"{shown(name)}; path says the key in the message where that is another",
        )
        return None
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, dict):
        fields.wrong(name, "a type, or a table with one")
        return None
    section = Section(fields.mistakes, fields.at(name), value)
    section.known_keys(_ALL_KEYS)
    kind = _type_of(section)
    if kind is None:
        return None
    for key in value:
        if key in _ALL_KEYS and key not in (*_FOR_ALL, *_ALLOWED[kind]):
            takers = [one for one in FIELD_TYPES if key in _ALLOWED[one]]
            section.mistakes.add(section.at(key), f"a field of type {listed(takers)}", f"one of type {kind}")
    return _field(section, name, kind, records)


def _type_of(section: Section) -> FieldType | None:
    if "type" not in section.values:
        section.mistakes.say(section.where, f"a field needs a type: {', '.join(FIELD_TYPES)}")
        return None
    kind = section.values["type"]
    if kind in FIELD_TYPES:
        return kind  # type: ignore[no-any-return]
    hint = nearest(kind, FIELD_TYPES) if isinstance(kind, str) else ""
    section.wrong("type", f"one of {', '.join(FIELD_TYPES)}", shown(kind) + hint)
    return None


def _field(section: Section, name: str, kind: FieldType, records: dict[str, Any]) -> Field:
    default = _default(section, kind)
    optional = section.flag("optional") or default is not None
    written_as = section.one_of("written_as", get_args(WrittenAs)) or ("string" if kind == "string" else "number")
    least, most = _bound(section, "min", kind), _bound(section, "max", kind)
    shortest, longest = section.whole("min_length", 0), section.whole("max_length", 1)
    few, many = section.whole("min_items", 0), section.whole("max_items", 1)
    _in_order(section, "min", least, "max", most)
    _in_order(section, "min_length", shortest, "max_length", longest)
    _in_order(section, "min_items", few, "max_items", many)
    field = Field(
        name=name,
        type=kind,
        path=_path(section, name),
        description=section.text("description") or "",
        optional=optional,
        default=default,
        min=least,
        max=most,
        min_length=(0 if optional or kind != "string" else 1) if shortest is None else shortest,
        max_length=longest,
        values=_values(section),
        pattern=_pattern(section),
        without_offset=_zone(section),
        written_as=written_as,  # type: ignore[arg-type]  # one of the literals
        personal=section.flag("personal"),
        fake=section.text("fake"),
        of=_of(section, kind, records),
        min_items=few or 0,
        max_items=many,
    )
    if kind == "string" and written_as != "string" and field.values:
        section.mistakes.say(section.where, "values are texts: a string with values can't be written as a number")
    if default is not None and kind == "string":
        _check_default(section, field, str(default))
    return field


def _in_order(section: Section, lower: str, least: Any, upper: str, most: Any) -> None:
    if least is not None and most is not None and least > most:
        section.wrong(upper, f"at least {lower}, {least}")


def _path(section: Section, name: str) -> tuple[str, ...]:
    value = section.values.get("path", name)
    keys = value.split(".") if isinstance(value, str) else value
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys) or not all(keys):
        section.wrong("path", "keys with dots between them, or a list of keys")
        return (name,)
    if not all(map(can_be_key, keys)):
        section.wrong("path", "keys without quotation marks, backslashes and control characters")
        return (name,)
    return tuple(keys)


def can_be_key(key: str) -> bool:
    """Whether a ``path`` may name this key of a message."""
    return bool(key) and _KEY.fullmatch(key) is not None and _is_text(key)


def _is_text(key: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in key)


def _default(section: Section, kind: FieldType) -> Scalar | None:
    value = section.values.get("default")
    if value is None or "default" not in _ALLOWED[kind]:
        return None
    fits: dict[str, Any] = {
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "integer": _is_integer(value),
        "numeric": _exact(value) is not None,
        "float": _is_integer(value) or _is_finite(value),
    }
    if not fits[kind]:
        section.wrong("default", {"string": "a text", "boolean": "true or false", "integer": "an integer"}.get(kind, "a number"))
        return None
    exact: Scalar = float(value) if kind == "float" else value
    return exact


def _check_default(section: Section, field: Field, default: str) -> None:
    if field.values and default not in field.values:
        section.wrong("default", f"one of {', '.join(field.values)}")
    if field.pattern and not re.fullmatch(field.pattern, default):
        section.wrong("default", f"a text that matches {field.pattern}")


def _bound(section: Section, key: str, kind: FieldType) -> int | Decimal | None:
    value = section.values.get(key)
    if value is None or key not in _ALLOWED[kind]:
        return None
    exact = _exact(value)
    if kind == "integer" and not _is_integer(value):
        section.wrong(key, "an integer of 64 bits")
        return None
    if exact is None:
        section.wrong(key, "a number of at most 29 integer and 9 decimal digits")
    return exact


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and INT64_MIN <= value <= INT64_MAX


def _is_finite(value: Any) -> bool:
    return isinstance(value, float | Decimal) and math.isfinite(value)


def _exact(value: Any) -> int | Decimal | None:
    """A TOML number (its floats are read as Decimals) that a NUMERIC holds."""
    return value if isinstance(value, int | Decimal) and not isinstance(value, bool) and is_numeric(value) else None


def _values(section: Section) -> tuple[str, ...]:
    if "values" not in section.values:
        return ()
    values = section.texts("values")
    if not values and section.values["values"] == []:
        section.wrong("values", "one text or more", "none")
    if len(values) > _MAX_VALUES:
        section.wrong("values", f"at most {_MAX_VALUES} texts", str(len(values)))
    if len(set(values)) < len(values):
        section.wrong("values", "different texts", f"{shown(next(one for one in values if values.count(one) > 1))} twice")
    return values


def _pattern(section: Section) -> str | None:
    pattern = section.text("pattern")
    if pattern is None:
        return None
    if len(pattern) > _MAX_PATTERN:
        section.wrong("pattern", f"at most {_MAX_PATTERN} characters", str(len(pattern)))
        return None
    try:
        re.compile(pattern)
        re.compile(rf"\A(?:{pattern})\Z")
    except (re.error, RecursionError, OverflowError) as error:
        section.wrong("pattern", "a regular expression", f"{shown(pattern)} ({str(error).splitlines()[0]})")
        return None
    return pattern


def _zone(section: Section) -> str:
    zone = section.text("without_offset", "refuse, or a time zone") or "refuse"
    if zone in ("refuse", "UTC"):
        return zone
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        hint = nearest(zone, zoneinfo.available_timezones())
        section.wrong("without_offset", "refuse, or a time zone such as UTC or Europe/Berlin", shown(zone) + hint)
    return zone


def _of(section: Section, kind: FieldType, records: dict[str, Any]) -> str | None:
    if kind not in ("record", "list"):
        return None
    options = [*records, *(SCALAR_TYPES if kind == "list" else ())]
    value = section.values.get("of")
    if value is None:
        section.mistakes.say(
            section.where, f"a {kind} needs 'of', the {'record' if kind == 'record' else 'type or record'} of it"
        )
    elif value == "list":
        section.wrong("of", "a scalar type or a record: a list of lists is no table; take it as json", "'list'")
    elif value not in options:
        hint = nearest(value, options) if isinstance(value, str) else ""
        expected = "a record of this file" if kind == "record" else "a scalar type or a record of this file"
        section.wrong("of", expected, shown(value) + hint)
    return value if isinstance(value, str) and value in options else None


def _check_paths(mistakes: Mistakes, where: str, fields: tuple[Field, ...]) -> None:
    """No two fields of an object stand at one place, and none within another."""
    taken: dict[tuple[str, ...], str] = {}
    for field in fields:
        if where == "fields" and field.path[0] == TYPE_KEY:
            mistakes.add(f"fields.{field.name}", "another key", f"'{TYPE_KEY}', which names the type of the event")
        for path, name in taken.items():
            if path == field.path:
                mistakes.say(f"{where}.{field.name}", f"stands at {'.'.join(path)}, as {name} does")
            elif path == field.path[: len(path)] or field.path == path[: len(field.path)]:
                outer, inner = (name, field.name) if len(path) < len(field.path) else (field.name, name)
                mistakes.say(
                    f"{where}.{field.name}", f"{inner} stands within {outer}: declare {outer} as a record, or leave it out"
                )
        taken[field.path] = field.name


def _check_nesting(mistakes: Mistakes, records: dict[str, RecordType]) -> None:
    """No record holds itself, and no list stands within a list."""
    for record in records.values():
        for field in record.fields:
            if field.of == record.name or (field.of in records and record.name in _within(field.of, records)):
                mistakes.say(f"records.{record.name}.{field.name}", "a record can't hold itself; take it as json")


def _within(name: str, records: dict[str, RecordType]) -> set[str]:
    """Every record that record ``name`` holds, at any depth."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for field in records[waiting.pop()].fields:
            if field.of in records and field.of not in found:
                found.add(field.of)
                waiting.append(field.of)
    return found


def check_lists(mistakes: Mistakes, fields: tuple[Field, ...], records: tuple[RecordType, ...]) -> None:
    """No element of a list holds a list; no record is there for nothing."""
    by_name = {record.name: record for record in records}
    used: set[str] = set()
    for field in (*fields, *(field for record in records for field in record.fields)):
        if field.of not in by_name:
            continue
        used.add(field.of)
        inner = {field.of, *_within(field.of, by_name)}
        lists = [f"{name}.{one.name}" for name in sorted(inner) for one in by_name[name].fields if one.type == "list"]
        if field.type == "list" and lists:
            mistakes.say(f"{lists[0]}", f"a list within the list {field.name} is no table; take it as json")
    for record in records:
        if record.name not in used:
            mistakes.say(
                f"records.{record.name}", f"no field is of this record{nearest(record.name, [f.of or '' for f in fields])}"
            )
