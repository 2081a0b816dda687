"""Every reason that a contract gives for refusing an event: what was expected where, and the value that was found."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from ecomflow.contract.codec import Codec
from ecomflow.contract.dead_letter import path_and_rule
from ecomflow.contract.encodings import encoding_of
from ecomflow.contract.events import Message
from ecomflow.contract.reasons import one_of, shown
from tests.support.compiled import compiled, contract_of, only_letter
from tests.support.contract import message, number

CONTRACT = r"""
[fields]
at = "timestamp"
text = { type = "string", optional = true }
required = { type = "string", optional = true, min_length = 1 }
length = { type = "string", optional = true, min_length = 2, max_length = 4 }
pattern = { type = "string", optional = true, pattern = "[A-Z]{2}" }
kind = { type = "string", optional = true, values = ["a", "b"] }
digits = { type = "string", optional = true, written_as = "number" }
either = { type = "string", optional = true, written_as = "number or string" }
whole = { type = "integer", optional = true, min = 1, max = 9 }
text_whole = { type = "integer", optional = true, min = 1, max = 9, written_as = "string" }
money = { type = "numeric", optional = true, min = 0, max = 9 }
text_money = { type = "numeric", optional = true, written_as = "string" }
real = { type = "float", optional = true, min = 0, max = 9 }
flag = { type = "boolean", optional = true }
day = { type = "date", optional = true }
moment = { type = "timestamp", optional = true, without_offset = "UTC" }
address = { type = "ip_address", optional = true }
nested = { type = "record", of = "inner", optional = true }
lines = { type = "list", of = "inner", optional = true, min_items = 1, max_items = 2 }
spaced = { type = "integer", optional = true, path = ["a b: c"] }

[records.inner]
count = "integer"

[[rules]]
check = "whole <= money"

