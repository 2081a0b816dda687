"""Contracts of any make, and valid events of them, as strategies of hypothesis."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from hypothesis import note
from hypothesis import strategies as st

from ecomflow.contract.language import Contract, Field, records_of
from ecomflow.contract.loading import load_text
from tests.support.compiled import to_toml

Json = Any

SCALARS = ("string", "integer", "numeric", "boolean", "float", "date", "timestamp", "ip_address", "json")
KEYS = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters='"\\.'), min_size=1, max_size=4)
NUMBERS = st.decimals(-(10**20), 10**20, places=9) | st.integers(-(10**28), 10**28) | st.decimals(-100, 100, places=2)
JSON_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | NUMBERS
    | st.text(st.characters(blacklist_categories=("Cs",)), max_size=5)
)
ANY_JSON = st.recursive(
    JSON_SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(blacklist_categories=("Cs",)), max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
MOMENTS = st.tuples(
    st.datetimes(datetime(2016, 1, 1), datetime(2026, 11, 1)),
    st.sampled_from(["Z", "+02:00", "-0530", "z", ".123456789Z"]),
).map(lambda pair: pair[0].replace(microsecond=0).isoformat() + pair[1])
VALUES: dict[str, st.SearchStrategy[Json]] = {
    "string": st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=6),
    "integer": st.integers(-(2**63), 2**63 - 1),
    "numeric": NUMBERS,
    "boolean": st.booleans(),
    "float": st.floats(-1e100, 1e100, allow_nan=False).map(lambda one: Decimal(repr(one))),
    "date": st.dates().map(str),
    "timestamp": MOMENTS,
    "ip_address": st.ip_addresses().map(str),
    "json": ANY_JSON.filter(lambda one: one is not None),
}


@st.composite
def field_specs(draw: st.DrawFn, name: str, containers: bool, records: dict[str, Any]) -> dict[str, Any]:
    kinds = [*SCALARS, *(["record", "list"] if containers and records else ["list"] if containers else [])]
    kind = draw(st.sampled_from(kinds))
    spec: dict[str, Any] = {"type": kind}
    if kind == "record":
        spec["of"] = draw(st.sampled_from(sorted(records)))
    if kind == "list":
        spec["of"] = draw(st.sampled_from([*sorted(records), "string", "numeric", "json"]))
    if draw(st.booleans()):
        spec["optional"] = True
    if kind in ("integer", "numeric") and draw(st.integers(0, 3)) == 0:
        spec["written_as"] = draw(st.sampled_from(["string", "number or string"]))
    if kind == "string" and draw(st.integers(0, 3)) == 0:
        spec["default"] = "none"
    way = draw(st.lists(KEYS, max_size=2))
    if way and kind not in ("record", "list"):
        spec["path"] = ["o", *way, name]
    elif draw(st.booleans()):
        spec["path"] = [draw(KEYS) + name]
    return spec


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    """A contract with records, lists, paths and tables of every kind."""
    records: dict[str, Any] = {}
    for index in range(draw(st.integers(0, 2))):
        inner = {f"r{index}_{n}": draw(field_specs(f"r{index}_{n}", False, {})) for n in range(draw(st.integers(1, 4)))}
        records[f"rec{index}"] = inner
    fields = {f"f{n}": draw(field_specs(f"f{n}", True, records)) for n in range(draw(st.integers(0, 6)))}
    used = {spec.get("of") for spec in fields.values()}
    records = {name: inner for name, inner in records.items() if name in used}
    fields["at"] = {"type": "timestamp"}
    lists = [name for name, spec in fields.items() if spec["type"] == "list"]
    tables = [{"name": "fact_any"}, *({"name": f"fact_{name}", "each": name} for name in lists)]
    parts: dict[str, Any] = {"event": "any", "time": "at", "fields": fields, "records": records, "tables": tables}
    text = "\n".join(f"{key} = {to_toml(part)}" for key, part in parts.items())
    note(text)
    return load_text(text, "any.toml")


def put(target: dict[str, Json], path: tuple[str, ...], value: Json) -> None:
    for key in path[:-1]:
        target = target.setdefault(key, {})
    target[path[-1]] = value


@st.composite
def objects(draw: st.DrawFn, contract: Contract, fields: tuple[Field, ...]) -> dict[str, Json]:
    """A valid object of ``fields``."""
    found: dict[str, Json] = {}
    records = records_of(contract.records)
    for field in fields:
        if field.optional and draw(st.integers(0, 3)) == 0:
            if draw(st.booleans()):
                put(found, field.path, None)
            continue
        put(found, field.path, draw(value_of(contract, field, records)))
    return found


def value_of(contract: Contract, field: Field, records: dict[str, Any]) -> st.SearchStrategy[Json]:
    if field.type == "record":
        return objects(contract, records[str(field.of)].fields)
    if field.type == "list":
        inner = objects(contract, records[field.of].fields) if field.of in records else VALUES[str(field.of)]
        return st.lists(inner, max_size=3)
    if field.type in ("integer", "numeric") and field.written_as == "string":
        return VALUES[field.type].map(str)
    return VALUES[field.type]
