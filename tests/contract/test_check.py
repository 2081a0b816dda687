"""contract check: what the pipeline would refuse, line by line, before it is published."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest

from ecomflow.contract.check import BATCH_LINES, RefusedLine, Tally, check_lines
from ecomflow.contract.codec import MAX_UNKNOWN_PATHS, OTHER_PATHS, Codec
from ecomflow.contract.dead_letter import dead_letter, to_lines
from ecomflow.contract.language import Contract
from ecomflow.contract.limits import MAX_REPEATED_BYTES
from ecomflow.generator.rounds import dry_run_line, generate
from tests.support.cli import ecomflow, environment
from tests.support.compiled import SHOP, compiled, contract_of
from tests.support.contract import NOW, activity, encoded, inventory, item, message, number, order

REFUND = """
[fields]
refund_id = "string"
at = "timestamp"
amount = { type = "numeric", min = 0 }
lines = { type = "list", of = "line" }
[records.line]
price = "numeric"
[[rules]]
name = "total"
check = "amount <= sum(lines.price)"
otherwise = "OTHERWISE"
[[tables]]
name = "fact_refund"
[[tables]]
name = "fact_refund_line"
each = "lines"
"""


def refund(**changes: object) -> dict[str, object]:
    body = {"event_type": "refund", "refund_id": "R-1", "at": "2025-12-01T10:15:30Z", "amount": 5, "lines": [{"price": 9}]}
    return {**body, **changes}


def checked(lines: Iterable[bytes], contracts: Iterable[Contract] = SHOP) -> tuple[list[RefusedLine], Tally]:
    tally = Tally()
    return list(check_lines(lines, "f", NOW, Codec(contracts), tally)), tally


def enveloped(body: object, **attributes: str) -> bytes:
    return encoded({"data": encoded(body).decode(), "data_encoding": "utf-8", "attributes": attributes, "fault": None})


class TestCheckLines:
    def test_each_refusal_names_its_line_and_why(self) -> None:
        """Valid events are counted, the others named in the order of their lines, whatever their type."""
        bodies = [order(), activity(ip_address="nowhere"), order(status="odd"), b"{", inventory(quantity_change="0"), inventory()]
        refused, tally = checked(encoded(body) + b"\n" for body in bodies)
        assert [(line.file, line.line, line.reason, line.event_type) for line in refused] == [
            ("f", 2, "contract_violation", "user_activity"),
            ("f", 3, "contract_violation", "order"),
            ("f", 4, "malformed_json", None),
            ("f", 5, "contract_violation", "inventory"),
        ]
        assert refused[3].error == "$.quantity_change: expected int, got '0'"
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
        letters = compiled([message(data, str(number)) for number, data in enumerate(events, start=1)]).letters
        found = {(line.line, line.reason, line.error) for line in refused}
        assert found == {(int(letter.message_id or 0), letter.reason, letter.error) for letter in letters}
        assert tally.accepted.total() + len(refused) == len(events)
        assert len(refused) > 300

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
        assert tally.unknown_fields == {("order", "$.coupon"): 2, ("order", "$.items[].colour"): 2}
        assert tally.accepted == {"order": 2}

    def test_unknown_fields_that_are_refused(self) -> None:
        """They are counted, too, by the path that the refusal names."""
        strict = contract_of('unknown_fields = "refuse"\nevent = "refund"\ntime = "at"\n' + REFUND.replace("OTHERWISE", "count"))
        refused, tally = checked([encoded(refund(coupon="X", more=1)), encoded(refund())], [strict])
        assert [line.error for line in refused] == ["$.coupon: expected no field that the contract does not name, got a string"]
        assert tally.unknown_fields == {("refund", "$.coupon"): 1}
        assert tally.accepted == {"refund": 1}

    def test_rules_that_only_count(self) -> None:
        """Their events pass, and are counted by type and rule: the built-in order's total, and those of any contract."""
        own = contract_of(REFUND.replace("OTHERWISE", "count"))
        bodies = [order(total_amount=number("44.81")), order(), refund(amount=9), refund(amount=number("9.01"))]
        refused, tally = checked(map(encoded, bodies), [*SHOP, own])
        assert refused == []
        assert tally.rules_broken == {("order", "order_totals"): 1, ("refund", "total"): 1}

    def test_rules_that_refuse(self) -> None:
        """The contract's own rule is the error of the line."""
        own = contract_of(REFUND.replace("OTHERWISE", "refuse"))
        (refused,), tally = checked([encoded(refund(amount=10)), encoded(refund())], [own])
        assert refused.error == "$.amount: expected amount <= sum(lines.price), got 10.00 and 9.00"
        assert (tally.accepted, tally.rules_broken) == ({"refund": 1}, {})

    def test_the_names_of_unknown_fields_are_bounded(self) -> None:
        """A producer whose field names are ids fills no memory: what comes late is counted as other."""
        _, tally = checked(encoded(inventory(**{f"field-{number}": 1})) for number in range(MAX_UNKNOWN_PATHS + 1_500))
        assert len(tally.unknown_fields) == MAX_UNKNOWN_PATHS + 1
        assert tally.unknown_fields["inventory", OTHER_PATHS] == 1_500

    @pytest.mark.slow
    def test_memory_stays_flat(self) -> None:
        """Forty batches take no more than two: nothing is kept of what was checked."""
        line = encoded(order()) + b"\n"
        codec = Codec(SHOP)

        def peak(batches: int) -> int:
            tracemalloc.start()
            tally = Tally()
            for _ in check_lines((line for _ in range(batches * BATCH_LINES)), "f", NOW, codec, tally):
                pass
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert tally.accepted == {"order": batches * BATCH_LINES}
            return most

        assert peak(10) < 1.2 * peak(2)


