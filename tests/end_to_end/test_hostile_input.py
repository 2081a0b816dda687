"""Whatever bytes a producer sends: rows or a dead letter that gives the same bytes back; in bounded time and memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract import codec
from ecomflow.contract.codec import Codec
from ecomflow.contract.columns import MAX_REPEATED_BATCH_BYTES, TooManyRowsError
from ecomflow.contract.dead_letter import from_line, original, to_lines
from ecomflow.contract.events import Message
from ecomflow.contract.limits import MAX_REPEATED_BYTES, MAX_ROW_BYTES
from ecomflow.contract.modelling import model
from ecomflow.pipeline import transforms
from ecomflow.pipeline.sinks.bigquery import TableWriters
from tests.support.contract import (
    NOW,
    SHOP,
    STREAMS,
    VALID,
    activity,
    encoded,
    inventory,
    item,
    message,
    number,
    order,
    outcome_of,
    part_of,
    property_test,
)
from tests.support.pipeline import FakeBigQuery, MemoryWarehouse, config_for, memory_runtime, run_graph

pytestmark = pytest.mark.slow

MB = 2**20

# What RFC 8259 allows, as the value of a field. The reader must take each.
VALID_JSON = [
    *(b"null", b"true", b"false", b"0", b"-0", b"-0.0", b"1", b"-1", b"1.5", b"1e5", b"1E5", b"1e+5", b"1e-5", b"1.5e5", b"0e1"),
    *(b"0.0", b"123456789012345678901234567890", b"0.1234567890123456789", b"1e400", b"-1e-400", b"1" + b"0" * 400),
    *(b"[]", b"{}", b"[[]]", b'[{"a":[]}]', b" [ ] ", b"[1,\n2\t,\r3]", b'{"":0}', b'{"a":1,"a":2}', b'{"a":{"a":{"a":{}}}}'),
    *(b'""', b'" "', b'"a"', b'"\\u0000"', b'"\\u0061"', b'"\\"\\\\\\/\\b\\f\\n\\r\\t"', b'"\\uD834\\uDD1E"', b'"\x7f"'),
    *('"\u20ac"'.encode(), '"\U0001d11e"'.encode(), '"\u2028\u2029"'.encode(), '"\ufeff"'.encode(), '"\ufdd0\uffff"'.encode()),
    *(b'"\\uFEFF"', b'"\\uFFFE"', b'"\\u202e"', b'"a/*b*/c//d"', b'"[{,:}]"', b'"\\ud83d\\ude00"'),
]

# What it forbids. Wherever it stands the whole message is malformed.
INVALID_JSON = [
    *(b"", b" ", b"nul", b"nulll", b"True", b"NULL", b"undefined", b"NaN", b"-NaN", b"Infinity", b"-Infinity", b"Inf", b"nan"),
    *(
        b"01",
        b"-01",
        b"+1",
        b".5",
        b"5.",
        b"-",
        b"--1",
        b"1e",
        b"1e+",
        b"1.e1",
        b"0x1F",
        b"1_000",
        b"1,5",
        b"1 2",
        b"0.1.2",
        b"1eE2",
    ),
    *("\uff11".encode(), "1\u00a0".encode(), b"1\x0b", b"\x0c1", b"1\x00", b"-foo", b"2.e+3", b"0e+", b"1ea", b"- 1"),
    *(
        b"[",
        b"]",
        b"[1",
        b"[1,",
        b"[1,]",
        b"[,1]",
        b"[,]",
        b"[1,,2]",
        b"[1 2]",
        b"[1:2]",
        b"[1}",
        b"[1]]",
        b"[*]",
        b"[\x00]",
        b"[a",
    ),
    *(b"{", b"}", b'{"a"}', b'{"a":}', b'{"a":1,}', b'{,"a":1}', b'{"a":1 "b":2}', b"{a:1}", b"{'a':1}", b"{1:1}", b"{null:1}"),
    *(b'{"a":1}}', b'{"a":1,,"b":2}', b'{"a"::1}', b'{"a",1}', b'{"a":1]', b'{"a" b}', b'{"a":"b"#}', b'{"a":1}//x', b"{[]:1}"),
    *(b'"', b'"\\"', b"'a'", b'"\\x41"', b'"\\u12"', b'"\\u12G4"', b'"\\a"', b'"\\', b'"a\nb"', b'"a\tb"', b'"\x00"', b'"\x1f"'),
    *(b'"\\ud800"', b'"\\ud800\\ud800"', b'"\\udc00"', b'"\\ud800x"', b'"\\uD800\\u0041"', b'"\\ude00\\ud83d"', b'"\\U0001d11e"'),
    *(
        b'"\xff"',
        b'"\xc0\xaf"',
        b'"\xed\xa0\x80"',
        b'"\xf4\x90\x80\x80"',
        b'"\xe2\x82"',
        b'"\xfc\x80\x80\x80\x80\x80"',
        b'"\x80"',
    ),
    *(
        b"/* */ 1",
        b"1 // one",
        b"# 1",
        b"<null>",
        b"\\u0031",
        b"[1]x",
        b'"a" "b"',
        b"\xef\xbb\xbf1",
        b"\xe5",
        b"\x1b[31m1",
        b"`1`",
    ),
]

# Encodings in which a valid document is none.
ENCODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "cp037"]


def order_with(value: bytes) -> bytes:
    return encoded(order())[:-1] + b',"new":' + value + b"}"


class TestJsonDocuments:
    @pytest.mark.parametrize("value", VALID_JSON, ids=repr)
    def test_valid_json_is_read(self, value: bytes) -> None:
        """In a field that nobody names it is kept as it is; alone it is no event of ours."""
        outcome = outcome_of([message(order_with(value))])
        assert outcome.letters == []
        assert len(outcome.rows["fact_order"]) == 2
        assert outcome.rows["fact_order_header"][0]["unknown_fields"] == f'{{"new":{value.decode().strip()}}}'
        (alone,) = outcome_of([message(value)]).letters
        assert alone.reason == "unknown_event_type"
        assert original(alone)[0] == value

    @pytest.mark.parametrize("value", INVALID_JSON, ids=repr)
    def test_what_is_no_json_is_malformed(self, value: bytes) -> None:
        """Wherever it stands, and alone; and the letter holds the very bytes."""
        for data in (order_with(value), value):
            (letter,) = outcome_of([message(data)]).letters
            assert letter.reason == "malformed_json"
            assert original(from_line(to_lines([letter])))[0] == data

    @pytest.mark.parametrize("name", ENCODINGS)
    @pytest.mark.parametrize("kind", VALID)
    def test_other_encodings_are_malformed(self, name: str, kind: str) -> None:
        """A contract of UTF-8 takes nothing else, nor a mark before it."""
        data = encoded(VALID[kind]()).decode().encode(name)
        (letter,) = outcome_of([message(data)]).letters
        assert letter.reason == "malformed_json"
        assert original(letter)[0] == data

    @pytest.mark.parametrize("mixed", [b"Zo\xeb", b"\xe6\x9d\xb1\xe4", b"ok\xc3", b"\x93quoted\x94", b"\xff\xfeJ\x00"])
    def test_mixed_encodings_are_malformed(self, mixed: bytes) -> None:
        """One name in Latin-1, or cut within a character, in a document of UTF-8: kept in base64, byte for byte."""
        data = encoded(order(customer_name="NAME é")).replace(b"NAME", mixed)
        (letter,) = outcome_of([message(data)]).letters
        assert (letter.reason, letter.payload_encoding) == ("malformed_json", "base64")
        assert original(letter)[0] == data

    @pytest.mark.parametrize(
        "text", ["\x00", "a\x00b", "\u202egnp", "\ufeff", "\x1b[31m", "💶" * 50, "\u0301" * 99, "'; DROP TABLE x;--"]
    )
    def test_strange_text_is_text(self, text: str) -> None:
        """What is valid UTF-8 arrives in its column as it is."""
        (row,) = outcome_of([message(inventory(product_id=text))]).rows["fact_inventory"]
        assert row["product_id"] == text


# Whole documents that cost a reader much, and what becomes of each: its reason, or None where it is an event.
BIG: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "NUL bytes": (lambda: b"\x00" * (10 * MB), "malformed_json"),
    "brackets": (lambda: b"[" * (10 * MB), "malformed_json"),
    "quotes and escapes": (lambda: b'"\\' * (5 * MB), "malformed_json"),
    "Latin-1": (lambda: encoded(order(customer_name="x" * (9 * MB))).replace(b"x", b"\xe9"), "malformed_json"),
    "empty lists": (lambda: b"[" + b"[]," * (3 * MB) + b"[]]", "unknown_event_type"),
    "an event type": (lambda: encoded(order(event_type="`$" * (4 * MB))), "unknown_event_type"),
    "lists for money": (lambda: encoded(order(total_amount=number("[" + "[]," * MB + "[]]"))), "contract_violation"),
    "numbers for items": (lambda: encoded(order(items=number("[" + "0," * (4 * MB) + "0]"))), "contract_violation"),
    "a status": (lambda: encoded(order(status=" - at `" * MB)), "contract_violation"),
    "an address": (lambda: encoded(activity(ip_address="1" * (9 * MB))), "contract_violation"),
    "decimal places": (lambda: encoded(order(total_amount=number("0." + "7" * (9 * MB)))), "contract_violation"),
    "zeros": (lambda: encoded(order(total_amount=number("0." + "0" * (9 * MB)))), None),
    "an exponent": (lambda: encoded(order(total_amount=number("1e999999999999999999"))), "contract_violation"),
    "an exponent of zero": (lambda: encoded(order(total_amount=number("0e-999999999999999999"))), None),
    "long integers": (lambda: order_with(b"[" + b",".join([b"7" * 4301] * 2000) + b"]"), None),
    "decimals": (lambda: order_with(b"[" + b"1e1," * (2 * MB) + b"1]"), None),
    "unknown fields": (lambda: encoded(inventory())[:-1] + b"".join(b',"%x":0' % n for n in range(800_000)) + b"}", None),
    "a field's name": (lambda: encoded(inventory())[:-1] + b',"' + b"k" * (8 * MB) + b'":0}', None),
    "one field again and again": (lambda: encoded(inventory())[:-1] + b',"reason":"sale"' * 500_000 + b"}", None),
    "escapes": (lambda: encoded(order(customer_name=number('"' + "\\u0000" * (MB + MB // 2) + '"'))), None),
    "a fraction of a second": (lambda: encoded(inventory(timestamp=f"2025-12-01T00:00:00.{'0' * (9 * MB)}Z")), None),
    "10,000 items": (lambda: encoded(order(items=[item()] * 10_000)), None),
}


class TestLargeMessages:
    @pytest.mark.parametrize("name", BIG)
    def test_up_to_ten_megabytes_within_seconds(self, name: str) -> None:
        """Nothing in a message makes the cost grow faster than its size; the letter of what is refused gives it back."""
        make, reason = BIG[name]
        data = make()
        began = time.process_time()
        outcome = outcome_of([message(data)])
        assert time.process_time() - began < 10
        if reason is None:
            assert outcome.letters == []
            assert outcome.rows
        else:
            (letter,) = outcome.letters
            assert letter.reason == reason
            assert len(letter.error) < 400
            assert original(letter)[0] == data

    def test_unknown_fields_are_named_up_to_a_bound(self) -> None:
        """Of a batch's million names a thousand are kept; the rest is still in the sum."""
        drift = outcome_of([message(inventory(**{f"f{n}": 0 for n in range(3000)}))] * 2).drift
        assert len(drift) == codec.MAX_UNKNOWN_PATHS + 1
        assert drift["inventory", codec.OTHER_PATHS] == 4000
        assert drift.total() == 6000

    def test_ten_thousand_small_hostile_messages_take_seconds(self) -> None:
        """Each on the slow path, each with a name of its own in it."""
        bad = [order_with(value) for value in VALID_JSON] + [order_with(value) for value in INVALID_JSON]
        bad += [encoded(order(**{f"field{n}": n}, status=f"odd{n}")) for n in range(10_000 - len(bad))]
        began = time.process_time()
        outcome = outcome_of([message(data, f"M-{n}") for n, data in enumerate(bad)])
        assert time.process_time() - began < 5
        assert len(outcome.letters) == 10_000 - len(VALID_JSON)

    def test_a_batch_is_decoded_in_portions(self) -> None:
        """Eight megabytes at a time, or a single larger message; in order, none left out."""
        sizes = [1, 5 * MB, 3 * MB, 1, 9 * MB, 0, 8 * MB]
        messages = [message(b" " * size, f"M-{n}") for n, size in enumerate(sizes)]
        parts = list(codec.portions(messages))
        assert [[one.message_id for one in part] for part in parts] == [["M-0", "M-1"], ["M-2", "M-3"], ["M-4"], ["M-5", "M-6"]]
        assert list(codec.portions([])) == []


