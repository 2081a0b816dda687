"""docs/contracts.md as a user follows it: each recipe is one edited line of a built-in file, and the worked example prints what
the page says.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ecomflow.contract.events import Message
from ecomflow.contract.language import Contract
from ecomflow.contract.loading import load_text, shop_text
from tests.support import ROOT
from tests.support.cli import ecomflow
from tests.support.compiled import compiled, only_letter
from tests.support.contract import Body, activity, message, number, order

PAGE = (ROOT / "docs" / "contracts.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


class Recipe(NamedTuple):
    """What the page says: the built-in file, its one edited line, and the error that the line removes, or adds."""

    file: str
    line: str
    error: str

    @property
    def before(self) -> str:
        return shop_text(self.file)

    @property
    def after(self) -> str:
        return with_line(self.before, self.line)


def recipes() -> dict[str, Recipe]:
    """By the heading on the page."""
    (section,) = re.findall(r"^## Recipes\n(.*?)^## ", PAGE, re.DOTALL | re.MULTILINE)
    parts = re.split(r"^### (.+)\n", section, flags=re.MULTILINE)[1:]
    return {heading: recipe_in(text) for heading, text in zip(parts[::2], parts[1::2], strict=True)}


def recipe_in(text: str) -> Recipe:
    (toml,), (error,) = blocks("toml", text), blocks("text", text)
    comment, line = toml.splitlines()
    return Recipe(Path(comment).stem, line, error.strip())


def with_line(text: str, line: str) -> str:
    """``text`` with the one line replaced that has the same key."""
    key = line.partition("=")[0].strip()
    found, count = re.subn(rf"^{key} *= .*$", lambda _: line, text, flags=re.MULTILINE)
    assert count == 1
    return found


RECIPES = recipes()
WITHOUT_OFFSET = order(order_date="2025-12-01T10:15:30.123456")
WITH_NUMBER = order(order_id=1001)
PRODUCT_PAGE = activity(activity_type="product_page")
OUTSIDE = activity(session_id="S-99", metadata={"platform": "web"})
WITH_SHIPPING = order(total_amount=number("49.80"))

# The event that the built-in type refuses, a table, and what its row has.
REFUSED_BEFORE: dict[str, tuple[Body, str, Body]] = {
    "Timestamps without an offset": (
        WITHOUT_OFFSET,
        "fact_order_header",
        {"order_timestamp": datetime(2025, 12, 1, 10, 15, 30, 123456, UTC), "order_date": datetime(2025, 12, 1).date()},
    ),
    "Ids as numbers": (WITH_NUMBER, "fact_order", {"order_id": "1001", "customer_id": "C-1"}),
    "One more activity type": (PRODUCT_PAGE, "fact_user_activity", {"activity_type": "product_page", "platform": "web"}),
    "A session id outside of metadata": (OUTSIDE, "fact_user_activity", {"session_id": "S-99", "platform": "web"}),
}


def outcome(text: str, body: Body) -> Any:
    return compiled([message(body)], contracts=[load_text(text, "own.toml")])


class TestRecipes:
    def test_each_is_tried_below(self) -> None:
        """None on the page is missing here."""
        assert set(RECIPES) == {*REFUSED_BEFORE, "Orders whose total differs from their lines"}

    @pytest.mark.parametrize("name", REFUSED_BEFORE)
    def test_the_event_was_refused_and_passes(self, name: str) -> None:
        """Before the edit with the error on the page; after it, its row has the event's values."""
        body, table, expected = REFUSED_BEFORE[name]
        assert only_letter(outcome(RECIPES[name].before, body)).error == RECIPES[name].error
        after = outcome(RECIPES[name].after, body)
        assert after.letters == []
        assert expected.items() <= after.rows[table][0].items()

    @pytest.mark.parametrize("name", REFUSED_BEFORE)
    def test_columns_stay_as_they_are(self, name: str) -> None:
        """infra up has nothing to do: names, types and modes are the same."""
        assert columns(RECIPES[name].before) == columns(RECIPES[name].after)

    def test_a_timestamp_with_an_offset_is_still_converted(self) -> None:
        """The zone is for those without one."""
        body = order(order_date="2025-12-01T10:15:30+02:00")
        (row,) = outcome(RECIPES["Timestamps without an offset"].after, body).rows["fact_order_header"]
        assert row["order_timestamp"] == datetime(2025, 12, 1, 8, 15, 30, tzinfo=UTC)

    def test_an_hour_that_occurs_twice_is_the_first(self) -> None:
        """On 26 October 2025 at 03:00 in Berlin the clocks go back to 02:00."""
        text = with_line(shop_text("order"), 'order_date = { type = "timestamp", without_offset = "Europe/Berlin" }')
        (row,) = outcome(text, order(order_date="2025-10-26T02:30:00")).rows["fact_order_header"]
        assert row["order_timestamp"] == datetime(2025, 10, 26, 0, 30, tzinfo=UTC)

    def test_ids_that_are_texts_still_pass(self) -> None:
        """1001 and "1001" are the same order."""
        (row,) = outcome(RECIPES["Ids as numbers"].after, order(order_id="1001")).rows["fact_order_header"]
        assert row["order_id"] == "1001"

    def test_an_order_whose_total_differs(self) -> None:
        """It passes as it is, and is refused after the edit; one whose total is right is not."""
        recipe = RECIPES["Orders whose total differs from their lines"]
        (row,) = outcome(recipe.before, WITH_SHIPPING).rows["fact_order_header"]
        assert row["total_amount"] == Decimal("49.80")
        assert only_letter(outcome(recipe.after, WITH_SHIPPING)).error == recipe.error
        assert outcome(recipe.after, order()).letters == []


