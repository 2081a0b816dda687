"""contract show: the schemas, which take no more and no less than the pipeline does, the pages, examples and files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from ecomflow.contract.example import example_of, published_schema, text_that_matches, to_text, whole_published_schema
from ecomflow.contract.json_schema import DRAFT, schema_of
from ecomflow.contract.language import Contract
from ecomflow.contract.loading import load_file, shop_text
from ecomflow.contract.markdown import markdown
from ecomflow.contract.tree import tree_of, walk
from ecomflow.errors import ContractError
from ecomflow.generator.editing import path_of, replaced, without
from tests.support import ROOT
from tests.support.any_contract import contracts
from tests.support.cli import ecomflow
from tests.support.compiled import SHOP, compiled, contract_of
from tests.support.contract import VALID, encoded, message, property_test
from tests.support.faults import FAULTS, NAMES, spoiled
from tests.support.json_schema import is_valid

BY_NAME = {contract.event: contract for contract in SHOP}
TYPES = tuple(BY_NAME)
REFUND = """
description = "Money given back."
unknown_fields = "drop"
[fields]
refund_id = { type = "string", description = "The refund | its id." }
at = { type = "timestamp", without_offset = "UTC" }
amount = { type = "numeric", min = 0, written_as = "string" }
currency = { type = "string", pattern = "[A-Z]{3}", default = "EUR" }
email = { type = "string", optional = true, personal = true, path = "customer.email" }
score = { type = "integer", min = 3, max = 9 }
notes = { type = "list", of = "string", min_items = 2 }
lines = { type = "list", min_items = 1, of = "line" }
[records.line]
product_id = "string"
price = { type = "numeric", min = 0 }
[[rules]]
check = "amount <= sum(lines.price)"
[[rules]]
name = "low"
check = "amount < 5"
otherwise = "count"
[[tables]]
name = "fact_refund"
cluster = ["refund_id"]
[[tables]]
name = "fact_refund_note"
each = "notes"
[[tables]]
name = "fact_refund_line"
each = "lines"
columns = ["refund_id", "lines"]
"""

# What the pipeline refuses and a schema can't: decimals, dates, and what is no JSON at all.
BEYOND_A_SCHEMA = ("_too_precise", "_too_old", "_in_far_future")

STRANGE: list[Any] = [None, True, 0, -1, 1, 2, "", "x", "login", "web", "sale", "shipped", [], {}, [{}], 2**63, -(2**63) - 1]
STRANGE += ["2025-12-01T10:15:30Z", "2025-12-01T10:15:30", "192.0.2.1", "2001:db8::1", "999.1.1.1", 10**29]


def parsed(data: bytes) -> Any:
    return json.loads(data, parse_float=Decimal)


def is_taken(body: Any) -> bool:
    return not compiled([message(body)]).letters


def places(body: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every field and element of ``body``, at any depth."""
    inner = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, part in inner:
        yield (*keys, key)
        yield from places(part, (*keys, key))


class TestPublished:
    @pytest.mark.parametrize("kind", TYPES)
    def test_each_names_its_draft_its_version_and_its_type(self, kind: str) -> None:
        """The id carries the version; event_type is a constant; unknown fields pass; an example is in it."""
        schema = json.loads(to_text(published_schema(BY_NAME[kind])))
        assert (schema["$schema"], schema["$id"]) == (DRAFT, f"urn:ecomflow:contract:{kind}:v1")
        assert schema["properties"]["event_type"] == {"const": kind}
        assert schema["additionalProperties"] is True
        assert schema["examples"] == [json.loads(example_of(BY_NAME[kind]))]

    def test_an_order_in_full(self) -> None:
        """Every field of an item, and which fields of an order may be left out."""
        schema = schema_of(BY_NAME["order"])
        assert set(schema["properties"]) - set(schema["required"]) == {"customer_name"}
        item = schema["properties"]["items"]["items"]
        assert {name: part["type"] for name, part in item["properties"].items()} == {
            "product_id": "string",
            "product_name": "string",
            "quantity": "integer",
            "price": "number",
        }
        assert (item["properties"]["quantity"]["minimum"], item["properties"]["quantity"]["maximum"]) == (1, 2**63 - 1)
        assert (item["properties"]["price"]["minimum"], item["properties"]["price"]["exclusiveMaximum"]) == (0, 1e29)


