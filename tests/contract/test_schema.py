"""The published schemas: what the types say, no more and no less than the pipeline takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import ecomflow as package
from ecomflow.contract.markdown import markdown
from ecomflow.contract.schema import DRAFT, VERSION, example_of, schema_of, to_text, whole_schema
from ecomflow.generator.editing import path_of, replaced, without
from tests.support import ROOT
from tests.support.cli import ecomflow
from tests.support.contract import TYPES, VALID, encoded, message, outcome_of, rows_of
from tests.support.faults import FAULTS, NAMES, spoiled
from tests.support.json_schema import is_valid

PUBLISHED = Path(package.__path__[0]) / "contract"

# What the pipeline refuses and a schema can't: decimals, dates, and what is no JSON at all.
BEYOND_A_SCHEMA = ("_too_precise", "_too_old", "_in_far_future")

STRANGE: list[Any] = [None, True, 0, -1, 1, 2, "", "x", "login", "web", "sale", "shipped", [], {}, [{}], 2**63, -(2**63) - 1]
STRANGE += ["2025-12-01T10:15:30Z", "2025-12-01T10:15:30", "192.0.2.1", "2001:db8::1", "999.1.1.1", 10**29]


def parsed(data: bytes) -> Any:
    return json.loads(data, parse_float=Decimal)


def is_taken(body: Any) -> bool:
    return not outcome_of([message(body)]).letters


def places(body: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every field and element of ``body``, at any depth."""
    inner = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, part in inner:
        yield (*keys, key)
        yield from places(part, (*keys, key))


class TestPublished:
    @pytest.mark.parametrize("kind", TYPES)
    def test_the_files_are_what_the_types_say(self, kind: str) -> None:
        """Where a file differs, see docs/contracts.md, then: ecomflow contract show TYPE > ecomflow/contract/TYPE.v1.json"""
        file = PUBLISHED / f"{kind}.v{VERSION}.json"
        assert file.read_text(encoding="utf-8") == to_text(schema_of(kind)), f"run: ecomflow contract show {kind} > {file}"

    @pytest.mark.parametrize("kind", TYPES)
    def test_each_names_its_draft_its_version_and_its_type(self, kind: str) -> None:
        """The id carries the version; event_type is a constant; unknown fields pass."""
        schema = schema_of(kind)
        assert (schema["$schema"], schema["$id"]) == (DRAFT, f"urn:ecomflow:contract:{kind}:v{VERSION}")
        assert schema["properties"]["event_type"] == {"const": kind}
        assert schema["additionalProperties"] is True

    def test_an_order_in_full(self) -> None:
        """Every field of an item, and which fields of an order may be left out."""
        schema = schema_of("order")
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

    def test_an_unknown_type_has_no_schema(self) -> None:
        """The contract knows three."""
        with pytest.raises(KeyError):
            schema_of("refund")


class TestTheSchemaAndThePipelineAgree:
    @pytest.mark.parametrize("kind", TYPES)
    def test_the_example_is_valid_for_both(self, kind: str) -> None:
        """What contract show --format example prints is taken by the schema, by the whole schema, and by the pipeline."""
        event = parsed(example_of(kind))
        assert is_valid(schema_of(kind), event)
        assert is_valid(whole_schema(), event)
        assert rows_of(example_of(kind))

    def test_the_examples_money_is_exact(self) -> None:
        """Digits stand as they are written, and the order's total is the sum of its lines."""
        assert b'"price":49.90' in example_of("order")
        event = parsed(example_of("order"))
        assert event["total_amount"] == sum(item["quantity"] * item["price"] for item in event["items"]) == Decimal("119.40")

    @pytest.mark.parametrize("kind", TYPES)
    def test_any_field_with_a_strange_value(self, kind: str) -> None:
        """Each field and element in turn with each strange value, or left out: both take it, or both refuse it."""
        body = parsed(encoded(VALID[kind]()))
        schema = schema_of(kind)
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
            assert is_valid(schema_of(kind), parsed(data)) == fault.name.endswith(BEYOND_A_SCHEMA)
            assert not is_taken(data)


class TestMarkdown:
    def test_a_row_a_field(self) -> None:
        """Nested fields stand by their path, with type, whether required, and the rule."""
        page = markdown(schema_of("user_activity"), example_of("user_activity"))
        assert "| metadata.platform | string | yes | `mobile`, `tablet`, `web`. |\n" in page
        assert "| ip_address | string or null | no | IPv4 or IPv6, without a zone. |\n" in page
        page = markdown(schema_of("order"), example_of("order"))
        assert "| items[].product_id | string | yes | not empty. |\n" in page

    @pytest.mark.parametrize("kind", TYPES)
    def test_the_docs_hold_the_page(self, kind: str) -> None:
        """docs/contracts.md ends with what contract show --format markdown prints."""
        text = (ROOT / "docs" / "contracts.md").read_text(encoding="utf-8")
        assert markdown(schema_of(kind), example_of(kind)) in text


class TestShow:
    def test_what_it_prints_is_what_is_published(self, tmp_path: Path) -> None:
        """contract show TYPE writes the committed file, byte by byte."""
        shown = ecomflow("contract", "show", "inventory", folder=tmp_path)
        assert (shown.returncode, shown.stdout) == (0, (PUBLISHED / "inventory.v1.json").read_text(encoding="utf-8"))

    def test_the_examples_are_a_line_each(self, tmp_path: Path) -> None:
        """Without a type: one event of each, ready to be checked or published."""
        shown = ecomflow("contract", "show", "--format", "example", folder=tmp_path)
        assert shown.stdout.encode().splitlines() == [example_of(kind) for kind in TYPES]

    def test_all_types_in_one_schema(self, tmp_path: Path) -> None:
        """Without a type the schema takes an event of any."""
        shown = ecomflow("contract", "show", folder=tmp_path)
        assert json.loads(shown.stdout) == json.loads(to_text(whole_schema()))

    def test_a_type_that_is_none(self, tmp_path: Path) -> None:
        """The sentence names those that there are."""
        shown = ecomflow("contract", "show", "refund", folder=tmp_path)
        assert (shown.returncode, "'refund' is not one of" in shown.stderr) == (2, True)
