"""Proves the promise: published = events in the fact tables + dead letters + still waiting. Each place is asked for itself.

Fact tables are seen through their ``_unique`` views, dead letters in the bucket, what waits in the subscription, and what was
published in the publisher's ledger. With a ledger every event is followed by its id. Without one the places are held against each
other: an order without its items, or an event that both landed and was refused, is found all the same.

The order of reading makes it true while a pipeline runs: first the ledger, then what waits, then the tables in one query, then
the bucket. An event of the ledger then either waited when that was counted, or had been acknowledged, and so lies where it is
looked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from ecomflow.config import Endpoints, Settings
from ecomflow.contract.dead_letter import EVENT_STREAMS, STREAMS, stream_of
from ecomflow.contract.facts import STREAM_TABLES
from ecomflow.deadletters import store
from ecomflow.errors import ImbalanceError
from ecomflow.jobs.backlog import Waiting, count_waiting
from ecomflow.reconciliation.ledger import LedgerEntry, default_ledger, read_ledger
from ecomflow.warehouse.queries import select

# A request to BigQuery takes 10 MB (https://cloud.google.com/bigquery/quotas#query_jobs); an id in it has some 50 bytes. As many
# as fit, because event_id is no partition: each query reads that column whole, however few ids it asks for.
_IDS_PER_QUERY = 50_000
_NAMED = 20  # how many ids an error names

_TABLES = tuple(table for tables in STREAM_TABLES.values() for table in tables)
# How many rows each table of _TABLES has of an event.
Shape = tuple[int, ...]
# Gets what is being read (``events in the tables``), and how many of it so far.
OnCount = Callable[[str, int], None]
_LETTERS_A_REPORT = 100


class TypeBalance(msgspec.Struct, frozen=True):
    """One event type of the equation, in events, each counted once.

    ``published``, ``waiting`` and ``adds_up`` are None where there is no ledger. ``waiting``: in no place yet, or in one in part.
    """

    event_type: str
    published: int | None
    facts: int
    dead_letters: int
    waiting: int | None
    adds_up: bool | None


class Reconciliation(msgspec.Struct, frozen=True):
    """The whole equation. ``waiting``: the messages of all types in the subscription; None where the service does not tell.

    By event id: ``missing``: in the ledger, but nowhere; ``incomplete``: in some of its tables, or with other rows than its own;
    ``doubled``: whole in the tables and a dead letter as well; ``unpublished``: landed, but not in the stack's own ledger.
    ``adds_up``: each event is in one place, or can be among those that wait.

    ``unconfirmed``: events of the ledger whose publisher was killed or had no answer, and that are in no place: published or not.
    ``unreadable``: objects among the dead letters that are none, or are damaged, so that what they held is not known.
    """

    ledger: str | None
    lines: tuple[TypeBalance, ...]
    waiting: Waiting | None
    missing: tuple[str, ...]
    incomplete: tuple[str, ...]
    doubled: tuple[str, ...]
    unpublished: tuple[str, ...]
    adds_up: bool
    unconfirmed: int = 0
    unreadable: tuple[store.Unreadable, ...] = ()


def reconcile(
    settings: Settings, endpoints: Endpoints, ledger: Path | None = None, on_count: OnCount = lambda *_: None
) -> Reconciliation:
    """Ask every place, and do the sum over the events of ``ledger``.

    Without ``ledger``, over the local stack's own where there is one: what landed and is not in that one is named too.
    ``on_count`` is told how far the reading is. Raises ConfigError for a ledger that can't be read, and what the places raise.
    """
    own = default_ledger(settings, endpoints)
    path = ledger or (own if own is not None and own.exists() else None)
    if path is None:
        return _without_ledger(settings, endpoints, on_count)
    entries = read_ledger(path)
    on_count("events in the ledger", len(entries))
    waiting = count_waiting(settings, endpoints)
    unreadable: list[store.Unreadable] = []
    shapes, letters = _shapes(settings, endpoints, entries, on_count), _letters(settings, endpoints, on_count, unreadable)
    outcome = balance_by_id(entries, shapes, letters, waiting)
    unpublished = _sorted({*shapes, *letters} - entries.keys()) if ledger is None else ()
    if unpublished:  # what was published since the ledger was read may have landed, and is in it by now
        known = read_ledger(path)
        unpublished = tuple(key for key in unpublished if key not in known)
    adds_up = outcome.adds_up and not unpublished and not unreadable
    return msgspec.structs.replace(
        outcome, ledger=str(path), unpublished=unpublished, unreadable=tuple(unreadable), adds_up=adds_up
    )


def _without_ledger(settings: Settings, endpoints: Endpoints, on_count: OnCount = lambda *_: None) -> Reconciliation:
    amounts = {tuple(shape): int(amount) for *shape, amount in select(settings, endpoints, _sql("COUNT(*)"))}
    odd = [shape for shape in amounts if type_of(shape) is None]
    suspects = _ids_of(settings, endpoints, odd)
    unreadable: list[store.Unreadable] = []
    letters = _letters(settings, endpoints, on_count, unreadable)
    # Once more, after what waits: what was on its way into the tables is whole by now, or still waits.
    waiting = count_waiting(settings, endpoints)
    shapes = _shapes(settings, endpoints, {*suspects, *letters}, on_count)
    outcome = balance_places(amounts, shapes, suspects, letters, waiting)
    return msgspec.structs.replace(outcome, unreadable=tuple(unreadable), adds_up=outcome.adds_up and not unreadable)


def check(outcome: Reconciliation) -> None:
    """Raise ImbalanceError, with the first ids, where the equation does not hold."""
    if outcome.adds_up:
        return
    kinds = {
        "missing": outcome.missing,
        "incomplete": outcome.incomplete,
        "doubled": outcome.doubled,
        "not in the ledger": outcome.unpublished,
    }
    told = [f"{len(ids):,} {kind}: {_named(ids)}" for kind, ids in kinds.items() if ids]
    told += [f"{one.object_name} is unreadable: {one.error}" for one in outcome.unreadable[:_NAMED]]
    remedy = "Every id: ecomflow reconcile --json"
    if outcome.unreadable:
        remedy += "\nMove the unreadable objects out of dlq/ once you have looked at them."
    if outcome.unpublished:
        remedy += f"\nWithout what others have published: ecomflow reconcile --ledger {outcome.ledger}"
    raise ImbalanceError(f"What was published is not what landed. {'; '.join(told)}.", remedy)


def _named(ids: tuple[str, ...]) -> str:
    return ", ".join(ids[:_NAMED]) + (", …" if len(ids) > _NAMED else "")


def balance_by_id(
    entries: Mapping[str, LedgerEntry], shapes: Mapping[str, Shape], letters: Mapping[str, str], waiting: Waiting | None
) -> Reconciliation:
    """The equation of a ledger's events. ``letters``: the stream of each dead letter, by event id. Pure.

    An event that BigQuery took in part is its dead letter. One that is in its place and waits as well was delivered twice. One
    that was never confirmed counts as published once it is somewhere.
    """
    known = {key: entry for key, entry in entries.items() if entry.message_id is not None or key in shapes or key in letters}
    unconfirmed, entries = len(entries) - len(known), known
    landed = {key for key, entry in entries.items() if _is_whole(shapes.get(key, ()), entry)}
    refused = letters.keys() & entries.keys()
    open_ids = entries.keys() - landed - refused
    covered = len(open_ids) <= (waiting.messages if waiting else 0)
    incomplete = open_ids & shapes.keys()
    lines = []
    for name in EVENT_STREAMS:
        published = {key for key, entry in entries.items() if entry.event_type == name}
        facts, dead, late = len(published & landed), len(published & refused), len(published & open_ids) if covered else 0
        lines.append(TypeBalance(name, len(published), facts, dead, late, len(published) == facts + dead + late))
    return Reconciliation(
        None,
        tuple(lines),
        waiting,
        missing=_sorted(open_ids - incomplete),
        incomplete=_sorted(incomplete),
        doubled=_sorted(landed & refused),
        unpublished=(),
        adds_up=covered and not landed & refused,
        unconfirmed=unconfirmed,
    )


def balance_places(
    amounts: Mapping[Shape, int],
    shapes: Mapping[str, Shape],
    suspects: Iterable[str],
    letters: Mapping[str, str],
    waiting: Waiting | None,
) -> Reconciliation:
    """What the places say of each other where there is no ledger. Pure.

    ``amounts``: how many events have each shape; ``shapes``: of ``suspects``, which were incomplete, and of ``letters``.
    """
    facts: Counter[str | None] = Counter()
    for shape, amount in amounts.items():
        facts[type_of(shape)] += amount
    dead = Counter(letters.values())
    incomplete = {key for key in suspects if key not in letters and type_of(shapes.get(key, ())) is None}
    doubled = {key for key in letters if type_of(shapes.get(key, ())) is not None}
    adds_up = not doubled and len(incomplete) <= (waiting.messages if waiting else 0)
    lines = tuple(TypeBalance(name, None, facts[name], dead[name], None, None) for name in STREAMS)
    return Reconciliation(None, lines, waiting, (), _sorted(incomplete), _sorted(doubled), (), adds_up)


def type_of(shape: Shape, items: int | None = None) -> str | None:
    """The event type whose rows these are, all of them and no others; None where there is none.

    An event has one row in its type's first table. In an order's other tables it has one an item: ``items`` of them where that is
    known, else as many in each.
    """
    counts = iter(shape)
    filled = {name: part for name, tables in STREAM_TABLES.items() if any(part := [next(counts, 0) for _ in tables])}
    if len(filled) != 1:
        return None
    name, (first, *others) = filled.popitem()
    is_whole = first == 1 and all(0 < amount == (items or others[0]) for amount in others)
    return name if is_whole else None


def _is_whole(shape: Shape, entry: LedgerEntry) -> bool:
    if entry.fault is not None:  # what a pipeline makes of it in spite of that is no matter of counting
        return type_of(shape) is not None
    return type_of(shape, entry.items) == entry.event_type


def _sql(wanted: str, inner: str = "", outer: str = "") -> str:
    """``wanted`` of the events of each shape: of those that ``inner`` lets in by id, and ``outer`` by shape.

    One query over all tables, so that it sees one moment of them.
    """
    rows = " UNION ALL ".join(f"SELECT event_id, {n} AS place FROM ecomflow.{table}_unique" for n, table in enumerate(_TABLES))  # noqa: S608  # our names
    counts = ", ".join(f"COUNTIF(place = {n}) AS n{n}" for n in range(len(_TABLES)))
    shape = ", ".join(f"n{n}" for n in range(len(_TABLES)))
    events = f"SELECT event_id, {counts} FROM ({rows}) {inner} GROUP BY event_id"  # noqa: S608
    return f"SELECT {shape}, {wanted} FROM ({events}) {outer} GROUP BY {shape}"  # noqa: S608


def _shapes(settings: Settings, endpoints: Endpoints, ids: Iterable[str], on_count: OnCount) -> dict[str, Shape]:
    """The shape of each event of ``ids`` that is in any table; on the local stack of every event, which is faster there."""
    wanted = "ARRAY_AGG(event_id)"
    if settings.is_local:
        answers = iter([select(settings, endpoints, _sql(wanted))])
    else:
        sql = _sql(wanted, inner="WHERE event_id IN UNNEST(@ids)")
        answers = (select(settings, endpoints, sql, ids=part) for part in _parts(sorted(ids)))
    found: dict[str, Shape] = {}
    for rows in answers:
        found |= {key: tuple(shape) for *shape, keys in rows for key in keys}
        on_count("events in the tables", len(found))
    return found


def _ids_of(settings: Settings, endpoints: Endpoints, shapes: list[Shape]) -> set[str]:
    """The ids of all events that have one of ``shapes``."""
    if not shapes:
        return set()
    having = " OR ".join("(" + " AND ".join(f"n{n} = {amount}" for n, amount in enumerate(shape)) + ")" for shape in shapes)
    rows = select(settings, endpoints, _sql("ARRAY_AGG(event_id)", outer=f"WHERE {having}"))
    return {key for *_, keys in rows for key in keys}


def _letters(settings: Settings, endpoints: Endpoints, on_count: OnCount, unreadable: list[store.Unreadable]) -> dict[str, str]:
    """The stream of every dead letter in the bucket, by the id that its event would have in the tables."""
    found: dict[str, str] = {}
    stored_letters = store.letters(settings, endpoints, store.ANY, unreadable=unreadable)
    for number, stored in enumerate(stored_letters, start=1):
        found[str(stored.letter.event_id or stored.letter.message_id)] = stream_of(stored.letter)
        if number % _LETTERS_A_REPORT == 0:
            on_count("dead letters", number)
    return found


def _parts(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _IDS_PER_QUERY):
        yield ids[start : start + _IDS_PER_QUERY]


def _sorted(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(ids))