class TestExamples:
    @given(contracts())
    @property_test(150)
    def test_one_can_be_made_of_any_contract(self, contract: Contract) -> None:
        """Whatever its types, paths, records and lists, the pipeline takes it."""
        outcome = compiled([message(example_of(contract))], contracts=[contract])
        assert (outcome.letters, outcome.drift) == ([], {})

    def test_it_keeps_to_bounds_patterns_and_rules(self) -> None:
        """Every field is in it, written as the contract asks for."""
        assert json.loads(example_of(contract_of(REFUND))) == {
            "event_type": "refund",
            "refund_id": "refund-1",
            "at": "2025-12-01T10:15:30Z",
            "amount": "12.50",
            "currency": "EUR",
            "customer": {"email": "jane@example.com"},
            "score": 3,
            "notes": ["notes", "notes"],
            "lines": [{"product_id": "product-1", "price": 12.5}],
        }

    def test_another_number_where_a_rule_refuses_the_first(self) -> None:
        """So that it is valid."""
        contract = contract_of('[fields]\nat = "timestamp"\namount = "numeric"\n[[rules]]\ncheck = "amount < 2"\n')
        assert json.loads(example_of(contract))["amount"] == 1

    def test_a_changed_order_has_no_example_of_the_built_in_one(self) -> None:
        """The kept example is shown only where the contract in force takes it, all of it."""
        text = shop_text("order").replace("order_id         =", 'channel = { type = "string", values = ["web"] }\norder_id =')
        assert json.loads(example_of(contract_of(text, "order")))["channel"] == "web"
        text = "".join(line for line in shop_text("order").splitlines(keepends=True) if not line.startswith("customer_name"))
        assert "customer_name" not in json.loads(example_of(contract_of(text.replace('  "customer_name",\n', ""), "order")))

    def test_one_that_can_not_be_made(self) -> None:
        """The sentence says what stands in the way; the schema then has none."""
        contract = contract_of('[fields]\nat = "timestamp"\niban = { type = "string", pattern = "(?=..)D(?!E)" }\n')
        with pytest.raises(
            ContractError, match=r"No example of refund can be made from its contract: \$\.iban: expected str that"
        ):
            example_of(contract)
        assert "examples" not in published_schema(contract)

    @pytest.mark.parametrize(
        "pattern",
        [
            "[A-Z]{3}",
            r"\d{4}-\d\d",
            r"[^x]+@y\.com",
            r"[^A-Z0-9]{2}",
            "(ab|cd)?e*",
            r"[\w.-]+",
            r"\S+\s",
            "(?=a)a|b",
            r"(?!0)\d{3}",
        ],
    )
    def test_a_text_of_a_pattern(self, pattern: str) -> None:
        """It matches, and it is the same one each time."""
        text = text_that_matches(pattern)
        assert text is not None
        assert re.fullmatch(pattern, text)
        assert text_that_matches(pattern) == text

    @pytest.mark.parametrize("pattern", ["(?=a)b", "[^\\s\\S]", "a{100000}"])
    def test_no_text_of_a_pattern(self, pattern: str) -> None:
        """What nothing matches, and what is longer than an example may be."""
        assert text_that_matches(pattern) is None