PIECES = st.sampled_from(
    [
        *(value for value in VALID_JSON + INVALID_JSON if len(value) < 60),
        *(encoded(make()) for make in VALID.values()),
        *(b'"items":[', b'{"event_type":"order",', b'"event_type"', b"[" * 1500, b"7" * 4301, b"\xef\xbb\xbf", b"\xff\xfe"),
    ]
)
# Bytes; pieces of JSON in any order; an event with a value, any bytes, in the place of one of its own.
PAYLOADS = st.one_of(
    st.binary(max_size=200),
    st.lists(PIECES | st.binary(max_size=8), max_size=12).map(b"".join),
    st.builds(
        lambda make, start, length, piece: encoded(make())[:start] + piece + encoded(make())[start + length :],
        st.sampled_from(list(VALID.values())),
        st.integers(0, 330),
        st.integers(0, 60),
        PIECES | st.binary(max_size=20),
    ),
    st.builds(lambda data, name: data.decode().encode(name), st.just(encoded(order())), st.sampled_from(ENCODINGS)),
)
ATTRIBUTES = st.dictionaries(st.sampled_from(["event_id", "event_timestamp", "../x", "\x1b"]), st.text(max_size=12), max_size=3)


@pytest.fixture
def warehouse() -> MemoryWarehouse:
    return MemoryWarehouse()


