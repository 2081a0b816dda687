"""Writes docs/cli.md from the commands themselves: ``python docs/make_cli_reference.py``. A test holds the file equal to this."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from ecomflow.cli import app

TARGET = Path(__file__).parent / "cli.md"
_HEAD = """# Commands

Made by `python docs/make_cli_reference.py` from the commands' own help.

## JSON

With `--json` a command prints one document (or, where its help says so, one on each line) in ASCII to standard output. Times are
in ISO 8601, in UTC. Decimals are strings with every digit, and so are integers beyond 2^53. Notes go to standard error. An error
is the last line there, with the same exit code as without `--json`:

```json
{"error": {"type": "NotFoundError", "message": "There is no question 'x'.", "remedy": "Choose one of: …", "exit_code": 3}}
```
"""


def reference() -> str:
    """The whole page, in Markdown."""
    root = typer.main.get_command(app)
    return _HEAD + "".join(_sections(root, "ecomflow"))


def leaf_commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its whole name."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for part, below in inner.items():
        yield from leaf_commands(below, f"{name} {part}")


def _sections(root: Any, name: str) -> Iterator[str]:
    for whole, command in leaf_commands(root, name):
        yield f"\n## {whole}\n\n{_paragraph(command.help)}\n"
        options = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
        if options:
            yield "\n| option | meaning | default |\n| --- | --- | --- |\n"
            yield from (_row(option) for option in options)
        if command.epilog:
            lines = [line.strip() for line in command.epilog.splitlines() if line.strip().startswith("ecomflow")]
            if lines:
                yield "\n```console\n" + "".join(f"$ {line}\n" for line in lines) + "```\n"
            elif "ecomflow" in command.epilog:
                yield f"\n`{command.epilog.partition(': ')[2].strip()}`\n"


def _row(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (option.opts if option.param_type_name == "option" else [option.name.upper()]))
    default = option.default if option.default not in (None, False) and not callable(option.default) else ""
    return f"| {names} | {_paragraph(getattr(option, 'help', '') or '')} | {default} |\n"


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").replace("|", "\\|").split())


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
