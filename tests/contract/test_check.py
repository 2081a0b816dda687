"""contract check: what the pipeline would refuse, line by line, before it is published."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest
from ecomflow.contract.decode import MAX_UNKNOWN_PATHS, OTHER_PATHS

from ecomflow.contract.check import BATCH_LINES, RefusedLine, Tally, check_lines
from ecomflow.generator.rounds import generate
from tests.support.cli import ecomflow, environment
from tests.support.contract import NOW, activity, encoded, inventory, item, message, order, outcome_of


def checked(lines: Iterable[bytes]) -> tuple[list[RefusedLine], Tally]:
    tally = Tally()
    return list(check_lines(lines, "f", NOW, tally)), tally


class TestCheckLines:
    def test_each_refusal_names_its_line_and_why(self) -> None:
        """Valid events are counted, the others named in the order of their lines, whatever their type."""
        bodies = [order(), activity(ip_address="nowhere"), order(status="odd"), b"{", inventory(quantity_change=0), inventory()]
        refused, tally = checked(encoded(body) + b"\n" for body in bodies)
        assert [(line.file, line.line, line.reason, line.event_type) for line in refused] == [
            ("f", 2, "contract_violation", "user_activity"),
            ("f", 3, "contract_violation", "order"),
            ("f", 4, "malformed_json", None),
            ("f", 5, "contract_violation", "inventory"),
        ]
        assert refused[3].error == "$.quantity_change: expected int other than 0, got 0"
        assert tally.accepted == {"order": 1, "inventory": 1}
        assert tally.refused == {"contract_violation": 3, "malformed_json": 1}

    def test_it_judges_as_the_pipeline_does(self) -> None:
        """Of generated events, faults and all, the same are refused, with the reason and the error of their dead letters."""
        events = [event.data for event in generate(120, seed=3, now=NOW)]
        events += [
            encoded(order(items=[item(price=10**28, quantity=10)])),
            encoded(order(customer_name="x" * 2**20, items=[item()] * 20)),
        ]
        refused, tally = checked(events)
        letters = outcome_of([message(data, str(number)) for number, data in enumerate(events, start=1)]).letters
        found = {(line.line, line.reason, line.error) for line in refused}
        assert found == {(int(letter.message_id or 0), letter.reason, letter.error) for letter in letters}
        assert tally.accepted.total() == 360
        assert len(refused) == 362

    def test_blank_lines_are_passed_over_but_counted(self) -> None:
        """The number is the line's own in its file; the end of a line may be that of any system."""
        refused, tally = checked([b"\n", encoded(inventory()) + b"\r\n", b"  \r\n", b"[]\n", encoded(inventory())])
        assert [line.line for line in refused] == [4]
        assert tally.accepted == {"inventory": 2}

    def test_lines_are_counted_beyond_a_batch(self) -> None:
        """Line 2,501 is line 2,501."""
        good = encoded(inventory()) + b"\n"
        refused, tally = checked([*[good] * (2 * BATCH_LINES + 500), b"{}\n", good])
        assert [line.line for line in refused] == [2 * BATCH_LINES + 501]
        assert tally.accepted == {"inventory": 2 * BATCH_LINES + 501}

    def test_unknown_fields_pass_and_are_counted(self) -> None:
        """By type and path; the event is accepted."""
        refused, tally = checked([encoded(order(coupon="X", items=[item(colour="red")] * 2)), encoded(order(coupon="Y"))])
        assert refused == []
        assert tally.drift == {("order", "$.coupon"): 2, ("order", "$.items[].colour"): 2}
        assert tally.accepted == {"order": 2}

    def test_the_names_of_unknown_fields_are_bounded(self) -> None:
        """A producer whose field names are ids fills no memory: what comes late is counted as other."""
        _, tally = checked(encoded(inventory(**{f"field-{number}": 1})) for number in range(MAX_UNKNOWN_PATHS + 1_500))
        assert len(tally.drift) == MAX_UNKNOWN_PATHS + 1
        assert tally.drift[("inventory", OTHER_PATHS)] == 1_500

    def test_memory_stays_flat(self) -> None:
        """Forty batches take no more than two: nothing is kept of what was checked."""
        line = encoded(order()) + b"\n"

        def peak(batches: int) -> int:
            tracemalloc.start()
            tally = Tally()
            for _ in check_lines((line for _ in range(batches * BATCH_LINES)), "f", NOW, tally):
                pass
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert tally.accepted == {"order": batches * BATCH_LINES}
            return most

        assert peak(10) < 1.2 * peak(2)


