"""Events in; the rows of the five tables, value for value, and what the rules refuse, out."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.buffers import at_most_row_bytes
from ecomflow.contract.codec import Codec, TypedBatch, halves, violation_of_event
from ecomflow.contract.compiling import EventType
from ecomflow.contract.ddl import modelled_schema
from ecomflow.contract.events import Message
from ecomflow.contract.limits import MAX_ROW_BYTES, DateRange, streamable_dates
from ecomflow.contract.modelling import model
from ecomflow.contract.reasons import Violation, sentence
from ecomflow.contract.tables import stream_tables, tables_of
from ecomflow.generator.rounds import generate
from tests.support.contract import (
    MONEY_RULE,
    NOW,
    SHOP,
    Body,
    activity,
    inventory,
    item,
    message,
    number,
    order,
    outcome_of,
    part_of,
    property_test,
    rows_of,
)
from tests.support.documents import EVENTS
from tests.support.faults import FAULTS
from tests.support.reference import EXACT, reference_rows

SCHEMAS = {table.name: modelled_schema(table) for table in tables_of(SHOP)}
STREAM_TABLES = stream_tables(SHOP)
PATHS = {(event_type, fault.name): fault.path for fault, event_type in FAULTS}

ORDER_MOMENT = {"order_date": date(2025, 12, 1), "order_timestamp": datetime(2025, 12, 1, 10, 15, 30, 123_456, UTC)}
ADDRESS = {
    "shipping_address_street": "1 Main Street",
    "shipping_address_city": "Paris",
    "shipping_address_country": "FR",
}


def batch_of(stream: str, *bodies: Any) -> TypedBatch:
    messages = [message(body, f"M-{index}") for index, body in enumerate(bodies)]
    return part_of(Codec(SHOP).decode(messages, NOW), stream)


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
                "unknown_fields": None,
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
        del header["unknown_fields"]
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

    def test_unknown_fields_stand_beside_the_header(self) -> None:
        """As they came, also those of items and of the address; NULL in the rows of the other events of the batch."""
        address = {**order()["shipping_address"], "zip": number(' "75001"')}
        bodies = [order(), order(new=number("1.50"), items=[item(), item(colour="red")], shipping_address=address)]
        rows = outcome_of([message(body) for body in bodies]).rows["fact_order_header"]
        kept = '{"new":1.50,"items":[{},{"colour":"red"}],"shipping_address":{"zip":"75001"}}'
        assert [row["unknown_fields"] for row in rows] == [None, kept]


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
                    "unknown_fields": None,
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
                    "unknown_fields": None,
                }
            ]
        }


class TestArrow:
    @pytest.mark.parametrize("body", [order(), inventory(), activity()], ids=["order", "inventory", "user_activity"])
    def test_rows_have_the_table_schema_without_the_ingestion_time(self, body: Body) -> None:
        """Names, types, order and nullability; the sink adds the last column."""
        tables = model(batch_of(body["event_type"], body), NOW).tables
        assert [part.table for part in tables] == list(STREAM_TABLES[body["event_type"]])
        for part in tables:
            assert part.rows.schema.equals(SCHEMAS[part.table])

    def test_the_slow_path_gives_the_same_rows(self) -> None:
        """A price with needless zeros sends its batch through the rules one by one; the rows are those of plain prices."""
        plain = [order(order_id=str(n), items=[item(price=number("12.5"))]) for n in range(3)]
        odd = [order(order_id=str(n), items=[item(price=number("12.5" + "0" * 20 * n))]) for n in range(3)]
        assert model(batch_of("order", *odd), NOW).tables[2].rows.equals(model(batch_of("order", *plain), NOW).tables[2].rows)


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

    @pytest.mark.parametrize("place", ["street", "unknown field", "item"])
    def test_a_row_that_fits_no_request(self, place: str) -> None:
        """Whatever makes it large, its event is refused whole, in every table; the events around it are written."""
        large = "x" * MAX_ROW_BYTES
        body = {
            "street": order(order_id="O-1", shipping_address={"street": large, "city": "Paris", "country": "FR"}, items=[item()]),
            "unknown field": order(order_id="O-1", note=large),
            "item": order(order_id="O-1", items=[item(), item(product_name=large)]),
        }[place]
        outcome = outcome_of([message(order(order_id="O-0"), "O-0"), message(body, "O-1"), message(order(order_id="O-2"), "O-2")])
        (letter,) = outcome.letters
        table = "fact_order_item" if place == "item" else "fact_order_header"
        assert (letter.message_id, letter.reason) == ("O-1", "out_of_range")
        assert letter.error.startswith(f"$: expected at most 9000000 bytes in a row of {table}, got 9000")
        assert len(outcome.sources) == 3
        assert all(set(sources) == {"O-0", "O-2"} for sources in outcome.sources.values())

    @pytest.mark.parametrize("bodies", [[], [order()], [order(), inventory(), activity()] * 40])
    def test_the_quick_look_at_sizes_is_on_the_safe_side(self, bodies: list[Body]) -> None:
        """No table is larger than it says, nor is any part of one."""
        for part in Codec(SHOP).decode([message(body) for body in bodies], NOW).parts:
            for table in model(part, NOW).tables:
                for rows in (table.rows, table.rows.slice(0, 1), table.rows.slice(len(table.rows) // 2)):
                    assert rows.nbytes <= at_most_row_bytes(rows) < rows.nbytes + table.rows.nbytes + 100_000

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
        "bad", [inventory(reason="theft"), inventory(timestamp="1999-01-01T00:00:00Z")], ids=["reason", "too old"]
    )
    def test_a_batch_of_bad_ones_has_no_rows(self, bad: Body) -> None:
        """No table is written with nothing."""
        facts = model(batch_of("inventory", bad, bad), NOW)
        assert (facts.tables, facts.messages, len(facts.refused)) == ([], [], 2)

    def test_the_unknown_stream_has_only_dead_letters(self) -> None:
        """What decoding refused passes through as it is."""
        facts = model(batch_of("unknown", b"{", b"[]"), NOW)
        assert (facts.tables, facts.messages) == ([], [])
        assert [letter.reason for letter in facts.refused] == ["malformed_json", "unknown_event_type"]

    def test_the_decoded_batch_stays_as_it_was(self) -> None:
        """Modelling is pure: what it refuses is not added to the batch that it was given."""
        batch = batch_of("inventory", inventory(), inventory(timestamp="1999-01-01T00:00:00Z"))
        model(batch, NOW)
        assert (len(batch.events), len(batch.messages), batch.refused) == (2, 2, [])


class TestHalves:
    def test_a_batch_in_halves_is_the_batch(self) -> None:
        """Rows, dead letters and unknown fields of the halves are those of the whole."""
        bodies = [order(order_id=f"O-{n}", **({"new": n} if n % 2 else {})) for n in range(5)] + [order(total_amount=-1)]
        batch = batch_of("order", *bodies)
        whole = model(batch, NOW)
        parts = [model(part, NOW) for part in halves(batch)]
        for index, table in enumerate(whole.tables):
            assert table.rows.to_pylist() == [row for part in parts for row in part.tables[index].rows.to_pylist()]
        assert [one.message_id for part in parts for one in part.refused] == [one.message_id for one in whole.refused]


class TestAgainstTheReference:
    @pytest.mark.slow
    @property_test(250)
    @given(st.lists(EVENTS, min_size=1, max_size=8))
    def test_columns_and_rules_agree(self, bodies: list[Body]) -> None:
        """Refused are just the events that break a rule by themselves; the rows of the others are the reference's."""
        codec, dates = Codec(SHOP), streamable_dates(NOW.date())
        messages = [message(body, f"M-{index}") for index, body in enumerate(bodies)]
        for batch in codec.decode(messages, NOW).parts:
            assert batch.kind is not None
            mine = {one.message_id for one in batch.messages} | {str(one.message_id) for one in batch.refused}
            judged = {one.message_id: violation_of(batch.kind, one, dates) for one in messages if one.message_id in mine}
            facts = model(batch, NOW)
            assert {letter.message_id: (letter.reason, letter.error) for letter in facts.refused} == {
                name: (violation.reason, sentence(violation)) for name, violation in judged.items() if violation
            }
            assert facts.messages == [one for one in messages if one.message_id in mine and not judged[one.message_id]]
            expected = [reference_rows(one.data, one.message_id) for one in facts.messages]
            for part in facts.tables:
                assert part.rows.to_pylist() == [row for tables in expected for row in tables[part.table]]
                sources = [facts.messages[source].message_id for source in part.sources]
                assert sources == part.rows.column("event_id").to_pylist()