class TestWholeMessages:
    def test_what_publish_dry_run_prints(self) -> None:
        """Each line is judged by the data in it, in base64 or not, as its fault says."""
        events = list(generate(30, seed=5, now=NOW))
        refused, _ = checked(dry_run_line(event).encode() for event in events)
        bare, _ = checked(event.data for event in events)
        assert refused == bare
        assert len(refused) > 80

    def test_what_dlq_export_writes(self) -> None:
        """A dead letter is judged again by its payload; nothing else of it is read."""
        letters = [
            dead_letter(message(body, "M-9", event_id="e"), "contract_violation", "$: odd", "order", NOW)
            for body in (order(), order(status="odd"), b"\xff{")
        ]
        refused, tally = checked(to_lines(letters).splitlines())
        assert [(line.line, line.reason, line.event_type) for line in refused] == [
            (2, "contract_violation", "order"),
            (3, "malformed_json", None),
        ]
        assert tally.accepted == {"order": 1}

    @pytest.mark.parametrize(
        "data",
        [
            b'{"event_type":"inventory","quantity_change":1.50}',
            b'" {\\"event_type\\":\\"inventory\\",\\"quantity_change\\":1.50}"',
            b'"eyJldmVudF90eXBlIjoiaW52ZW50b3J5IiwicXVhbnRpdHlfY2hhbmdlIjoxLjUwfQ=="',
        ],
    )
    def test_data_and_attributes_alone(self, data: bytes) -> None:
        """The data is the event itself, its digits untouched, or its text, or that in base64."""
        line = (
            b'{"data": ' + data + b', "attributes": {"event_id": "e"}, "messageId": "1", "publishTime": "2025-12-01T10:00:00Z"}'
        )
        (refused,), _ = checked([line])
        assert refused.error == "$.quantity_change: expected int, got 1.50"

    def test_a_row_that_fits_no_request(self) -> None:
        """It is refused as the pipeline refuses it; the lines around it count."""
        bodies = [order(), inventory(product_id="x" * 9_200_000), order(items=[])]
        refused, tally = checked(map(encoded, [*bodies, order()]))
        assert [(line.line, line.reason, line.error.partition(", got ")[0]) for line in refused] == [
            (2, "out_of_range", "$: expected at most 9000000 bytes in a row of fact_inventory"),
            (3, "contract_violation", "$.items: expected array of length >= 1"),
        ]
        assert tally.accepted == {"order": 2}

    def test_the_attributes_count(self) -> None:
        """The id of an event stands on each of its rows, and so counts towards its size."""
        body = order(items=[item()] * 16)
        large = "e" * (MAX_REPEATED_BYTES // 16)
        assert checked([encoded(body), enveloped(body, event_id="e")])[0] == []
        (refused,), _ = checked([enveloped(body, event_id=large)])
        assert (refused.reason, refused.error.partition(" with ")[0]) == ("out_of_range", "$.items: expected at most 15 items")

    @pytest.mark.parametrize(
        "body",
        [
            refund(data="x", attributes={"event_id": "e"}),
            refund(data="x", data_encoding="utf-8", attributes={"n": 1}),
            refund(data="x", data_encoding="gzip", attributes={}),
            refund(data={"amount": 1}, attributes={}),
            refund(payload="x", attributes={}),
            refund(payload="x", payload_encoding="base64", attributes={}),
            refund(payload="%", payload_encoding="base64", attributes={}),
        ],
    )
    def test_an_event_with_such_fields_of_its_own(self, body: dict[str, object]) -> None:
        """Only the whole form is a message: data and attributes alone are fields like any other."""
        refused, tally = checked([encoded(body)], [contract_of(REFUND.replace("OTHERWISE", "count"))])
        assert (refused, tally.accepted) == ([], {"refund": 1})
        assert ("refund", "$.attributes") in tally.unknown_fields


@pytest.mark.slow
class TestCommand:
    def test_valid_events(self, tmp_path: Path) -> None:
        """Exit code 0 and a summary; unknown fields are noted."""
        (tmp_path / "events.jsonl").write_bytes(
            b"\n".join(encoded(body) for body in (order(coupon="X"), inventory(), activity()))
        )
        result = ecomflow("contract", "check", "events.jsonl", folder=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.splitlines() == [
            "note: order $.coupon: not in the contract; the event passes, the field is kept in fact_order_header.unknown_fields"
            " (once)",
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

    @pytest.mark.slow
    def test_the_examples_pass_through_a_pipe(self, tmp_path: Path) -> None:
        """contract show --format example | contract check - is well."""
        shown = ecomflow("contract", "show", "--format", "example", folder=tmp_path)
        command = [sys.executable, "-m", "ecomflow", "contract", "check", "-"]
        result = subprocess.run(
            command, input=shown.stdout, capture_output=True, text=True, env=environment(), timeout=60, check=False
        )
        assert (result.returncode, result.stdout) == (0, "3 events: 3 pass (inventory 1, order 1, user_activity 1), 0 refused.\n")

    @pytest.mark.slow
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
            "rules_broken": [],
            "unknown_fields": [{"event_type": "inventory", "path": r"$.\x9b31m", "fate": "kept", "count": 1}],
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

    def test_a_contract_of_ones_own(self, tmp_path: Path) -> None:
        """The contracts in force are those of the folder, and the notes say what becomes of each thing."""
        (tmp_path / "contracts").mkdir()
        head = 'event = "refund"\ntime = "at"\nunknown_fields = "drop"\n'
        (tmp_path / "contracts/refund.toml").write_text(head + REFUND.replace("OTHERWISE", "count"))
        (tmp_path / "e.jsonl").write_bytes(encoded(refund(amount=10, coupon="X")) + b"\n" + encoded(refund(amount="10")))
        result = ecomflow("contract", "check", "e.jsonl", folder=tmp_path)
        assert (result.returncode, result.stdout.splitlines()) == (
            10,
            [
                "e.jsonl:2: contract_violation $.amount: expected number >= 0 with at most 29 integer and 9 decimal digits,"
                " got '10'",
                "note: refund $.coupon: not in the contract; the event passes, the field is dropped (once)",
                "note: refund: the rule total, amount <= sum(lines.price), does not hold; the event passes (once)",
                "2 events: 1 pass (refund 1), 1 refused (contract_violation 1).",
            ],
        )

    def test_starting_is_light(self, tmp_path: Path) -> None:
        """A check imports neither Beam nor a Google client: it runs in every producer's CI."""
        (tmp_path / "e.jsonl").write_bytes(encoded(inventory()))
        script = (
            "import sys, atexit; sys.argv[0] = 'ecomflow'\n"
            "heavy = ('apache_beam', 'google.cloud.', 'google.api_core', 'google.auth', 'grpc')\n"
            "atexit.register(lambda: print('HEAVY', sorted(m for m in sys.modules if m.startswith(heavy)), file=sys.stderr))\n"
            "from ecomflow.cli import main; main()"
        )
        command = [sys.executable, "-c", script, "contract", "check", "e.jsonl"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=60, check=False)
        assert (result.returncode, result.stderr.strip()) == (0, "HEAVY []")
