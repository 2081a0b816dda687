"""Proves the promise: published = events in the fact tables + dead letters + still waiting. Each place is asked for itself.

Fact tables are seen through their ``_unique`` views, dead letters in the bucket, what waits in the subscription, and what was
published in the publisher's ledger. With a ledger every event is followed by its id. Without one the places are held against each
other: an order without its items, or an event that both landed and was refused, is found all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from ecomflow import deadletters
from ecomflow.answers import select
from ecomflow.backlog import count_waiting
from ecomflow.config import Endpoints, Settings
from ecomflow.errors import ConfigError, ImbalanceError
from ecomflow.facts import STREAM_TABLES
from ecomflow.generator.publisher import LedgerEntry
from ecomflow.rejected import EVENT_STREAMS, STREAMS, stream_of

_IDS_PER_QUERY = 5_000
_NAMED = 20  # how many ids an error names


class Line(msgspec.Struct, frozen=True):
    """One event type of the equation, in events, each counted once. ``published`` None: there is no ledger."""

    event_type: str
    published: int | None
    facts: int
    dead_letters: int


class Reconciliation(msgspec.Struct, frozen=True):
    """The whole equation. ``waiting`` counts messages of all types; None where the service does not tell.

    ``missing``: in the ledger, but nowhere; ``incomplete``: in some of its tables, or with other than its rows; ``doubled``: both
    a fact and a dead letter. All by event id.
    """

    lines: tuple[Line, ...]
    waiting: int | None
    missing: tuple[str, ...]
    incomplete: tuple[str, ...]
    doubled: tuple[str, ...]

    @property
    def adds_up(self) -> bool:
        """Whether every event is in one place, those that still wait aside."""
        return not self.incomplete and not self.doubled and len(self.missing) <= (self.waiting or 0)


# Rows by event id, of one table.
Rows = Mapping[str, int]


def reconcile(settings: Settings, endpoints: Endpoints, ledger: Path | None) -> Reconciliation:
    """Ask every place, and do the sum. Raises ConfigError for a ledger that can't be read, and what the places raise."""
    waiting = count_waiting(settings, endpoints)  # first: what lands meanwhile is then counted as waiting, never as missing
    entries = read_ledger(ledger) if ledger is not None else None
    ids = None if entries is None else sorted({_key(entry) for entry in entries})
    rows = {table: _rows_by_id(settings, endpoints, table, ids) for tables in STREAM_TABLES.values() for table in tables}
    letters = _letters_by_id(settings, endpoints)
    return balance_by_id(entries, rows, letters, waiting)


def check(outcome: Reconciliation) -> None:
    """Raise ImbalanceError, with the first ids, where the equation does not hold."""
    if outcome.adds_up:
        return
    kinds = (("missing", outcome.missing), ("incomplete", outcome.incomplete), ("doubled", outcome.doubled))
    told = "; ".join(f"{len(ids)} {kind}: {', '.join(ids[:_NAMED])}" for kind, ids in kinds if ids)
    raise ImbalanceError(f"What was published is not what landed. {told}", "Every id: ecomflow reconcile --json")


def read_ledger(path: Path) -> list[LedgerEntry]:
    """The entries of a publisher's ledger."""
    try:
        return [msgspec.json.decode(line, type=LedgerEntry) for line in path.read_bytes().splitlines()]
    except OSError as error:
        raise ConfigError(f"The ledger {path} can't be read: {error.strerror}.", "Name another with --ledger.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no ledger: {error}.", "Name one that ecomflow publish --ledger wrote.") from error


def balance_by_id(
    entries: Sequence[LedgerEntry] | None, rows: Mapping[str, Rows], letters: Mapping[str, str], waiting: int | None
) -> Reconciliation:
    """The equation from what each place holds. ``letters``: the stream of each dead letter, by event id. Pure."""
    items = None if entries is None else {_key(entry): entry.items for entry in entries if entry.fault is None}
    incomplete = sorted(_incomplete(rows, items))
    landed = {event_type: set(rows[tables[0]]) for event_type, tables in STREAM_TABLES.items()}
    doubled = sorted(set(letters) & set().union(*landed.values()))
    if entries is None:
        lines = [_line(name, None, landed.get(name, set()), {key for key in letters if letters[key] == name}) for name in STREAMS]
        return Reconciliation(tuple(lines), waiting, (), tuple(incomplete), tuple(doubled))
    slots = {_key(entry): entry.event_type for entry in entries}
    published = {name: {key for key, slot in slots.items() if slot == name} for name in EVENT_STREAMS}
    lines = [_line(name, ids, landed[name] & ids, ids & set(letters)) for name, ids in published.items()]
    missing = sorted(set(slots) - set(letters) - set().union(*landed.values()))
    return Reconciliation(tuple(lines), waiting, tuple(missing), tuple(incomplete), tuple(doubled))


def _line(event_type: str, published: set[str] | None, facts: set[str], letters: set[str]) -> Line:
    return Line(event_type, None if published is None else len(published), len(facts), len(letters))


def _incomplete(rows: Mapping[str, Rows], items: Mapping[str, int] | None) -> set[str]:
    """Ids with other rows than an event makes: one in the first table of its type, one an item in an order's others."""
    header, *lines = STREAM_TABLES["order"]
    wrong = {key for tables in STREAM_TABLES.values() for key, count in rows[tables[0]].items() if count != 1}
    for table in lines:
        for key in {*rows[header], *rows[table]}:
            expected = rows[lines[0]].get(key, 0) if items is None else items.get(key, 0)
            if key not in rows[header] or rows[table].get(key, 0) != expected or expected == 0:
                wrong.add(key)
    return wrong


def _rows_by_id(settings: Settings, endpoints: Endpoints, table: str, ids: list[str] | None) -> Rows:
    select_all = f"SELECT event_id, COUNT(*) FROM ecomflow.{table}_unique"  # noqa: S608  # a table's name of ours
    if ids is None:
        return dict(select(settings, endpoints, f"{select_all} GROUP BY event_id"))
    found: dict[str, int] = {}
    for part in _parts(ids):
        found.update(select(settings, endpoints, f"{select_all} WHERE event_id IN UNNEST(@ids) GROUP BY event_id", ids=part))
    return found


def _letters_by_id(settings: Settings, endpoints: Endpoints) -> dict[str, str]:
    letters = (stored.letter for stored in deadletters.every(settings, endpoints))
    return {str(letter.event_id or letter.message_id): stream_of(letter) for letter in letters}


def _parts(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _IDS_PER_QUERY):
        yield ids[start : start + _IDS_PER_QUERY]


def _key(entry: LedgerEntry) -> str:
    return entry.event_id or entry.message_id
