"""Checks that published = events in the fact tables + dead letters + backlog. Every store is read independently.

The fact tables are read through their ``_unique`` views, the dead letters from the bucket, the backlog from the subscription, and
the published events from the publisher's ledger. With a ledger every event is traced by its id. Without one the stores are
compared with each other, which still finds an order without its items, and an event that was both written and refused.

The order of reading makes the check valid while a pipeline runs: first the ledger, then the backlog, then the tables in one
query, then the bucket. An event of the ledger then either was in the backlog when that was counted, or had already been
acknowledged, and is therefore in a store that is read later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path

import msgspec

from ecomflow.config import contracts_of
from ecomflow.contract.dead_letter import UNKNOWN_STREAM
from ecomflow.deadletters import store
from ecomflow.errors import ImbalanceError, UnavailableError
from ecomflow.gcp.target import Target
from ecomflow.jobs.backlog import Waiting, count_waiting
from ecomflow.metrics.history import Condition
from ecomflow.reconciliation.contents import differing_ids, parts
from ecomflow.reconciliation.ledger import LedgerEntry, default_ledger, read_ledger
from ecomflow.reconciliation.shapes import Layout, Shape, layout_of, shapes_sql, type_of, types_in
from ecomflow.warehouse.queries import select

_NAMED = 3  # how many ids of a kind an error names

# Called with what is being read (``events in the tables``) and the count so far.
OnCount = Callable[[str, int], None]
_LETTERS_A_REPORT = 100


class TypeBalance(msgspec.Struct, frozen=True):
    """One event type of the equation, in events, each counted once.

    ``published``, ``waiting`` and ``adds_up`` are None without a ledger. ``waiting``: in no store yet, or only partly. Numbers
    are of the ledger's events; ``adds_up`` is False too if another event of this type is incomplete or doubled.
    """

    event_type: str
    published: int | None
    facts: int
    dead_letters: int
    waiting: int | None
    adds_up: bool | None


class Reconciliation(msgspec.Struct, frozen=True):
    """The whole equation. ``waiting``: the messages of all types in the subscription; None if the service reports no number.

    Lists of event ids: ``missing``: in the ledger, but in no store; ``incomplete``: only in some of its tables, or with
    unexpected rows; ``doubled``: complete in the tables and also a dead letter. ``adds_up``: each event is in exactly one store,
    or can be in the backlog.

    ``not_in_ledger``: how many events are in a store, but not in the ledger: another producer has published them, or a publisher
    with another ledger. None without a ledger, and in a project, where only the events of the ledger are read.
    ``unconfirmed``: events of the ledger in no store whose publisher was killed or got no response, so that they may not have
    been published. ``unreadable``: objects under ``dlq/`` that are not dead letters or are damaged, so their content is unknown.
    ``differing``: ids of events that were written with different contents; the views show the last one.
    """

    ledger: str | None
    lines: tuple[TypeBalance, ...]
    waiting: Waiting | None
    missing: tuple[str, ...]
    incomplete: tuple[str, ...]
    doubled: tuple[str, ...]
    adds_up: bool
    not_in_ledger: int | None = None
    unconfirmed: int = 0
    unreadable: tuple[store.Unreadable, ...] = ()
    differing: tuple[str, ...] = ()


def reconcile(target: Target, ledger: Path | None = None, on_count: OnCount = lambda *_: None) -> Reconciliation:
    """Read every store, and check the equation for the events of ``ledger``. By default it uses the local stack's own ledger, if
    there is one; events that are not in that one are then checked without it.

    ``on_count`` gets the progress. Raises ConfigError for a ledger that can't be read, and the errors of the stores.
    """
    own = default_ledger(target)
    path = ledger or (own if own is not None and own.exists() else None)
    outcome = (
        _without_ledger(target, on_count) if path is None else _with_ledger(target, path, on_count, with_others=ledger is None)
    )
    return msgspec.structs.replace(outcome, differing=differing_ids(target))


def _with_ledger(target: Target, path: Path, on_count: OnCount, *, with_others: bool) -> Reconciliation:
    entries = read_ledger(path)
    on_count("events in the ledger", len(entries))
    waiting = count_waiting(target)
    unreadable: list[store.Unreadable] = []
    layout = layout_of(contracts_of(target.settings))
    shapes = _shapes(target, layout, entries, on_count)
    letters = _letters(target, on_count, unreadable)
    outcome = balance_by_id(entries, shapes, letters, waiting, layout)
    if target.settings.is_local:  # every event has been read
        # An event that was published since the ledger was read may already be written, and is in the ledger by now.
        others = {*shapes, *letters} - entries.keys() - read_ledger(path).keys()
        outcome = msgspec.structs.replace(outcome, not_in_ledger=len(others))
        if with_others:
            outcome = _with_others(target, outcome, others, shapes, letters, layout)
    adds_up = outcome.adds_up and not unreadable
    return msgspec.structs.replace(outcome, ledger=str(path), unreadable=tuple(unreadable), adds_up=adds_up)


def _with_others(
    target: Target,
    outcome: Reconciliation,
    others: set[str],
    shapes: Mapping[str, Shape],
    letters: Mapping[str, str],
    layout: Layout,
) -> Reconciliation:
    """``outcome`` with the faults of events that are not in the ledger. Those that were being written are read again after the
    backlog.
    """
    partial = {key for key in others - letters.keys() if type_of(shapes[key], layout) is None}
    if not partial:
        return balance_others(outcome, others, shapes, letters, outcome.waiting, layout)
    waiting = count_waiting(target)
    again = {key: shape for key, shape in _shapes(target, layout, partial, lambda *_: None).items() if key in partial}
    return balance_others(outcome, others, {**shapes, **again}, letters, waiting, layout)


def _without_ledger(target: Target, on_count: OnCount = lambda *_: None) -> Reconciliation:
    layout = layout_of(contracts_of(target.settings))
    amounts = {tuple(shape): int(amount) for *shape, amount in select(target, shapes_sql(layout, "COUNT(*)"))}
    odd = [shape for shape in amounts if type_of(shape, layout) is None]
    suspects = _ids_of(target, layout, odd)
    unreadable: list[store.Unreadable] = []
    letters = _letters(target, on_count, unreadable)
    # Read them again after the backlog: events that were being written are complete by now, or still in the backlog.
    waiting = count_waiting(target)
    shapes = _shapes(target, layout, {*suspects, *letters}, on_count)
    outcome = balance_places(amounts, shapes, suspects, letters, waiting, layout)
    return msgspec.structs.replace(outcome, unreadable=tuple(unreadable), adds_up=outcome.adds_up and not unreadable)


def check(outcome: Reconciliation, *, allow_waiting: bool = False, pipeline: Condition | None = None) -> None:
    """Raise ImbalanceError, with the first ids, if the equation does not hold; unless ``allow_waiting``, UnavailableError if it
    depends on the backlog. ``pipeline``: the condition of the pipeline that should empty it, if it is known.
    """
    if not outcome.adds_up:
        raise _imbalance(outcome)
    if allow_waiting or not (waiting := still_waiting(outcome)):
        return
    what = "1 event is" if waiting == 1 else f"{waiting:,} events are"
    trouble = pipeline.trouble if pipeline is not None else None
    raise UnavailableError(
        f"{what} still waiting in the subscription, so the equation is not complete. {trouble or ''}".rstrip(),
        "To wait for the pipeline, add: --wait 60. To exit with 0 nevertheless, add: --allow-waiting",
    )


def still_waiting(outcome: Reconciliation) -> int:
    """How many events the equation assumes to be in the backlog; without a ledger, all messages of the backlog."""
    if outcome.ledger is None:
        return outcome.waiting.messages if outcome.waiting is not None else 0
    return len(outcome.missing) + len(outcome.incomplete)


def _imbalance(outcome: Reconciliation) -> ImbalanceError:
    kinds = {"missing": outcome.missing, "incomplete": outcome.incomplete, "doubled": outcome.doubled}
    problems = [f"{len(ids):,} {kind}: {named(ids)}" for kind, ids in kinds.items() if ids]
    problems += [f"{one.object_name} is unreadable: {one.error}" for one in outcome.unreadable[:_NAMED]]
    remedy = "To list every id: ecomflow reconcile --json"
    if outcome.unreadable:
        remedy += "\nCheck the unreadable objects, and move them out of dlq/."
    return ImbalanceError(f"The published events do not match the stored ones. {'; '.join(problems)}.", remedy)


def named(ids: tuple[str, ...]) -> str:
    """The first of ``ids``."""
    return ", ".join(ids[:_NAMED]) + (", …" if len(ids) > _NAMED else "")


def balance_by_id(
    entries: Mapping[str, LedgerEntry],
    shapes: Mapping[str, Shape],
    letters: Mapping[str, str],
    waiting: Waiting | None,
    layout: Layout,
) -> Reconciliation:
    """The equation for the events of a ledger. ``letters``: the stream of each dead letter, by event id. Pure.

    An event that BigQuery accepted only partly counts as its dead letter. One that is stored and also in the backlog was
    delivered twice. An unconfirmed event counts as published if it is in any store.
    """
    known = {key: entry for key, entry in entries.items() if entry.message_id is not None or key in shapes or key in letters}
    unconfirmed, entries = len(entries) - len(known), known
    landed = {key for key, entry in entries.items() if _is_whole(shapes.get(key, ()), entry, layout)}
    refused = letters.keys() & entries.keys()
    open_ids = entries.keys() - landed - refused
    covered = len(open_ids) <= (waiting.messages if waiting else 0)
    incomplete = open_ids & shapes.keys()
    lines = []
    for name in dict.fromkeys((*layout.events, *(entry.event_type for entry in entries.values()))):
        published = {key for key, entry in entries.items() if entry.event_type == name}
        facts, dead, late = len(published & landed), len(published & refused), len(published & open_ids)
        adds_up = (covered or not late) and not published & landed & refused
        lines.append(TypeBalance(name, len(published), facts, dead, late if covered else 0, adds_up))
    return Reconciliation(
        None,
        tuple(lines),
        waiting,
        missing=_sorted(open_ids - incomplete),
        incomplete=_sorted(incomplete),
        doubled=_sorted(landed & refused),
        adds_up=covered and not landed & refused,
        unconfirmed=unconfirmed,
    )


def balance_others(
    outcome: Reconciliation,
    others: Set[str],
    shapes: Mapping[str, Shape],
    letters: Mapping[str, str],
    waiting: Waiting | None,
    layout: Layout,
) -> Reconciliation:
    """``outcome`` with the faults of ``others``, stored events that are not in its ledger: which of them are doubled, and which
    are incomplete, if these are more than wait. Pure.
    """
    whole = {key for key in others if type_of(shapes.get(key, ()), layout) is not None}
    doubled, incomplete = whole & letters.keys(), others - whole - letters.keys()
    if len(incomplete) <= (waiting.messages if waiting else 0):
        incomplete = set()
    types = {event for key in doubled | incomplete for event in types_in(shapes[key], layout)}
    return msgspec.structs.replace(
        outcome,
        lines=tuple(_without_sum(line) if line.event_type in types else line for line in outcome.lines),
        incomplete=_sorted({*outcome.incomplete, *incomplete}),
        doubled=_sorted({*outcome.doubled, *doubled}),
        adds_up=outcome.adds_up and not doubled and not incomplete,
    )


def _without_sum(line: TypeBalance) -> TypeBalance:
    return msgspec.structs.replace(line, adds_up=False)


def balance_places(
    amounts: Mapping[Shape, int],
    shapes: Mapping[str, Shape],
    suspects: Iterable[str],
    letters: Mapping[str, str],
    waiting: Waiting | None,
    layout: Layout,
) -> Reconciliation:
    """Compare the stores with each other, without a ledger. Pure.

    ``amounts``: the number of events of each shape; ``shapes``: of ``suspects``, which were incomplete, and of ``letters``.
    """
    facts: Counter[str | None] = Counter()
    for shape, amount in amounts.items():
        facts[type_of(shape, layout)] += amount
    dead = Counter(letters.values())
    incomplete = {key for key in suspects if key not in letters and type_of(shapes.get(key, ()), layout) is None}
    doubled = {key for key in letters if type_of(shapes.get(key, ()), layout) is not None}
    adds_up = not doubled and len(incomplete) <= (waiting.messages if waiting else 0)
    streams = dict.fromkeys((*layout.events, *sorted(dead), UNKNOWN_STREAM))
    lines = tuple(TypeBalance(name, None, facts[name], dead[name], None, None) for name in streams)
    return Reconciliation(None, lines, waiting, (), _sorted(incomplete), _sorted(doubled), adds_up)


def _is_whole(shape: Shape, entry: LedgerEntry, layout: Layout) -> bool:
    if entry.fault is not None:  # the rows of an event that should have been refused are not checked here
        return type_of(shape, layout) is not None
    return type_of(shape, layout, entry.lists) == entry.event_type


def _shapes(target: Target, layout: Layout, ids: Iterable[str], on_count: OnCount) -> dict[str, Shape]:
    """The shape of each event of ``ids`` that is in any table; on the local stack of all events, which is faster there."""
    wanted = "ARRAY_AGG(event_id)"
    if target.settings.is_local:
        answers = iter([select(target, shapes_sql(layout, wanted))])
    else:
        sql = shapes_sql(layout, wanted, inner="WHERE event_id IN UNNEST(@ids)")
        answers = (select(target, sql, ids=part) for part in parts(sorted(ids)))
    found: dict[str, Shape] = {}
    for rows in answers:
        found |= {key: tuple(shape) for *shape, keys in rows for key in keys}
        on_count("events in the tables", len(found))
    return found


def _ids_of(target: Target, layout: Layout, shapes: list[Shape]) -> set[str]:
    """The ids of all events with one of ``shapes``."""
    if not shapes:
        return set()
    having = " OR ".join("(" + " AND ".join(f"n{n} = {amount}" for n, amount in enumerate(shape)) + ")" for shape in shapes)
    rows = select(target, shapes_sql(layout, "ARRAY_AGG(event_id)", outer=f"WHERE {having}"))
    return {key for *_, keys in rows for key in keys}


def _letters(target: Target, on_count: OnCount, unreadable: list[store.Unreadable]) -> dict[str, str]:
    """The stream of every dead letter in the bucket, by the id that the event would have in the tables."""
    found: dict[str, str] = {}
    stored_letters = store.letters(target, unreadable=unreadable)
    for number, stored in enumerate(stored_letters, start=1):
        found[str(stored.letter.event_id or stored.letter.message_id)] = stored.stream
        if number % _LETTERS_A_REPORT == 0:
            on_count("dead letters", number)
    return found


def _sorted(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(ids))