def violation_of(kind: EventType, sent: Message, dates: DateRange) -> Violation | None:
    """What the rules say of one event by itself, with its very digits, wider than Arrow reads."""
    event_id = sent.attributes.get("event_id") or sent.message_id
    return violation_of_event(kind, kind.exact_decoder.decode(sent.data), event_id, dates)


class TestGeneratedRounds:
    def test_each_event_becomes_what_the_generator_says(self) -> None:
        """Every valid event's rows, every invalid one's dead letter with its reason, stream and path, nothing else."""
        events = list(generate(300, seed=7, now=NOW))
        outcome = outcome_of([Message(event.data, event.attributes, str(n), 0) for n, event in enumerate(events)])
        letters = {letter.event_id: (stream, letter) for stream, part in outcome.facts.items() for letter in part.refused}
        rows = {table: [row["event_id"] for row in found] for table, found in outcome.rows.items()}
        valid = [event for event in events if event.fault is None]
        for table, stream in [(table, stream) for stream, tables in STREAM_TABLES.items() for table in tables]:
            size = 0 if table in ("fact_order_item", "fact_order") else 1
            expected = [
                (event.attributes["event_id"], size or event.lists["items"]) for event in valid if event.event_type == stream
            ]
            assert rows[table] == [event_id for event_id, times in expected for _ in range(times)]
        for event in events:
            if event.fault is not None:
                stream, letter = letters.pop(event.attributes["event_id"])
                assert (letter.reason, stream) == (event.expected_reason, event.expected_stream), event.fault
                assert letter.error.startswith(f"{PATHS[event.event_type, event.fault]}: "), event.fault
        assert (letters, len(outcome.letters), outcome.drift) == ({}, 900, {})

    def test_their_rows_are_the_reference_rows(self) -> None:
        """The generated shop's own values, compared one by one."""
        events = list(generate(100, seed=11, now=NOW, valid_only=True))
        outcome = outcome_of([Message(event.data, event.attributes, "", 0) for event in events])
        expected: dict[str, list[Body]] = {}
        for event in events:
            for table, rows in reference_rows(event.data, event.attributes["event_id"]).items():
                expected.setdefault(table, []).extend(rows)
        assert outcome.rows == expected
