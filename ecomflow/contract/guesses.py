"""The name of a field in; what it probably is, out. Pure.

Guesses for a draft that a person reads next: each one is told. English names, in any of the usual spellings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from ecomflow.contract.reading_fields import MAX_NAME, is_name

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

_MONEY = {"price", "amount", "total", "subtotal", "cost", "tax", "discount", "fee", "fees", "sum", "balance", "paid", "charge"}
_NO_MONEY = {"count", "items", "quantity", "qty", "number", "weight", "grams", "units", "id", "code", "rate", "percent"}
_COUNTS = {"quantity", "qty", "count"}
_IDS = {"id", "uuid", "guid", "sku"}
# Things whose ids queries filter by.
_THINGS = {"customer", "user", "order", "product", "account", "session", "store", "shop", "merchant", "sku", "variant"}

_PEOPLE = {"customer", "user", "buyer", "recipient", "contact", "person", "client", "address", "shopper", "member", "employee"}
_PERSONAL = {"email", "mail", "phone", "telephone", "mobile", "fax", "ip", "iban", "ssn", "password", "birthday", "birthdate"}
_PERSONAL |= {"username", "firstname", "lastname", "surname", "dob", "street", "zip", "postcode", "passport"}
_PERSONAL_PAIRS = {("first", "name"), ("last", "name"), ("full", "name"), ("user", "name"), ("user", "agent"), ("postal", "code")}
_PERSONAL_PAIRS |= {
    ("address", "line"),
    ("address", "1"),
    ("address", "2"),
    ("birth", "date"),
    ("date", "birth"),
    ("card", "number"),
}
_PERSONAL_PAIRS |= {(one, "name") for one in _PEOPLE}
_PLACES = {"latitude", "longitude", "lat", "lng", "lon"}
# Of these a switch, a number or a kind is no one's own.
_IMPERSONAL = {"id", "type", "verified", "consent", "count", "status", "accepts", "at", "marketing", "opt", "enabled", "domain"}

_NO_VALUES = {"name", "title", "description", "comment", "note", "text", "message", "url", "uri", "path", "currency", "country"}
_NO_VALUES |= {"city", "region", "province", "state", "locale", "language", "code", "version", "token", "brand", "vendor", "tags"}

_TIMES: tuple[str, ...] = (
    r"(event_)?(timestamp|time|datetime|ts)|occurred_(at|on)|happened_(at|on)|event_date",
    r"{event}(e?d)?_?(at|on|date|time|timestamp|datetime)",
    r"(created|placed|processed|sent|received|published|emitted|recorded|logged)(_(at|on|date|time))?|creation_(date|time)|date",
    r"(updated|modified|changed)(_(at|on|date|time))?",
    r".*_(at|on|date|time|timestamp)",
    r".*",
)
_LATER = re.compile(
    r"(^|_)(due|expires?|expiry|expiration|birth|delivery|scheduled|closed|cancelled|canceled|until|valid|end)(_|$)"
)


def words_of(name: str) -> list[str]:
    """``shippingAddress2`` in words of lower case: shipping, address, 2."""
    return [word.lower() for word in _WORD.findall(name)]


def snake_case(name: str) -> str:
    """A name of letters, digits and _ for any text; ``field`` where it has none."""
    made = "_".join(words_of(name)) or "field"
    return (f"_{made}" if made[0].isdigit() else made)[:MAX_NAME]


def field_name(key: str) -> str:
    """``key`` itself where it can be a name; else what is nearest: ``$type`` is type, ``kebab-case`` kebab_case."""
    if is_name(key):
        return key
    made = re.sub(r"[^A-Za-z0-9_]+", "_", key, flags=re.ASCII).strip("_") or "field"
    return (f"_{made}" if made[0].isdigit() else made)[:MAX_NAME]


def singular(name: str) -> str:
    """Of the name of a list that of one of its elements: line_items is line_item."""
    head, last = (name[: -len(found)], found) if (found := name.rpartition("_")[2]) else ("", name)
    for ending, one in (("ies", "y"), ("sses", "ss"), ("uses", "us"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("ss", "ss")):
        if last.endswith(ending) and len(last) > len(ending):
            return head + last[: -len(ending)] + one
    return head + (last[:-1] if last.endswith("s") and not last.endswith("us") and len(last) > 1 else last)


def is_money(name: str) -> bool:
    words = {*words_of(name)}
    return bool(words & _MONEY) and not words & _NO_MONEY


def is_count(name: str) -> bool:
    return bool({*words_of(name)} & _COUNTS)


def is_version(name: str) -> bool:
    return "version" in words_of(name)


def is_id(name: str) -> bool:
    return bool(words_of(name)) and words_of(name)[-1] in _IDS


def is_of_interest(name: str) -> bool:
    """Whether such an id is one that queries often filter by."""
    words = words_of(name)
    return len(words) <= 2 and bool({*words} & _THINGS)


def is_personal_name(name: str, parents: Sequence[str]) -> bool:
    """Whether the values of such a field are probably about a person. ``parents`` are the keys of the objects that it is in."""
    words = words_of(name)
    if {*words} & _IMPERSONAL:
        return False
    around = {singular(word) for parent in parents for word in words_of(parent)}
    pairs = {*pairwise(words)}
    if {*words} & _PERSONAL or pairs & _PERSONAL_PAIRS or words in (["address"], ["shipping", "address"], ["billing", "address"]):
        return True
    return (words == ["name"] and (not parents or bool(around & _PEOPLE))) or bool({*words} & _PLACES and "address" in around)


def may_be_enumeration(name: str) -> bool:
    """Whether few values of such a field are probably all that there are."""
    return not {*words_of(name)} & _NO_VALUES and not is_id(name)


def time_rank(name: str, event: str) -> tuple[bool, int]:
    """The lower, the more it sounds like the time at which the event happened."""
    text, of_event = "_".join(words_of(name)), re.escape("_".join(words_of(event)))
    patterns = (pattern.replace("{event}", of_event) for pattern in _TIMES)
    rank = next(index for index, pattern in enumerate(patterns) if re.fullmatch(pattern, text))
    return _LATER.search(text) is not None, rank
