"""contract diff: whether what was valid stays valid, change by change; and the promise to those who publish today."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ecomflow.contract.diff import Change, compare, contract_in, current_contract, read_contract
from ecomflow.contract.schema import VERSION, example_of, schema_of, to_text, whole_schema
from ecomflow.errors import ConfigError
from tests.support import ROOT
from tests.support.cli import ecomflow
from tests.support.contract import TYPES, VALID, encoded
from tests.support.json_schema import is_valid

RELEASED = ROOT / "tests/contract/released"

Schema = dict[str, Any]
Edit = Callable[[Schema], Any]


def edited(edit: Edit, kind: str = "order") -> Schema:
    schema = copy.deepcopy(schema_of(kind))
    edit(schema)
    return schema


def changes(old: Schema, new: Schema) -> list[tuple[str, bool, str]]:
    found = compare(contract_in(old), contract_in(new))
    assert {change.event_type for change in found} <= {"order"}
    return [(change.path, change.breaking, change.change) for change in found]


def field(*names: str) -> Callable[[Schema], Schema]:
    def found(schema: Schema) -> Schema:
        for name in names:
            schema = schema["items" if name == "[]" else "properties"]
            schema = schema if name == "[]" else schema[name]
        return schema

    return found


status, items, quantity, price = field("status"), field("items"), field("items", "[]", "quantity"), field("items", "[]", "price")
customer_name, total = field("customer_name"), field("total_amount")

# What is changed in today's order schema, and what must be said of it: path, whether breaking, words.
CASES: dict[str, tuple[Edit, list[tuple[str, bool, str]]]] = {
    "nothing": (lambda s: None, []),
    "words alone": (lambda s: s.update(title="x", description="y", examples=[], **{"$id": "urn:x"}), []),
    "an optional field": (
        lambda s: s["properties"].update(coupon={"type": "string"}),
        [("$.coupon", False, "optional field added")],
    ),
    "a required field": (
        lambda s: (s["properties"].update(coupon={"type": "string"}), s["required"].append("coupon")),
        [("$.coupon", True, "required field added")],
    ),
    "a field less": (
        lambda s: s["properties"].pop("customer_name"),
        [("$.customer_name", False, "field removed: let through, no longer stored")],
    ),
    "a required field less": (
        lambda s: (s["properties"].pop("status"), s["required"].remove("status")),
        [("$.status", False, "field removed: let through, no longer stored")],
    ),
    "required now": (lambda s: s["required"].append("customer_name"), [("$.customer_name", True, "required now")]),
    "optional now": (lambda s: s["required"].remove("status"), [("$.status", False, "optional now")]),
    "another type": (lambda s: total(s).update(type="string"), [("$.total_amount", True, "type changed from number to string")]),
    "null taken": (
        lambda s: total(s).update(type=["number", "null"]),
        [("$.total_amount", False, "type changed from number to null, number")],
    ),
    "null refused": (
        lambda s: customer_name(s).update(type="string"),
        [("$.customer_name", True, "type changed from null, string to string")],
    ),
    "integer to number": (
        lambda s: quantity(s).update(type="number"),
        [("$.items[].quantity", False, "type changed from integer to number")],
    ),
    "number to integer": (
        lambda s: price(s).update(type="integer"),
        [("$.items[].price", True, "type changed from number to integer")],
    ),
    "a status more": (lambda s: status(s)["enum"].append("lost"), [("$.status", False, 'value "lost" added')]),
    "a status less": (lambda s: status(s)["enum"].remove("shipped"), [("$.status", True, 'value "shipped" removed')]),
    "a status renamed": (
        lambda s: status(s).update(enum=["lost", *[one for one in status(s)["enum"] if one != "shipped"]]),
        [("$.status", True, 'value "shipped" removed'), ("$.status", False, 'value "lost" added')],
    ),
    "any status": (lambda s: status(s).pop("enum"), [("$.status", False, "any value allowed now")]),
    "few names": (
        lambda s: customer_name(s).update(enum=["Jane", None]),
        [("$.customer_name", True, "only Jane, None allowed now")],
    ),
    "a tighter minimum": (
        lambda s: quantity(s).update(minimum=2),
        [("$.items[].quantity", True, "minimum tightened from 1 to 2")],
    ),
    "a looser minimum": (
        lambda s: quantity(s).update(minimum=-1),
        [("$.items[].quantity", False, "minimum loosened from 1 to -1")],
    ),
    "no minimum": (lambda s: price(s).pop("minimum"), [("$.items[].price", False, "minimum loosened from 0 to none")]),
    "a minimum excluded": (
        lambda s: (price(s).pop("minimum"), price(s).update(exclusiveMinimum=0)),
        [("$.items[].price", True, "minimum tightened from 0 to 0 (excluded)")],
    ),
    "a maximum included": (
        lambda s: (price(s).pop("exclusiveMaximum"), price(s).update(maximum=1e29)),
        [("$.items[].price", False, "maximum loosened from 1e+29 (excluded) to 1e+29")],
    ),
    "a longest name": (
        lambda s: customer_name(s).update(maxLength=80),
        [("$.customer_name", True, "maxLength tightened from none to 80")],
    ),
    "empty ids": (lambda s: field("order_id")(s).pop("minLength"), [("$.order_id", False, "minLength loosened from 1 to none")]),
    "no items": (lambda s: items(s).update(minItems=0), [("$.items", False, "minItems loosened from 1 to 0")]),
    "two items": (lambda s: items(s).update(minItems=2), [("$.items", True, "minItems tightened from 1 to 2")]),
    "a field of an item": (
        lambda s: (items(s)["items"]["properties"].update(size={"type": "string"}), items(s)["items"]["required"].append("size")),
        [("$.items[].size", True, "required field added")],
    ),
    "a date": (
        lambda s: field("order_date")(s).update(format="date"),
        [("$.order_date", True, 'format changed from "date-time" to "date"')],
    ),
    "any text for a date": (
        lambda s: field("order_date")(s).pop("format"),
        [("$.order_date", False, 'format "date-time" dropped')],
    ),
    "unknown fields refused": (
        lambda s: s.update(additionalProperties=False),
        [("$", True, "additionalProperties changed from true to false")],
    ),
    "unknown fields not spoken of": (lambda s: s.pop("additionalProperties"), []),
    "a keyword of another's": (
        lambda s: field("order_id")(s).update(pattern="^O"),
        [("$.order_id", True, 'pattern changed from none to "^O"')],
    ),
    "a step of one": (lambda s: price(s).update(multipleOf=1), [("$.items[].price", True, "multipleOf changed from none to 1")]),
    "anything": (
        lambda s: s["properties"].update(status=True),
        [("$.status", False, "type changed from string to any"), ("$.status", False, "any value allowed now")],
    ),
}


class TestChanges:
    @pytest.mark.parametrize("name", CASES)
    def test_what_is_said_of_a_change(self, name: str) -> None:
        """The path, whether it is breaking, and the change in words."""
        edit, expected = CASES[name]
        assert changes(schema_of("order"), edited(edit)) == expected

    @pytest.mark.parametrize("name", CASES)
    def test_the_way_back(self, name: str) -> None:
        """What is a change forth is one back; and one of the two is breaking, for one of the two takes less than the other."""
        edit, expected = CASES[name]
        back = changes(edited(edit), schema_of("order"))
        kept_open = name in ("an optional field", "a field less")  # fields that may hold anything while nobody names them
        assert bool(back) == bool(expected)
        assert not expected or kept_open or any(breaking for _, breaking, _ in expected + back)

    @pytest.mark.parametrize("name", [name for name, (_, said) in CASES.items() if not any(breaking for _, breaking, _ in said)])
    def test_under_a_compatible_schema_valid_events_stay_valid(self, name: str) -> None:
        """The verdict is true of events."""
        schema = edited(CASES[name][0])
        schema["properties"] = {name: {} if part is True else part for name, part in schema["properties"].items()}
        for data in (example_of("order"), encoded(VALID["order"]())):
            assert is_valid(schema, json.loads(data, parse_float=Decimal))

    def test_alternatives(self) -> None:
        """Another kind of address is compatible; one kind less is not."""
        old = schema_of("user_activity")
        more = edited(lambda s: field("ip_address")(s)["anyOf"].append({"format": "hostname"}), "user_activity")
        less = edited(lambda s: field("ip_address")(s)["anyOf"].pop(), "user_activity")
        none = edited(lambda s: field("ip_address")(s).pop("anyOf"), "user_activity")
        verdicts = [
            [change.breaking for change in compare(contract_in(one), contract_in(two))]
            for one, two in [(old, more), (more, old), (old, less), (old, none), (none, old)]
        ]
        assert verdicts == [[False], [True], [True], [False], [True]]

    def test_an_integer_that_may_be_zero(self) -> None:
        """Forbidding a value is breaking, allowing it is not."""
        free = edited(lambda s: field("quantity_change")(s).pop("not"), "inventory")
        held, loose = contract_in(schema_of("inventory")), contract_in(free)
        assert [(c.breaking, c.change) for c in compare(held, loose)] == [(False, 'not {"const":0} dropped')]
        assert [(c.breaking, c.change) for c in compare(loose, held)] == [(True, 'not changed from none to {"const":0}')]


class TestEventTypes:
    def test_an_event_type_more_and_less(self) -> None:
        """A new type troubles nobody; a type that is gone makes dead letters of its messages."""
        whole = whole_schema()
        smaller = contract_in({**whole, "oneOf": whole["oneOf"][:2]})
        assert compare(smaller, contract_in(whole)) == [Change("user_activity", "$", False, "event type added")]
        (change,) = compare(contract_in(whole), smaller)
        assert (change.event_type, change.breaking) == ("user_activity", True)

    def test_a_single_type_is_compared_with_its_own(self) -> None:
        """A file of one type says nothing of the others, on either side."""
        changed = edited(lambda s: status(s)["enum"].append("lost"))
        whole = current_contract()
        assert [change.path for change in compare(contract_in(changed), whole)] == ["$.status"]
        assert [change.breaking for change in compare(whole, contract_in(changed))] == [False]
        assert compare(contract_in(schema_of("inventory")), whole) == []

    def test_different_types_are_not_compared(self) -> None:
        """An order is no version of an inventory event."""
        with pytest.raises(ConfigError, match="Only one of the two has the event type"):
            compare(contract_in(schema_of("order")), contract_in(schema_of("inventory")))


class TestReleased:
    """tests/released_contracts holds the contract of the last release: what producers rely on."""

    @pytest.mark.parametrize("kind", TYPES)
    def test_what_was_released_is_still_taken(self, kind: str) -> None:
        """No breaking change since the last release under the same version number."""
        released = read_contract(RELEASED / f"{kind}.v{VERSION}.json")
        assert [change for change in compare(released, current_contract()) if change.breaking] == []


class TestCommand:
    def test_nothing_changed(self, tmp_path: Path) -> None:
        """A file that contract show wrote, against what it would write now."""
        (tmp_path / "old.json").write_text(to_text(whole_schema()))
        result = ecomflow("contract", "diff", "old.json", folder=tmp_path)
        assert (result.returncode, result.stdout) == (0, "No changes.\n")

    def test_a_breaking_change(self, tmp_path: Path) -> None:
        """A table of all changes, exit code 10, and what to do."""
        (tmp_path / "old.json").write_text(to_text(schema_of("order")))
        new = edited(lambda s: (status(s)["enum"].remove("shipped"), status(s)["enum"].append("lost")))
        (tmp_path / "new.json").write_text(to_text(new))
        result = ecomflow("contract", "diff", "old.json", "new.json", folder=tmp_path)
        assert result.returncode == 10
        assert [line.split()[:3] for line in result.stdout.splitlines() if "$.status" in line] == [
            ["order", "$.status", "BREAKING"],
            ["order", "$.status", "compatible"],
        ]
        assert "1 of 2 changes are breaking" in result.stderr

    def test_json(self, tmp_path: Path) -> None:
        """--json says whether it is compatible, and each change; a compatible one ends well."""
        (tmp_path / "old.json").write_text(to_text(edited(lambda s: status(s)["enum"].remove("shipped"))))
        result = ecomflow("contract", "diff", "old.json", "--json", folder=tmp_path)
        change = {"event_type": "order", "path": "$.status", "breaking": False, "change": 'value "shipped" added'}
        assert (result.returncode, json.loads(result.stdout)) == (0, {"compatible": True, "changes": [change]})

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("{", "Input data was truncated"),
            ("[]", "Expected `object`, got `array`"),
            ("{}", "expected a property event_type with a const"),
            ('{"properties": {"event_type": {"enum": ["order"]}}}', "expected a property event_type with a const"),
            (
                '{"properties": {"event_type": {"const": "order"}, "x": 5}}',
                "Expected `bool | object`, got `int` - at `$.properties[...]`",
            ),
            (
                '{"properties": {"event_type": {"const": "order"}}, "required": 5}',
                "Expected `array`, got `int` - at `$.required`",
            ),
            ('{"oneOf": [5]}', "Expected `object`, got `int` - at `$.oneOf[0]`"),
        ],
    )
    def test_what_is_no_contract(self, text: str, what: str, tmp_path: Path) -> None:
        """The file is named, with what is wrong in it."""
        (tmp_path / "odd.json").write_text(text)
        with pytest.raises(ConfigError, match="is not the JSON Schema of an event") as caught:
            read_contract(tmp_path / "odd.json")
        assert what in caught.value.message

    def test_a_missing_file(self, tmp_path: Path) -> None:
        """A sentence and exit code 2."""
        result = ecomflow("contract", "diff", "old.json", folder=tmp_path)
        assert (result.returncode, result.stderr.splitlines()[0]) == (
            2,
            "Error: old.json can't be read: No such file or directory.",
        )
