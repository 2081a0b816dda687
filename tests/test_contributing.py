"""The recipe of CONTRIBUTING.md for a new field, applied as it is written there to a copy of the package."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ecomflow.contract.limits import MAX_REPEATED_BYTES
from tests.support import ROOT
from tests.support.contract import encoded, order

PAGE = ROOT / "CONTRIBUTING.md"

# Bytes of messages on standard input, a line each; what becomes of each on standard output: its rows by table, and its refusals.
OUTCOMES = """
import json, sys
from datetime import UTC, datetime
from ecomflow.contract.codec import Codec
from ecomflow.contract.events import Message
from ecomflow.contract.loading import shop_contracts
from ecomflow.contract.modelling import model
now = datetime(2025, 12, 10, 12, tzinfo=UTC)
codec = Codec(shop_contracts())
for line in sys.stdin.buffer:
    decoded = codec.decode([Message(line.strip(), {}, "M-1", 0)], now)
    facts = [model(batch, now) for batch in decoded.parts]
    rows = {one.table: one.rows.to_pylist() for batch in facts for one in batch.tables}
    refused = [(letter.reason, letter.error) for batch in facts for letter in batch.refused]
    print(json.dumps({"rows": rows, "refused": refused, "drift": list(decoded.drift)}, default=str))
"""


class Edit(NamedTuple):
    """``old`` stands once in the file and gives way to ``new``."""

    path: str
    old: str
    new: str


def edits(page: str) -> Iterator[Edit]:
    """The hunks of the page's ``diff`` blocks: a line ``--- path``, then context, ``+`` and ``-`` lines; ``@@`` parts hunks."""
    for block in re.findall(r"^ *```diff\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE):
        lines = textwrap.dedent(block).splitlines()
        for path, hunk in _hunks(lines):
            old, new = ("".join(f"{line[1:]}\n" for line in hunk if line[:1] in (" ", sign)) for sign in "-+")
            yield Edit(path, old, new)


def _hunks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    path, hunk = "", list[str]()
    for line in [*lines, "@@"]:
        if line.startswith(("--- ", "@@")):
            if hunk:
                yield path, hunk
            path, hunk = line.removeprefix("--- ") if line.startswith("---") else path, []
        else:
            hunk.append(line)


def commands(page: str) -> list[list[str]]:
    """The arguments of the page's ``console`` lines ``$ python …``."""
    return [line.split() for line in re.findall(r"^ *\$ python (docs/.*)$", page, re.MULTILINE)]


def apply(edit: Edit, folder: Path) -> None:
    path = folder / edit.path
    text = path.read_text(encoding="utf-8")
    assert text.count(edit.old) == 1, f"{PAGE.name}: {edit.path} holds this {text.count(edit.old)} times:\n{edit.old}"
    path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


def run(folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    """A Python process that imports the package of ``folder``."""
    done = subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        timeout=120,
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "PATH": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with a coupon_code on orders, and what is written from the contracts written anew."""
    folder = tmp_path_factory.mktemp("recipe")
    for name in ("ecomflow", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    found = list(edits(PAGE.read_text(encoding="utf-8")))
    assert len(found) == 2
    for edit in found:
        apply(edit, folder)
    for command in commands(PAGE.read_text(encoding="utf-8")):
        run(folder, *command)
    return folder


def outcomes(folder: Path, *bodies: dict[str, Any]) -> list[dict[str, Any]]:
    """What the package of ``folder`` makes of the events."""
    lines = b"".join(encoded(body) + b"\n" for body in bodies)
    return [json.loads(line) for line in run(folder, "-c", OUTCOMES, stdin=lines).splitlines()]


@pytest.mark.slow
class TestTheRecipe:
    def test_the_column_has_the_fields_value(self, changed: Path) -> None:
        """In the tables that were given it, NULL where the producer sent none; it is no unknown field any more."""
        with_code, without = outcomes(changed, order(coupon_code="SPRING"), order())
        for outcome, code in ((with_code, "SPRING"), (without, None)):
            assert (outcome["refused"], outcome["drift"]) == ([], [])
            assert [row["coupon_code"] for row in outcome["rows"]["fact_order_header"]] == [code]
            assert [row["coupon_code"] for row in outcome["rows"]["fact_order"]] == [code, code]
            assert "coupon_code" not in outcome["rows"]["fact_order_item"][0]

    def test_before_it_the_field_is_unknown(self) -> None:
        """Let through and counted, kept in no column of its own."""
        (outcome,) = outcomes(ROOT, order(coupon_code="SPRING"))
        assert (outcome["refused"], outcome["drift"]) == ([], [["order", "$.coupon_code"]])
        (header,) = outcome["rows"]["fact_order_header"]
        assert "coupon_code" not in header
        assert header["unknown_fields"] == '{"coupon_code":"SPRING"}'

    def test_an_oversize_order_is_out_of_range(self, changed: Path) -> None:
        """The field's bytes, repeated on each line, count towards the size of an order."""
        code = "x" * (MAX_REPEATED_BYTES // 2)
        (outcome,) = outcomes(changed, order(coupon_code=code))
        ((reason, error),) = outcome["refused"]
        assert reason == "out_of_range"
        assert re.fullmatch(r"\$\.items: expected at most 1 items with a header of \d+ bytes, got 2", error)
        assert outcome["rows"] == {}

    def test_what_is_written_from_the_contracts_has_the_column(self, changed: Path) -> None:
        """At its place in the two tables and the data model; the files are those that the contracts make."""
        line = f'  {"coupon_code":24} {"STRING":18} OPTIONS (description = "The coupon that the customer used, if any."),'
        for table in ("fact_order_header", "fact_order"):
            lines = (changed / "ecomflow" / "sql" / "tables" / f"{table}.sql").read_text(encoding="utf-8").splitlines()
            assert lines[lines.index(line) - 1].startswith("  customer_name ")
        assert "coupon_code" not in (changed / "ecomflow" / "sql" / "tables" / "fact_order_item.sql").read_text(encoding="utf-8")
        assert (changed / "docs" / "data-model.md").read_text(encoding="utf-8").count("| `coupon_code` | STRING |") == 2
        assert (changed / "docs" / "pictures" / "data-model.svg").read_text(encoding="utf-8").count(">coupon_code<") == 2

    @pytest.mark.slow
    def test_the_tests_that_hold_them_equal_pass(self, changed: Path) -> None:
        """On the changed package; only the list of nullable columns has to be passed."""
        for name in ("tests/support", "tests/contract/released"):
            shutil.copytree(ROOT / name, changed / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("tests/__init__.py", "tests/contract/__init__.py", "tests/contract/test_shop_artifacts.py"):
            shutil.copy(ROOT / name, changed / name)
        options = ("-q", "-p", "no:bqemulator", "-p", "no:cacheprovider", "-k", "TestEachTable")
        printed = run(changed, "-m", "pytest", *options, "tests/contract/test_shop_artifacts.py")
        assert re.search(rb"\b30 passed", printed)

    @pytest.mark.slow
    def test_the_published_schema_has_the_field(self, changed: Path, tmp_path: Path) -> None:
        """Optional, so that the change is compatible with what producers send."""
        published = json.loads(run(changed, "-m", "ecomflow", "contract", "show", "order"))
        assert published["properties"]["coupon_code"]["type"] == ["string", "null"]
        assert "coupon_code" not in published["required"]
        before = tmp_path / "order.json"
        before.write_bytes(run(ROOT, "-m", "ecomflow", "contract", "show", "order"))
        assert b"compatible" in run(changed, "-m", "ecomflow", "contract", "diff", str(before))
