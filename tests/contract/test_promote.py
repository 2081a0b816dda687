"""contract promote: an unknown field becomes one of the contract, by an edit of its text; and the SQL that fills its column."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ecomflow.config import Settings
from ecomflow.contract.codec import Codec
from ecomflow.contract.ddl import table_ddl, view_ddl
from ecomflow.contract.loading import load_text, shop_text
from ecomflow.contract.promote import Promotion, keys_in, promote, values_sql
from ecomflow.contract.toml_edits import with_element, with_line
from ecomflow.errors import ConfigError
from ecomflow.sql import qualify
from tests.support.cli import ecomflow, write_stack_file
from tests.support.compiled import SHOP, compiled
from tests.support.contract import NOW, encoded, item, message, order
from tests.support.local_bigquery import LocalBigQuery, local_bigquery

ORDER = shop_text("order")
DATASET = "ecomflow-local.ecomflow"


def promoted(path: str, *values: Any, text: str = ORDER) -> Promotion:
    """The promotion, which adds one line and changes no other, but for a list of columns."""
    found = promote(text, "order.toml", path, values)
    before, after = text.splitlines(), found.text.splitlines()
    assert len([line for line in after if line not in before and not line.lstrip().startswith(("columns", '"'))]) == 1
    assert found.line in found.text
    return found


class TestFields:
    @pytest.mark.parametrize(
        ("path", "values", "line"),
        [
            ("$.coupon", ["X", ""], 'coupon           = { type = "string", optional = true }\n'),
            ("$.coupon", ["X", "Y"] * 9, 'coupon           = { type = "string", optional = true }\n'),
            ("$.gift", [True, None], 'gift             = { type = "boolean", optional = true }\n'),
            ("$.tip", ["1.50"], 'tip              = { type = "numeric", written_as = "string", optional = true }\n'),
            ("$.tags", [["a"]], 'tags             = { type = "json", optional = true }\n'),
            ("$.nothing", [None], 'nothing          = { type = "json", optional = true }\n'),
            ("$.email", ["a@b.c"], 'email            = { type = "string", optional = true, personal = true }\n'),
            ("$.campaign.id", [1], 'campaign_id      = { type = "integer", path = "campaign.id", optional = true }\n'),
            ('$["a.b"]', [1], 'a_b              = { type = "integer", path = ["a.b"], optional = true }\n'),
            ("$.$type", [1], 'type             = { type = "integer", path = "$type", optional = true }\n'),
            ("$.event_id", ["e"], 'body_event_id    = { type = "string", path = "event_id", optional = true }\n'),
            ("$.to", [1], 'body_to          = { type = "integer", path = "to", optional = true }\n'),
            ("$.items[].colour", ["red"], 'colour       = { type = "string", optional = true }\n'),
            ("$.shipping_address.zip", ["75001"], 'zip     = { type = "string", optional = true, personal = true }\n'),
        ],
    )
    def test_the_line(self, path: str, values: list[Any], line: str) -> None:
        """Optional, aligned, in the section of the object that has it; nothing that these values alone would say."""
        assert promoted(path, *values).line == line

    def test_what_it_makes_of_events(self) -> None:
        """The field is in its columns, and unknown no more."""
        text = promoted("$.items[].colour", "red", text=promoted("$.coupon", "X").text).text
        body = order(coupon="X", items=[item(colour="red"), item()])
        outcome = compiled([message(body), message(order())], contracts=[load_text(text, "order.toml")])
        assert (outcome.drift, outcome.letters) == ({}, [])
        assert [row["coupon"] for row in outcome.rows["fact_order_header"]] == ["X", None]
        assert [row["colour"] for row in outcome.rows["fact_order_item"]][:2] == ["red", None]
        assert [row["unknown_fields"] for row in outcome.rows["fact_order_header"]] == [None, None]

    def test_which_tables_have_it(self) -> None:
        """The first one, and those that have all of its object; where columns are listed, it is added to those of the first."""
        assert promoted("$.coupon", "X").columns == {"fact_order_header": "coupon"}
        assert promoted("$.items[].colour", "X").columns == {"fact_order_item": "colour", "fact_order": "colour"}
        address = promoted("$.shipping_address.floor", "X").columns
        assert address == {"fact_order_header": "shipping_address_floor", "fact_order": "shipping_address_floor"}
        activity = promoted("$.metadata.lang", "fr", text=shop_text("user_activity"))
        assert activity.columns == {"fact_user_activity": "lang"}
        assert '"session_id", "platform", "lang"]\n' in activity.text
        assert 'lang          = { type = "string", path = "metadata.lang", optional = true }' in activity.text

    def test_the_fields_of_a_list_whose_columns_are_listed(self) -> None:
        """They are added to the first table of the list."""
        text = ORDER.replace('  "items",\n', '  "items.product_id", "items.product_name", "items.quantity", "items.price",\n')
        found = promoted("$.items[].colour", "red", text=text)
        assert found.columns == {"fact_order_item": "colour"}
        assert '  "order_date",\n  "items.colour",\n]' in found.text

    @pytest.mark.parametrize(
        ("path", "sentence"),
        [
            ("coupon", "'coupon' is not the path of a field."),
            ("$", r"'\$' is not the path of a field."),
            ("$.items[]", r"'\$.items\[\]' is not the path of a field."),
            ("$.a..b", r"'\$.a..b' is not the path of a field."),
            ("$.status", r"\$.status is a field of the contract already."),
            ("$.items[].price", r"\$.items\[\].price is a field of the contract already."),
            ("$.status.x", "is inside a field of the contract that is not an object."),
            ("$.items.x", r"\$.items.x leads through a list."),
            ("$.new[].x", "a contract can't name it."),
            ("$.it's", "has an apostrophe"),
        ],
    )
    def test_what_can_not_be_promoted(self, path: str, sentence: str) -> None:
        """The sentence says why."""
        with pytest.raises(ConfigError, match=sentence):
            promote(ORDER, "order.toml", path, ["x"])

    def test_paths(self) -> None:
        """As check and the counters write them, and in brackets for what they can't say."""
        assert keys_in("$.items[].colour") == ("items", "[]", "colour")
        assert keys_in('$["a.b"].c-d."e f"') == ("a.b", "c-d", "e f")


