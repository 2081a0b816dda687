"""``ecomflow contract``: show and change the contracts of event types, and check events against them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ecomflow.commands import contract_check, contract_diff
from ecomflow.commands.shared import example_lines, group_of_commands, settings_of
from ecomflow.config import contracts_of
from ecomflow.contract.example import example_of, published_schema, to_text, whole_published_schema
from ecomflow.contract.language import Contract
from ecomflow.contract.loading import contracts_named, source_of
from ecomflow.contract.markdown import markdown
from ecomflow.errors import ContractError

contract = group_of_commands("Show and change the contracts of your event types, and check events against them.")

EventName = Annotated[str | None, typer.Argument(metavar="EVENT", help="The event type. Default: all types.", show_default=False)]


class Format(StrEnum):
    JSON_SCHEMA = "json-schema"
    MARKDOWN = "markdown"
    EXAMPLE = "example"
    TOML = "toml"


@contract.command(
    epilog=example_lines(
        "ecomflow contract show",
        "ecomflow contract show order --format markdown",
        "ecomflow contract show --format example | ecomflow contract check -",
    )
)
def show(
    event: EventName = None,
    form: Annotated[
        Format,
        typer.Option("--format", help="JSON Schema (2020-12), Markdown, a valid event, or the contract file itself."),
    ] = Format.JSON_SCHEMA,
) -> None:
    """Show a contract: the type and rules of each field of an event, and its tables."""
    chosen = _chosen(event)
    if form is Format.JSON_SCHEMA:
        schema = published_schema(chosen[0]) if event is not None and len(chosen) == 1 else whole_published_schema(chosen)
        typer.echo(to_text(schema), nl=False)
    elif form is Format.MARKDOWN:
        typer.echo("\n".join(markdown(one, _example_or_none(one)) for one in chosen), nl=False)
    elif form is Format.EXAMPLE:
        typer.echo("\n".join(example_of(one).decode() for one in chosen))
    else:
        typer.echo("\n".join(_with_heading(one, len(chosen)) for one in chosen), nl=False)


def _chosen(event: str | None) -> tuple[Contract, ...]:
    """The contracts in force of the event type, or all. Raises ConfigError for an unknown type."""
    contracts = contracts_of(settings_of(None))
    return contracts if event is None else contracts_named(event, contracts)


def _example_or_none(one: Contract) -> bytes | None:
    try:
        return example_of(one)
    except ContractError:
        return None


def _with_heading(one: Contract, count: int) -> str:
    heading = f"# {one.file}\n" if count > 1 else ""
    return heading + source_of(one)


contract.command(epilog=contract_check.EPILOG)(contract_check.check)
contract.command(epilog=contract_diff.EPILOG)(contract_diff.diff)
