"""A field in; a maker of values that it takes, out. Deterministic: sources of randomness and ids are passed in."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from datetime import UTC, timedelta
from decimal import Context, Decimal
from functools import cache
from random import Random
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from msgspec import Raw

from ecomflow.contract.language import Field
from ecomflow.contract.numbers import INT64_MAX, INT64_MIN, NUMERIC_LIMIT, NUMERIC_SCALE, scaled
from ecomflow.contract.patterns import PatternError, text_maker
from ecomflow.contract.values import is_written_otherwise, type_fault, value_fault, written_fault
from ecomflow.errors import ConfigError
from ecomflow.generator.hints import hinted_values, new_values
from ecomflow.generator.ids import Ids, is_id
from ecomflow.generator.moments import Window, first_day, pick_moment, without_offset, written

Make = Callable[[], Any]
Fits = Callable[[Any], bool]

_DAY_SECONDS = 86_399.0
_TEXTS = 200
_MOST_TEXT = 1_000_000
_TRIES = 200
_SPREAD = 4
_USUAL_RANGE = 100
_DAYS = 365
_SHORT_TEXT = 5
_INT_DIGITS = 19
_LONG_TEXT = 10_000
# Of the numbers that may stand in strings, those that do.
_SHARE_OTHERWISE = 0.3
_EXACT = Context(prec=80)
_WORDS = (
    *("amber", "blue", "bright", "calm", "clear", "copper", "early", "fresh", "golden", "green", "grey", "large", "light"),
    *("linen", "little", "loud", "maple", "new", "north", "oak", "open", "plain", "quiet", "red", "round", "silver", "small"),
    *("soft", "south", "steel", "sweet", "warm", "white", "wide", "wild", "winter", "wooden", "woollen", "yellow", "young"),
)
_JSON = (
    {"source": "web"},
    {"source": "app", "score": 0.5, "tags": ["new", "gift"]},
    ["a", 1, None],
    {"nested": {"level": 2, "is_last": True}},
    "text",
    17,
    False,
)


class Sources(NamedTuple):
    """What values are drawn from. ``seed`` is of the run, for the sources that a value makes for itself."""

    random: Random
    ids: Ids
    window: Window
    seed: str


def value_maker(field: Field, path: str, sources: Sources, *, is_time: bool, is_own_id: bool) -> Make:
    """Makes values of ``field``, a scalar. ``path`` names it in an error; the event's time is in the window, and its own id new.

    Raises ConfigError where no value can be made.
    """
    if field.fake is not None and not is_time:
        if is_own_id:
            return new_values(field, path, fits(field), sources.seed)
        return _one_of(hinted_values(field, path, fits(field)), sources.random)
    if is_own_id:
        sources = sources._replace(random=Random(f"{sources.seed} {path}"))
    if field.pattern is not None and not field.values:
        make = _matching(field, path, sources.random)
        return make if is_own_id else _one_of([make() for _ in range(_TEXTS)], sources.random)
    if (is_own_id or is_id(field.name)) and field.type in ("string", "integer") and not field.values:
        return _id_maker(field, path, sources, is_own_id)
    return _MAKERS[field.type](field, path, sources)


@cache
def fits(field: Field) -> Fits:
    """Whether ``field`` takes a value, as it stands in a parsed document. Not for JSON, which is raw where it is judged."""
    faults = [one for one in (written_fault(field, optional=False), value_fault(field, optional=False)) if one is not None]
    of_type = None if field.type in ("numeric", "timestamp") or is_written_otherwise(field) else type_fault(field)

    def takes(value: Any) -> bool:
        value = Decimal(repr(value)) if isinstance(value, float) else value
        return not any(fault(value) for fault in faults) and (of_type is None or of_type(value) is None)

    return takes


def _one_of(values: Sequence[Any], random: Random) -> Make:
    count, draw = len(values), random.random
    return lambda: values[int(draw() * count)]


def _id_maker(field: Field, path: str, sources: Sources, is_own_id: bool) -> Make:
    is_text = field.type == "string" and field.written_as != "number"
    takes = fits(field)
    ids = sources.ids
    make = (
        ids.new(field.name, is_text) if is_own_id else ids.known(field.name, is_text, sources.random, _as_written(field, takes))
    )
    other = _MAKERS[field.type](field, path, sources)
    if make is None:
        return other

    def made() -> Any:
        value = make()
        value = str(value) if field.written_as == "string" else value
        return value if takes(value) else other()

    return made


def _as_written(field: Field, takes: Fits) -> Fits:
    return (lambda value: takes(str(value))) if field.written_as == "string" else takes


def _string(field: Field, path: str, sources: Sources) -> Make:
    if field.values:
        return _one_of(field.values, sources.random)
    least, most = field.min_length, field.max_length
    if least > _MOST_TEXT:
        raise ConfigError(f"{path}: no event has a text of {least} characters.", "Correct min_length.")
    numbers = _digits(max(least, 1), most, sources.random)
    if field.written_as == "number":
        return numbers
    count = _TEXTS if least < _LONG_TEXT else 1
    texts = _one_of([_text(sources.random, least, most) for _ in range(count)], sources.random)
    if field.written_as == "string":
        return texts
    return lambda: numbers() if sources.random.random() < _SHARE_OTHERWISE else texts()


def _text(random: Random, least: int, most: int | None) -> str:
    """A few words, cut or repeated to its length."""
    if most is not None and most < _SHORT_TEXT:
        return "".join(random.choices(string.ascii_lowercase, k=most))
    text = f"{random.choice(_WORDS)} {random.choice(_WORDS)}"
    while len(text) < least:
        text = f"{text} {text}"
    return text[: least if len(text) > 2 * least > 2 * _SHORT_TEXT else most].strip().ljust(least, ".")


def _digits(least: int, most: int | None, random: Random) -> Make:
    """Whole numbers of so many digits."""
    longest = max(least, 6) if most is None else min(most, max(least, 6))

    def make() -> Any:
        count = random.randint(least, longest)
        return Raw(b"%d" % random.randrange(10 ** (count - 1), 10**count))

    return make


def _matching(field: Field, path: str, random: Random) -> Make:
    """Texts of the field's pattern, each looked at by the field's own rules; the number that it says, where that is meant."""
    takes = fits(field)
    makes_number = field.written_as == "number"
    try:
        text = text_maker(str(field.pattern))
    except PatternError as error:
        raise _unmatched(field, path, str(error)) from error

    def make() -> Any:
        why = "none of the texts tried is one"
        for attempt in range(_TRIES):
            try:
                value: Any = text(random, _SPREAD + attempt // 10 * (attempt + field.min_length))
            except PatternError as error:
                why = str(error)
                continue
            value = int(value) if makes_number and value.isascii() and value.isdecimal() and len(value) < _INT_DIGITS else value
            if takes(value):
                return value
        raise _unmatched(field, path, why)

    return make


def _unmatched(field: Field, path: str, why: str) -> ConfigError:
    return ConfigError(
        f"{path}: no text that matches {field.pattern} could be made: {why}.",
        f'Name a provider of Faker whose values match it, as {field.name} = {{ fake = "bothify", ... }}.',
    )


def _integer(field: Field, _: str, sources: Sources) -> Make:
    low, high = _range(field, INT64_MIN, INT64_MAX, 1)
    return _as_text(_between(int(low), int(high), sources.random), field, sources.random)


def _range(field: Field, lowest: int, highest: int, usual: int) -> tuple[Decimal, Decimal]:
    """The bounds of ``field``; where it has none, those of usual numbers."""
    low = None if field.min is None else Decimal(field.min)
    high = None if field.max is None else Decimal(field.max)
    if low is None:
        low = Decimal(usual) if high is None or high >= usual else max(_EXACT.subtract(high, _USUAL_RANGE), Decimal(lowest))
    if high is None:
        high = min(_EXACT.add(low, _USUAL_RANGE), Decimal(highest))
    return low, high


def _between(low: int, high: int, random: Random) -> Callable[[], int]:
    """Whole numbers from ``low`` to ``high``, the small ones oftener."""
    span, draw = high - low + 1, random.random
    return lambda: min(low + int(draw() ** 2 * span), high)


def _as_text(make: Make, field: Field, random: Random) -> Make:
    """The same numbers, in strings where they are written so, or now and then where they may be."""
    if field.written_as == "number":
        return make
    if field.written_as == "string":
        return lambda: str(make())
    return lambda: str(make()) if random.random() < _SHARE_OTHERWISE else make()


def _numeric(field: Field, _: str, sources: Sources) -> Make:
    """Two decimal places, as money has them; more where the bounds leave no such number."""
    low, high = map(scaled, _range(field, 1 - NUMERIC_LIMIT, NUMERIC_LIMIT - 1, 0))
    for scale in range(2, NUMERIC_SCALE + 1):
        step = 10 ** (NUMERIC_SCALE - scale)
        least, most = -(-low // step), high // step
        if least <= most:
            break
    least = 1 if field.min is None and least == 0 < most else least
    units = _between(least, most, sources.random)
    return _as_text(lambda: Decimal(f"{units()}e-{scale}"), field, sources.random)


def _float(field: Field, _: str, sources: Sources) -> Make:
    low, high = (float(bound) for bound in _range(field, -(10**29), 10**29, 0))
    draw = sources.random.random
    return lambda: min(max(round(low + draw() * (high - low), 3), low), high)


def _boolean(_: Field, __: str, sources: Sources) -> Make:
    draw = sources.random.random
    return lambda: draw() < 0.5


def _date(_: Field, __: str, sources: Sources) -> Make:
    last = first_day(sources.window).date()
    return _one_of([str(last - timedelta(days=days)) for days in range(_DAYS)], sources.random)


def _timestamp(field: Field, _: str, sources: Sources) -> Make:
    random, first, days = sources.random, first_day(sources.window), sources.window.days
    if field.without_offset == "refuse":
        return lambda: written(pick_moment(random, first, days, _DAY_SECONDS), random)
    zone = UTC if field.without_offset == "UTC" else ZoneInfo(field.without_offset)

    def make() -> str:
        moment = pick_moment(random, first, days, _DAY_SECONDS)
        return without_offset(moment, zone) if random.random() < 0.5 else written(moment, random)

    return make


def _ip_address(_: Field, __: str, sources: Sources) -> Make:
    """Of the blocks that are kept for documentation (RFC 5737, RFC 3849)."""
    random = sources.random
    blocks = ("192.0.2.", "198.51.100.", "203.0.113.", "2001:db8::")

    def make() -> str:
        block = blocks[int(random.random() * len(blocks))]
        number = 1 + int(random.random() * 254)
        return f"{block}{number:x}" if block[-1] == ":" else f"{block}{number}"

    return make


_MAKERS: dict[str, Callable[[Field, str, Sources], Make]] = {
    "string": _string,
    "integer": _integer,
    "numeric": _numeric,
    "float": _float,
    "boolean": _boolean,
    "date": _date,
    "timestamp": _timestamp,
    "ip_address": _ip_address,
    "json": lambda _, __, sources: _one_of(_JSON, sources.random),
}