class TestCommand:
    def test_valid_events(self, tmp_path: Path) -> None:
        """Exit code 0 and a summary; unknown fields are noted."""
        (tmp_path / "events.jsonl").write_bytes(
            b"\n".join(encoded(body) for body in (order(coupon="X"), inventory(), activity()))
        )
        result = ecomflow("contract", "check", "events.jsonl", folder=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.splitlines() == [
            "note: order $.coupon: not in the contract; the event passes, the field is dropped (1 times)",
            "3 events: 3 pass (inventory 1, order 1, user_activity 1), 0 refused.",
        ]

    def test_refused_events_in_several_files(self, tmp_path: Path) -> None:
        """Each refusal on a line as compilers write it, each file counted from 1; exit code 10 and what to do."""
        (tmp_path / "a.jsonl").write_bytes(encoded(inventory()) + b"\n" + encoded(inventory(reason="mood")))
        (tmp_path / "b.jsonl").write_bytes(b"{\n")
        result = ecomflow("contract", "check", "a.jsonl", "b.jsonl", folder=tmp_path)
        first, second, summary = result.stdout.splitlines()
        assert first == "a.jsonl:2: contract_violation $.reason: expected one of restock, sale, return, damage, got 'mood'"
        assert second.startswith("b.jsonl:1: malformed_json $: expected a JSON object")
        assert summary == "3 events: 1 pass (inventory 1), 2 refused (contract_violation 1, malformed_json 1)."
        assert result.returncode == 10
        assert result.stderr.startswith("Error: 2 events would become dead letters.\n")

    def test_the_examples_pass_through_a_pipe(self, tmp_path: Path) -> None:
        """contract show --format example | contract check - is well."""
        shown = ecomflow("contract", "show", "--format", "example", folder=tmp_path)
        command = [sys.executable, "-m", "ecomflow", "contract", "check", "-"]
        result = subprocess.run(
            command, input=shown.stdout, capture_output=True, text=True, env=environment(), timeout=60, check=False
        )
        assert (result.returncode, result.stdout) == (0, "3 events: 3 pass (inventory 1, order 1, user_activity 1), 0 refused.\n")

    def test_json_lines(self, tmp_path: Path) -> None:
        """--json: a line a refusal and the summary last, in ASCII, so that nothing in a name moves a cursor."""
        (tmp_path / "e.jsonl").write_bytes(encoded(inventory(**{"\x9b31m": 1})) + b"\n" + encoded(order(status="odd")))
        result = ecomflow("contract", "check", "e.jsonl", "--json", folder=tmp_path)
        refusal, summary = (json.loads(line) for line in result.stdout.splitlines())
        assert (refusal["file"], refusal["line"], refusal["reason"], refusal["event_type"]) == (
            "e.jsonl",
            2,
            "contract_violation",
            "order",
        )
        assert summary["summary"] == {
            "accepted": {"inventory": 1},
            "refused": {"contract_violation": 1},
            "order_totals_differ": 0,
            "unknown_fields": [{"event_type": "inventory", "path": "$.\x9b31m", "count": 1}],
        }
        assert result.stdout.isascii()
        assert "\x9b" not in ecomflow("contract", "check", "e.jsonl", folder=tmp_path).stdout

    @pytest.mark.parametrize(
        ("arguments", "code", "sentence"),
        [
            (("missing.jsonl",), 2, "missing.jsonl can't be read: No such file or directory."),
            (("empty.jsonl",), 10, "There are no events to check."),
            ((), 2, "Missing argument"),
        ],
    )
    def test_nothing_to_check(self, arguments: tuple[str, ...], code: int, sentence: str, tmp_path: Path) -> None:
        """A check of nothing proves nothing, and does not pass."""
        (tmp_path / "empty.jsonl").write_bytes(b"\n")
        result = ecomflow("contract", "check", *arguments, folder=tmp_path)
        assert (result.returncode, sentence in result.stderr) == (code, True)

    def test_starting_is_light(self, tmp_path: Path) -> None:
        """A check imports neither Beam, nor a Google client, nor Arrow: it runs in every producer's CI."""
        (tmp_path / "e.jsonl").write_bytes(encoded(inventory()))
        script = (
            "import sys, atexit; sys.argv[0] = 'ecomflow'\n"
            "heavy = ('apache_beam', 'google.cloud.', 'google.api_core', 'google.auth', 'grpc', 'pyarrow', 'numpy')\n"
            "atexit.register(lambda: print('HEAVY', sorted(m for m in sys.modules if m.startswith(heavy)), file=sys.stderr))\n"
            "from ecomflow.cli import main; main()"
        )
        command = [sys.executable, "-c", script, "contract", "check", "e.jsonl"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=60, check=False)
        assert (result.returncode, result.stderr.strip()) == (0, "HEAVY []")