LAYOUT = """\
# [fields]
event = "x"  # [fields]
[fields]  # what it holds
a    = "string"   # an a
b_c  = { type = "string", values = [
  "one",  # [not a header]
  "two",
] }
# d = "string"

[[tables]]
name = 'fact_x'
columns = [
    "a",  # first
    "b_c"  # last ]
]

[[tables]]
name = "fact_y"
columns = ["a", { name = "z", value = 'b_c' }]
[[tables]]
name = "fact_z"
columns = []
"""


class TestEdits:
    def test_a_line_in_a_section(self) -> None:
        """Behind the last value, which may go over several lines; comments stay where they are."""
        text, line = with_line(LAYOUT, "[fields]", "e", '"date"')
        assert line == 'e    = "date"\n'
        assert text == LAYOUT.replace("] }\n# d =", '] }\ne    = "date"\n# d =')

    def test_a_line_at_the_end(self) -> None:
        """Of a file whose last line has no end."""
        assert with_line('[fields]\na = "b"', "[fields]", "long", "1")[0] == '[fields]\na = "b"\nlong = 1\n'
        assert with_line("[fields]", "[fields]", "long", "1")[0] == "[fields]\nlong = 1\n"

    def test_no_such_section(self) -> None:
        """Inline tables are not edited."""
        with pytest.raises(ConfigError, match=r"Expected a section \[fields\] in the contract file, found none"):
            with_line("fields = { a = 1 }", "[fields]", "b", "1")

    @pytest.mark.parametrize(
        ("index", "old", "new"),
        [
            (0, '    "b_c"  # last ]\n', '    "b_c",  # last ]\n    "e",\n'),
            (1, "value = 'b_c' }]", "value = 'b_c' }, \"e\"]"),
            (2, "columns = []", 'columns = ["e"]'),
        ],
    )
    def test_an_element_of_an_array(self, index: int, old: str, new: str) -> None:
        """On its own line where the others are, with the comma that is missing."""
        assert with_element(LAYOUT, "[[tables]]", index, "columns", '"e"') == LAYOUT.replace(old, new)

    def test_an_array_with_a_comma_behind_its_last_element(self) -> None:
        """None is added."""
        text = '[[tables]]\ncolumns = [\n  "a",\n  # all\n]\n'
        assert with_element(text, "[[tables]]", 0, "columns", '"e"') == '[[tables]]\ncolumns = [\n  "a",\n  "e",\n  # all\n]\n'


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBigQuery]:
    with local_bigquery(tmp_path_factory.mktemp("warehouse") / "data") as server:
        server.client.create_dataset("ecomflow", exists_ok=True)
        for table in SHOP[0].tables:
            server.query(qualify(table_ddl(table), DATASET))
            server.query(qualify(view_ddl(table), DATASET))
        yield server


