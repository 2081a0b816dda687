"""Events in; the rows of the five tables, value for value, and what the rules refuse, out."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Context, Decimal
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.dead_letter import stream_of
from ecomflow.contract.decode import StreamBatch, decode_messages, exact_number
from ecomflow.contract.events import Event, Message
from ecomflow.contract.facts import SCHEMAS, STREAM_TABLES
from ecomflow.contract.rules import first_violation, streamable_dates
from ecomflow.generator.rounds import generate
from ecomflow.pipeline.model import model_facts
from tests.support.contract import (
    MONEY_RULE,
    NOW,
    Body,
    activity,
    inventory,
    item,
    message,
    number,
    order,
    outcome_of,
    property_test,
    rows_of,
)
from tests.support.faults import FAULTS

EXACT = Context(prec=100)
PATHS = {(event_type, fault.name): fault.path for fault, event_type in FAULTS}

ORDER_MOMENT = {"order_date": date(2025, 12, 1), "order_timestamp": datetime(2025, 12, 1, 10, 15, 30, 123_456, UTC)}
ADDRESS = {
    "shipping_address_street": "1 Main Street",
    "shipping_address_city": "Paris",
    "shipping_address_country": "FR",
}


def batch_of(stream: str, *bodies: Any) -> StreamBatch:
    messages = [message(body, f"M-{index}") for index, body in enumerate(bodies)]
    return decode_messages(messages, NOW).streams[stream]


class TestOrder:
    def test_the_header_has_the_address_flattened_and_no_items(self) -> None:
        """One row an order event."""
        assert rows_of(order())["fact_order_header"] == [
            {
                "event_id": "M-1",
                "order_id": "O-1",
                "customer_id": "C-1",
                "customer_name": "Jane Doe",
                **ORDER_MOMENT,
                "status": "delivered",
                **ADDRESS,
                "total_amount": Decimal("44.80"),
            }
        ]

    def test_each_item_is_a_row_with_its_line_and_its_total(self) -> None:
        """line_number counts from 1; total_amount is quantity x price."""
        common = {"event_id": "M-1", "order_id": "O-1", **ORDER_MOMENT}
        first = {"line_number": 1, "product_id": "P-1", "product_name": "Blue chair", "quantity": 2}
        second = {"line_number": 2, "product_id": "P-2", "product_name": "Lamp", "quantity": 1}
        assert rows_of(order())["fact_order_item"] == [
            {**common, **first, "price": Decimal("19.90"), "total_amount": Decimal("39.80")},
            {**common, **second, "price": Decimal(5), "total_amount": Decimal(5)},
        ]

    def test_the_wide_table_repeats_the_header_on_each_item(self) -> None:
        """The order's own total stands beside the line's."""
        rows = rows_of(order())
        (header,) = rows["fact_order_header"]
        wide = [
            {**header, **line, "total_amount": line["total_amount"], "order_total_amount": header["total_amount"]}
            for line in rows["fact_order_item"]
        ]
        assert rows["fact_order"] == wide
        assert [(row["total_amount"], row["order_total_amount"]) for row in wide] == [
            (Decimal("39.80"), Decimal("44.80")),
            (Decimal(5), Decimal("44.80")),
        ]

    def test_lines_are_counted_within_their_order(self) -> None:
        """Orders of one, three and two items in a batch: each begins at line 1, each line keeps its own order's header."""
        orders = [order(order_id=f"O-{size}", items=[item(product_id=f"P-{n}") for n in range(size)]) for size in (1, 3, 2)]
        rows = outcome_of([message(body, body["order_id"]) for body in orders]).rows
        for table in ("fact_order_item", "fact_order"):
            assert [(row["event_id"], row["order_id"], row["line_number"], row["product_id"]) for row in rows[table]] == [
                ("O-1", "O-1", 1, "P-0"),
                ("O-3", "O-3", 1, "P-0"),
                ("O-3", "O-3", 2, "P-1"),
                ("O-3", "O-3", 3, "P-2"),
                ("O-2", "O-2", 1, "P-0"),
                ("O-2", "O-2", 2, "P-1"),
            ]

    def test_many_items(self) -> None:
        """A thousand lines in one order."""
        rows = rows_of(order(items=[item(quantity=n, price=number("0.1")) for n in range(1, 1001)]))["fact_order"]
        assert [row["line_number"] for row in rows] == list(range(1, 1001))
        assert [row["total_amount"] for row in rows] == [Decimal(n) / 10 for n in range(1, 1001)]

    @pytest.mark.parametrize(
        ("quantity", "price", "total"),
        [
            (3, "0.1", "0.3"),
            (1, "0.000000001", "0.000000001"),
            (7, "14285714.285714286", "100000000.000000002"),
            (3, "1.0000000000", "3"),
            (2, "1e2", "200"),
            (2**63 - 1, "0.000000001", "9223372036.854775807"),
            (2**63 - 1, "9999999999.999999999", "92233720368547758060776627963.145224193"),
            (1, "9" * 29 + "." + "9" * 9, "9" * 29 + "." + "9" * 9),
            (9, "1e28", "9" + "0" * 28),
        ],
    )
    def test_a_line_total_is_exact(self, quantity: int, price: str, total: str) -> None:
        """In 64 bits and beyond them, with every digit that NUMERIC has."""
        (row,) = rows_of(order(items=[item(quantity=quantity, price=number(price))]))["fact_order_item"]
        assert EXACT.multiply(Decimal(quantity), Decimal(price)) == row["total_amount"] == Decimal(total)

    @pytest.mark.parametrize(("quantity", "price"), [(10, "1e28"), (2, "5e28"), (2**63 - 1, "10842021724.855044342")])
    def test_a_line_total_beyond_numeric_is_out_of_range(self, quantity: int, price: str) -> None:
        """Quantity and price fit, their product is 1e29 or more."""
        (letter,) = outcome_of([message(order(items=[item(), item(quantity=quantity, price=number(price))]))]).letters
        assert letter.reason == "out_of_range"
        assert letter.error.startswith(f"$.items[1]: expected quantity x price below 1e29, got {quantity} x ")


