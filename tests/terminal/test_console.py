"""What commands print: payloads are shown as inert text, facts as JSON."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from rich.console import Console

from ecomflow.contract.dead_letter import DeadLetter
from ecomflow.errors import ConfigError
from ecomflow.terminal import console
from ecomflow.terminal.console import json_line, plain, show_counts, show_error, show_json, show_table


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Both consoles as a colour terminal of 100 columns, written to one text."""
    text = io.StringIO()
    for name in ("out", "err"):
        monkeypatch.setattr(console, name, Console(file=text, force_terminal=True, width=100, highlight=False))
    return text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Decimal("1790.370000000"), '"1790.37"'),
        (Decimal("1E+3"), '"1000"'),
        (Decimal("0E-9"), '"0"'),
        (2**53, "9007199254740992"),
        (2**53 + 1, '"9007199254740993"'),
        (-(2**63), '"-9223372036854775808"'),
        (True, "true"),
        (datetime(2025, 12, 1, 8, 30, tzinfo=UTC), '"2025-12-01T08:30:00Z"'),
        ([{"a": Decimal("1.10"), "n": (2**60,)}], '[{"a":"1.1","n":["1152921504606846976"]}]'),
    ],
)
def test_json_is_exact_in_every_reader(value: object, written: str) -> None:
    """Decimals are strings of their digits whatever warehouse they come from, large integers strings, times ISO 8601."""
    assert json_line(value) == written


class TestPlain:
    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            ("", ""),
            (None, ""),
            (7, "7"),
            (Decimal("1.50"), "1.50"),
            ("Zoë 東京 👟", "Zoë 東京 👟"),
            ("two\nlines\tand\r", "two\\x0alines\\x09and\\x0d"),
            ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
            ("\x1b]8;;http://x\x1b\\link", "\\x1b]8;;http://x\\x1b\\link"),
            ("\x9b2J", "\\x9b2J"),
            ("bell\x07 nul\x00 del\x7f", "bell\\x07 nul\\x00 del\\x7f"),
            ("[bold red]markup[/] [link=http://x]y[/link]", "[bold red]markup[/] [link=http://x]y[/link]"),
            ("\u202egnp.exe", "\\u202egnp.exe"),
            ("lone \ud800", "lone ?"),
            ("zero\u200bwidth so\u00adft \ufeffmark tag\U000e0041", "zero\\u200bwidth so\\u00adft \\ufeffmark tag\\U000e0041"),
            ("👩\u200d💻 a\u200cb", "👩\u200d💻 a\u200cb"),
        ],
    )
    def test_it_is_shown_as_text(self, value: object, shown: str) -> None:
        """Control characters and escapes are spelled out; markup is not read; other scripts stay."""
        assert plain(value).plain == shown

    @pytest.mark.parametrize("code", [0x202A, 0x202B, 0x202C, 0x202D, 0x2067, 0x2068, 0x2069, 0x2028, 0x2029])
    def test_no_character_turns_or_breaks_the_line(self, code: int) -> None:
        """Every bidirectional control, and the line and paragraph separators, are spelled out."""
        assert plain(f"a{chr(code)}b").plain == f"a\\u{code:04x}b"

    def test_a_long_text_is_cut(self) -> None:
        """To the width asked for, the ellipsis included."""
        assert plain("abcdef", 4).plain == "abc…"
        assert plain("abcd", 4).plain == "abcd"

    def test_a_payload_in_a_table_cannot_reach_the_terminal(self, printed: io.StringIO) -> None:
        """What is written has no escape of the payload's, and its markup stands there as it is."""
        show_table("", ("payload",), [("\x1b[2J\x07[red]x[/red]",)])
        assert "\\x1b[2J\\x07[red]x[/red]" in printed.getvalue()
        assert "\x1b[2J" not in printed.getvalue()
        assert "\x07" not in printed.getvalue()

    def test_an_error_quotes_a_payload_inertly(self, printed: io.StringIO) -> None:
        """Messages of services, and remedies, are text too."""
        show_error(ConfigError("bad \x1b[31m[blink]", "run: [x]\x07"))
        assert "bad \\x1b[31m[blink]" in printed.getvalue()
        assert "run: [x]\\x07" in printed.getvalue()

    def test_counts_have_thousands(self, printed: io.StringIO) -> None:
        """Large numbers are read at a glance."""
        show_counts("rows", {"fact_order": 1_234_567})
        assert "1,234,567" in printed.getvalue()


class TestShowJson:
    def test_exact_and_dated_values(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Decimals as their digits, dates and times in ISO 8601, text in ASCII, indented by two."""
        value = {"a": Decimal("0.10"), "b": date(2025, 12, 1), "c": datetime(2025, 12, 1, 1, tzinfo=UTC), "d": "é", "e": None}
        show_json([value])
        text = capsys.readouterr().out
        assert json.loads(text) == [{"a": "0.1", "b": "2025-12-01", "c": "2025-12-01T01:00:00Z", "d": "é", "e": None}]
        assert '\n    "d": "\\u00e9",\n' in text
        assert text.endswith("]\n")

    def test_a_dead_letter(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Records print as objects; a control character in one is escaped by JSON itself."""
        when = datetime(2025, 12, 1, tzinfo=UTC)
        show_json(DeadLetter("malformed_json", "\x1b", None, None, None, None, {}, "x\n", "utf-8", when, "1"))
        text = capsys.readouterr().out
        assert json.loads(text)["error"] == "\x1b"
        assert "\x1b" not in text
