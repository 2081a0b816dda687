"""Writes the table of differences in docs/google-cloud.md from ecomflow/infra/verdicts.py: ``python docs/make_differences.py``.

A test holds the page equal to this.
"""

from __future__ import annotations

import re
from pathlib import Path

from ecomflow.infra.verdicts import VERDICTS, How, Stops, Verdict, remedy_of

PAGE = Path(__file__).parent / "google-cloud.md"
_BEGIN, _END = "<!-- From here on: python docs/make_differences.py -->\n", "<!-- Up to here. -->\n"

UP: dict[How, str] = {
    "add": "adds it",
    "change": "changes it",
    "accept": "accepts it, and says so",
    "warn": "leaves it, and warns",
    "refuse": "refuses",
}
STOPS: dict[Stops, str] = {"none": "runs", "dataflow": "runs here, does not start on Dataflow", "all": "does not start"}
_COMMAND = re.compile(r"(?<=: )((?:gcloud|bq|ecomflow|ALTER) (?:(?!: ).)+)$")


def table() -> str:
    """A row for each difference."""
    head = "| resource | difference | `infra up` | a pipeline | what to do |\n| --- | --- | --- | --- | --- |\n"
    return head + "".join(map(_row, VERDICTS))


def page(text: str) -> str:
    """The page ``text`` with the table of today."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name}: expected the lines {_BEGIN!r} and {_END!r}")
    return f"{before}{_BEGIN}\n{table()}\n{_END}{after}"


def _row(verdict: Verdict) -> str:
    shown = {"live": "LIVE", "wanted": "KEY", "column": "COLUMN"}
    remedy = remedy_of(verdict.kinds[0], verdict.case, "NAME", **shown) or ""
    if len(verdict.kinds) > 1:
        remedy = remedy.replace(f"another {verdict.kinds[0]} ", "another one ").replace(f"a {verdict.kinds[0]} of", "one of")
    cells = (", ".join(verdict.kinds), verdict.difference, UP[verdict.how], STOPS[verdict.stops], _as_markdown(remedy))
    return f"| {' | '.join(cells)} |\n".replace("|  |", "| |")


def _as_markdown(remedy: str) -> str:
    """Commands as code; one with backticks in double ones."""
    return _COMMAND.sub(lambda match: f"``{match[1]}``" if "`" in match[1] else f"`{match[1]}`", remedy)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