def run(warehouse: MemoryWarehouse, messages: list[Message], **parts: Any) -> None:
    run_graph(memory_runtime(warehouse, now=lambda: NOW, **parts), messages)


class TestAnything:
    @property_test(400)
    @given(PAYLOADS, ATTRIBUTES)
    def test_a_message_becomes_rows_or_a_letter(self, data: bytes, attributes: dict[str, str]) -> None:
        """Never both, never neither, never an exception; and the letter, written and read, gives back bytes and attributes."""
        outcome = outcome_of([Message(data, attributes, "M-1", 0)])
        assert bool(outcome.rows) != bool(outcome.letters)
        for letter in outcome.letters:
            assert original(from_line(to_lines([letter]))) == (data, attributes)
            assert letter.reason != "processing_error"

    def test_the_graph_loses_none_of_a_large_batch(self, warehouse: MemoryWarehouse) -> None:
        """Three thousand of them in one bundle on FnApiRunner: each is a header, stock or activity row, or a letter; once."""
        payloads: list[tuple[bytes, dict[str, str]]] = []

        @property_test(1500)
        @given(PAYLOADS, ATTRIBUTES)
        def collect(data: bytes, attributes: dict[str, str]) -> None:
            payloads.append((data, attributes))

        collect()
        payloads += [(encoded(make()), {}) for make in VALID.values()] * 500
        sent = [Message(data, {**attributes, "event_id": f"e-{n}"}, f"M-{n}", 0) for n, (data, attributes) in enumerate(payloads)]
        run(warehouse, sent)
        letters = [letter for letters in warehouse.letters.values() for letter in letters]
        once = [
            row["event_id"]
            for table in ("fact_order_header", "fact_inventory", "fact_user_activity")
            for row in warehouse.rows[table]
        ]
        assert sorted([*once, *(letter.event_id or "" for letter in letters)]) == sorted(f"e-{n}" for n in range(len(sent)))
        assert len(once) >= 1500
        given_back = {letter.event_id: original(letter) for letter in letters}
        assert all(
            given_back.get(one.attributes["event_id"], (one.data, one.attributes)) == (one.data, one.attributes) for one in sent
        )
        assert set(warehouse.letters) <= set(STREAMS)
        assert {letter.reason for letter in letters} <= {
            "malformed_json",
            "unknown_event_type",
            "contract_violation",
            "out_of_range",
        }