class TestInventory:
    def test_its_row(self) -> None:
        """The event's fields as they are, its time as DATE and TIMESTAMP."""
        assert rows_of(inventory()) == {
            "fact_inventory": [
                {
                    "event_id": "M-1",
                    "inventory_id": "I-1",
                    "product_id": "P-1",
                    "warehouse_id": "W-1",
                    "quantity_change": -3,
                    "reason": "sale",
                    "event_date": date(2025, 12, 1),
                    "event_timestamp": datetime(2025, 12, 1, 10, 15, 30, tzinfo=UTC),
                }
            ]
        }


class TestUserActivity:
    def test_its_row_has_the_metadata_flattened(self) -> None:
        """session_id and platform are columns."""
        assert rows_of(activity()) == {
            "fact_user_activity": [
                {
                    "event_id": "M-1",
                    "user_id": "U-1",
                    "activity_type": "login",
                    "ip_address": "192.0.2.1",
                    "user_agent": "Mozilla/5.0",
                    "session_id": "S-1",
                    "platform": "web",
                    "event_date": date(2025, 12, 1),
                    "event_timestamp": datetime(2025, 12, 1, 10, 15, 30, tzinfo=UTC),
                }
            ]
        }


class TestArrow:
    @pytest.mark.parametrize("body", [order(), inventory(), activity()], ids=["order", "inventory", "user_activity"])
    def test_rows_have_the_table_schema_without_the_ingestion_time(self, body: Body) -> None:
        """Names, types, order and nullability of ``facts.SCHEMAS``; the sink adds the last column."""
        tables = model_facts(batch_of(body["event_type"], body), NOW).tables
        assert [part.table for part in tables] == list(STREAM_TABLES[body["event_type"]])
        for part in tables:
            assert part.rows.schema.equals(pa.schema(list(SCHEMAS[part.table])[:-1]))
            assert SCHEMAS[part.table].names[-1] == "ingestion_timestamp"

    def test_the_slow_path_gives_the_same_rows(self) -> None:
        """A price with needless zeros sends its batch through the rules one by one; the rows are those of plain prices."""
        plain = [order(order_id=str(n), items=[item(price=number("12.5"))]) for n in range(3)]
        odd = [order(order_id=str(n), items=[item(price=number("12.5" + "0" * 20 * n))]) for n in range(3)]
        assert (
            model_facts(batch_of("order", *odd), NOW)
            .tables[2]
            .rows.equals(model_facts(batch_of("order", *plain), NOW).tables[2].rows)
        )