class TestTheSchemaAndThePipelineAgree:
    @pytest.mark.parametrize("kind", TYPES)
    def test_the_example_is_valid_for_both(self, kind: str) -> None:
        """What contract show --format example prints is taken by the schema, by the whole schema, and by the pipeline."""
        event = parsed(example_of(BY_NAME[kind]))
        assert is_valid(schema_of(BY_NAME[kind]), event)
        assert is_valid(whole_published_schema(SHOP), event)
        assert is_taken(example_of(BY_NAME[kind]))

    def test_the_examples_money_is_exact(self) -> None:
        """Digits stand as they are written, and the order's total is the sum of its lines."""
        order = example_of(BY_NAME["order"])
        assert b'"price":49.90' in order
        assert '"price": 49.90' in to_text(published_schema(BY_NAME["order"]))
        event = parsed(order)
        assert event["total_amount"] == sum(item["quantity"] * item["price"] for item in event["items"]) == Decimal("119.40")

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", TYPES)
    def test_any_field_with_a_strange_value(self, kind: str) -> None:
        """Each field and element in turn with each strange value, or left out: both take it, or both refuse it."""
        body = parsed(encoded(VALID[kind]()))
        schema = schema_of(BY_NAME[kind])
        changed = [(path_of(keys), value, replaced(body, keys, value)) for keys in places(body) for value in STRANGE]
        changed += [(path_of(keys), "missing", without(body, keys)) for keys in places(body)]
        changed = [(path, value, json.loads(json.dumps(one, default=float), parse_float=Decimal)) for path, value, one in changed]
        apart = [
            (path, value)
            for path, value, one in changed
            if is_valid(schema, one) != is_taken(json.dumps(one, default=float).encode())
        ]
        assert apart == []
        assert len(changed) > 100

    @pytest.mark.parametrize(("fault", "kind"), FAULTS, ids=NAMES)
    def test_the_catalogue_of_faults(self, fault: Any, kind: str) -> None:
        """The schema refuses every fault but those that no schema can tell."""
        if fault.reason != "malformed_json":
            data = spoiled(fault, json.loads(encoded(VALID[kind]())))
            assert is_valid(schema_of(BY_NAME[kind]), parsed(data)) == fault.name.endswith(BEYOND_A_SCHEMA)
            assert not is_taken(data)


class TestMarkdown:
    def test_a_row_a_field(self) -> None:
        """Nested fields stand by their path, with type, whether required, rule and meaning."""
        page = markdown(BY_NAME["user_activity"], None)
        assert "| metadata.platform | string | yes | `mobile`, `tablet`, `web`. | web, mobile or tablet. |\n" in page
        assert "| ip_address | string or null | no | IPv4 or IPv6, without a zone. | IPv4 or IPv6 address of the user, wh" in page
        assert "| items[].product_id | string | yes | not empty. | The product sold. |\n" in markdown(BY_NAME["order"], None)

    def test_any_contract(self) -> None:
        """Bounds, patterns, defaults, what is personal, unknown fields, rules that count, and the tables."""
        page = markdown(contract_of(REFUND), b"{}")
        for line in (
            "Money given back. One JSON object in UTF-8 a message. Version 1 of the contract. amount <= sum(lines.price).",
            "| refund_id | string | yes | not empty. | The refund \\| its id. |",
            "| currency | string or null | no | matches `[A-Z]{3}`; `EUR` where it is missing. |  |",
            "| customer.email | string or null | no |  | Personal. |",
            "| score | integer | yes | 3 or more; at most 9. Written without a decimal point. |  |",
            "| notes | array of string | yes | at least 2 elements. The refund's header, repeated on each of them,"
            " may take 16 MiB. |  |",
            "Fields that are not listed pass. Their values are dropped.",
            "- `amount < 5` (low)",
            "- `fact_refund`: One row for each event. Partitioned by event_date, clustered by refund_id. Columns:"
            " event_id STRING, refund_id STRING, event_date DATE, event_timestamp TIMESTAMP, amount NUMERIC,"
            " currency STRING, email STRING, score INT64, ingestion_timestamp TIMESTAMP.",
            "```json",
        ):
            assert line in page.splitlines()

    @given(contracts())
    @property_test(50)
    def test_every_field_and_table_has_a_line(self, contract: Contract) -> None:
        """Whatever the contract: a row for the type, and one for each key."""
        page = markdown(contract, None).splitlines()
        assert [line for line in page if line.startswith("- `")] == [one for one in page if "Partitioned by event_date." in one]
        keys = [node for node in walk(tree_of(contract)) if node.key]
        assert len([line for line in page if line.startswith("| ")]) == 3 + len(keys)

    @pytest.mark.parametrize("kind", TYPES)
    def test_the_docs_hold_the_page(self, kind: str) -> None:
        """docs/contracts.md ends with what contract show --format markdown prints."""
        text = (ROOT / "docs" / "contracts.md").read_text(encoding="utf-8")
        assert markdown(BY_NAME[kind], example_of(BY_NAME[kind])) in text


