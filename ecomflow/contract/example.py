"""A contract in; an event that is valid under it, always the same one, out. Pure.

The built-in contracts come with realistic examples. For other contracts, values are made from the types.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from importlib import resources
from random import Random
from typing import Any

import msgspec
from msgspec import Raw

from ecomflow.contract.codec import Codec, violation_of_event
from ecomflow.contract.documents import Refusal
from ecomflow.contract.json_schema import Schema, schema_of, whole_schema
from ecomflow.contract.language import TYPE_KEY, Contract, Field, RecordType, WrittenAs, records_of
from ecomflow.contract.limits import streamable_dates
from ecomflow.contract.patterns import PatternError, text_maker
from ecomflow.contract.reasons import sentence
from ecomflow.contract.values import is_written_otherwise
from ecomflow.errors import ContractError

_DAY = date(2025, 12, 1)
_MOMENT = f"{_DAY}T10:15:30Z"
# The same for all numbers of an event, so that a total is the sum of its one line. The later ones are tried where a rule refuses
# the first.
_NUMBERS = (Decimal("12.50"), Decimal(1), Decimal(0), Decimal(100))
_FAKES = {
    "email": "jane@example.com",
    "name": "Jane Doe",
    "phone_number": "+33 1 23 45 67 89",
    "url": "https://shop.example.com",
    "country_code": "FR",
    "city": "Paris",
}
# Texts drawn for a pattern, each longer than the one before, until one matches.
_TRIES = 20
_encode = msgspec.json.Encoder(decimal_format="number").encode


def example_of(contract: Contract) -> bytes:
    """A valid event of ``contract`` as one line of JSON, its decimals exact. Raises ContractError where none can be made."""
    kept = resources.files(__package__) / "shop" / f"{contract.event}.example.json"
    made = (_made(contract, number) for number in _NUMBERS)
    refusal: str | None = None
    for data in [*([kept.read_bytes().strip()] if kept.is_file() else []), *made]:
        refused = _refusal(contract, data)
        if refused is None:
            return data
        refusal = refusal or refused
    raise ContractError(f"No example of {contract.event} can be made from its contract: {refusal}.", "Write one by hand.")


def published_schema(contract: Contract) -> Schema:
    """The JSON Schema of ``contract`` with an example, where one can be made."""
    try:
        return {**schema_of(contract), "examples": [Raw(example_of(contract))]}
    except ContractError:
        return schema_of(contract)


def whole_published_schema(contracts: Sequence[Contract]) -> Schema:
    """One schema for a message of any of ``contracts``."""
    return {**whole_schema(tuple(contracts)), "oneOf": [published_schema(contract) for contract in contracts]}


def to_text(schema: Schema) -> str:
    """``schema`` as it is published: indented, with an end of line."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def _refusal(contract: Contract, data: bytes) -> str | None:
    codec = Codec([contract])
    read = codec.read_document(data)
    if isinstance(read, Refusal):
        return read.error
    if read.paths:
        return f"{read.paths[0]}: the contract does not name it"  # an example of a contract that has been replaced
    violation = violation_of_event(codec.kinds[contract.event][contract.version], read.event, "", streamable_dates(_DAY))
    return None if violation is None else sentence(violation)


def _made(contract: Contract, number: Decimal) -> bytes:
    return _encode({TYPE_KEY: contract.event, **_object(contract.fields, records_of(contract.records), number)})


def _object(fields: tuple[Field, ...], records: dict[str, RecordType], number: Decimal) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields:
        at = found
        for key in field.path[:-1]:
            at = at.setdefault(key, {})
        at[field.path[-1]] = _value(field, records, number)
    return found


def _value(field: Field, records: dict[str, RecordType], number: Decimal) -> Any:
    if field.type == "record":
        return _object(records[str(field.of)].fields, records, number)
    if field.type != "list":
        return _scalar(field, number)
    if field.of in records:
        element: Any = _object(records[field.of].fields, records, number)
    else:
        written: WrittenAs = "string" if field.of == "string" else "number"
        element = _scalar(Field(name=field.name, type=field.of, path=(), written_as=written), number)  # type: ignore[arg-type]
    return [element] * max(field.min_items, 1)


def _scalar(field: Field, number: Decimal) -> Any:
    value = _SCALARS[field.type](field, number)
    if is_written_otherwise(field) and field.written_as in ("string", "number"):
        return value if field.type == "string" else str(value)
    return value


def _string(field: Field, _: Decimal) -> str | int:
    if field.values or field.default is not None:
        return field.values[0] if field.default is None else str(field.default)
    if field.written_as == "number":
        return 1001
    if field.pattern is not None:
        return text_that_matches(field.pattern) or field.pattern
    text = f"{field.name[:-3]}-1" if field.name.endswith("_id") else field.name.replace("_", " ")
    text = _FAKES.get(field.fake or field.name, text)
    return text[: field.max_length].ljust(field.min_length, "x")


def _integer(field: Field, number: Decimal) -> int:
    return int(_within(field, Decimal(1) if number else Decimal(0)))


def _within(field: Field, number: Decimal) -> Decimal | int:
    least, most = (number if bound is None else bound for bound in (field.min, field.max))
    return min(max(number, least), most)


def _number(field: Field, number: Decimal) -> Any:
    found = _within(field, number)
    return int(found) if found == int(found) else found


_SCALARS: dict[str, Callable[[Field, Decimal], Any]] = {
    "string": _string,
    "integer": _integer,
    "numeric": _number,
    "float": _number,
    "boolean": lambda *_: True,
    "date": lambda *_: str(_DAY),
    "timestamp": lambda *_: _MOMENT,
    "ip_address": lambda *_: "192.0.2.17",
    "json": lambda *_: {"any": "JSON"},
}


def text_that_matches(pattern: str) -> str | None:
    """A short text that all of ``pattern`` matches, always the same one; None where none was found."""
    random = Random(0)
    try:
        make = text_maker(pattern)
        drawn = (make(random, attempt) for attempt in range(_TRIES))
        return next((text for text in drawn if re.fullmatch(pattern, text)), None)
    except PatternError:
        return None