class TestMixedBatches:
    def test_only_the_bad_ones_are_refused(self) -> None:
        """Good events between bad ones keep their order and their rows; each row's source is its own message."""
        bodies = [
            order(order_id="O-0"),
            order(order_id="O-1", total_amount=None),
            order(order_id="O-2", items=[item()]),
            order(order_id="O-3", items=[item(price=None)]),
            order(order_id="O-4", order_date="1999-01-01T00:00:00Z"),
            order(order_id="O-5", items=[item(), item(), item()]),
            order(order_id="O-6", status="odd"),
        ]
        outcome = outcome_of([message(body, body["order_id"]) for body in bodies])
        assert [(letter.message_id, letter.reason, letter.error.split(",")[0]) for letter in outcome.letters] == [
            ("O-6", "contract_violation", "$.status: expected one of pending"),
            ("O-1", "contract_violation", f"$.total_amount: {MONEY_RULE}"),
            ("O-3", "contract_violation", f"$.items[0].price: {MONEY_RULE}"),
            ("O-4", "out_of_range", "$.order_date: expected a UTC date from 2015-12-10 to 2026-12-10"),
        ]
        assert outcome.sources == {
            "fact_order_header": ["O-0", "O-2", "O-5"],
            "fact_order_item": ["O-0", "O-0", "O-2", "O-5", "O-5", "O-5"],
            "fact_order": ["O-0", "O-0", "O-2", "O-5", "O-5", "O-5"],
        }
        for table, sources in outcome.sources.items():
            assert [row["event_id"] for row in outcome.rows[table]] == sources

    @pytest.mark.parametrize("value", [None, True, "12.5", [], {}, [None], number("-1"), number("0.1234567891")])
    def test_money_that_is_none_never_reaches_a_column(self, value: Any) -> None:
        """Alone in its batch or among good ones, in front or behind."""
        bad, good = order(total_amount=value), order()
        for bodies, at in (([bad], 0), ([bad, good], 0), ([good, bad], 1), ([good, bad, good], 1)):
            outcome = outcome_of([message(body, str(index)) for index, body in enumerate(bodies)])
            assert [letter.message_id for letter in outcome.letters] == [str(at)]
            assert len(outcome.rows.get("fact_order_header", [])) == len(bodies) - 1

    def test_a_large_amount_beside_a_bad_event_keeps_its_digits(self) -> None:
        """More digits than Python's decimals keep by default, in a batch that is looked through one by one."""
        large = "12345678901234567890123456789.123456789"
        good = order(items=[item(quantity=1, price=number(large))], total_amount=number(large))
        (row,) = outcome_of([message(order(total_amount=-1)), message(good)]).rows["fact_order"]
        assert {row["price"], row["total_amount"], row["order_total_amount"]} == {Decimal(large)}

    @pytest.mark.parametrize(
        "bad", [inventory(quantity_change=0), inventory(timestamp="1999-01-01T00:00:00Z")], ids=["no change", "too old"]
    )
    def test_a_batch_of_bad_ones_has_no_rows(self, bad: Body) -> None:
        """No table is written with nothing."""
        facts = model_facts(batch_of("inventory", bad, bad), NOW)
        assert (facts.tables, facts.messages, len(facts.refused)) == ([], [], 2)

    def test_the_unknown_stream_has_only_dead_letters(self) -> None:
        """What decoding refused passes through as it is."""
        facts = model_facts(batch_of("unknown", b"{", b"[]"), NOW)
        assert (facts.tables, facts.messages) == ([], [])
        assert [letter.reason for letter in facts.refused] == ["malformed_json", "unknown_event_type"]

    def test_the_decoded_batch_stays_as_it_was(self) -> None:
        """Modelling is pure: what it refuses is not added to the batch that it was given."""
        batch = batch_of("inventory", inventory(), inventory(quantity_change=0))
        model_facts(batch, NOW)
        assert (len(batch.events), len(batch.messages), batch.refused) == (2, 2, [])


