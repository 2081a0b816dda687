"""contract new: what is drafted from samples, what is said of it, and that the samples pass."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.check import Tally, check_lines
from ecomflow.contract.codec import Codec
from ecomflow.contract.draft import Draft, draft_of
from ecomflow.contract.draft_text import toml_of, value_text
from ecomflow.contract.guesses import field_name, is_money, is_personal_name, singular, snake_case, time_rank
from ecomflow.contract.language import Contract, Field
from ecomflow.contract.limits import DateRange
from ecomflow.contract.loading import load_text
from ecomflow.contract.samples import Samples, read_samples, seen_in, typed_lines
from ecomflow.contract.scalars import scalars_of
from ecomflow.errors import ConfigError, ContractError
from tests.support.any_contract import ANY_JSON, KEYS, contracts, objects
from tests.support.cli import ecomflow
from tests.support.contract import NOW, encoded, number, property_test

ANY_DATE = DateRange(NOW.date().min, NOW.date().max)

# As a shop system sends it: ids as integers, money as strings, nothing that says its type.
WEBHOOK = {
    "id": 820982911946154508,
    "browser_ip": "216.191.105.146",
    "created_at": "2025-12-01T06:40:31-05:00",
    "updated_at": "2025-12-01T06:40:31-05:00",
    "cancelled_at": None,
    "total_price": "398.00",
    "phone": "0123456",
    "taxes_included": False,
    "note_attributes": [],
    "payment_gateway_names": ["visa"],
    "customer": {
        "id": 115310627314723954,
        "email": "jon@example.com",
        "default_address": {"address1": "1 Elm St.", "city": "Ottawa"},
    },
    "line_items": [
        {"id": 866550311766439020, "name": "IPod Nano", "price": "199.00", "product_id": 632910392, "quantity": 1},
        {
            "id": 141249953214522974,
            "name": "IPod",
            "price": "199.00",
            "product_id": None,
            "quantity": 1,
            "tax_lines": [{"rate": 1}],
        },
    ],
}


def refund(**changes: Any) -> dict[str, Any]:
    body = {
        "event_type": "refund",
        "refund_id": "R-1",
        "order_id": "O-1",
        "refunded_at": "2025-12-01T10:15:30",
        "amount": number("12.50"),
        "reason": "late",
        "customer": {"email": "jane@example.com"},
        "lines": [{"product_id": "P-1", "quantity": 1, "price": number("12.50")}],
    }
    return {**body, **changes}


def samples_of(*bodies: Any, event: str = "refund", field: str = "event_type") -> Samples:
    return read_samples([encoded(body) + b"\n" for body in bodies], event, field)


def drafted(*bodies: Any, event: str = "refund", taken: tuple[str, ...] = ()) -> tuple[Contract, Draft, str]:
    """The contract drafted from ``bodies``, which pass it, its draft and its text."""
    samples = samples_of(*bodies, event=event)
    draft = draft_of(event, seen_in(samples), taken)
    text = toml_of(draft, "samples.jsonl")
    contract = load_text(text, f"{event}.toml")
    tally = Tally()
    refused = list(check_lines(typed_lines(samples, event), "f", NOW, Codec([contract]), tally, ANY_DATE))
    assert refused == []
    assert tally.accepted == {event: len(bodies)}
    return contract, draft, text


def fields_of(contract: Contract) -> dict[str, Field]:
    return {field.name: field for field in contract.fields}


class TestRefund:
    def test_the_file(self) -> None:
        """It reads as a person would have written it, aligned, and says what was assumed."""
        reasons = ["late", "other", "damaged"]
        bodies = [refund(reason=reasons[index % 3], note="" if index else None) for index in range(9)]
        _, draft, text = drafted(*bodies)
        assert (
            text
            == """\
# Drafted from samples.jsonl. Correct what is marked as assumed, add descriptions, and check it:
#   ecomflow contract lint
#   ecomflow contract check SAMPLES
# To compare: ecomflow contract show order --format toml. All keys: docs/contract-language.md.
event = "refund"
version = 1
description = ""  # what has happened, in a sentence
time = "refunded_at"

