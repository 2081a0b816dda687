"""What samples have at each place in; a draft of their contract, and every assumption in it as a sentence, out. Pure.

Fields that are always there are required, all others optional. Objects become records, arrays of objects lists with a table of
their own, other arrays JSON. What is never more than null or empty is left to the reader, as a comment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ecomflow.contract.guesses import field_name, is_id, is_of_interest, is_personal_name, singular, snake_case, time_rank
from ecomflow.contract.language import FIELD_TYPES
from ecomflow.contract.mistakes import listed
from ecomflow.contract.reading_fields import can_be_key
from ecomflow.contract.reading_tables import CLUSTERABLE, COLUMN_TYPES, is_reserved_column
from ecomflow.contract.samples import Seen
from ecomflow.contract.scalars import scalars_of
from ecomflow.errors import ContractError

# Objects with so many keys, each of them in so few objects, are maps: their keys are values.
_MAP_KEYS = 20
_MAP_SHARE = 0.2
_OWN_COLUMNS = ("event_id", "event_date", "event_timestamp", "unknown_fields", "ingestion_timestamp", "line_number")
_CLUSTERED = 2

Keys = tuple[str, ...]


class DraftField(msgspec.Struct):
    """One field: its name, the keys that lead to it, what is said of it, the type first, and a comment. ``is_open``: only a
    comment, for nobody can say its type.
    """

    name: str
    path: Keys
    spec: dict[str, Any]
    comment: str = ""
    is_open: bool = False

    @property
    def type(self) -> str:
        return str(self.spec["type"])


class DraftTable(msgspec.Struct):
    """``columns`` None: the default ones. An entry is a field, or the name and the value of a column."""

    name: str
    each: str = ""
    cluster: list[str] = msgspec.field(default_factory=list)
    columns: list[str | tuple[str, str]] | None = None


class Draft(msgspec.Struct):
    event: str
    time: str
    fields: list[DraftField]
    records: dict[str, list[DraftField]]
    tables: list[DraftTable]
    assumptions: list[str]


def draft_of(event: str, seen: Seen, taken_tables: Sequence[str] = ()) -> Draft:
    """The draft for events like those ``seen``. ``taken_tables`` are the names that other event types use.

    Raises ContractError where no timestamp is always there.
    """
    way, others = _time_of(event, seen)
    drafting = _Drafting(seen, way)
    time = next(field for field in drafting.fields if field.path == way)
    tables = _tables(event, drafting, time, taken_tables)
    draft = Draft(event, time.name, drafting.fields, drafting.records, tables, [])
    draft.assumptions = [*_of_time(time.name, others), *drafting.assumptions()]
    return draft


def _time_of(event: str, seen: Seen) -> tuple[Keys, list[str]]:
    """The keys to the best timestamp, and the names of the others."""
    always: list[Keys] = []
    sometimes: list[Keys] = []
    for keys, one, is_always in _scalars_outside_lists(seen, (), True):
        if scalars_of(keys[-1], one.scalars).spec["type"] == "timestamp":
            (always if is_always else sometimes).append(keys)
    if not always:
        found = f" only {listed([_shown(keys) for keys in sometimes])}, not in each of them" if sometimes else " none"
        raise ContractError(
            f"Expected a timestamp, as 2025-12-01T10:15:30Z, in each sample, found{found}.",
            "The date of an event partitions its tables: have the producer add the time at which it happened.",
        )
    always.sort(key=lambda keys: (*time_rank(keys[-1], event), len(keys)))
    return always[0], [_shown(keys) for keys in always[1:]]


def _scalars_outside_lists(seen: Seen, keys: Keys, is_always: bool) -> Iterator[tuple[Keys, Seen, bool]]:
    for key, member in seen.members.items():
        always = is_always and member.nulls == 0 and member.times == seen.objects and can_be_key(key)
        if member.scalars and not member.objects and not member.arrays:
            yield (*keys, key), member, always
        elif member.objects and not member.scalars and not member.arrays:
            yield from _scalars_outside_lists(member, (*keys, key), always)


def _of_time(name: str, others: list[str]) -> list[str]:
    also = f" Other timestamps in each sample: {', '.join(others)}." if others else ""
    return [f"time is {name}: the timestamp that sounds most like when the event happened.{also}"]


class _Scope:
    """The columns of a table that come from fields. No two have the same name, whatever its case, and none is ecomflow's."""

    def __init__(self) -> None:
        self._taken = {*_OWN_COLUMNS}

    def free(self, name: str, above: Keys) -> str:
        """``name``, or another one that makes a column that is free, within the records ``above``."""
        is_own = "_".join((*above, name)).lower() in _OWN_COLUMNS
        tries = [f"body_{name}" if is_own else name, *(f"{name}_{number}" for number in range(2, 10_000))]
        found = next(one for one in tries if not self.has("_".join((*above, one))))
        self._taken.add("_".join((*above, found)).lower())
        return found

    def has(self, column: str) -> bool:
        return column.lower() in self._taken