# The same rows, one at a time and in plain Python, as a reference.


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _order_rows(body: Body, event_id: str) -> dict[str, list[Body]]:
    moment = _moment(body["order_date"])
    identity = {"event_id": event_id, "order_id": body["order_id"]}
    time = {"order_date": moment.date(), "order_timestamp": moment}
    customer = {"customer_id": body["customer_id"], "customer_name": body.get("customer_name"), "status": body["status"]}
    address = {f"shipping_address_{part}": body["shipping_address"][part] for part in ("street", "city", "country")}
    header = {**identity, **time, **customer, **address}
    lines = [
        {
            "line_number": line_number,
            **{name: one[name] for name in ("product_id", "product_name", "quantity", "price")},
            "total_amount": EXACT.multiply(Decimal(one["quantity"]), Decimal(one["price"])),
        }
        for line_number, one in enumerate(body["items"], start=1)
    ]
    total = body["total_amount"]
    return {
        "fact_order_header": [{**header, "total_amount": total}],
        "fact_order_item": [{**identity, **time, **line} for line in lines],
        "fact_order": [{**header, **line, "order_total_amount": total} for line in lines],
    }


def _flat_rows(table: str, body: Body, event_id: str) -> dict[str, list[Body]]:
    moment = _moment(body.pop("timestamp"))
    body |= body.pop("metadata", {})
    del body["event_type"]
    optional = {"ip_address": None, "user_agent": None} if table == "fact_user_activity" else {}
    return {table: [{"event_id": event_id, **optional, **body, "event_date": moment.date(), "event_timestamp": moment}]}


def reference_rows(data: bytes, event_id: str) -> dict[str, list[Body]]:
    body = json.loads(data, parse_float=Decimal)
    if body["event_type"] == "order":
        return _order_rows(body, event_id)
    return _flat_rows(STREAM_TABLES[body["event_type"]][0], body, event_id)


# The events with their very digits, wider than Arrow reads: what the rules say of them is what must come of them.
EXACT_DECODER = msgspec.json.Decoder(Event, float_hook=exact_number)

DIGITS = st.text("0123456789", min_size=1, max_size=31).map(lambda digits: digits.lstrip("0") or "0")
MONEY = st.one_of(
    st.integers(0, 10_000).map(lambda cents: f"{cents // 100}.{cents % 100:02}"),
    st.builds("{}.{}".format, DIGITS, st.text("0123456789", min_size=1, max_size=12)),
    st.builds("{}e{}".format, st.integers(0, 99), st.integers(-12, 30)),
    DIGITS,
    st.sampled_from(["-0", "-0.0", "-1", "null", "true", '"1"', "[]", "0e999999999999", "1e999999999999999999999"]),
).map(number)
QUANTITIES = st.integers(1, 9) | st.integers(1, 2**63 - 1)
TEXTS = st.text(min_size=1, max_size=5)
OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.one_of(
    st.datetimes(datetime(2015, 12, 11), datetime(2026, 12, 9), timezones=st.just(UTC)),
    st.datetimes(datetime(2015, 12, 8), datetime(2015, 12, 12), timezones=OFFSETS),
    st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=OFFSETS),
).map(lambda moment: moment.isoformat())
ITEMS = st.lists(st.builds(item, product_id=TEXTS, product_name=TEXTS, quantity=QUANTITIES, price=MONEY), min_size=1, max_size=3)
ORDERS = st.builds(order, order_id=TEXTS, customer_name=st.none() | st.text(), order_date=TIMES, items=ITEMS, total_amount=MONEY)
CHANGES = st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1)
INVENTORIES = st.builds(inventory, product_id=TEXTS, quantity_change=CHANGES, timestamp=TIMES)
ADDRESSES = st.none() | st.ip_addresses().map(str) | st.text(max_size=5)
ACTIVITIES = st.builds(activity, ip_address=ADDRESSES, user_agent=st.none() | st.text(), timestamp=TIMES)