class TestTooLarge:
    """What one message may become: its header stands on each of its items in fact_order."""

    def test_a_header_repeated_too_often_is_out_of_range(self) -> None:
        """Two megabytes on 1,200 items would be 2.4 GB of rows: refused, with the bound in the sentence."""
        (letter,) = outcome_of([message(order(customer_name="x" * 2_000_000, items=[item()] * 1200))]).letters
        assert (letter.reason, letter.error) == (
            "out_of_range",
            "$.items: expected at most 8 items with a header of 2000038 bytes, got 1200",
        )

    @pytest.mark.parametrize("over", [0, 1])
    @pytest.mark.parametrize("field", ["order_id", "customer_id", "customer_name", "street", "event_id"])
    def test_the_bound_is_exact_in_columns_and_rules(self, field: str, over: int) -> None:
        """At the bound it is rows, a byte above it is refused, whichever text is long, in bytes and not in characters."""
        plain = order(items=[item()] * 64, customer_name=None)
        texts = {"order_id": "O-1", "customer_id": "C-1", "customer_name": "", "street": "1 Main Street", "event_id": "e-1"}
        rest = len("".join([*texts.values(), "Paris", "FR", "delivered"]).encode()) - len(texts[field])
        long = "é" * ((MAX_REPEATED_BYTES // 64 - rest) // 2)
        long += "x" * (MAX_REPEATED_BYTES // 64 - rest - len(long.encode()) + over)
        body = {**plain, "shipping_address": {**plain["shipping_address"], "street": long}} if field == "street" else plain
        body = {**body, field: long} if field in plain else body
        outcome = outcome_of([message(body, event_id=long if field == "event_id" else "e-1")])
        assert [letter.reason for letter in outcome.letters] == ["out_of_range"] * over
        assert len(outcome.rows.get("fact_order", [])) == (0 if over else 64)

    def test_neighbours_of_a_refused_one_are_rows(self) -> None:
        """The slow path finds the one by its own size; another fault of it is reported first."""
        large = order(customer_name="x" * 2_000_000, items=[item()] * 1200)
        bodies = [order(), large, {**large, "total_amount": -1}, order()]
        outcome = outcome_of([message(body, f"M-{n}") for n, body in enumerate(bodies)])
        assert outcome.sources["fact_order_header"] == ["M-0", "M-3"]
        assert [letter.reason for letter in outcome.letters] == ["out_of_range", "contract_violation"]

    def test_a_batch_of_large_ones_is_halved(self) -> None:
        """Orders within the bound, but together beyond the batch's: too many rows, until there are few enough."""
        body = encoded(order(customer_name="x" * 250_000, items=[item()] * 64))
        batch = part_of(Codec(SHOP).decode([message(body)] * 5, NOW), "order")
        with pytest.raises(TooManyRowsError):
            model(batch, NOW)
        few = part_of(Codec(SHOP).decode([message(body)] * 4, NOW), "order")
        assert len(model(few, NOW).messages) == 4

    def test_memory_stays_bounded(self, warehouse: MemoryWarehouse) -> None:
        """A batch of 6 MB that becomes 1.3 GB of rows: written in parts, each let go before there are many."""
        warehouse.keep = False
        peaks, rows = [0], Counter[str]()

        def start(table: str, batch: pa.RecordBatch) -> None:
            rows[table] += batch.num_rows
            peaks.append(pa.total_allocated_bytes())

        warehouse.on_start = start
        before = pa.total_allocated_bytes()
        items = [item(product_id="p", product_name="n")] * 512
        body = encoded(order(customer_name="x" * 32_000, items=items))
        run(warehouse, [message(body, f"M-{n}") for n in range(80)])
        assert rows["fact_order"] == 80 * 512
        assert 80 * 512 * 32_000 > 1.2e9
        assert max(peaks) - before < transforms.MAX_BYTES_IN_FLIGHT + 2 * MAX_REPEATED_BATCH_BYTES
        assert warehouse.letters == {}

    def test_a_row_that_fits_no_request_is_refused(self, warehouse: MemoryWarehouse) -> None:
        """Through the real sink to a server: the giant row becomes a dead letter, its neighbours are written."""
        fake = FakeBigQuery()
        giant = inventory(product_id="x" * MAX_ROW_BYTES)
        sent = [message(inventory(), event_id="a"), message(giant, event_id="b"), message(inventory(), event_id="c")]
        with fake.serve() as endpoint:
            run(warehouse, sent, config=config_for(bigquery_storage=endpoint), table_writers=TableWriters)
        (rows,) = fake.rows.values()
        assert [row["event_id"] for row in rows] == ["a", "c"]
        (letter,) = warehouse.letters["inventory"]
        assert (letter.event_id, letter.reason) == ("b", "out_of_range")
        assert letter.error.startswith("$: expected at most 9000000 bytes in a row of fact_inventory, got 90000")
        assert original(letter)[0] == encoded(giant)

    def test_the_largest_row_is_written(self, warehouse: MemoryWarehouse) -> None:
        """With its request's framing it stays below what a request may have."""
        fake = FakeBigQuery()
        with fake.serve() as endpoint:
            sent = [message(inventory(product_id="x" * (MAX_ROW_BYTES - 500)), event_id="a")]
            run(warehouse, sent, config=config_for(bigquery_storage=endpoint), table_writers=TableWriters)
        (request,) = fake.requests
        assert MAX_ROW_BYTES - 500 < request.ByteSize() < 10_000_000
        assert warehouse.letters == {}

    def test_a_letter_quotes_some_of_many_refused_rows(self, warehouse: MemoryWarehouse) -> None:
        """An order of 500 refused items has a sentence, not a book."""
        warehouse.refuse = lambda table, row: "no " * 30 if table == "fact_order_item" else None
        run(warehouse, [message(order(items=[item()] * 500))])
        (letter,) = warehouse.letters["order"]
        assert letter.error.count("fact_order_item") == transforms.MAX_ROW_ERRORS
        assert letter.error.endswith("; and 490 more rows")