def insert(warehouse: LocalBigQuery, table: str, row: dict[str, Any]) -> None:
    def literal(name: str, value: Any) -> str:
        if name == "unknown_fields" and value is not None:
            return f"JSON '{value}'"
        kinds = {"order_date": "DATE", "order_timestamp": "TIMESTAMP"}
        if isinstance(value, Decimal):
            return f"NUMERIC '{value}'"
        return "NULL" if value is None else str(value) if isinstance(value, int) else f"{kinds.get(name, '')} '{value}'"

    values = ", ".join(literal(name, value) for name, value in row.items())
    warehouse.query(f"INSERT INTO `{DATASET}.{table}` ({', '.join(row)}) VALUES ({values})")


@pytest.mark.stack
class TestSql:
    def test_it_fills_what_is_there(self, warehouse: LocalBigQuery) -> None:
        """A column each, of the values that were kept, also where an event stands twice; the query finds the same values."""
        kept = {"coupon": "X", "n": 5, "at": "2025-12-01T10:00:00+01:00", "gift": True, "o": {"x": 1}, "a.b": "dotted"}
        body = order(**kept, items=[item(), item(colour="red"), item(colour="blue")])
        rows = compiled([message(body, "e1"), message(order(), "e2")]).rows
        for table in ("fact_order_header", "fact_order_item"):
            for row in rows[table] + rows[table][:1]:
                insert(warehouse, table, row)
        paths = ("$.coupon", "$.n", "$.at", "$.gift", "$.o", '$["a.b"]', "$.items[].colour")
        for path in paths:
            found = [json.loads(text) for (text,) in warehouse.query(qualify(values_sql(SHOP[0], path, 10), DATASET))]
            assert set(map(str, found)) == ({"red", "blue"} if "colour" in path else {str(kept[keys_in(path)[0]])})
            statements = promote(ORDER, "order.toml", path, found).sql.split(";\n")
            for statement in filter(str.strip, statements):
                warehouse.query(qualify(statement, DATASET))
        columns = "event_id, coupon, n, CAST(body_at AS STRING), gift, TO_JSON_STRING(o), a_b"
        assert set(warehouse.query(f"SELECT {columns} FROM `{DATASET}.fact_order_header`")) == {
            ("e1", "X", 5, "2025-12-01 09:00:00+00", True, '{"x":1}', "dotted"),
            ("e2", None, None, None, None, None, None),
        }
        lines = warehouse.query(f"SELECT DISTINCT event_id, line_number, colour FROM `{DATASET}.fact_order_item` ORDER BY 1, 2")
        assert lines == [("e1", 1, None), ("e1", 2, "red"), ("e1", 3, "blue"), ("e2", 1, None), ("e2", 2, None)]

    def test_the_command_draws_the_type_from_what_was_kept(self, warehouse: LocalBigQuery, tmp_path: Path) -> None:
        """Without a file it asks the warehouse."""
        for number, floor in enumerate((4, 12)):
            body = order(shipping_address={"street": "s", "city": "c", "country": "FR", "floor": floor})
            insert(warehouse, "fact_order_header", compiled([message(body, f"f{number}")]).rows["fact_order_header"][0])
        state = tmp_path / "state"
        state.mkdir(mode=0o700)
        endpoints = msgspec.structs.replace(warehouse.endpoints, pubsub="127.0.0.1:1", storage="http://127.0.0.1:1")
        write_stack_file(state, endpoints)
        settings = Settings(state_dir=str(state))
        result = ecomflow("contract", "promote", "order", "$.shipping_address.floor", settings=settings, folder=tmp_path)
        assert (result.returncode, "its type inferred from 2 values" in result.stderr) == (0, True)
        assert 'floor   = { type = "integer", optional = true }' in (tmp_path / "contracts/order.toml").read_text()