[fields]
refund_id   = "string"
order_id    = "string"
refunded_at = { type = "timestamp", without_offset = "UTC" }  # assumed: UTC, because it has no offset
amount      = "numeric"
reason      = { type = "string", values = ["damaged", "late", "other"] }  # assumed: the samples have no other value
customer    = { type = "record", of = "customer" }
lines       = { type = "list", of = "line" }
note        = { type = "string", optional = true }

[records.customer]
email = { type = "string", personal = true }  # assumed: personal, judging by its name

[records.line]
product_id = "string"
quantity   = "integer"
price      = "numeric"

[[tables]]
name = "fact_refund"
cluster = ["order_id", "reason"]  # assumed: what queries filter and group by

[[tables]]
name = "fact_refund_line"
each = "lines"
cluster = ["product_id"]  # assumed: what queries filter and group by
columns = ["refund_id", "lines"]
"""
        )
        assert draft.assumptions == [
            "time is refunded_at: the timestamp whose name fits best.",
            "reason is one of damaged, late, other: the samples have no other value.",
            "refunded_at: in UTC, because it has no offset.",
            "customer.email: personal, judging by the name; values appear in no error and no log.",
            "note: optional, because some samples lack it or have null.",
        ]

    def test_names_of_tables_that_are_taken(self) -> None:
        """Another event type's tables keep their names."""
        contract, _, _ = drafted(refund(), taken=("fact_refund", "FACT_refund_2_line"))
        assert [table.name for table in contract.tables] == ["fact_refund_2", "fact_refund_2_line_2"]


class TestWebhook:
    def test_its_fields(self) -> None:
        """Integers stay integers, money in strings is numeric, nested objects are records, and what is personal is marked."""
        contract, _, text = drafted(WEBHOOK, event="orders_create")
        fields = fields_of(contract)
        assert {name: field.type for name, field in fields.items()} == {
            "id": "integer",
            "browser_ip": "ip_address",
            "created_at": "timestamp",
            "updated_at": "timestamp",
            "total_price": "numeric",
            "phone": "string",
            "taxes_included": "boolean",
            "payment_gateway_names": "json",
            "customer": "record",
            "line_items": "list",
        }
        assert (contract.time, fields["total_price"].written_as) == ("created_at", "string")
        assert (fields["phone"].personal, fields["browser_ip"].personal, fields["id"].personal) == (True, True, False)
        records = {record.name: {field.name: field for field in record.fields} for record in contract.records}
        assert set(records) == {"customer", "default_address", "line_item"}
        assert records["line_item"]["product_id"].optional
        assert (records["line_item"]["tax_lines"].type, records["line_item"]["tax_lines"].optional) == ("json", True)
        assert not records["line_item"]["name"].personal
        assert '# cancelled_at          = "string"  # null or empty in each sample' in text
        assert "# note_attributes " in text

    def test_its_tables(self) -> None:
        """The list's table has the event's id under a name that is free."""
        contract, _, _ = drafted(WEBHOOK, event="orders_create")
        header, lines = contract.tables
        assert (header.name, header.cluster) == ("fact_orders_create", ("customer_id",))
        assert (lines.name, lines.cluster) == ("fact_orders_create_line_item", ("product_id",))
        assert [column.name for column in lines.columns if column.source == "value"] == [
            *("orders_create_id", "id", "name", "price", "product_id", "quantity", "tax_lines"),
        ]

    def test_messages_with_attributes(self) -> None:
        """The samples are in the data; an attribute may say which are of the type."""
        lines = [{"data": WEBHOOK, "attributes": {"topic": topic}} for topic in ("orders/create", "orders/paid", "orders/create")]
        samples = samples_of(*lines, event="orders/create", field="attribute:topic")
        assert ([sample.line for sample in samples.samples], samples.others) == ([1, 3], {"orders/paid": 1})
        assert seen_in(samples).members["id"].scalars == [WEBHOOK["id"]] * 2