class _Drafting:
    """The fields and records of a draft, and what was assumed for them, by what."""

    def __init__(self, seen: Seen, time: Keys) -> None:
        self.records: dict[str, list[DraftField]] = {}
        self.scopes: dict[Keys, _Scope] = {}
        self._time = time
        self._said: list[str] = []
        self._grouped: dict[str, list[str]] = {}
        self.header = _Scope()
        self.fields = list(self._of_object(seen, (), (), self.header))

    def assumptions(self) -> list[str]:
        return [*self._said, *(text.format(", ".join(paths)) for text, paths in self._grouped.items())]

    def _group(self, text: str, keys: Keys) -> None:
        self._grouped.setdefault(text, []).append(_shown(keys))

    def _of_object(self, seen: Seen, keys: Keys, above: Keys, scope: _Scope, prefix: Keys = ()) -> Iterator[DraftField]:
        """The fields of an object. ``keys`` lead to it from the event, ``above`` names the records that it is in. ``prefix`` are
        the keys of objects around that are no records, as the time is in them.
        """
        names: set[str] = set()
        for key, member in seen.members.items():
            here = (*keys, key)
            if not can_be_key(key):
                self._group("{}: no name can stand for this key; what it holds is kept as unknown.", (*keys, repr(key)))
            elif len(here) < len(self._time) and here == self._time[: len(here)]:
                yield from self._of_object(member, here, above, scope, (*prefix, key))
            else:
                name = field_name("_".join((*prefix, key)))
                name = f"body{name}" if is_reserved_column(f"{name}_") else name
                while name.lower() in names:
                    name += "_"
                field = self._field(member, name, here, above, scope)
                field.path = (*prefix, key)
                names.add(field.name.lower())
                if (member.nulls or member.times < seen.objects) and not field.is_open:
                    field.spec["optional"] = True
                    field.spec.pop("min_length", None)
                    self._group("{}: optional, for some samples lack it or have null.", here)
                yield field

    def _field(self, seen: Seen, name: str, keys: Keys, above: Keys, scope: _Scope) -> DraftField:
        shapes = [bool(seen.scalars), bool(seen.objects), bool(seen.arrays)]
        if seen.is_empty:
            self._group("{}: null or empty in each sample. They stand in the file as comments: their type can't be drawn.", keys)
            return DraftField(name, (), {"type": "string"}, "null or empty in each sample", is_open=True)
        if sum(shapes) > 1:
            return self._json(name, keys, above, scope, "it is of several types")
        if seen.objects:
            return self._record(seen, name, keys, above, scope)
        if seen.arrays:
            return self._list(seen, name, keys, above, scope)
        return self._scalar(seen, name, keys, above, scope)

    def _json(self, name: str, keys: Keys, above: Keys, scope: _Scope, because: str) -> DraftField:
        self._said.append(f"{_shown(keys)}: {because}; taken as json, which keeps it as it is, in one column.")
        return DraftField(scope.free(name, above), (), {"type": "json"}, f"assumed: {because}")

    def _record(self, seen: Seen, name: str, keys: Keys, above: Keys, scope: _Scope) -> DraftField:
        if len(seen.members) >= _MAP_KEYS and _share(seen) < _MAP_SHARE:
            return self._json(name, keys, above, scope, "its keys look like values")
        fields = list(self._of_object(seen, keys, (*above, name), scope))
        if all(field.is_open for field in fields):
            return self._json(name, keys, above, scope, "it has no key that can be a name")
        return DraftField(name, (), {"type": "record", "of": self._named_record(keys, fields)})

    def _list(self, seen: Seen, name: str, keys: Keys, above: Keys, scope: _Scope) -> DraftField:
        element = seen.element or Seen()
        if scope is not self.header:
            return self._json(name, keys, above, scope, "it is a list within a list")
        if element.scalars or element.arrays or element.nulls:
            return self._json(name, keys, above, scope, "it is a list of values that are no objects")
        if len(element.members) >= _MAP_KEYS and _share(element) < _MAP_SHARE:
            return self._json(name, keys, above, scope, "its keys look like values")
        inner = _Scope()
        fields = list(self._of_object(element, keys, (), inner))
        if all(field.is_open for field in fields):
            return self._json(name, keys, above, scope, "it has no key that can be a name")
        self.scopes[*above, name] = inner
        return DraftField(name, (), {"type": "list", "of": self._named_record(keys, fields, is_list=True)})

    def _scalar(self, seen: Seen, name: str, keys: Keys, above: Keys, scope: _Scope) -> DraftField:
        found = scalars_of(keys[-1], seen.scalars)
        spec, comments = dict(found.spec), []
        if spec["type"] == "ip_address" or is_personal_name(keys[-1], keys[:-1]):
            spec["personal"] = True
            comments.append("assumed: personal, by its name")
            self._group("{}: personal, by their names; their values stand in no error and no log.", keys)
        if spec.get("personal") and spec.pop("values", None):
            pass  # a person's own value is no kind of thing
        elif found.because:
            comments.append(f"assumed: {found.because}")
            self._of_type(found.spec, found.because, keys)
        if keys != self._time:
            free = scope.free(name, above)
            if free != name:
                self._said.append(f"{_shown(keys)} is called {free}: a column called {name} is there already.")
            name = free
        return DraftField(name, (), spec, "; ".join(comments))

    def _of_type(self, spec: dict[str, Any], because: str, keys: Keys) -> None:
        written = {"string": " written as a string", "number or string": " written as a number or a string"}
        if "values" in spec:
            self._said.append(f"{_shown(keys)} is one of {', '.join(spec['values'])}: {because}.")
        else:
            self._group(f"{{}}: {spec['type']}{written.get(spec.get('written_as', ''), '')}, because {because}.", keys)

    def _named_record(self, keys: Keys, fields: list[DraftField], is_list: bool = False) -> str:
        """The record with these fields, its name taken from the last key, or from two where that is another's."""
        for size in range(1, len(keys) + 1):
            name = snake_case(field_name("_".join(keys[-size:])))
            name = singular(name) if is_list else name
            name = f"{name}_record" if name in FIELD_TYPES else name
            if self.records.setdefault(name, fields) == fields:
                return name
        name = next(one for number in range(2, 10_000) if (one := f"{name}_{number}") not in self.records)
        self.records[name] = fields
        return name