@pytest.mark.slow
class TestCommand:
    @pytest.mark.slow
    def test_from_a_file_of_events(self, tmp_path: Path) -> None:
        """The built-in contract is copied, the line added, the SQL printed alone to standard output."""
        (tmp_path / "e.jsonl").write_bytes(encoded(order(coupon="X")) + b"\n" + encoded(order()))
        result = ecomflow("contract", "promote", "order", "$.coupon", "--from", "e.jsonl", folder=tmp_path)
        assert result.returncode == 0
        found = promote(ORDER, "contracts/order.toml", "$.coupon", ["X"])
        assert (tmp_path / "contracts/order.toml").read_text() == found.text
        assert result.stdout == qualify(found.sql, DATASET)
        assert result.stderr.splitlines() == [
            "Wrote contracts/order.toml, with this line, its type inferred from 1 value:",
            '  coupon           = { type = "string", optional = true }',
            "infra up adds fact_order_header.coupon. Then update the pipeline, and run this SQL, which fills the rows that are"
            " there.",
        ]
        assert ecomflow("contract", "lint", folder=tmp_path).returncode == 0
        codec = Codec([load_text(found.text, "order.toml")])
        assert codec.decode([message(order(coupon="X"))], NOW).drift == {}

    def test_a_file_of_ones_own(self, tmp_path: Path) -> None:
        """It is edited where it is, whatever its name."""
        (tmp_path / "contracts").mkdir()
        (tmp_path / "contracts/ours.toml").write_text(f"# ours\n{ORDER}")
        (tmp_path / "e.jsonl").write_bytes(encoded(order(email="a@b.c")))
        result = ecomflow("contract", "promote", "order", "$.email", "--from", "e.jsonl", folder=tmp_path)
        assert "Assumed: it is personal, judging by its name" in result.stderr
        assert (tmp_path / "contracts/ours.toml").read_text().startswith("# ours\n")
        assert [path.name for path in (tmp_path / "contracts").iterdir()] == ["ours.toml"]

    def test_no_value(self, tmp_path: Path) -> None:
        """Nothing is written."""
        (tmp_path / "e.jsonl").write_bytes(encoded(order()))
        result = ecomflow("contract", "promote", "order", "$.coupon", "--from", "e.jsonl", folder=tmp_path)
        assert (result.returncode, result.stderr.splitlines()[0]) == (3, "Error: There is no value of $.coupon in e.jsonl.")
        assert not (tmp_path / "contracts").exists()

    def test_without_a_warehouse(self, tmp_path: Path) -> None:
        """What was kept can't be asked for."""
        result = ecomflow("contract", "promote", "order", "$.coupon", folder=tmp_path)
        assert (result.returncode, "is not running" in result.stderr) == (4, True)