class TestNames:
    def test_a_key_that_is_no_name(self) -> None:
        """It gets one, and a path; camelCase and capitals stay."""
        body = {
            "at": "2025-12-01T10:00:00Z",
            "$type": 1,
            "customer.email": "a",
            "kebab-case": 2,
            "createdBy": 3,
            "1st": 4,
            "A": 5,
        }
        contract, _, text = drafted(body)
        assert {field.name: field.path for field in contract.fields} == {
            "at": ("at",),
            "type": ("$type",),
            "customer_email": ("customer.email",),
            "kebab_case": ("kebab-case",),
            "createdBy": ("createdBy",),
            "_1st": ("1st",),
            "A": ("A",),
        }
        assert 'kebab_case     = { type = "integer", path = "kebab-case" }' in text
        assert 'customer_email = { type = "string", path = ["customer.email"], personal = true }' in text

    def test_columns_that_would_be_called_the_same(self) -> None:
        """As ecomflow's own, as another one but for case, as a record's."""
        body = {
            "at": "2025-12-01T10:00:00Z",
            "event_id": "e",
            "userId": 1,
            "userid": 2,
            "a_b": 1,
            "a": {"b": 2},
            "_table_x": 3,
            "Order": 4,
        }
        contract, draft, _ = drafted(body | {"lines": [{"line_number": 7}]})
        values = [column.name for column in contract.tables[0].columns if column.source == "value"]
        assert values == ["body_event_id", "userId", "userid_", "a_b", "a_b_2", "body_table_x", "body_Order"]
        assert "body_line_number" in [column.name for column in contract.tables[1].columns]
        assert "Order is called body_Order: that is a reserved word of SQL." in draft.assumptions
        assert "event_id is called body_event_id: a column called event_id exists already." in draft.assumptions

    def test_keys_that_no_file_can_name(self) -> None:
        """They are left out, and kept as unknown when they come."""
        contract, draft, _ = drafted({"at": "2025-12-01T10:00:00Z", "": 1, 'a"b': 2, "c": {"": 1}})
        assert set(fields_of(contract)) == {"at", "c"}
        assert any("path can't name this key" in sentence for sentence in draft.assumptions)

    @pytest.mark.parametrize(
        ("name", "one"),
        [
            *[
                ("lines", "line"),
                ("entries", "entry"),
                ("line_items", "line_item"),
                ("addresses", "address"),
                ("statuses", "status"),
            ],
            *[("boxes", "box"), ("news", "new"), ("data", "data"), ("status", "status"), ("s", "s"), ("", "")],
        ],
    )
    def test_singular(self, name: str, one: str) -> None:
        """Of the usual English plurals."""
        assert singular(name) == one

    def test_snake_case(self) -> None:
        """For records and tables."""
        assert [snake_case(one) for one in ("lineItems", "HTTPServer", "a-b", "2x", "$")] == [
            *("line_items", "http_server", "a_b", "_2_x", "field"),
        ]
        assert [field_name(one) for one in ("$", "a b", "é")] == ["field", "a_b", "field"]