class TestAgainstTheReference:
    @property_test(250)
    @given(st.lists(ORDERS | INVENTORIES | ACTIVITIES, min_size=1, max_size=8))
    def test_columns_and_rules_agree(self, bodies: list[Body]) -> None:
        """Refused are just the events that break a rule by themselves; the rows of the others are the reference's."""
        messages = [message(body, f"M-{index}") for index, body in enumerate(bodies)]
        decoded = decode_messages(messages, NOW)
        dates = streamable_dates(NOW.date())
        judged = {one.message_id: (one, first_violation(EXACT_DECODER.decode(one.data), dates)) for one in messages}
        for batch in decoded.streams.values():
            mine = [*(one.message_id for one in batch.messages), *(letter.message_id for letter in batch.refused)]
            broken = {name: violation for name, (_, violation) in judged.items() if name in mine and violation}
            facts = model_facts(batch, NOW)
            assert {letter.message_id: (letter.reason, letter.error) for letter in facts.refused} == broken
            kept = [one for one in batch.messages if one.message_id not in broken]
            assert facts.messages == kept
            expected = [reference_rows(one.data, one.message_id) for one in kept]
            for part in facts.tables:
                assert part.rows.to_pylist() == [row for tables in expected for row in tables[part.table]]
                assert [kept[source].message_id for source in part.sources] == part.rows.column("event_id").to_pylist()


class TestGeneratedRounds:
    def test_each_event_becomes_what_the_generator_says(self) -> None:
        """Every valid event's rows, every invalid one's dead letter with its reason, stream and path, nothing else."""
        events = [event for event in generate(300, seed=7, now=NOW) if not str(event.fault).endswith("_in_leap_second")]
        outcome = outcome_of([Message(event.data, event.attributes, str(n), 0) for n, event in enumerate(events)])
        letters = {letter.event_id: letter for letter in outcome.letters}
        rows = {table: [row["event_id"] for row in found] for table, found in outcome.rows.items()}
        valid = [event for event in events if event.fault is None]
        for table, stream in [(table, stream) for stream, tables in STREAM_TABLES.items() for table in tables]:
            size = 0 if table in ("fact_order_item", "fact_order") else 1
            expected = [(event.attributes["event_id"], size or event.items) for event in valid if event.event_type == stream]
            assert rows[table] == [event_id for event_id, times in expected for _ in range(times)]
        for event in events:
            if event.fault is not None:
                letter = letters.pop(event.attributes["event_id"])
                assert (letter.reason, stream_of(letter)) == (event.expected_reason, event.expected_stream), event.fault
                assert letter.error.startswith(f"{PATHS[event.event_type, event.fault]}: "), event.fault
        assert (letters, outcome.drift) == ({}, {})
        assert len(outcome.letters) == len(events) - len(valid) > 850

    def test_their_rows_are_the_reference_rows(self) -> None:
        """The generated shop's own values, compared one by one."""
        events = list(generate(100, seed=11, now=NOW, valid_only=True))
        outcome = outcome_of([Message(event.data, event.attributes, "", 0) for event in events])
        expected: dict[str, list[Body]] = {}
        for event in events:
            for table, rows in reference_rows(event.data, event.attributes["event_id"]).items():
                expected.setdefault(table, []).extend(rows)
        assert outcome.rows == expected
