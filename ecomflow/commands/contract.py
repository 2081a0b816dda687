"""``ecomflow contract``: show and change the contracts of event types, and check events against them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ecomflow.commands import contract_check, contract_copy, contract_diff, contract_new, contract_promote
from ecomflow.commands.setting_options import EVENTS, with_settings
from ecomflow.commands.shared import example_lines, group_of_commands
from ecomflow.config import Settings, contracts_of
from ecomflow.contract.ddl import table_ddl, view_ddl
from ecomflow.contract.example import example_of, published_schema, to_text, whole_published_schema
from ecomflow.contract.language import Contract
from ecomflow.contract.loading import SHOP, contracts_named, load_files, shop_contracts, source_of
from ecomflow.contract.markdown import markdown
from ecomflow.contract.tables import joined_tables, versions_of
from ecomflow.errors import ConfigError, ContractError
from ecomflow.sql import qualify
from ecomflow.terminal.console import note, say

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
@with_settings(*EVENTS)
def show(
    settings: Settings,
    event: EventName = None,
    form: Annotated[
        Format,
        typer.Option("--format", help="JSON Schema (2020-12), Markdown, a valid event, or the contract file itself."),
    ] = Format.JSON_SCHEMA,
) -> None:
    """Show a contract: the type and rules of each field of an event, and its tables."""
    chosen = _builtin_or_chosen(event, settings) if form is Format.TOML else _chosen(event, settings)
    if form is Format.JSON_SCHEMA:
        schema = published_schema(chosen[0]) if event is not None and len(chosen) == 1 else whole_published_schema(chosen)
        typer.echo(to_text(schema), nl=False)
    elif form is Format.MARKDOWN:
        typer.echo("\n".join(markdown(one, _example_or_none(one)) for one in chosen), nl=False)
    elif form is Format.EXAMPLE:
        typer.echo("\n".join(example_of(one).decode() for one in chosen))
    else:
        typer.echo("\n".join(_with_heading(one, len(chosen)) for one in chosen), nl=False)


@contract.command(epilog=example_lines("ecomflow contract lint", "ecomflow contract lint contracts/refund.toml"))
@with_settings(*EVENTS)
def lint(
    settings: Settings,
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Contract files. Default: those of your folder, with the built-in ones.", show_default=False),
    ] = None,
) -> None:
    """Check contract files, and list every mistake in them. Nothing needs to run.

    Exits with 2 if there is a mistake.
    """
    found = load_files(files) if files else contracts_of(settings)
    names = sorted({one.event for one in found})
    say(f"{len(names)} event {'type' if len(names) == 1 else 'types'}: {', '.join(names)}.")


@contract.command(epilog=example_lines("ecomflow contract ddl", "ecomflow contract ddl refund > refund.sql"))
@with_settings("project", "dataset", *EVENTS)
def ddl(settings: Settings, event: EventName = None) -> None:
    """Print the DDL of the tables of an event type, and of their views, as infra up creates them."""
    statements = [
        qualify(statement, settings.dataset_id)
        for versions in versions_of(_chosen(event, settings)).values()
        for make in (table_ddl, view_ddl)
        for statement in map(make, joined_tables(versions))
    ]
    typer.echo("\n".join(statements), nl=False)


def _chosen(event: str | None, settings: Settings) -> tuple[Contract, ...]:
    """The contracts in force of the event type, or all. Raises ConfigError for an unknown type."""
    contracts = contracts_of(settings)
    return contracts if event is None else contracts_named(event, contracts)


def _builtin_or_chosen(event: str | None, settings: Settings) -> tuple[Contract, ...]:
    """The contracts to print as files: a built-in one also while another file has mistakes, to compare that with."""
    try:
        return _chosen(event, settings)
    except ConfigError:
        if event not in SHOP:
            raise
    note("There are mistakes in your contracts: this is the built-in one.")
    return shop_contracts([event])


def _example_or_none(one: Contract) -> bytes | None:
    try:
        return example_of(one)
    except ContractError:
        return None


def _with_heading(one: Contract, count: int) -> str:
    heading = f"# {one.file}\n" if count > 1 else ""
    return heading + source_of(one)


contract.command(epilog=contract_check.EPILOG)(contract_check.check)
contract.command(epilog=contract_new.EPILOG)(contract_new.new)
contract.command(epilog=contract_copy.EPILOG)(contract_copy.copy)
contract.command(epilog=contract_diff.EPILOG)(contract_diff.diff)
contract.command("promote", epilog=contract_promote.EPILOG)(contract_promote.promote_field)