class TestTime:
    @pytest.mark.parametrize(
        ("names", "best"),
        [
            (("updated_at", "created_at", "paid_at"), "created_at"),
            (("created_at", "timestamp"), "timestamp"),
            (("created_at", "refunded_at"), "refunded_at"),
            (("created_at", "refund_date"), "refund_date"),
            (("expires_at", "updatedAt"), "updatedAt"),
            (("due_date", "x"), "x"),
        ],
    )
    def test_the_best_of_several(self, names: tuple[str, ...], best: str) -> None:
        """By its name."""
        contract, draft, _ = drafted(dict.fromkeys(names, "2025-12-01T10:00:00Z"))
        assert contract.time == best
        assert draft.assumptions[0].startswith(f"time is {best}: ")
        assert min(names, key=lambda name: time_rank(name, "refund")) == best

    def test_one_that_is_not_always_there(self) -> None:
        """The date partitions the tables: only a timestamp that each sample has can be the time."""
        contract, _, _ = drafted(
            {"timestamp": "2025-12-01T10:00:00Z", "sent": "2025-12-01T10:00:00Z"}, {"sent": "2025-12-01T10:00:00Z"}
        )
        assert (contract.time, fields_of(contract)["timestamp"].optional) == ("sent", True)

    def test_one_within_objects(self) -> None:
        """Then these objects are no records: their fields stand by their paths."""
        body = {"meta": {"source": {"sent_at": "2025-12-01T10:00:00Z", "app": "web"}, "other": {"n": 1}, "v": 1}, "x": 1}
        contract, _, text = drafted(body)
        assert {field.name: field.path for field in contract.fields} == {
            "meta_source_sent_at": ("meta", "source", "sent_at"),
            "meta_source_app": ("meta", "source", "app"),
            "meta_other": ("meta", "other"),
            "meta_v": ("meta", "v"),
            "x": ("x",),
        }
        assert 'time = "meta_source_sent_at"' in text

    def test_none(self) -> None:
        """The sentence says what was found instead."""
        with pytest.raises(ContractError, match=r"Expected a timestamp, as .*, in each sample, found none\."):
            drafted({"day": "2025-12-01"})
        with pytest.raises(ContractError, match=r"found only a\.at, not in each of them\."):
            drafted({"a": {"at": "2025-12-01T10:00:00Z"}}, {"a": {}})


SCALARS: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("x", ["a", "b"], {"type": "string"}),
    ("x", ["a", ""], {"type": "string", "min_length": 0}),
    ("x", [True], {"type": "boolean"}),
    ("x", [1, 2], {"type": "integer"}),
    ("x", [2**63], {"type": "numeric"}),
    ("x", [10**40], {"type": "float"}),
    ("x", [1, Decimal("1.5")], {"type": "numeric"}),
    ("x", [Decimal("1.0000000001")], {"type": "float"}),
    ("price", [1, 2], {"type": "numeric"}),
    ("total_items", [1, 2], {"type": "integer"}),
    ("price", ["1", "2"], {"type": "numeric", "written_as": "string"}),
    ("x", ["1.5", "2"], {"type": "numeric", "written_as": "string"}),
    ("x", ["15", "2"], {"type": "string"}),
    ("api_version", ["1.5"], {"type": "string"}),
    ("quantity", ["15"], {"type": "integer", "written_as": "string"}),
    ("quantity", [str(2**64)], {"type": "string"}),
    ("price", [1, "1.5"], {"type": "numeric", "written_as": "number or string"}),
    ("x", [1, "2"], {"type": "string", "written_as": "number or string"}),
    ("x", [Decimal("1.5"), "b"], {"type": "json"}),
    ("x", [1, True], {"type": "json"}),
    ("x", ["2025-12-01", "2025-02-28"], {"type": "date"}),
    ("x", ["2025-12-01", "2025-02-30"], {"type": "string"}),
    ("x", ["192.0.2.1", "2001:db8::1"], {"type": "ip_address"}),
    ("x", ["2025-12-01T10:15:30+01:00"], {"type": "timestamp"}),
    ("x", ["2025-12-01T10:15:30Z", "2025-12-01 10:15:30.123456"], {"type": "timestamp", "without_offset": "UTC"}),
    ("x", ["2025-12-01T10:15:30Z", "soon"], {"type": "string"}),
    ("kind", ["a", "b", "a", "b", "b", "a"], {"type": "string", "values": ["a", "b"]}),
    ("kind", ["a", "b", "a"], {"type": "string"}),
    ("kind", ["a"] * 9, {"type": "string"}),
    ("currency", ["EUR", "USD"] * 5, {"type": "string"}),
    ("order_id", ["a", "b"] * 5, {"type": "string"}),
    ("kind", ["a/b", "c"] * 5, {"type": "string"}),
]


