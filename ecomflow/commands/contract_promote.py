"""``ecomflow contract promote``: a field that events carry, and the contract does not name, becomes one of the contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from ecomflow.commands.contract_copy import write_contract
from ecomflow.commands.setting_options import EVENTS, TABLES, TARGET, with_settings
from ecomflow.commands.shared import example_lines, lines_of
from ecomflow.config import Settings, contracts_of
from ecomflow.contract.language import TYPE_KEY, Contract
from ecomflow.contract.loading import contracts_named, is_builtin, source_of
from ecomflow.contract.promote import ELEMENT, keys_in, promote, values_sql
from ecomflow.contract.samples import read_samples
from ecomflow.errors import ConfigError, NotFoundError
from ecomflow.gcp.target import open_target
from ecomflow.sql import qualify
from ecomflow.terminal.console import note
from ecomflow.warehouse.queries import select

# The newest ones, from which the type is drawn.
MAX_VALUES = 1_000
EPILOG = example_lines(
    "ecomflow contract promote order '$.coupon' > fill.sql",
    "ecomflow contract promote order '$.items[].colour' --from events.jsonl",
)


@with_settings(*TARGET, *TABLES, *EVENTS)
def promote_field(
    settings: Settings,
    event: Annotated[str, typer.Argument(help="The event type.")],
    path: Annotated[str, typer.Argument(help="The field, as contract check shows it: '$.coupon', '$.items[].colour'.")],
    samples: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="File of JSON lines to infer the type from; - for standard input. Default: what was kept in unknown_fields.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Add a field that is not in the contract to its file, and print the SQL that fills its column from unknown_fields.

    A built-in contract is copied to your folder first. Comments and layout of the file stay.
    """
    contract = max(contracts_named(event, contracts_of(settings)), key=lambda one: one.version)
    file = Path(settings.contracts) / f"{event}.toml" if is_builtin(contract) else Path(contract.file)
    values = _kept(settings, contract, path) if samples is None else _sampled(samples, event, path)
    if not values:
        source = f"{contract.tables[0].name}.unknown_fields" if samples is None else str(samples)
        raise NotFoundError(
            f"There is no value of {path} in {source}.", "See which fields are unknown: ecomflow contract check FILE"
        )
    promotion = promote(source_of(contract), str(file), path, values)
    write_contract(file, promotion.text)
    note(f"Wrote {file}, with this line, its type inferred from {_count(values)}:\n  {promotion.line.strip()}")
    if promotion.because:
        note(f"Assumed: {promotion.because}.")
    if promotion.personal:
        note("Assumed: it is personal, judging by its name; its values appear in no error and no log.")
    columns = ", ".join(f"{table}.{column}" for table, column in promotion.columns.items())
    note(f"infra up adds {columns}. Then update the pipeline, and run this SQL, which fills the rows that are there.")
    typer.echo(qualify(promotion.sql, settings.dataset_id), nl=False)


def _count(values: list[Any]) -> str:
    return "1 value" if len(values) == 1 else f"{len(values):,} values"


def _kept(settings: Settings, contract: Contract, path: str) -> list[Any]:
    """The newest values at ``path`` in the warehouse."""
    if contract.unknown_fields != "keep":
        raise ConfigError(f"The contract of {contract.event} keeps no unknown fields.", "Name a file of events with --from.")
    with open_target(settings) as target:
        rows = list(select(target, values_sql(contract, path, MAX_VALUES)))
    return [msgspec.json.decode(text) for (text,) in rows]


def _sampled(file: Path, event: str, path: str) -> list[Any]:
    """The values at ``path`` in the events of a file."""
    keys = keys_in(path)
    return [value for sample in read_samples(lines_of(file), event, TYPE_KEY).samples for value in _at(sample.body, keys)]


def _at(value: Any, keys: tuple[str, ...]) -> Iterator[Any]:
    if not keys:
        yield value
    elif keys[0] == ELEMENT and isinstance(value, list):
        for element in value:
            yield from _at(element, keys[1:])
    elif isinstance(value, dict) and keys[0] in value:
        yield from _at(value[keys[0]], keys[1:])