[[tables]]
name = "fact_refund"
[[tables]]
name = "fact_refund_line"
each = "lines"
columns = ["lines.count"]
"""
AT = "2025-12-01T10:15:30Z"
LONG = "é\n\u202e" * 100
CUT = r"é\n\u202e" * 6 + "é\\"
# Of each field: a value that is refused, and what its reason says.
REFUSED: list[tuple[str, Any, str]] = [
    ("at", 5, "$.at: expected RFC 3339 date-time with an offset or Z, got 5"),
    ("at", "2025-12-01", "$.at: expected RFC 3339 date-time with an offset or Z, got '2025-12-01'"),
    ("at", "2025-12-01T10:15:30", "$.at: expected RFC 3339 date-time with an offset or Z, got '2025-12-01T10:15:30'"),
    (
        "at",
        "2025-12-31T23:59:60Z",
        "$.at: expected a second from 0 to 59, for a TIMESTAMP has no leap seconds, got '2025-12-31T23:59:60Z'",
    ),
    (
        "at",
        "9999-12-31T23:59:59.999999999Z",
        "$.at: expected a UTC date from 2015-12-10 to 2026-12-10, got '9999-12-31T23:59:59.999999999Z'",
    ),
    ("at", "9999-12-31T23:59:59-01:00", "$.at: expected a UTC date of the years 1 to 9999, got '9999-12-31T23:59:59-01:00'"),
    ("moment", "now", "$.moment: expected RFC 3339 date-time, without an offset one in UTC, got 'now'"),
    ("text", 1.5, "$.text: expected str | null, got 1.5"),
    ("text", True, "$.text: expected str | null, got true"),
    ("text", {"a": 1}, "$.text: expected str | null, got object"),
    ("required", "", "$.required: expected str of length >= 1, got ''"),
    ("length", "a", "$.length: expected str of length >= 2, got 'a'"),
    ("length", "abcde", "$.length: expected str of length <= 4, got 'abcde'"),
    (
        "length",
        LONG,
        f"$.length: expected str of length <= 4, got '{CUT}... (300 characters)",
    ),
    ("pattern", "ab\x1b[2J", r"$.pattern: expected str that matches [A-Z]{2}, got 'ab\x1b[2J'"),
    ("kind", "c", "$.kind: expected one of a, b, got 'c'"),
    ("kind", 1, "$.kind: expected one of a, b, got 1"),
    ("digits", "5", "$.digits: expected int, got '5'"),
    ("digits", 1.5, "$.digits: expected int, got 1.5"),
    ("either", False, "$.either: expected int or str, got false"),
    ("whole", 0, "$.whole: expected int >= 1, got 0"),
    ("whole", 10, "$.whole: expected int <= 9, got 10"),
    ("whole", "5", "$.whole: expected int | null, got '5'"),
    ("whole", number("1" * 5000), f"$.whole: expected int <= 9, got {'1' * 57}..."),
    ("text_whole", "0", "$.text_whole: expected int in a string, >= 1, got '0'"),
    ("text_whole", 5, "$.text_whole: expected int in a string, got 5"),
    ("money", -1, "$.money: expected number >= 0 and <= 9 with at most 29 integer and 9 decimal digits, got -1"),
    (
        "money",
        number("0." + "1" * 90),
        f"$.money: expected number >= 0 and <= 9 with at most 29 integer and 9 decimal digits, got 0.{'1' * 55}...",
    ),
    ("text_money", "x", "$.text_money: expected number in a string, got 'x'"),
    ("real", 9.5, "$.real: expected float <= 9, got 9.5"),
    ("real", number("1e400"), "$.real: expected a float of 64 bits, got 1E+400"),
    ("flag", "true", "$.flag: expected bool | null, got 'true'"),
    ("day", "2025-02-30", "$.day: expected RFC 3339 date | null, got '2025-02-30'"),
    ("address", "::1%eth0", "$.address: expected IPv4 or IPv6 address, got '::1%eth0'"),
    ("nested", [], "$.nested: expected object | null, got an empty array"),
    ("nested", {}, "$.nested.count: required, but missing"),
    ("nested", {"count": None}, "$.nested.count: expected int, got null"),
    ("lines", {}, "$.lines: expected array | null, got object"),
    ("lines", [], "$.lines: expected array of length >= 1, got length 0"),
    ("lines", [{"count": 1}] * 3, "$.lines: expected array of length <= 2, got length 3"),
    ("lines", [{"count": 1}, {"count": "x"}], "$.lines[1].count: expected int, got 'x'"),
    ("a b: c", "x", "$.a b: c: expected int | null, got 'x'"),
]
# What a value of any JSON type is called where it is personal.
TYPES: list[tuple[Any, str]] = [
    ("jane@example.com", "a string that is personal and not shown"),
    (555_0100, "a number that is personal and not shown"),
    (number("1e400"), "a number that is personal and not shown"),
    (True, "a boolean that is personal and not shown"),
    (["jane"], "array"),
    ({"name": "jane"}, "object"),
]


def refund(**changes: Any) -> Message:
    return message({"event_type": "refund", "at": AT, **changes})


def error_of(contract: str, sent: Message) -> str:
    return str(only_letter(compiled([sent], contracts=[contract_of(contract)])).error)


@pytest.mark.parametrize(("key", "value", "error"), REFUSED, ids=[f"{key}-{n}" for n, (key, *_) in enumerate(REFUSED)])
def test_every_reason_has_the_value_that_was_found(key: str, value: Any, error: str) -> None:
    """On one line, cut short and escaped, whether types, lengths, bounds, patterns, moments or lists refuse it."""
    said = error_of(CONTRACT, refund(**{key: value}))
    assert said == error
    assert said.isprintable()
    path, rule = path_and_rule(said)
    assert path.split("[")[0].startswith(f"$.{key}")
    assert rule.startswith(("expected ", "required, "))


def test_a_rule_says_both_sides() -> None:
    """As exact numbers."""
    assert error_of(CONTRACT, refund(whole=9, money=number("8.50"))) == "$.whole: expected whole <= money, got 9 and 8.50"


def personal(name: str, spec: str) -> str:
    return f'[fields]\nat = "timestamp"\n{name} = {{ {spec}, optional = true, personal = true }}\n'


PERSONAL: list[str] = [
    'type = "string", max_length = 3',
    'type = "string", pattern = "x"',
    'type = "string", values = ["x"]',
    'type = "string", written_as = "number", max_length = 1',
    'type = "integer", max = 3',
    'type = "numeric", max = 3',
    'type = "numeric", written_as = "string"',
    'type = "float", max = 3',
    'type = "date"',
    'type = "timestamp"',
    'type = "ip_address"',
]


@pytest.mark.parametrize("spec", PERSONAL)
@pytest.mark.parametrize(("value", "said"), TYPES)
def test_a_personal_value_is_never_shown(spec: str, value: Any, said: str) -> None:
    """Only its JSON type, whatever the field is and whichever rule refuses it."""
    found = compiled([refund(x=value)], contracts=[contract_of(personal("x", spec))])
    for letter in found.letters:
        assert letter.error.endswith(f", got {said}")


def test_what_is_in_a_personal_record_is_personal() -> None:
    """A record that is marked needs no mark on each of its fields."""
    contract = """
[fields]
at = "timestamp"
who = { type = "record", of = "person", personal = true }

[records.person]
age = { type = "integer", max = 3 }
home = { type = "record", of = "place" }