class TestScalars:
    @pytest.mark.parametrize(("name", "values", "spec"), SCALARS)
    def test_the_narrowest_type(self, name: str, values: list[Any], spec: dict[str, Any]) -> None:
        """That takes all values; a number in a string only where something says that it is one."""
        assert scalars_of(name, values).spec == spec

    @pytest.mark.parametrize("name", ["totalPrice", "amount", "tax_amount", "SUBTOTAL"])
    def test_money(self, name: str) -> None:
        """In any spelling."""
        assert is_money(name)

    def test_personal(self) -> None:
        """By the words of a name, and by the object around it."""
        yes = [("email",), ("customerEmail",), ("name",), ("customer", "name"), ("billing_address", "zip"), ("first_name",)]
        yes += [("client_ip",), ("user_agent",), ("phoneNumber",), ("address", "lat"), ("customers", "name"), ("address",)]
        no = [("product", "name"), ("product_name",), ("email_verified",), ("ip_count",), ("store", "lat"), ("address", "city")]
        no += [("description",), ("shipping",), ("customer", "id"), ("phone_type",), ("line_items", "name")]
        assert [keys for keys in yes if not is_personal_name(keys[-1], keys[:-1])] == []
        assert [keys for keys in no if is_personal_name(keys[-1], keys[:-1])] == []

    def test_a_personal_value_is_told_to_nobody(self) -> None:
        """Neither in the file nor in a sentence, be there few of them."""
        bodies = [refund(first_name=name) for name in ("Jane", "Joe") * 5]
        _, draft, text = drafted(*bodies)
        assert "Jane" not in text
        assert not any("Jane" in sentence for sentence in draft.assumptions)

    def test_objects_that_are_maps(self) -> None:
        """Their keys are values: they are kept as json."""
        bodies = [refund(prices={f"sku-{index}-{more}": 1 for more in range(3)}) for index in range(10)]
        contract, _, _ = drafted(*bodies)
        assert fields_of(contract)["prices"].type == "json"

    def test_a_record_by_its_name(self) -> None:
        """The same one where it has the same fields, another name where not."""
        one, other = {"v": 1}, {"v": "x"}
        body = refund(a={"money": one}, b={"money": one}, c={"money": other}, list={"n": 1})
        contract, _, _ = drafted(body)
        assert sorted(record.name for record in contract.records) == [
            *("a", "b", "c", "c_money", "customer", "line", "list_record", "money"),
        ]


@st.composite
def contracts_with_samples(draw: st.DrawFn) -> tuple[Contract, list[dict[str, Any]]]:
    contract = draw(contracts())
    return contract, draw(st.lists(objects(contract, contract.fields), min_size=1, max_size=4))


class TestAnySamples:
    @pytest.mark.slow
    @given(contracts_with_samples())
    @property_test(150)
    def test_events_of_any_contract(self, found: tuple[Contract, list[dict[str, Any]]]) -> None:
        """What one contract takes, the one drafted from it takes too."""
        drafted(*found[1])

    @pytest.mark.slow
    @given(st.lists(st.dictionaries(KEYS, ANY_JSON, max_size=5), min_size=1, max_size=4))
    @property_test(300)
    def test_any_objects(self, bodies: list[dict[str, Any]]) -> None:
        """Whatever they hold, as long as there is a time."""
        drafted(*(json.loads(_encode({**body, "at": "2025-12-01T10:00:00Z"}), parse_float=Decimal) for body in bodies))


_encode = msgspec.json.Encoder(decimal_format="number").encode