def _share(seen: Seen) -> float:
    """The share of the objects in which a key is, on average."""
    return sum(member.times for member in seen.members.values()) / (seen.objects * len(seen.members))


def _shown(keys: Keys) -> str:
    return ".".join(keys)


def _tables(event: str, drafting: _Drafting, time: DraftField, taken: Sequence[str]) -> list[DraftTable]:
    used = {name.lower() for name in taken}
    header = DraftTable(_free_table(f"fact_{snake_case(event)}", used))
    header.cluster = _cluster(drafting, [field for field in drafting.fields if field is not time], event)
    return [header, *_list_tables(event, drafting, header.name, used)]


def _list_tables(event: str, drafting: _Drafting, header: str, used: set[str]) -> Iterator[DraftTable]:
    own = _own_id(event, drafting.fields)
    for names, record, scope in _lists(drafting, drafting.fields, ()):
        table = DraftTable(_free_table(f"{header}_{singular(snake_case(names[-1]))}", used), each=".".join(names))
        table.columns = [".".join(names)]
        if own is not None:
            column = own if not scope.has(own) else f"{snake_case(event)}_{own}"
            if not scope.has(column):
                table.columns.insert(0, own if column == own else (column, own))
        table.cluster = _cluster(drafting, drafting.records[record], singular(names[-1]))
        yield table


def _lists(drafting: _Drafting, fields: list[DraftField], above: Keys) -> Iterator[tuple[Keys, str, _Scope]]:
    for field in fields:
        here = (*above, field.name)
        if field.type == "list" and not field.is_open:
            yield here, field.spec["of"], drafting.scopes[here]
        elif field.type == "record":
            yield from _lists(drafting, drafting.records[field.spec["of"]], here)


def _free_table(name: str, used: set[str]) -> str:
    tries = (name, *(f"{name}_{number}" for number in range(2, 1_000)))
    found = next(one for one in tries if one.lower() not in used and not one.endswith("_unique"))
    used.update((found.lower(), f"{found.lower()}_unique"))
    return found


def _own_id(event: str, fields: list[DraftField]) -> str | None:
    """The field that identifies an event of this type: ``refund_id``, ``id``, or the first id."""
    ids = [field.name for field in fields if is_id(field.name) and field.type in ("string", "integer") and not field.is_open]
    best = [name for name in ids if snake_case(name) in (f"{snake_case(event)}_id", "id")]
    return next(iter([*best, *ids]), None)


def _cluster(drafting: _Drafting, fields: list[DraftField], event: str) -> list[str]:
    """Ids of other things, then a field of few values: what queries filter and group by. Its own id where there is none."""
    columns = dict(_columns(drafting, fields))
    own = _own_id(event, fields)
    ids = sorted((name for name in columns if is_id(name) and name != own), key=lambda name: not is_of_interest(name))
    few = [name for name, field in columns.items() if "values" in field.spec]
    best = [*ids[: _CLUSTERED - bool(few)], *few] if ids or few else [own] if own in columns else []
    return best[:_CLUSTERED]


def _columns(drafting: _Drafting, fields: list[DraftField]) -> Iterator[tuple[str, DraftField]]:
    """The columns that a table can be clustered by, those of records within included."""
    for field in fields:
        if field.type == "record" and not field.is_open:
            for name, inner in _columns(drafting, drafting.records[field.spec["of"]]):
                yield f"{field.name}_{name}", inner
        elif not field.is_open and COLUMN_TYPES.get(field.type) in CLUSTERABLE:
            yield field.name, field