def columns(text: str) -> list[tuple[str, str, str, bool]]:
    tables = load_text(text, "own.toml").tables
    return [(table.name, column.name, column.type, column.required) for table in tables for column in table.columns]


DRAFT, EDITED = (next(block for block in blocks("toml") if block.startswith(start)) for start in ("# Drafted", "event = "))
EDITED_LINE = next(block for block in blocks("toml") if block.startswith("# contracts/refund.toml")).splitlines()[1]
SAMPLES, LATE = blocks("json")[:2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the page's samples."""
    (tmp_path / "refunds.jsonl").write_text(SAMPLES)
    (tmp_path / "late.jsonl").write_text(LATE)
    return tmp_path


def printed(command: str) -> list[str]:
    """What the page says that ``command`` prints."""
    for block in blocks("console"):
        outputs = dict(re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE))
        if command in outputs:
            return str(outputs[command]).splitlines()
    raise AssertionError(f"the page does not run {command}")


def runs(command: str, folder: Path) -> list[str]:
    done = ecomflow(*command.split()[1:], folder=folder)
    assert done.returncode == 0, done.stderr
    return (done.stderr + done.stdout).splitlines()


def refund(text: str = EDITED) -> Contract:
    return load_text(text, "contracts/refund.toml")


@pytest.mark.slow
class TestTheWorkedExample:
    def test_the_draft(self, folder: Path) -> None:
        """What contract new assumes and writes."""
        command = "ecomflow contract new refund --from refunds.jsonl"
        assert runs(command, folder) == printed(command)
        assert (folder / "contracts/refund.toml").read_text() == DRAFT

    @pytest.mark.parametrize("command", ["lint", "check refunds.jsonl", "check late.jsonl"])
    def test_the_edited_file(self, folder: Path, command: str) -> None:
        """The rule that R-3 breaks is counted; with the edited line both late ones pass, and the coupon is kept."""
        (folder / "contracts").mkdir()
        text = with_line(EDITED, EDITED_LINE) if "late" in command else EDITED
        (folder / "contracts/refund.toml").write_text(text)
        assert runs(f"ecomflow contract {command}", folder) == printed(f"ecomflow contract {command}")

    def test_the_rows(self) -> None:
        """As the query on the page shows them."""
        messages = [Message(line.encode(), {}, f"M-{number}", 0) for number, line in enumerate(SAMPLES.splitlines())]
        rows = compiled(messages, contracts=[refund()]).rows["fact_refund"]
        found = [
            (row["refund_id"], str(row["amount"].quantize(Decimal("0.01"))), row["reason"], row["email"] or "") for row in rows
        ]
        shown = [line.split() for line in "\n".join(blocks("console")).splitlines() if re.match(r" R-[123] ", line)]
        assert [tuple((*cells, "")[:4]) for cells in shown] == found

    def test_what_is_refused(self) -> None:
        """R-4 with the error that dlq inspect shows; with the edited line it passes."""
        late = Message(LATE.splitlines()[0].encode(), {}, "M-4", 0)
        reason, _, rest = only_letter(compiled([late], contracts=[refund()])).error.partition(": ")
        assert reason == "$.reason"
        assert f"$.reason: {rest}" in " ".join(PAGE.split())
        (row,) = compiled([late], contracts=[refund(with_line(EDITED, EDITED_LINE))]).rows["fact_refund"]
        assert (row["refund_id"], row["reason"]) == ("R-4", "wrong_size")