class TestSamples:
    def test_those_of_the_type(self) -> None:
        """Others are counted; where some say their type, those that do not are others."""
        samples = samples_of(refund(), {"event_type": "order"}, refund(), {"x": 1})
        assert [sample.line for sample in samples.samples] == [1, 3]
        assert samples.others == {"order": 1, "None": 1}

    @pytest.mark.parametrize(
        ("lines", "sentence"),
        [
            ([b"{}\n", b"{"], "Line 2: expected a JSON object in UTF-8, got invalid JSON: Input data was truncated."),
            ([b"[1]"], "Line 1 is not a JSON object."),
            ([b"\n"], "Expected samples whose event_type is refund, found no line."),
            ([b'{"event_type":"order"}'], "Expected samples whose event_type is refund, found order."),
        ],
    )
    def test_what_is_no_sample(self, lines: list[bytes], sentence: str) -> None:
        """The line is named."""
        with pytest.raises(ConfigError) as caught:
            read_samples(lines, "refund", "event_type")
        assert caught.value.message == sentence

    def test_a_text_of_any_kind_as_toml(self) -> None:
        """Quotation marks, control characters, and what JSON would leave as it is."""
        assert value_text('a"\\\n\x7fé') == '"a\\"\\\\\\n\\u007fé"'


@pytest.mark.slow
class TestCommand:
    @pytest.mark.slow
    def test_a_draft(self, tmp_path: Path) -> None:
        """The file, what was assumed, and the check; lint takes it, and the events are taken from then on."""
        (tmp_path / "samples.jsonl").write_bytes(encoded(refund()) + b"\n" + encoded({"event_type": "order"}))
        result = ecomflow("contract", "new", "refund", "--from", "samples.jsonl", folder=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        lines = result.stdout.splitlines()
        assert lines[:2] == ["- 1 sample read.", "- Lines of other types left out: order 1."]
        assert lines[-3:] == [
            "- All other fields are required: the sample has them.",
            "Wrote contracts/refund.toml.",
            "1 event: 1 pass (refund 1), 0 refused.",
        ]
        shown = ecomflow("contract", "show", "refund", "--format", "toml", folder=tmp_path)
        assert shown.stdout.startswith("# Drafted from 1 sample in samples.jsonl.")
        again = ecomflow("contract", "new", "refund", "--from", "samples.jsonl", folder=tmp_path)
        assert (again.returncode, again.stderr.splitlines()[0]) == (2, "Error: contracts/refund.toml already exists.")
        assert ecomflow("contract", "new", "refund", "--from", "samples.jsonl", "--force", folder=tmp_path).returncode == 0

    def test_a_webhook_of_long_ago(self, tmp_path: Path) -> None:
        """Its date alone is no fault of the contract, and is told."""
        (tmp_path / "s.jsonl").write_bytes(encoded({**WEBHOOK, "created_at": "2008-01-10T11:00:00-05:00"}))
        result = ecomflow("contract", "new", "orders_create", "--from", "s.jsonl", "--to", "mine", folder=tmp_path)
        assert result.returncode == 0
        assert "- The samples have no event_type: all of them are taken to be orders_create." in result.stdout
        assert "1 sample would be refused today because of the date" in result.stdout
        assert (tmp_path / "mine/orders_create.toml").exists()

    def test_another_file_of_the_same_type(self, tmp_path: Path) -> None:
        """Two files of one event type and version can't stand together."""
        (tmp_path / "contracts").mkdir()
        _, _, text = drafted(refund())
        (tmp_path / "contracts/mine.toml").write_text(text)
        (tmp_path / "s.jsonl").write_bytes(encoded(refund()))
        result = ecomflow("contract", "new", "refund", "--from", "s.jsonl", folder=tmp_path)
        assert (result.returncode, result.stderr.splitlines()[0]) == (2, "Error: contracts/mine.toml describes refund already.")

    def test_a_name_that_no_event_type_can_have(self, tmp_path: Path) -> None:
        """Nothing is written."""
        (tmp_path / "s.jsonl").write_bytes(encoded({"at": "2025-12-01T10:00:00Z"}))
        result = ecomflow("contract", "new", "orders/create", "--from", "s.jsonl", folder=tmp_path)
        assert (result.returncode, "expected 1 to 100 letters" in result.stderr) == (2, True)
        assert not (tmp_path / "contracts").exists()