[records.place]
zip = { type = "string", max_length = 2 }
"""
    good = {"age": 1, "home": {"zip": "7"}}
    old = error_of(contract, refund(who={**good, "age": 42}))
    assert old == "$.who.age: expected int <= 3, got a number that is personal and not shown"
    far = error_of(contract, refund(who={**good, "home": {"zip": "75001"}}))
    assert far == "$.who.home.zip: expected str of length <= 2, got a string that is personal and not shown"


class TestNames:
    """Keys that the contract does not name, which a producer chooses."""

    @pytest.mark.parametrize(
        ("key", "path"),
        [
            ("new", "$.new"),
            ("a b: c", "$.a b: c"),
            ("x" * 1000, f"$.{'x' * 64}"),
            ("\x1b[2J\n\u202e", r"$.\x1b[2J\n\u202e"),
        ],
    )
    def test_they_are_cut_and_escaped_in_the_path(self, key: str, path: str) -> None:
        """The path is found again in the error, also where the key has blanks and colons."""
        contract = 'unknown_fields = "refuse"\n[fields]\nat = "timestamp"\n'
        said = error_of(contract, refund(**{key: "secret"}))
        assert said == f"{path}: expected no field that the contract does not name, got a string"
        assert path_and_rule(said)[0] == path

    def test_a_kept_field_is_counted_under_the_same_path(self) -> None:
        """Counters and logs show such a name as the error would."""
        codec = Codec([contract_of('[fields]\nat = "timestamp"\n')])
        for _ in range(2):  # read as unknown first, then as learned
            drift = codec.decode([refund(**{"\x07": 1, "new\u202e": 1})], datetime.now(UTC)).drift
            assert {path for _, path in drift} == {r"$.\x07", r"$.new\u202e"}


ENCODED: list[tuple[Callable[[str], bytes], str]] = [
    (lambda text: text.encode("utf-8-sig"), "UTF-8 with a byte order mark"),
    (lambda text: text.encode("utf-16"), "UTF-16"),
    (lambda text: b"\xfe\xff" + text.encode("utf-16-be"), "UTF-16"),
    (lambda text: text.encode("utf-16-le"), "UTF-16 without a byte order mark"),
    (lambda text: text.encode("utf-16-be"), "UTF-16 without a byte order mark"),
    (lambda text: text.encode("utf-32"), "UTF-32"),
    (lambda text: text.encode("utf-32-le"), "UTF-32 without a byte order mark"),
    (lambda text: text.encode("utf-32-be"), "UTF-32 without a byte order mark"),
    (lambda text: gzip.compress(text.encode()), "data compressed with gzip"),
    (lambda _: b"\x28\xb5\x2f\xfd\x04\x00", "data compressed with zstd"),
    (lambda _: b"PK\x03\x04\x14\x00", "a ZIP archive"),
    (lambda _: b"Obj\x01\x04\x16avro", "an Avro file"),
    (lambda _: b"PAR1\x15\x04", "a Parquet file"),
    (lambda _: b"", "nothing"),
    (lambda _: b" \n", "nothing"),
]


@pytest.mark.parametrize(("encode", "name"), ENCODED, ids=[f"{name} {n}" for n, (_, name) in enumerate(ENCODED)])
def test_what_is_no_utf_8_is_named(encode: Callable[[str], bytes], name: str) -> None:
    """In the data of a message, and in the base64 of an envelope."""
    data = encode(json.dumps({"event_type": "refund", "at": AT}))
    codec = Codec([contract_of('[fields]\nat = "timestamp"\n')])
    letter = only_letter(compiled([Message(data, {}, "M-1", 0)], codec))
    assert (letter.reason, letter.error) == ("malformed_json", f"$: expected a JSON object in UTF-8, got {name}")


@pytest.mark.parametrize("data", [b"{}", b'{"a":"\xc3\xa9"}', b"", b"7", b"[1]", b"\xff", b"\x00", b"a\x00b\x00"[:3]])
def test_nothing_else_is_named(data: bytes) -> None:
    """JSON in UTF-8, or bytes of no known kind."""
    assert encoding_of(data) is None


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"[]", "an empty array"),
        (b"[{}]", "array"),
        (b"null", "null"),
        (b"true", "true"),
        (b"7.50", "7.50"),
        (b'"jane@example.com"', "a string"),
        (b'"{\\"event_type\\":\\"refund\\"}"', "a string that holds one"),
    ],
)
def test_a_document_that_is_no_object(data: bytes, found: str) -> None:
    """A text may hold anything of the event, so it is not shown; that it holds JSON is said, for producers do that."""
    assert error_of('[fields]\nat = "timestamp"\n', Message(data, {}, "M-1", 0)) == f"$: expected an object, got {found}"


def test_many_options_are_counted() -> None:
    """An enumeration of a thousand values does not make an error of a thousand."""
    assert one_of([str(n) for n in range(22)]) == f"one of {', '.join(map(str, range(20)))} and 2 more"
    assert one_of(["a", "b"]) == "one of a, b"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (msgspec.Raw(b'{"a": 1}'), "'{\"a\": 1}'"),
        ("x" * 58, repr("x" * 58)),
        ("x" * 59, f"'{'x' * 56}... (59 characters)"),
        ("x" * 12_345, f"'{'x' * 56}... (12,345 characters)"),
    ],
)
def test_a_value_is_cut_at_sixty_characters(value: Any, text: str) -> None:
    """And says how long it was."""
    assert shown(value) == text