@pytest.mark.slow
class TestShow:
    def test_the_schema_of_a_type(self, tmp_path: Path) -> None:
        """With its example."""
        shown = ecomflow("contract", "show", "inventory", folder=tmp_path)
        assert (shown.returncode, shown.stdout) == (0, to_text(published_schema(BY_NAME["inventory"])))

    def test_the_examples_are_a_line_each(self, tmp_path: Path) -> None:
        """Without a type: one event of each, ready to be checked or published."""
        shown = ecomflow("contract", "show", "--format", "example", folder=tmp_path)
        assert shown.stdout.encode().splitlines() == [example_of(contract) for contract in SHOP]

    def test_all_types_in_one_schema(self, tmp_path: Path) -> None:
        """Without a type the schema takes an event of any, the folder's included."""
        (tmp_path / "contracts").mkdir()
        (tmp_path / "contracts/refund.toml").write_text(f'event = "refund"\ntime = "at"\n{REFUND}')
        shown = ecomflow("contract", "show", folder=tmp_path)
        refund = load_file(tmp_path / "contracts/refund.toml")
        assert json.loads(shown.stdout) == json.loads(to_text(whole_published_schema([*SHOP, refund])))
        assert '"$id": "urn:ecomflow:contract:refund:v1"' in shown.stdout

    @pytest.mark.slow
    def test_the_file(self, tmp_path: Path) -> None:
        """As it is, comments included; of several, each with its name before it."""
        (tmp_path / "contracts").mkdir()
        own = f'# ours\nevent = "refund"\ntime = "at"\n{REFUND}'
        (tmp_path / "contracts/refund.toml").write_text(own)
        assert ecomflow("contract", "show", "refund", "--format", "toml", folder=tmp_path).stdout == own
        assert ecomflow("contract", "show", "order", "--format", "toml", folder=tmp_path).stdout == shop_text("order")
        shown = ecomflow("contract", "show", "--format", "toml", folder=tmp_path).stdout
        assert [line for line in shown.splitlines() if line.startswith("# ") and line.endswith(".toml")] == [
            "# order.toml",
            "# inventory.toml",
            "# user_activity.toml",
            "# contracts/refund.toml",
        ]

    @pytest.mark.slow
    def test_a_built_in_file_while_another_has_mistakes(self, tmp_path: Path) -> None:
        """It is what the sentence about the mistakes says to compare with; a type of one's own is not shown."""
        (tmp_path / "contracts").mkdir()
        (tmp_path / "contracts/refund.toml").write_text('event = "refund"\n')
        shown = ecomflow("contract", "show", "order", "--format", "toml", folder=tmp_path)
        assert (shown.returncode, shown.stdout) == (0, shop_text("order"))
        assert shown.stderr == "There are mistakes in your contracts: this is the built-in one.\n"
        refused = ecomflow("contract", "show", "refund", "--format", "toml", folder=tmp_path)
        assert refused.returncode == 2
        assert "Compare with: ecomflow contract show order --format toml." in refused.stderr

    def test_a_type_that_is_none(self, tmp_path: Path) -> None:
        """The sentence names those that there are, and the nearest one."""
        shown = ecomflow("contract", "show", "odrer", folder=tmp_path)
        assert (shown.returncode, shown.stderr.splitlines()[0]) == (
            2,
            "Error: There is no event type 'odrer': expected one of order, inventory, user_activity, did you mean 'order'?",
        )


def test_a_string_that_may_be_a_number_keeps_its_lengths() -> None:
    """JSON Schema applies them to strings alone."""
    contract = contract_of(
        '[fields]\nat = "timestamp"\nid = { type = "string", written_as = "number or string", max_length = 9 }'
    )
    assert published_schema(contract)["properties"]["id"] == {"type": ["string", "integer"], "minLength": 1, "maxLength": 9}
